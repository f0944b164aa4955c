//! The base: a tri-gram matrix made beforehand, from texts or by the target itself, and only read while drafting.
//!
//! Where its rows lie is another module's business (`store`): the core asks for one row at a time.

use std::cell::RefCell;
use std::sync::Arc;

use crate::draft::backoff::{self, N_BINS};
use crate::draft::table::Successor;
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// A read-only tri-gram matrix with its bi-grams and uni-grams.
pub trait Base: Send + Sync {
    /// Fills `row` with what followed `context`: the last two tokens of a text, its last one, or none. The likeliest
    /// come first; weights are shares of all that followed, so they add up to at most 1. Returns how often the
    /// context was seen, or `None` (and an empty row) where it is not known.
    fn row(&self, context: &[Token], row: &mut Vec<Successor>) -> Option<f32>;
}

/// A base as a source.
pub struct BaseSource {
    base: Arc<dyn Base>,
    /// Kept between calls for its memory alone.
    row: RefCell<Vec<Successor>>,
}

impl BaseSource {
    /// Reads `base`.
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
                // Weights are shares already.
                row.iter_mut().for_each(|successor| successor.weight *= total);
                if !backoff::add_row(order, total, &row, candidates) {
                    break;
                }
            }
        }
    }
}
