//! Counts and times of one generation, for the statistics that users see.

use serde::{Deserialize, Serialize};

use crate::schedule::StepRecord;

/// Counts and times of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Prompt tokens.
    pub n_prompt: usize,
    /// Prompt tokens found in the cache.
    pub n_cached: usize,
    /// Prefill time in milliseconds.
    pub prompt_ms: f64,
    /// Tokens emitted, including an end-of-generation token.
    pub n_predicted: usize,
    /// Decoding time in milliseconds, including the time the drafter takes to learn the prompt.
    pub predicted_ms: f64,
    /// Steps; each is one verify.
    pub n_steps: usize,
    /// Steps that verified more than the root.
    pub n_drafted_steps: usize,
    /// Nodes verified, not counting roots.
    pub n_drafted: usize,
    /// Drafted nodes that were accepted.
    pub n_accepted: usize,
    /// Time spent drafting and learning; part of `predicted_ms`.
    pub draft_ms: f64,
    /// Time spent in the target; part of `predicted_ms`. The rest is sampling and output.
    pub verify_ms: f64,
    /// Time plain decoding would have spent in the target, by the measured curve; `None` without a curve.
    pub plain_ms: Option<f64>,
}

impl Stats {
    /// Adds a step. `plain_ms` is the measured time of one plain step at this context length.
    pub fn add(&mut self, step: &StepRecord, n_accepted: usize, plain_ms: Option<f64>) {
        self.n_steps += 1;
        self.n_drafted_steps += usize::from(step.n_rows > 1);
        self.n_drafted += step.n_rows - 1;
        self.n_accepted += n_accepted;
        self.n_predicted += step.n_emitted;
        self.draft_ms += step.draft_ms;
        self.verify_ms += step.verify_ms;
        let so_far = if self.n_steps == 1 { Some(0.0) } else { self.plain_ms };
        self.plain_ms = so_far.zip(plain_ms).map(|(sum, ms)| sum + ms * step.n_emitted as f64);
    }

    /// Tokens per second while decoding; 0 before the first step.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.n_predicted as f64 * 1e3, self.predicted_ms)
    }

    /// Prompt tokens per second, not counting cached ones.
    #[must_use]
    pub fn prompt_per_second(&self) -> f64 {
        ratio((self.n_prompt - self.n_cached) as f64 * 1e3, self.prompt_ms)
    }

    /// Tokens per verify; 1 in plain decoding.
    #[must_use]
    pub fn tokens_per_step(&self) -> f64 {
        ratio(self.n_predicted as f64, self.n_steps as f64)
    }

    /// Estimated speed-up: the time of plain decoding, by the measured curve, over the time taken.
    #[must_use]
    pub fn speedup(&self) -> Option<f64> {
        // Plain decoding would spend the same time on sampling and output.
        let other_ms = (self.predicted_ms - self.verify_ms - self.draft_ms).max(0.0);
        self.plain_ms.filter(|&ms| ms > 0.0).map(|ms| ratio(ms + other_ms, self.predicted_ms))
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
