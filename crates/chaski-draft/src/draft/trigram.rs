//! The tri-gram source: what followed the last two tokens before, backing off to the last one, and to none.
//!
//! This is the paper's "LLM representative" (section 3.1) made adaptive all the way: an overlay that learns every
//! emitted token and fades what it saw long ago. The matrix made beforehand is a source of its own ([`super::base`]),
//! so that the mixer can tell how much each is worth.

use crate::draft::backoff::{FadingTable, N_BINS};
use crate::draft::table::{Successor, SuccessorTable};
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Memory of the overlay.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// A successor not seen for 14 visits of its context counts half.
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
    /// Begins with what `overlay` holds.
    #[must_use]
    pub fn over(overlay: SuccessorTable) -> Trigram {
        Trigram { overlay: FadingTable::over(overlay, FADING) }
    }

    /// What it holds.
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
