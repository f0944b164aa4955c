//! From the product of a path's probabilities to how often such paths are accepted.
//!
//! The mixer is right about one token at a time, but what makes one token of a path likely often makes the next one
//! likely too, so the product is too careful. This is the last stage of context-mixing compressors (a "secondary symbol
//! estimation"): a table over the estimate, corrected by what happened to verified nodes.

use serde::{Deserialize, Serialize};

use crate::draft::mixer::{MOST_CERTAIN, squash, stretch};
use crate::draft::{Draft, Verified};
use crate::token::Token;

/// Points of the table on each side of even odds.
const N_HALF: usize = 14;

/// Depths with a table of their own; deeper nodes share the last.
const DEPTHS: [usize; 3] = [1, 2, 4];

/// Step towards the first observation, in units of [`MOST_CERTAIN`]. Steps become shorter, so that a point comes to rest at
/// the mean: at a constant length it would wander about it by as much as the error to correct.
const RATE: f32 = 0.02;

/// After so many observations a step has half its length.
const N_HALVED: f32 = 60.0;

/// The shortest step: what is observed changes with the text.
const LEAST_RATE: f32 = 0.003;

/// How estimates turned out, in the logistic domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrator {
    /// Per depth the corrected estimate at each point.
    tables: Vec<Vec<f32>>,
    /// Observations at each of these points.
    seen: Vec<Vec<f32>>,
}

impl Default for Calibrator {
    /// Corrects nothing.
    fn default() -> Calibrator {
        let identity = (0..=2 * N_HALF).map(|point| (point as f32 / N_HALF as f32 - 1.0) * MOST_CERTAIN);
        Calibrator {
            tables: vec![identity.collect(); DEPTHS.len()],
            seen: vec![vec![0.0; 2 * N_HALF + 1]; DEPTHS.len()],
        }
    }
}

/// The points on both sides of an estimate, and how near the second is (0 to 1).
fn points_of(p: f32) -> (usize, f32) {
    let at = (stretch(p) / MOST_CERTAIN + 1.0) * N_HALF as f32;
    let point = (at as usize).min(2 * N_HALF - 1);
    (point, at - point as f32)
}

fn table_of(depth: usize) -> usize {
    DEPTHS.iter().rposition(|&first| depth >= first).unwrap_or(0)
}

impl Calibrator {
    /// The probability that a node at `depth` with estimate `p` is accepted.
    #[must_use]
    pub fn correct(&self, p: f32, depth: usize) -> f32 {
        let (point, share) = points_of(p);
        let table = &self.tables[table_of(depth)];
        squash(table[point] * (1.0 - share) + table[point + 1] * share)
    }

    /// Corrects all nodes of a draft but the root.
    pub fn correct_all(&self, draft: &mut Draft) {
        for node in draft.tree.nodes().skip(1) {
            let p = &mut draft.p[node.index()];
            *p = self.correct(*p, draft.tree.depth(node));
        }
    }

    /// Takes in what became of a node.
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

    /// Takes in what became of the verified nodes of a draft, whose estimates were `p`, when `emitted` was said.
    pub fn learn_all(&mut self, p: &[f32], verified: Verified<'_>, emitted: &[Token]) {
        let tree = verified.tree;
        let mut is_accepted = vec![true; tree.len()];
        for node in tree.nodes().skip(1) {
            let parent = tree.parent(node).expect("not the root");
            let depth = tree.depth(node);
            is_accepted[node.index()] =
                is_accepted[parent.index()] && emitted.get(depth - 1) == Some(&tree.token(node));
            if let Some(&p) = p.get(node.index()) {
                self.learn(p, depth, is_accepted[node.index()]);
            }
        }
    }

    /// False for numbers that no learning gives: a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let are_sound = |tables: &[Vec<f32>]| {
            let is_sound = |table: &Vec<f32>| table.len() == 2 * N_HALF + 1 && table.iter().all(|x| x.is_finite());
            tables.len() == DEPTHS.len() && tables.iter().all(is_sound)
        };
        are_sound(&self.tables) && are_sound(&self.seen) && self.seen.iter().flatten().all(|&n| n >= 0.0)
    }
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
