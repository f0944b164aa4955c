//! The logits source: what the target itself held likely after the same two tokens, rejected nodes included.
//!
//! Every verified row says much more than the token that was taken from it. Token Recycling (arXiv 2408.08696) keeps the
//! last row of each token; this keeps fading rows under ADED's key, two tokens, backing off to one.

use crate::draft::backoff::{FadingTable, N_BINS};
use crate::draft::table::Successor;
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Memory of the table.
const MAX_BYTES: usize = 4 << 20;

/// The newest row counts more than all before it: contexts differ in more than two tokens, and the nearest is likest.
const FADING: f32 = 0.3;

/// What the target said.
#[derive(Clone, Debug)]
pub struct Logits {
    table: FadingTable,
}

impl Default for Logits {
    fn default() -> Logits {
        Logits { table: FadingTable::new(MAX_BYTES, FADING) }
    }
}

impl Source for Logits {
    fn name(&self) -> &'static str {
        "logits"
    }

    fn n_bins(&self) -> usize {
        N_BINS
    }

    fn learn(&mut self, _text: &[Token], _token: Token) {}

    fn harvest(&mut self, tail: &[Token], top: &[Successor]) {
        self.table.learn(tail, top);
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        self.table.propose(tail.tokens, candidates);
    }
}
