//! Formats a result as a line of the output: JSON in OpenAI's batch format with llama-server's timings, or plain text.

use serde::Serialize;

use crate::engine::{Answer, End, TokenLogprob};
use crate::input::request::Endpoint;
use crate::refuse::Refusal;
use crate::stats::Stats;

/// What OpenAI writes for a probability of 0, because JSON has no infinity.
const LEAST_LOGPROB: f32 = -9999.0;

/// The fields of a record besides the answer.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// The line's `custom_id`, if known.
    pub custom_id: Option<&'a str>,
    /// Line number as an editor shows it.
    pub number: u64,
    /// The endpoint, which decides the form of the body.
    pub endpoint: Endpoint,
    /// Whether log-probabilities were requested.
    pub wants_logprobs: bool,
    /// The seed used for sampling; `run` with this seed repeats the answer.
    pub seed: Option<u32>,
}

/// What all records of a job share.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The model's name in results.
    pub model: String,
    /// Identifies the job in the ids of results.
    pub job: u64,
}

impl Origin {
    /// Formats a result as a line of JSON, with its line break. `created_s` is the time in seconds since 1970.
    #[must_use]
    pub fn record(&self, label: &Label<'_>, outcome: &Result<Answer, Refusal>, created_s: u64) -> String {
        let id = format!("{:016x}-{}", self.job, label.number);
        let (response, error) = match outcome {
            Ok(answer) => {
                let body = match label.endpoint {
                    Endpoint::Chat => Body::chat(self, label, answer, &id, created_s),
                    Endpoint::Completions => Body::completion(self, label, answer, &id, created_s),
                };
                (Some(Response { status_code: 200, request_id: format!("req-{id}"), body }), None)
            }
            Err(refusal) => {
                let Refusal { code, message } = refusal;
                (None, Some(Error { code, message, line: label.number }))
            }
        };
        let record = Record { id: format!("batch_req_{id}"), custom_id: label.custom_id, response, error };
        let mut line = serde_json::to_string(&record).expect("strings and numbers serialize");
        line.push('\n');
        line
    }
}

/// Formats a result as one line of text: line breaks are written as `\n`, backslashes as `\\`. A failed line gives an
/// empty line.
#[must_use]
pub fn text_line(outcome: &Result<Answer, Refusal>) -> String {
    let text = outcome.as_ref().map_or("", |answer| answer.text.as_str());
    let mut line = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    line.push('\n');
    line
}

#[derive(Serialize)]
struct Record<'a> {
    id: String,
    custom_id: Option<&'a str>,
    response: Option<Response<'a>>,
    error: Option<Error<'a>>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: Body<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: &'a str,
    message: &'a str,
    line: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    seed: Option<u32>,
    choices: [Choice<'a>; 1],
    usage: Usage,
    timings: Timings,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<AssistantMessage<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct AssistantMessage<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
}

