//! A table of what followed what, in which old observations fade: the decay of tri-grams and of remembered logits.
//!
//! The memory is bounded by [`table`](crate::draft::table), which drops the rows that were used least.

use crate::draft::Candidate;
use crate::draft::backoff::{add_row, contexts};
use crate::draft::table::{Key, Successor, SuccessorTable};
use crate::token::Token;

/// A successor table with bounded memory in which old observations fade.
#[derive(Clone, Debug)]
pub struct FadingTable {
    table: SuccessorTable,
    /// The factor on a row's weights each time it learns.
    fading: f32,
}

impl FadingTable {
    /// An empty table of at most `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize, fading: f32) -> FadingTable {
        FadingTable::over(SuccessorTable::new(max_bytes), fading)
    }

    /// Learns that a text ending with `tail` was followed by `successors`, whose weights add up to at most 1.
    pub fn learn(&mut self, tail: &[Token], successors: &[Successor]) {
        for (order, context) in contexts(tail) {
            let row = self.table.row_mut(Key::of(context, order).expect("an end of the tail"));
            row.scale(self.fading);
            for successor in successors {
                row.raise(successor.token, successor.weight, f32::INFINITY);
            }
        }
    }

    /// Adds the tokens that may follow `tail`.
    pub fn propose(&self, tail: &[Token], candidates: &mut Vec<Candidate>) {
        for (order, context) in contexts(tail) {
            if let Some(row) = Key::of(context, order).and_then(|key| self.table.row(key))
                && !add_row(order, row.total(), row.successors(), candidates)
            {
                break;
            }
        }
    }

    /// A table that starts from `table`.
    #[must_use]
    pub fn over(table: SuccessorTable, fading: f32) -> FadingTable {
        FadingTable { table, fading }
    }

    /// The table, to be saved.
    #[must_use]
    pub fn table(&self) -> &SuccessorTable {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::draft::backoff::{MAX_PROPOSED, N_BINS, bin_of};
    use proptest::prelude::*;

    const FADING: f32 = 0.95;

    /// The naive twin: token lists as keys, no bound on memory.
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

        /// All candidates, best first.
        fn propose(&self, tail: &[i32]) -> Vec<(i32, usize)> {
            let mut bins: Vec<(i32, usize)> = Vec::new();
            for order in (0..=2.min(tail.len())).rev() {
                let Some(row) = self.0.get(&tail[tail.len() - order..]) else { continue };
                let mut sorted = row.clone();
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                let total: f32 = sorted.iter().map(|successor| successor.1).sum();
                for (token, weight) in sorted {
                    if bins.iter().all(|(known, _)| *known != token) {
                        bins.push((token, bin_of(order, total, weight / total)));
                    }
                }
            }
            bins
        }
    }

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    fn learn(table: &mut FadingTable, text: &[i32], token: i32) {
        table.learn(&tokens(text), &[Successor { token: Token(token), weight: 1.0 }]);
    }

    proptest! {
        // With at most 12 distinct tokens no row overflows, and a table of 4 MiB forgets nothing.
        #[test]
        fn agrees_with_its_naive_twin(text in prop::collection::vec(0i32..12, 1..200)) {
            let mut fast = FadingTable::new(4 << 20, FADING);
            let mut naive = Naive::default();
            for at in 0..text.len() {
                learn(&mut fast, &text[..at], text[at]);
                naive.learn(&text[..at], text[at]);
            }
            for at in 0..=text.len() {
                let mut candidates = Vec::new();
                fast.propose(&tokens(&text[..at]), &mut candidates);
                let all = naive.propose(&text[..at]);
                let best = &all[..all.len().min(MAX_PROPOSED)];
                // Of equal candidates, either may take the last place.
                prop_assert!(candidates.iter().map(|c| c.bin).eq(best.iter().map(|(_, bin)| *bin)));
                prop_assert!(candidates.iter().all(|c| all.contains(&(c.token.0, c.bin))));
                let tokens: BTreeSet<Token> = candidates.iter().map(|c| c.token).collect();
                prop_assert_eq!(tokens.len(), candidates.len(), "no token twice");
            }
        }

        #[test]
        fn a_small_memory_only_forgets(text in prop::collection::vec(0i32..1000, 1..600)) {
            let mut table = FadingTable::new(0, FADING);
            for at in 0..text.len() {
                learn(&mut table, &text[..at], text[at]);
                let mut candidates = Vec::new();
                table.propose(&tokens(&text[..at]), &mut candidates);
                prop_assert!(candidates.iter().all(|candidate| candidate.bin < N_BINS));
            }
        }
    }
}
