//! The base: a tri-gram matrix made beforehand, from texts or by the target itself, and only read while drafting.
//!
//! Where its rows lie is another module's business (`store`): the core asks for one row at a time.

use crate::draft::table::Successor;
use crate::token::Token;

/// A read-only tri-gram matrix with its bi-grams and uni-grams.
pub trait Base: Send + Sync {
    /// Fills `row` with what followed `context`: the last two tokens of a text, its last one, or none. The likeliest
    /// come first; weights are shares of all that followed, so they add up to at most 1. Returns how often the
    /// context was seen, or `None` (and an empty row) where it is not known.
    fn row(&self, context: &[Token], row: &mut Vec<Successor>) -> Option<f32>;
}
