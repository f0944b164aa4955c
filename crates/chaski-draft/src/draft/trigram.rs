//! The tri-gram source: the tokens that followed the last two before, backing off to the last one, then to none.
//!
//! This is the paper's "LLM representative" (section 3.1), fully adaptive: an overlay learns every emitted token, and
//! old observations fade. The matrix built beforehand is a source of its own ([`super::base`]), so the mixer can weigh
//! both.

use crate::draft::backoff::N_BINS;
use crate::draft::fading_table::FadingTable;
use crate::draft::table::{Successor, SuccessorTable};
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Memory limit of the overlay.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Factor per visit of a context: a successor counts half after 14 visits that did not bring it up.
const FADING: f32 = 0.95;

/// The adaptive tri-gram matrix.
#[derive(Clone, Debug)]
pub struct Trigram {
    overlay: FadingTable,
}

impl Default for Trigram {
    fn default() -> Trigram {
        Trigram { overlay: FadingTable::new(MAX_BYTES, FADING) }
    }
}

impl Trigram {
    /// A source that starts from `overlay`.
    #[must_use]
    pub fn over(overlay: SuccessorTable) -> Trigram {
        Trigram { overlay: FadingTable::over(overlay, FADING) }
    }

    /// The learned tri-grams.
    #[must_use]
    pub fn overlay(&self) -> &SuccessorTable {
        self.overlay.table()
    }
}

impl Source for Trigram {
    fn name(&self) -> &'static str {
        "trigram"
    }

    fn n_bins(&self) -> usize {
        N_BINS
    }

    fn learn(&mut self, text: &[Token], token: Token) {
        self.overlay.learn(text, &[Successor { token, weight: 1.0 }]);
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        self.overlay.propose(tail.tokens, candidates);
    }
}
