//! `run --jsonl`: writes one JSON object per event. Names are llama-server's where it has them; docs/scripting.md lists
//! all.

use std::time::Instant;

use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::write_stdout;
use crate::cli::run::AnswerEvent;

/// Writes events to stdout, one per line.
#[derive(Debug)]
pub struct EventLines {
    start: Instant,
    n_cached: Option<usize>,
}

impl Default for EventLines {
    fn default() -> EventLines {
        EventLines { start: Instant::now(), n_cached: None }
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Prompt { prompt_progress: Progress },
    Text { content: &'a str },
    Reasoning { reasoning_content: &'a str },
}

#[derive(Serialize)]
struct Progress {
    total: usize,
    cache: usize,
    processed: usize,
    time_ms: u128,
}

impl EventLines {
    /// Writes a line.
    ///
    /// # Errors
    /// If stdout fails.
    pub fn write(&mut self, event: &AnswerEvent<'_>) -> Result<(), Failure> {
        let line = match *event {
            AnswerEvent::Prefill(processed, total) => {
                let cache = *self.n_cached.get_or_insert(processed);
                Line::Prompt {
                    prompt_progress: Progress { total, cache, processed, time_ms: self.start.elapsed().as_millis() },
                }
            }
            AnswerEvent::Text(content) => Line::Text { content },
            AnswerEvent::Thinking(reasoning_content) => Line::Reasoning { reasoning_content },
        };
        write_stdout(&json_line(&line))
    }
}

/// A value as a line of JSON.
#[must_use]
pub fn json_line(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("strings and numbers serialize");
    line.push('\n');
    line
}
