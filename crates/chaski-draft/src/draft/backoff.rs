//! Reads a successor table from the longest context to the empty one, and sorts what it finds into bins of evidence.

use crate::draft::Candidate;
use crate::draft::table::Successor;
use crate::token::Token;

/// Context lengths, longest first: a token keeps the bin of the longest context that names it.
const ORDERS: [usize; 3] = [2, 1, 0];

/// Lower bounds of the bins by a successor's share of its row. The first is for successors that are nearly alone.
const SHARES: [f32; 8] = [0.99, 0.9, 0.7, 0.5, 0.3, 0.15, 0.06, 0.0];

/// Lower bounds of the bins by how often a context was seen. Fading makes these counts fractional.
const TOTALS: [f32; 4] = [0.0, 1.5, 2.5, 5.5];

/// The number of bins: one for each order, total and share.
pub const N_BINS: usize = ORDERS.len() * TOTALS.len() * SHARES.len();

/// The bin of a successor. `share` is its part of all that followed a context of `order` tokens, seen `total` times.
#[must_use]
pub fn bin_of(order: usize, total: f32, share: f32) -> usize {
    let total_bin = TOTALS.iter().rposition(|&least| total >= least).unwrap_or(0);
    let share_bin = SHARES.iter().position(|&least| share >= least).unwrap_or(SHARES.len() - 1);
    (order.min(2) * TOTALS.len() + total_bin) * SHARES.len() + share_bin
}

/// The contexts at the end of `tail`, longest first, each with its order.
pub fn contexts(tail: &[Token]) -> impl Iterator<Item = (usize, &[Token])> {
    ORDERS.into_iter().filter_map(|order| Some((order, &tail[tail.len().checked_sub(order)?..])))
}

/// Most candidates of one table. More cost time and take probability from better ones (measured).
pub(super) const MAX_PROPOSED: usize = 5;

/// Adds the successors of a context of `order` tokens, except those a longer context already named. Returns false when
/// the list is full.
pub fn add_row(order: usize, total: f32, successors: &[Successor], candidates: &mut Vec<Candidate>) -> bool {
    for successor in successors {
        if candidates.len() == MAX_PROPOSED {
            return false;
        }
        if candidates.iter().all(|known| known.token != successor.token) {
            let bin = bin_of(order, total, successor.weight / total);
            candidates.push(Candidate { token: successor.token, bin });
        }
    }
    candidates.len() < MAX_PROPOSED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_evidence_do_not_overlap() {
        let shares = SHARES.map(|share| share + 1e-3);
        let mut seen = Vec::new();
        for order in ORDERS {
            for total in TOTALS {
                seen.extend(shares.map(|share| bin_of(order, total, share)));
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..N_BINS).collect::<Vec<_>>());
    }
}
