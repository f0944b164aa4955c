//! An answer as JSON, for `run --json` and `--jsonl`.

use serde::Serialize;

use crate::batch::record::{ChatToken, chat_logprobs};
use crate::chat::thinking;
use crate::cli::exact::ExactFields;
use crate::cli::run::saying::AnswerText;
use crate::llama::worker::{Answer, StopType};
use crate::stats::Stats;
use crate::tune::Settings;

/// Names are llama-server's where it has them.
#[derive(Serialize)]
pub(super) struct JsonAnswer<'a> {
    text: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reasoning_content: &'a str,
    tokens: Vec<i32>,
    stop_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopping_word: Option<&'a str>,
    seed: u32,
    settings: Settings,
    #[serde(flatten)]
    exact: ExactFields,
    timings: JsonTimings,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<JsonLogprobs>,
}

/// Format of OpenAI's chat completions.
#[derive(Serialize)]
struct JsonLogprobs {
    content: Vec<ChatToken>,
}

/// Counts and times of an answer, as `--json` and `bench` write them.
#[derive(Clone, Debug, Serialize)]
pub struct JsonTimings {
    prompt_n: usize,
    cache_n: usize,
    prompt_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_second: f64,
    steps: usize,
    tokens_per_step: f64,
    draft_n: usize,
    draft_n_accepted: usize,
    draft_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    speedup_estimated: Option<f64>,
}

impl From<&Stats> for JsonTimings {
    fn from(stats: &Stats) -> JsonTimings {
        JsonTimings {
            prompt_n: stats.n_prompt - stats.n_cached,
            cache_n: stats.n_cached,
            prompt_ms: stats.prompt_ms,
            prompt_per_second: stats.prompt_per_second(),
            predicted_n: stats.n_predicted,
            predicted_ms: stats.predicted_ms,
            predicted_per_second: stats.tokens_per_second(),
            steps: stats.n_steps,
            tokens_per_step: stats.tokens_per_step(),
            draft_n: stats.n_drafted,
            draft_n_accepted: stats.n_accepted,
            draft_ms: stats.draft_ms,
            speedup_estimated: stats.speedup(),
        }
    }
}

/// The last line of `--jsonl`.
#[derive(Serialize)]
pub(super) struct End<'a> {
    pub(super) event: &'static str,
    #[serde(flatten)]
    pub(super) answer: JsonAnswer<'a>,
}

/// The object that `--json` prints.
pub(super) fn to_json<'a>(said: &'a AnswerText, answer: &'a Answer, seed: u32, with_logprobs: bool) -> JsonAnswer<'a> {
    let (stop_type, stopping_word) = match &answer.stop {
        StopType::Eos => ("eos", None),
        StopType::Word(word) => ("word", Some(word.as_str())),
        // llama-server has only one kind of limit.
        StopType::Limit | StopType::Context => ("limit", None),
        StopType::Interrupted => ("interrupted", None),
    };
    JsonAnswer {
        text: &said.text,
        reasoning_content: thinking::bare(&said.thinking),
        tokens: answer.tokens.iter().map(|token| token.0).collect(),
        stop_type,
        stopping_word,
        seed,
        settings: answer.settings,
        exact: ExactFields::from(&answer.exactness),
        timings: JsonTimings::from(&answer.stats),
        logprobs: with_logprobs.then(|| JsonLogprobs { content: chat_logprobs(&answer.logprobs) }),
    }
}
