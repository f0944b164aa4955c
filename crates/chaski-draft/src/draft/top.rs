//! Finds the likeliest tokens in a row of the target's logits, with their probabilities.

use crate::draft::table::Successor;
use crate::maximum::{BLOCK, finite_max};
use crate::token::Token;

/// A logit this far below the greatest adds less than 1/160,000 of the greatest one's probability. All of those left out
/// add up to less than 0.5% of the sum (517 rows of Qwen2.5-Coder-1.5B; with 10.0 up to 2%:
/// bench/results/2026-11-30-f854ed3-flat-rows.md).
const NEGLIGIBLE: f32 = 12.0;

/// Finds the greatest logits of a row, and keeps its memory between calls.
#[derive(Clone, Debug, Default)]
pub struct TopK {
    /// The greatest value of each block; blocks whose maximum is too small are skipped.
    block_max: Vec<f32>,
    top: Vec<Successor>,
}

impl TopK {
    /// The `k` likeliest tokens of a row, likeliest first (on a tie the lower id), with their probabilities at
    /// temperature 1 as weights. Empty if the row has a NaN or plus infinity, or nothing finite.
    pub fn of(&mut self, logits: &[f32], k: usize) -> &[Successor] {
        self.top.clear();
        self.block_max.clear();
        let Some(max) = finite_max(logits, |max| self.block_max.push(max)) else { return &self.top };
        if k == 0 {
            return &self.top;
        }
        for (number, block) in logits.chunks(BLOCK).enumerate() {
            let least = if self.top.len() < k { f32::NEG_INFINITY } else { self.top[k - 1].weight };
            if self.block_max[number] > least {
                for (offset, &logit) in block.iter().enumerate() {
                    self.offer(number * BLOCK + offset, logit, k);
                }
            }
        }
        let sum = self.sum(logits, max);
        for successor in &mut self.top {
            successor.weight = (successor.weight - max).exp() / sum;
        }
        &self.top
    }

    /// Inserts a logit among the `k` greatest, if it belongs there.
    fn offer(&mut self, id: usize, logit: f32, k: usize) {
        if logit == f32::NEG_INFINITY || self.top.len() == k && logit <= self.top[k - 1].weight {
            return;
        }
        self.top.truncate(k - 1);
        let place = self.top.partition_point(|known| known.weight >= logit);
        let token = Token(i32::try_from(id).expect("a vocabulary has less than 2^31 tokens"));
        self.top.insert(place, Successor { token, weight: logit });
    }

    /// The sum of exp(logit - max) over the blocks that matter.
    fn sum(&self, logits: &[f32], max: f32) -> f32 {
        let blocks = logits.chunks(BLOCK).zip(&self.block_max).filter(|(_, block_max)| **block_max > max - NEGLIGIBLE);
        blocks.flat_map(|(block, _)| block).map(|logit| (logit - max).exp()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_its_naive_twin(logits in prop::collection::vec(-400i32..400, 1..700), k in 1usize..12) {
            let logits: Vec<f32> = logits.into_iter().map(|x| x as f32 / 16.0).collect();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
            let max = logits[order[0]];
            let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
            let mut top = TopK::default();
            let top = top.of(&logits, k);
            prop_assert_eq!(top.len(), k.min(logits.len()));
            for (found, &id) in top.iter().zip(&order) {
                prop_assert_eq!(found.token.index(), id);
                let p = (logits[id] - max).exp() / sum;
                prop_assert!((found.weight - p).abs() < 1e-3, "{} {p}", found.weight);
            }
        }
    }

    /// The greatest logit is in the last of many blocks that matter.
    #[test]
    fn the_probabilities_of_a_flat_row_are_those_of_all_blocks() {
        let mut logits = vec![0.0; 100_000];
        logits[99_999] = 11.0;
        let mut top = TopK::default();
        let top = top.of(&logits, 2);
        let sum = 11.0_f32.exp() + 99_999.0;
        assert!((top[0].weight * sum / 11.0_f32.exp() - 1.0).abs() < 1e-3, "{}", top[0].weight);
        assert!((top[1].weight * sum - 1.0).abs() < 1e-3, "{}", top[1].weight);
    }

    #[test]
    fn what_is_not_a_number_has_no_top() {
        let mut top = TopK::default();
        assert!(top.of(&[1.0, f32::NAN], 2).is_empty());
        assert!(top.of(&[f32::NEG_INFINITY; 100], 2).is_empty());
        assert!(top.of(&[], 2).is_empty());
        assert_eq!(top.of(&[f32::NEG_INFINITY, 0.0], 2).len(), 1);
    }
}
