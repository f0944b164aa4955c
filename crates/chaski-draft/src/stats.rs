//! What a generation did, counted and timed; what users are shown is derived from this.

use serde::{Deserialize, Serialize};

use crate::schedule::StepRecord;

/// Counts and times of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, found in the cache.
    pub n_cached: usize,
    /// Prefill time.
    pub prompt_ms: f64,
    /// Tokens emitted, an end-of-generation token included.
    pub n_predicted: usize,
    /// From the first step to the last.
    pub predicted_ms: f64,
    /// Verifies.
    pub n_steps: usize,
    /// Steps that verified more than the root.
    pub n_drafted_steps: usize,
    /// Nodes verified, roots excluded.
    pub n_drafted: usize,
    /// Of these, nodes that became text.
    pub n_accepted: usize,
    /// Time spent on drafting and on learning, a part of `predicted_ms`.
    pub draft_ms: f64,
    /// Time spent in the target, a part of `predicted_ms`; the rest is sampling and output.
    pub verify_ms: f64,
    /// What plain decoding would have spent in the target by the measured curve; `None` where none was measured.
    pub plain_ms: Option<f64>,
}

impl Stats {
    /// Adds a step. `plain_ms` is the measured time of one step of plain decoding at this point.
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

    /// Tokens a second while decoding; 0 before the first step.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        ratio(self.n_predicted as f64 * 1e3, self.predicted_ms)
    }

    /// Prompt tokens a second, cached ones excluded.
    #[must_use]
    pub fn prompt_per_second(&self) -> f64 {
        ratio((self.n_prompt - self.n_cached) as f64 * 1e3, self.prompt_ms)
    }

    /// Tokens a verify brings: 1 for plain decoding.
    #[must_use]
    pub fn tokens_per_step(&self) -> f64 {
        ratio(self.n_predicted as f64, self.n_steps as f64)
    }

    /// Estimated speed-up over plain decoding: the time it would have taken by the measured curve, over the time taken.
    #[must_use]
    pub fn speedup(&self) -> Option<f64> {
        // Sampling and output cost both the same.
        let other_ms = (self.predicted_ms - self.verify_ms - self.draft_ms).max(0.0);
        self.plain_ms.filter(|&ms| ms > 0.0).map(|ms| ratio(ms + other_ms, self.predicted_ms))
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}