impl<'a> Body<'a> {
    fn chat(origin: &'a Origin, label: &Label<'_>, answer: &'a Answer, id: &str, created: u64) -> Body<'a> {
        let reasoning_content = answer.reasoning.as_deref();
        let message = AssistantMessage { role: "assistant", content: &answer.text, reasoning_content };
        let tokens = label.wants_logprobs.then(|| Logprobs::Chat { content: chat_logprobs(&answer.logprobs) });
        Body {
            id: format!("chatcmpl-{id}"),
            object: "chat.completion",
            choices: [Choice {
                index: 0,
                message: Some(message),
                text: None,
                logprobs: tokens,
                finish_reason: reason(&answer.end),
            }],
            ..Body::common(origin, label, answer, created)
        }
    }

    fn completion(origin: &'a Origin, label: &Label<'_>, answer: &'a Answer, id: &str, created: u64) -> Body<'a> {
        let tokens = label.wants_logprobs.then(|| completion_logprobs(&answer.logprobs));
        Body {
            id: format!("cmpl-{id}"),
            object: "text_completion",
            choices: [Choice {
                index: 0,
                message: None,
                text: Some(&answer.text),
                logprobs: tokens,
                finish_reason: reason(&answer.end),
            }],
            ..Body::common(origin, label, answer, created)
        }
    }

    fn common(origin: &'a Origin, label: &Label<'_>, answer: &'a Answer, created: u64) -> Body<'a> {
        let nothing =
            Choice { index: 0, message: None, text: None, logprobs: None, finish_reason: reason(&answer.end) };
        Body {
            id: String::new(),
            object: "",
            created,
            model: &origin.model,
            seed: label.seed,
            choices: [nothing],
            usage: Usage {
                prompt_tokens: answer.stats.n_prompt,
                completion_tokens: answer.stats.n_predicted,
                total_tokens: answer.stats.n_prompt + answer.stats.n_predicted,
                prompt_tokens_details: PromptDetails { cached_tokens: answer.stats.n_cached },
            },
            timings: Timings::from(&answer.stats),
        }
    }
}

fn reason(end: &End) -> &'static str {
    match end {
        End::Eos | End::Word(_) | End::Interrupted => "stop",
        End::Limit | End::Context { .. } | End::DefaultLimit => "length",
    }
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

/// Counts and times of an answer, named as in llama-server.
#[derive(Clone, Debug, Serialize)]
pub struct Timings {
    prompt_n: usize,
    cache_n: usize,
    prompt_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_second: f64,
    draft_n: usize,
    draft_n_accepted: usize,
}

impl From<&Stats> for Timings {
    fn from(stats: &Stats) -> Timings {
        Timings {
            prompt_n: stats.n_prompt - stats.n_cached,
            cache_n: stats.n_cached,
            prompt_ms: stats.prompt_ms,
            prompt_per_second: stats.prompt_per_second(),
            predicted_n: stats.n_predicted,
            predicted_ms: stats.predicted_ms,
            predicted_per_second: stats.tokens_per_second(),
            draft_n: stats.n_drafted,
            draft_n_accepted: stats.n_accepted,
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Logprobs {
    Chat { content: Vec<ChatToken> },
    Completion { tokens: Vec<String>, token_logprobs: Vec<f32>, top_logprobs: Vec<Tops>, text_offset: Vec<usize> },
}

/// A token and its alternatives, in OpenAI's format.
#[derive(Debug, Serialize)]
pub struct ChatToken {
    #[serde(flatten)]
    token: ChatTop,
    top_logprobs: Vec<ChatTop>,
}

#[derive(Debug, Serialize)]
struct ChatTop {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// The `logprobs.content` of OpenAI's chat completions.
#[must_use]
pub fn chat_logprobs(tokens: &[TokenLogprob]) -> Vec<ChatToken> {
    let one = |bytes: &[u8], logprob| ChatTop { token: text(bytes), logprob: finite(logprob), bytes: bytes.to_vec() };
    let token = |token: &TokenLogprob| ChatToken {
        token: one(&token.bytes, token.logprob),
        top_logprobs: token.top.iter().map(|(bytes, logprob)| one(bytes, *logprob)).collect(),
    };
    tokens.iter().map(token).collect()
}

/// Serializes as an object from token to log-probability, most likely first.
struct Tops(Vec<(String, f32)>);

impl Serialize for Tops {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

fn completion_logprobs(tokens: &[TokenLogprob]) -> Logprobs {
    let offsets = tokens.iter().scan(0, |at, token| {
        let offset = *at;
        *at += text(&token.bytes).chars().count();
        Some(offset)
    });
    let tops =
        |token: &TokenLogprob| Tops(token.top.iter().map(|(bytes, logprob)| (text(bytes), finite(*logprob))).collect());
    Logprobs::Completion {
        text_offset: offsets.collect(),
        tokens: tokens.iter().map(|token| text(&token.bytes)).collect(),
        token_logprobs: tokens.iter().map(|token| finite(token.logprob)).collect(),
        top_logprobs: tokens.iter().map(tops).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn finite(logprob: f32) -> f32 {
    logprob.max(LEAST_LOGPROB)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer() -> Answer {
        Answer {
            id: 4,
            text: "a \"b\"\nc\\d".to_owned(),
            reasoning: None,
            end: End::Limit,
            stats: Stats {
                n_prompt: 10,
                n_cached: 4,
                n_predicted: 5,
                n_drafted: 3,
                n_accepted: 2,
                prompt_ms: 30.0,
                ..Stats::default()
            },
            details: None,
            logprobs: vec![
                TokenLogprob { bytes: b"a ".to_vec(), logprob: -0.5, top: vec![(b"a ".to_vec(), -0.5)] },
                TokenLogprob { bytes: b"\xc3".to_vec(), logprob: f32::NEG_INFINITY, top: vec![] },
            ],
        }
    }

    fn label(endpoint: Endpoint, wants_logprobs: bool) -> Label<'static> {
        Label { custom_id: Some("q"), number: 7, endpoint, wants_logprobs, seed: Some(5) }
    }

    fn record(label: &Label<'_>, outcome: &Result<Answer, Refusal>) -> Value {
        let origin = Origin { model: "m.gguf".to_owned(), job: 10 };
        let line = origin.record(label, outcome, 1_700_000_000);
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn an_answer_has_openais_form() {
        let chat = record(&label(Endpoint::Chat, false), &Ok(answer()));
        let expected = json!({
            "id": "batch_req_000000000000000a-7",
            "custom_id": "q",
            "response": {
                "status_code": 200,
                "request_id": "req-000000000000000a-7",
                "body": {
                    "id": "chatcmpl-000000000000000a-7",
                    "object": "chat.completion",
                    "created": 1_700_000_000,
                    "model": "m.gguf",
                    "seed": 5,
                    "choices": [{
                        "index": 0,
                        "message": {"role": "assistant", "content": "a \"b\"\nc\\d"},
                        "logprobs": null,
                        "finish_reason": "length",
                    }],
                    "usage": {
                        "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
                        "prompt_tokens_details": {"cached_tokens": 4},
                    },
                    "timings": {
                        "prompt_n": 6, "cache_n": 4, "prompt_ms": 30.0, "prompt_per_second": 200.0,
                        "predicted_n": 5, "predicted_ms": 0.0, "predicted_per_second": 0.0,
                        "draft_n": 3, "draft_n_accepted": 2,
                    },
                },
            },
            "error": null,
        });
        assert_eq!(chat, expected);
        let completion = record(&label(Endpoint::Completions, false), &Ok(answer()));
        let body = &completion["response"]["body"];
        assert_eq!((&body["object"], &body["id"]), (&json!("text_completion"), &json!("cmpl-000000000000000a-7")));
        let choice = json!({"index": 0, "text": "a \"b\"\nc\\d", "logprobs": null, "finish_reason": "length"});
        assert_eq!(body["choices"], json!([choice]));
    }

    #[test]
    fn issue_13_6_thinking_stands_beside_the_content() {
        let thoughtful = Answer { reasoning: Some("Hm.".to_owned()), ..answer() };
        let message =
            &record(&label(Endpoint::Chat, false), &Ok(thoughtful))["response"]["body"]["choices"][0]["message"];
        let expected = json!({"role": "assistant", "content": "a \"b\"\nc\\d", "reasoning_content": "Hm."});
        assert_eq!(*message, expected);
    }

    #[test]
    fn log_probabilities_have_the_form_of_the_endpoint() {
        let choice = |endpoint| record(&label(endpoint, true), &Ok(answer()))["response"]["body"]["choices"][0].clone();
        let top = json!({"token": "a ", "logprob": -0.5, "bytes": [97, 32]});
        let expected = json!({"content": [
            {"token": "a ", "logprob": -0.5, "bytes": [97, 32], "top_logprobs": [top]},
            {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [195], "top_logprobs": []},
        ]});
        assert_eq!(choice(Endpoint::Chat)["logprobs"], expected);
        let expected = json!({
            "tokens": ["a ", "\u{fffd}"],
            "token_logprobs": [-0.5, -9999.0],
            "top_logprobs": [{"a ": -0.5}, {}],
            "text_offset": [0, 2],
        });
        assert_eq!(choice(Endpoint::Completions)["logprobs"], expected);
    }

    #[test]
    fn what_failed_is_told_with_its_line() {
        let refusal = Refusal { code: "invalid_json".to_owned(), message: "not JSON".to_owned() };
        let nameless = Label { custom_id: None, ..label(Endpoint::Chat, false) };
        let expected = json!({
            "id": "batch_req_000000000000000a-7",
            "custom_id": null,
            "response": null,
            "error": {"code": "invalid_json", "message": "not JSON", "line": 7},
        });
        assert_eq!(record(&nameless, &Err(refusal.clone())), expected);
        assert_eq!(text_line(&Err(refusal)), "\n");
        assert_eq!(text_line(&Ok(answer())), "a \"b\"\\nc\\\\d\n");
    }
}
