//! The seam between a crowd and what decodes it: several timelines of the target, each with a cache of its own.
//!
//! `llama::Parallel` is the real one. [`Scripted`] is an exact one with no model behind it, for tests.

use crate::target::{self, TargetError};
use crate::token::Token;

/// Tokens to decode on top of what a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The slot.
    pub slot: usize,
    /// The tokens; at least one.
    pub tokens: Vec<Token>,
    /// The last so many of them give logits.
    pub n_logits: usize,
}

/// Several timelines of the target.
pub trait Slots {
    /// How many.
    fn n_slots(&self) -> usize;

    /// Positions of each.
    fn n_ctx(&self) -> usize;

    /// Tokens that a slot holds.
    fn n_past(&self, slot: usize) -> usize;

    /// Decodes all runs in one batch; no two are of one slot, and they come in the order of their slots.
    ///
    /// # Errors
    /// When a slot is full or decoding fails; every slot is as before then, or holds less.
    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError>;

    /// The logits after a row of the last batch that was to give some. Rows count over all runs.
    fn logits(&self, row: usize) -> &[f32];

    /// Makes a slot hold no more than its first `n` tokens. A state that cannot be cut back is forgotten, so it may hold
    /// fewer.
    fn cut(&mut self, slot: usize, n: usize);

    /// Whether a slot can take over what another one holds: states go forward only.
    fn can_copy(&self) -> bool;

    /// Makes slot `to` hold the first `n` tokens of what `from` holds, or nothing where that fails.
    fn copy(&mut self, from: usize, to: usize, n: usize);
}

/// Exact slots with no model behind them; see [`target::Scripted`].
#[derive(Clone, Debug)]
pub struct Scripted {
    model: target::Scripted,
    n_ctx: usize,
    held: Vec<Vec<Token>>,
    logits: Vec<Option<Vec<f32>>>,
}

impl Scripted {
    /// `n_slots` empty timelines of `model`, of `n_ctx` positions each.
    #[must_use]
    pub fn new(model: target::Scripted, n_slots: usize, n_ctx: usize) -> Scripted {
        Scripted { model, n_ctx, held: vec![Vec::new(); n_slots], logits: Vec::new() }
    }
}

impl Slots for Scripted {
    fn n_slots(&self) -> usize {
        self.held.len()
    }

    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn n_past(&self, slot: usize) -> usize {
        self.held[slot].len()
    }

    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError> {
        assert!(runs.is_sorted_by(|a, b| a.slot < b.slot), "one run for each slot, in order");
        self.logits.clear();
        for Run { slot, tokens, n_logits } in runs {
            let held = &mut self.held[*slot];
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

    fn cut(&mut self, slot: usize, n: usize) {
        self.held[slot].truncate(n);
    }

    fn can_copy(&self) -> bool {
        true
    }

    fn copy(&mut self, from: usize, to: usize, n: usize) {
        self.held[to] = self.held[from][..n].to_vec();
    }
}
