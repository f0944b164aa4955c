//! The logits source: the tokens the target rated likely after the same two tokens, at rejected nodes too.
//!
//! A verified row says more than the one token drawn from it. Token Recycling (arXiv 2408.08696) keeps the last row of
//! each token. This source keeps fading rows under ADED's key, two tokens, and backs off to one.

use crate::draft::backoff::N_BINS;
use crate::draft::fading_table::FadingTable;
use crate::draft::table::Successor;
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Memory limit of the table.
const MAX_BYTES: usize = 4 << 20;

/// The newest row outweighs all earlier ones: contexts differ in more than two tokens, and the latest is the most
/// similar.
const FADING: f32 = 0.3;

/// A source of the target's own top logits.
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
