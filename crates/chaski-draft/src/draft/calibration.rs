//! Corrects the product of a path's probabilities to the rate at which such paths are accepted.
//!
//! The mixer is calibrated for single tokens. But if one token of a path is right, the next one often is too, so the
//! product is too low. The correction is the last stage of context-mixing compressors ("secondary symbol estimation"):
//! a table indexed by the estimate, adjusted by what happened to verified nodes.

use serde::{Deserialize, Serialize};

use crate::draft::mixer::{MOST_CERTAIN, squash, stretch};
use crate::token::Token;
use crate::tree::TokenTree;

/// Table points on each side of even odds.
const N_HALF: usize = 14;

/// The first depth of each table. Deeper nodes share the last.
const DEPTHS: [usize; 3] = [1, 2, 4];

/// Learning rate for the first observation, in units of [`MOST_CERTAIN`]. It falls with the number of observations, so
/// that a point settles at the mean. A constant rate would make it wander by as much as the error it corrects.
const RATE: f32 = 0.02;

/// The rate is halved after this many observations.
const N_HALVED: f32 = 60.0;

/// The rate never falls below this, because texts change.
const LEAST_RATE: f32 = 0.003;

/// The correction tables, in the logistic domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrator {
    /// Per depth, the corrected estimate at each point.
    tables: Vec<Vec<f32>>,
    /// Per depth, the observations at each point.
    seen: Vec<Vec<f32>>,
}

impl Default for Calibrator {
    /// The identity: corrects nothing.
    fn default() -> Calibrator {
        let identity = (0..=2 * N_HALF).map(|point| (point as f32 / N_HALF as f32 - 1.0) * MOST_CERTAIN);
        Calibrator {
            tables: vec![identity.collect(); DEPTHS.len()],
            seen: vec![vec![0.0; 2 * N_HALF + 1]; DEPTHS.len()],
        }
    }
}

/// The point below an estimate, and the weight of the next point (0 to 1).
fn points_of(p: f32) -> (usize, f32) {
    let at = (stretch(p) / MOST_CERTAIN + 1.0) * N_HALF as f32;
    let point = (at as usize).min(2 * N_HALF - 1);
    (point, at - point as f32)
}

fn table_of(depth: usize) -> usize {
    DEPTHS.iter().rposition(|&first| depth >= first).unwrap_or(0)
}

impl Calibrator {
    /// The probability that a node at `depth` with estimate `p` is accepted, interpolated between points.
    #[must_use]
    pub fn correct(&self, p: f32, depth: usize) -> f32 {
        let (point, share) = points_of(p);
        let table = &self.tables[table_of(depth)];
        squash(table[point] * (1.0 - share) + table[point + 1] * share)
    }

    /// Learns whether a verified node at `depth` with estimate `p` was accepted.
    pub fn learn(&mut self, p: f32, depth: usize, is_accepted: bool) {
        let (point, share) = points_of(p);
        let error = f32::from(u8::from(is_accepted)) - self.correct(p, depth);
        let (table, seen) = (&mut self.tables[table_of(depth)], &mut self.seen[table_of(depth)]);
        for (point, share) in [(point, 1.0 - share), (point + 1, share)] {
            let rate = f32::max(LEAST_RATE, RATE / (1.0 + seen[point] / N_HALVED));
            table[point] += rate * MOST_CERTAIN * error * share;
            seen[point] += share;
        }
    }

    /// This calibrator moved towards `other` by `share`: 0 to 1.
    #[must_use]
    pub(super) fn towards(&self, other: &Calibrator, share: f32) -> Calibrator {
        let between = |from: &[Vec<f32>], to: &[Vec<f32>]| {
            let rows = from.iter().zip(to);
            rows.map(|(from, to)| from.iter().zip(to).map(|(from, to)| from + share * (to - from)).collect()).collect()
        };
        Calibrator { tables: between(&self.tables, &other.tables), seen: between(&self.seen, &other.seen) }
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let are_sound = |tables: &[Vec<f32>]| {
            let is_sound = |table: &Vec<f32>| table.len() == 2 * N_HALF + 1 && table.iter().all(|x| x.is_finite());
            tables.len() == DEPTHS.len() && tables.iter().all(is_sound)
        };
        are_sound(&self.tables) && are_sound(&self.seen) && self.seen.iter().flatten().all(|&n| n >= 0.0)
    }
}

/// Per node of a verified tree, whether it is on the path of the tokens that were `emitted`.
pub(super) fn accepted(tree: &TokenTree, emitted: &[Token]) -> Vec<bool> {
    let mut are_accepted = vec![true; tree.len()];
    for node in tree.nodes().skip(1) {
        let parent = tree.parent(node).expect("not the root");
        are_accepted[node.index()] =
            are_accepted[parent.index()] && emitted.get(tree.depth(node) - 1) == Some(&tree.token(node));
    }
    are_accepted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrects_nothing_at_first() {
        for p in [0.001, 0.1, 0.5, 0.77, 0.999] {
            assert!((Calibrator::default().correct(p, 3) - p).abs() < 1e-4);
        }
    }

    #[test]
    fn learns_what_happens_where_it_happens() {
        let mut calibrator = Calibrator::default();
        for n in 0..2000 {
            calibrator.learn(0.3, 1, n % 2 == 0);
            calibrator.learn(0.3, 5, false);
        }
        assert!((calibrator.correct(0.3, 1) - 0.5).abs() < 0.1, "{}", calibrator.correct(0.3, 1));
        assert!(calibrator.correct(0.3, 9) < 0.05);
        assert!((calibrator.correct(0.9, 1) - 0.9).abs() < 0.05);
    }
}
