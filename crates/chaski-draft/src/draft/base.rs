//! The base source: a tri-gram matrix built beforehand, from texts or from the target's own output, and read-only here.
//!
//! The core asks for one row at a time; a [`Base`] decides how the rows are stored (`store` memory-maps a file).

use std::cell::RefCell;
use std::sync::Arc;

use crate::draft::backoff::{self, N_BINS};
use crate::draft::table::Successor;
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// A read-only matrix of tri-grams, bi-grams and uni-grams.
pub trait Base: Send + Sync {
    /// Fills `row` with the tokens that followed `context` (the last 2, 1 or 0 tokens of a text), likeliest first.
    /// Weights are shares of all that followed, so they add up to at most 1. Returns how often the context was seen, or
    /// `None` and an empty row if it is unknown.
    fn row(&self, context: &[Token], row: &mut Vec<Successor>) -> Option<f32>;
}

/// A source that proposes from a base.
pub struct BaseSource {
    base: Arc<dyn Base>,
    /// Kept between calls to reuse the memory.
    row: RefCell<Vec<Successor>>,
}

impl BaseSource {
    /// A source over `base`.
    #[must_use]
    pub fn new(base: Arc<dyn Base>) -> BaseSource {
        BaseSource { base, row: RefCell::default() }
    }
}

impl Source for BaseSource {
    fn name(&self) -> &'static str {
        "base"
    }

    fn n_bins(&self) -> usize {
        N_BINS
    }

    fn learn(&mut self, _text: &[Token], _token: Token) {}

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        let mut row = self.row.borrow_mut();
        for (order, context) in backoff::contexts(tail.tokens) {
            row.clear();
            if let Some(total) = self.base.row(context, &mut row) {
                // The base gives shares; `add_row` expects counts.
                row.iter_mut().for_each(|successor| successor.weight *= total);
                if !backoff::add_row(order, total, &row, candidates) {
                    break;
                }
            }
        }
    }
}
