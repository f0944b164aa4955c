//! Traces: recorded answers, as JSON lines.

use serde::{Deserialize, Serialize};

use crate::draft::top::TopK;
use crate::generate::{Observer, Step};
use crate::token::Token;

/// Likeliest tokens recorded per row.
const N_TOP: usize = 10;

/// Tokens less likely than this are not recorded.
const LEAST_P: f32 = 0.001;

/// One recorded answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The prompt's id: `edit-3` is the third of kind `edit`.
    pub id: String,
    /// The model file.
    pub model: String,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// The sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// The prompt tokens.
    pub prompt: Vec<i32>,
    /// The emitted tokens.
    pub tokens: Vec<i32>,
    /// For each emitted token, the target's likeliest tokens and their probabilities at temperature 1, likeliest first.
    pub top: Vec<Vec<(i32, f32)>>,
}

/// Why a line is not a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not JSON, or not an object of this form.
    #[error("line {line}: {reason}")]
    Malformed {
        /// The line number, from 1.
        line: usize,
        /// The parser's message.
        reason: String,
    },
    /// The values contradict each other.
    #[error("line {line}: {what}")]
    Unsound {
        /// The line number, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

impl Trace {
    /// The kind of the prompt: the id without its number.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.id.rsplit_once('-').map_or(&self.id, |(kind, _)| kind)
    }

    /// Parses the traces of a file. Skips empty lines.
    ///
    /// # Errors
    /// The first line that is not a valid trace.
    pub fn parse_all(text: &str) -> Result<Vec<Trace>, TraceError> {
        lines(text)
            .map(|(line, json)| {
                let trace: Trace = serde_json::from_str(json)
                    .map_err(|error| TraceError::Malformed { line, reason: error.to_string() })?;
                trace.check().map_err(|what| TraceError::Unsound { line, what })?;
                Ok(trace)
            })
            .collect()
    }

    fn check(&self) -> Result<(), &'static str> {
        let is_token = |&id: &i32| usize::try_from(id).is_ok_and(|id| id < self.n_vocab);
        let top = || self.top.iter().flatten();
        match () {
            () if self.n_vocab == 0 || self.n_vocab > 1 << 21 => Err("n_vocab must be 1 to 2097152"),
            () if self.prompt.is_empty() => Err("the prompt is empty"),
            () if self.top.len() != self.tokens.len() => Err("expected as many rows of top as tokens"),
            () if !self.prompt.iter().chain(&self.tokens).all(is_token) => Err("a token is outside the vocabulary"),
            () if !top().all(|(id, _)| is_token(id)) => Err("a token of top is outside the vocabulary"),
            () if !top().all(|(_, p)| (0.0..=1.0).contains(p)) => Err("a probability is not from 0 to 1"),
            () => Ok(()),
        }
    }
}

/// An observer that records an answer.
#[derive(Debug, Default)]
pub struct Recorder {
    top_k: TopK,
    /// The emitted tokens so far.
    pub tokens: Vec<i32>,
    /// The target's likeliest tokens for each.
    pub top: Vec<Vec<(i32, f32)>>,
}

impl Observer for Recorder {
    fn step(&mut self, step: &Step<'_>) {
        let emitted = &step.context[step.from..];
        // Each emitted token was sampled from the row of the node before it.
        for (&token, &node) in emitted.iter().zip(step.path) {
            let top = self.top_k.of(step.verified.target.logits(node), N_TOP);
            let likely = top.iter().filter(|successor| successor.weight >= LEAST_P);
            self.tokens.push(token.0);
            self.top.push(likely.map(|likely| (likely.token.0, round(likely.weight))).collect());
        }
    }
}

/// The lines that are not empty, with their numbers from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// Rounds to four decimal places.
fn round(p: f32) -> f32 {
    (p * 1e4).round() / 1e4
}

/// Turns ids into tokens.
#[must_use]
pub fn tokens(ids: &[i32]) -> Vec<Token> {
    ids.iter().copied().map(Token).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer of `tokens`, each of which had probability `p`.
    pub(in crate::replay) fn trace(prompt: &[i32], tokens: &[i32], p: f32) -> Trace {
        Trace {
            id: "edit-3".into(),
            model: "tiny.gguf".into(),
            n_vocab: 32,
            temperature: 0.0,
            prompt: prompt.to_vec(),
            tokens: tokens.to_vec(),
            top: tokens.iter().map(|&token| vec![(token, p)]).collect(),
        }
    }

    fn parsed(change: impl FnOnce(&mut Trace)) -> Result<Vec<Trace>, String> {
        let mut trace = trace(&[1, 2], &[3, 4], 0.5);
        change(&mut trace);
        let json = format!("\n{}\n", serde_json::to_string(&trace).unwrap());
        Trace::parse_all(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(parsed(|_| ()).unwrap(), [trace(&[1, 2], &[3, 4], 0.5)]);
        assert_eq!(trace(&[1], &[], 1.0).kind(), "edit");
        assert!(parsed(|trace| (trace.tokens, trace.top) = (Vec::new(), Vec::new())).is_ok(), "nothing was said");
    }

    #[test]
    fn contradictions_are_told_with_their_line() {
        let fails = |change: fn(&mut Trace), message: &str| {
            let error = parsed(change).unwrap_err();
            assert!(error.starts_with("line 2: ") && error.contains(message), "{error}");
        };
        fails(|trace| trace.n_vocab = 0, "n_vocab");
        fails(|trace| trace.n_vocab = usize::MAX, "n_vocab");
        fails(|trace| trace.prompt.clear(), "the prompt is empty");
        fails(|trace| trace.tokens.push(3), "as many rows");
        fails(|trace| trace.tokens[0] = 32, "a token is outside");
        fails(|trace| trace.prompt[0] = -1, "a token is outside");
        fails(|trace| trace.top[0][0].0 = 32, "a token of top is outside");
        fails(|trace| trace.top[0][0].1 = 1.01, "a probability");
        assert!(matches!(Trace::parse_all("{}"), Err(TraceError::Malformed { line: 1, .. })));
    }
}
