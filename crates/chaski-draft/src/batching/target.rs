//! The seam between a batcher and what decodes it: several timelines of the target, each with a cache of its own.
//!
//! `llama::Parallel` is the real one. [`Scripted`] is an exact one with no model behind it, for tests.

use crate::target::{self, TargetError};
use crate::token::Token;

/// Tokens to decode on top of what a lane holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The lane.
    pub lane_id: usize,
    /// The tokens; at least one.
    pub tokens: Vec<Token>,
    /// The last so many of them give logits.
    pub n_logits: usize,
}

/// Several timelines of the target.
pub trait BatchTarget {
    /// How many.
    fn n_lanes(&self) -> usize;

    /// Positions of each.
    fn n_ctx(&self) -> usize;

    /// Tokens that a lane holds.
    fn n_past(&self, lane_id: usize) -> usize;

    /// Decodes all runs in one batch; no two are of one lane, and they come in the order of their lanes.
    ///
    /// # Errors
    /// When a lane is full or decoding fails; every lane is as before then, or holds less.
    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError>;

    /// The logits after a row of the last batch that was to give some. Rows count over all runs.
    fn logits(&self, row: usize) -> &[f32];

    /// Makes a lane hold no more than its first `n` tokens. A state that cannot be cut back is forgotten, so it may hold
    /// fewer.
    fn cut(&mut self, lane_id: usize, n: usize);

    /// Whether a lane can take over what another one holds: states go forward only.
    fn can_copy(&self) -> bool;

    /// Makes lane `to` hold the first `n` tokens of what `from` holds, or nothing where that fails.
    fn copy(&mut self, from: usize, to: usize, n: usize);
}

/// Exact lanes with no model behind them; see [`target::Scripted`].
#[derive(Clone, Debug)]
pub struct Scripted {
    model: target::Scripted,
    n_ctx: usize,
    held: Vec<Vec<Token>>,
    logits: Vec<Option<Vec<f32>>>,
}

impl Scripted {
    /// `n_lanes` empty timelines of `model`, of `n_ctx` positions each.
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
