//! The interface between the batcher and an engine: several lanes, each with a cache of its own.
//!
//! Chaski implements it with `llama::Parallel`. [`Scripted`] is a deterministic target without a model, for tests.

use crate::target::{self, TargetError};
use crate::token::Token;

/// Tokens to decode after those a lane holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The lane.
    pub lane_id: usize,
    /// The tokens; at least one.
    pub tokens: Vec<Token>,
    /// How many of the last tokens give logits.
    pub n_logits: usize,
}

/// An engine with several lanes, each one timeline of the target.
pub trait BatchTarget {
    /// The number of lanes.
    fn n_lanes(&self) -> usize;

    /// Positions in each lane.
    fn n_ctx(&self) -> usize;

    /// Tokens in a lane's cache.
    fn n_past(&self, lane_id: usize) -> usize;

    /// Decodes all runs in one batch. At most one run per lane, in the order of the lanes.
    ///
    /// # Errors
    /// If a lane is full or decoding fails. Each lane then holds what it held before, or less.
    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError>;

    /// The logits after a row of the last batch, counted over all runs. The row must be one that gives logits.
    fn logits(&self, row: usize) -> &[f32];

    /// The hidden state behind the logits of a row, if the target keeps them.
    fn state(&self, _row: usize) -> Option<&[f32]> {
        None
    }

    /// Cuts a lane to its first `n` tokens. A recurrent state that cannot be cut back is dropped, so the lane may hold
    /// fewer.
    fn cut(&mut self, lane_id: usize, n: usize);

    /// Whether lanes can copy from each other at any length. Recurrent states cannot: they only go forward.
    fn can_copy(&self) -> bool;

    /// Makes lane `to` hold the first `n` tokens of lane `from`, or nothing if that fails.
    fn copy(&mut self, from: usize, to: usize, n: usize);
}

/// A deterministic target without a model; see [`target::Scripted`].
#[derive(Clone, Debug)]
pub struct Scripted {
    model: target::Scripted,
    n_ctx: usize,
    held: Vec<Vec<Token>>,
    logits: Vec<Option<Vec<f32>>>,
}

impl Scripted {
    /// `n_lanes` empty lanes of `model` with `n_ctx` positions each.
    #[must_use]
    pub fn new(model: target::Scripted, n_lanes: usize, n_ctx: usize) -> Scripted {
        Scripted { model, n_ctx, held: vec![Vec::new(); n_lanes], logits: Vec::new() }
    }
}

impl BatchTarget for Scripted {
    fn n_lanes(&self) -> usize {
        self.held.len()
    }

    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn n_past(&self, lane_id: usize) -> usize {
        self.held[lane_id].len()
    }

    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError> {
        assert!(runs.is_sorted_by(|a, b| a.lane_id < b.lane_id), "one run for each lane, in order");
        self.logits.clear();
        for Run { lane_id, tokens, n_logits } in runs {
            let held = &mut self.held[*lane_id];
            if held.len() + tokens.len() > self.n_ctx {
                return Err(TargetError::ContextFull { needed: held.len() + tokens.len(), n_ctx: self.n_ctx });
            }
            for (at, &token) in tokens.iter().enumerate() {
                held.push(token);
                let wants_logits = at + n_logits >= tokens.len();
                self.logits.push(wants_logits.then(|| self.model.logits_after(held)));
            }
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.logits[row].as_deref().expect("logits of a row that was to give some")
    }

    fn cut(&mut self, lane_id: usize, n: usize) {
        self.held[lane_id].truncate(n);
    }

    fn can_copy(&self) -> bool {
        true
    }

    fn copy(&mut self, from: usize, to: usize, n: usize) {
        self.held[to] = self.held[from][..n].to_vec();
    }
}
