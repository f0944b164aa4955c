//! An answer as JSON, for `run --json` and `--jsonl`.

use serde::Serialize;

use crate::batch::record::{ChatToken, Timings, chat_logprobs};
use crate::chat::thinking;
use crate::cli::draft_model::JsonDraftModel;
use crate::cli::exact::ExactFields;
use crate::cli::run::args::RunArgs;
use crate::cli::run::output::AnswerText;
use crate::engine::{Answer, Details, End};
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
    draft_model: Option<JsonDraftModel>,
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
    #[serde(flatten)]
    timings: Timings,
    steps: usize,
    tokens_per_step: f64,
    draft_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    speedup_estimated: Option<f64>,
}

impl From<&Stats> for JsonTimings {
    fn from(stats: &Stats) -> JsonTimings {
        JsonTimings {
            timings: Timings::from(stats),
            steps: stats.n_steps,
            tokens_per_step: stats.tokens_per_step(),
            draft_ms: stats.draft_ms,
            speedup_estimated: stats.speedup(),
        }
    }
}

/// The last line of `--jsonl`.
#[derive(Serialize)]
pub(super) struct LastLine<'a> {
    pub(super) event: &'static str,
    #[serde(flatten)]
    pub(super) answer: JsonAnswer<'a>,
}

/// The object that `--json` prints.
pub(super) fn to_json<'a>(
    said: &'a AnswerText,
    answer: &'a Answer,
    details: &Details,
    seed: u32,
    args: &RunArgs,
) -> JsonAnswer<'a> {
    let stopping_word = if let End::Word(word) = &answer.end { Some(word.as_str()) } else { None };
    JsonAnswer {
        text: &said.text,
        reasoning_content: thinking::bare(&said.thinking),
        tokens: details.tokens.iter().map(|token| token.0).collect(),
        stop_type: answer.end.stop_type(),
        stopping_word,
        seed,
        settings: details.settings,
        exact: ExactFields::from(&details.exactness),
        timings: JsonTimings::from(&answer.stats),
        draft_model: JsonDraftModel::of(args.drafting.draft_model.as_deref(), details),
        logprobs: args.logprobs.is_some().then(|| JsonLogprobs { content: chat_logprobs(&answer.logprobs) }),
    }
}
