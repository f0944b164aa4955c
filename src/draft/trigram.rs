//! The tri-gram source: what followed the last two tokens before, backing off to the last one, and to none.
//!
//! This is the paper's "LLM representative" (section 3.1) made adaptive all the way: it starts empty, learns every
//! emitted token, and fades what it saw long ago. Its memory has a bound.

use crate::draft::Source;
use crate::draft::mixer::Candidate;
use crate::draft::table::{Key, SuccessorTable};
use crate::token::Token;

/// Memory of the matrix.
const MAX_BYTES: usize = 4 << 20;

/// What a row keeps of its weights each time it learns: a successor not seen for 14 visits counts half.
const FADING: f32 = 0.95;

const ORDERS: [usize; 3] = [2, 1, 0];
const N_COUNT_BINS: usize = 4;
const N_SHARE_BINS: usize = 5;

/// How often a lone successor was right, by order and by how often the context was seen; measured as those of the suffix
/// source.
const ALONE: [[f32; N_COUNT_BINS]; 3] = [[0.01, 0.02, 0.03, 0.05], [0.36, 0.56, 0.75, 0.85], [0.55, 0.80, 0.93, 0.96]];

/// The same for one of several, by order and share.
const CONTESTED: [[f32; N_SHARE_BINS - 1]; 3] =
    [[0.01, 0.01, 0.02, 0.05], [0.03, 0.08, 0.12, 0.35], [0.10, 0.15, 0.35, 0.50]];

/// The adaptive tri-gram matrix.
#[derive(Clone, Debug)]
pub struct Trigram {
    table: SuccessorTable,
}

impl Default for Trigram {
    fn default() -> Trigram {
        Trigram::new(MAX_BYTES)
    }
}

impl Trigram {
    /// An empty matrix of at most `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Trigram {
        Trigram { table: SuccessorTable::new(max_bytes) }
    }
}

/// By order, by how often the context was seen, and by the successor's share of that.
fn bin_of(order: usize, total: f32, weight: f32) -> usize {
    let count_bin = match total {
        ..1.5 => 0,
        ..2.5 => 1,
        ..5.5 => 2,
        _ => 3,
    };
    // The share lies in (0, 1], so the top bin is reached only by a lone successor.
    let share_bin = ((weight / total * (N_SHARE_BINS - 1) as f32) as usize).min(N_SHARE_BINS - 1);
    (order * N_COUNT_BINS + count_bin) * N_SHARE_BINS + share_bin
}

impl Source for Trigram {
    fn learn(&mut self, text: &[Token], token: Token) {
        for order in ORDERS {
            if let Some(key) = Key::of(text, order) {
                let row = self.table.row_mut(key);
                row.scale(FADING);
                row.raise(token, 1.0, f32::INFINITY);
            }
        }
    }

    fn propose(&self, tail: &[Token], candidates: &mut Vec<Candidate>) {
        for order in ORDERS {
            let Some(row) = Key::of(tail, order).and_then(|key| self.table.row(key)) else {
                continue;
            };
            let total = row.total();
            for successor in row.successors() {
                // A longer context knows better: what it named stays with it.
                if candidates.iter().all(|known| known.token != successor.token) {
                    candidates.push(Candidate { token: successor.token, bin: bin_of(order, total, successor.weight) });
                }
            }
        }
    }

    fn n_bins(&self) -> usize {
        ORDERS.len() * N_COUNT_BINS * N_SHARE_BINS
    }

    fn prior(&self, bin: usize) -> f32 {
        let (row, share) = (bin / N_SHARE_BINS, bin % N_SHARE_BINS);
        let (order, count) = (row / N_COUNT_BINS, row % N_COUNT_BINS);
        if share == N_SHARE_BINS - 1 { ALONE[order][count] } else { CONTESTED[order][share] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// The naive twin: whole texts as keys, no bound.
    #[derive(Default)]
    struct Naive(BTreeMap<Vec<i32>, Vec<(i32, f32)>>);

    impl Naive {
        fn learn(&mut self, text: &[i32], token: i32) {
            for order in 0..=2.min(text.len()) {
                let row = self.0.entry(text[text.len() - order..].to_vec()).or_default();
                row.iter_mut().for_each(|successor| successor.1 *= FADING);
                match row.iter_mut().find(|successor| successor.0 == token) {
                    Some(successor) => successor.1 += 1.0,
                    None => row.push((token, 1.0)),
                }
            }
        }

        fn propose(&self, tail: &[i32]) -> BTreeMap<i32, usize> {
            let mut bins = BTreeMap::new();
            for order in (0..=2.min(tail.len())).rev() {
                let Some(row) = self.0.get(&tail[tail.len() - order..]) else {
                    continue;
                };
                let mut sorted = row.clone();
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                let total = sorted.iter().map(|successor| successor.1).sum();
                for (token, weight) in row {
                    bins.entry(*token).or_insert(bin_of(order, total, *weight));
                }
            }
            bins
        }
    }

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    proptest! {
        // At most 12 tokens: no row overflows, and a table of 4 MiB forgets nothing.
        #[test]
        fn agrees_with_its_naive_twin(text in prop::collection::vec(0i32..12, 1..200)) {
            let mut fast = Trigram::default();
            let mut naive = Naive::default();
            for at in 0..text.len() {
                fast.learn(&tokens(&text[..at]), Token(text[at]));
                naive.learn(&text[..at], text[at]);
            }
            for at in 0..=text.len() {
                let mut candidates = Vec::new();
                fast.propose(&tokens(&text[..at]), &mut candidates);
                let bins: BTreeMap<i32, usize> = candidates.iter().map(|c| (c.token.0, c.bin)).collect();
                prop_assert_eq!(bins.len(), candidates.len(), "no token twice");
                prop_assert_eq!(bins, naive.propose(&text[..at]));
            }
        }

        #[test]
        fn a_small_memory_only_forgets(text in prop::collection::vec(0i32..1000, 1..600)) {
            let mut matrix = Trigram::new(0);
            for at in 0..text.len() {
                matrix.learn(&tokens(&text[..at]), Token(text[at]));
                let mut candidates = Vec::new();
                matrix.propose(&tokens(&text[..at]), &mut candidates);
                prop_assert!(candidates.iter().all(|candidate| candidate.bin < matrix.n_bins()));
            }
        }
    }

    #[test]
    fn priors_are_probabilities() {
        let matrix = Trigram::new(0);
        assert!((0..matrix.n_bins()).all(|bin| (0.0..=1.0).contains(&matrix.prior(bin))));
    }
}
