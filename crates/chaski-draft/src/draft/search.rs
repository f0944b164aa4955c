//! Best-first search: builds a token tree from the likeliest nodes.
//!
//! A node's probability is the product along its path. So a child never comes before its parent, and every prefix of
//! the result is the likeliest tree of its size.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::draft::Draft;
use crate::draft::mcts::mcts;
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::NodeId;

/// Nodes less likely than this pay on no curve.
const LEAST_P: f32 = 0.004;

/// How a tree is built from probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The likeliest nodes first.
    BestFirst,
    /// Monte-Carlo tree search as in ADED, for comparison.
    Mcts,
}

impl Search {
    /// Builds a tree below `root`; see [`best_first`].
    pub fn run(self, root: Token, limits: TreeLimits, expand: impl Expand) -> Draft {
        match self {
            Search::BestFirst => best_first(root, limits, expand),
            Search::Mcts => mcts(root, limits, expand),
        }
    }
}

/// Called with a path below the root and its probability; fills in the tokens that may follow it with theirs.
pub trait Expand: FnMut(&[Token], f32, &mut Vec<(Token, f32)>) {}

impl<T: FnMut(&[Token], f32, &mut Vec<(Token, f32)>)> Expand for T {}

struct Waiting {
    p: f32,
    /// Order of discovery: on a tie the earlier node comes first.
    order: u32,
    parent: NodeId,
    token: Token,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        self.p.total_cmp(&other.p).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

/// The likeliest tree below `root`.
pub fn best_first(root: Token, limits: TreeLimits, mut expand: impl Expand) -> Draft {
    let least_p = limits.least_p.max(LEAST_P);
    let mut draft = Draft::none(root);
    let mut waiting = BinaryHeap::new();
    let mut n_found = 0;
    let mut path = Vec::new();
    let mut children = Vec::new();
    let mut node = NodeId::ROOT;
    while draft.tree.len() < limits.max_nodes {
        if draft.tree.depth(node) < limits.max_depth {
            path.clear();
            path.extend(draft.tree.path(node).into_iter().skip(1).map(|at| draft.tree.token(at)));
            expand(&path, draft.p[node.index()], &mut children);
            for &(token, p) in &children {
                let p = p * draft.p[node.index()];
                if p >= least_p {
                    waiting.push(Waiting { p, order: n_found, parent: node, token });
                    n_found += 1;
                }
            }
        }
        // Skip nodes that do not fit: they would add one leaf too many, or repeat a sibling's token.
        let added = loop {
            let Some(next) = waiting.pop() else { return draft };
            let opens_leaf = draft.tree.children(next.parent).next().is_some();
            if opens_leaf && draft.tree.n_leaves() == limits.max_leaves {
                continue;
            }
            if let Ok(added) = draft.tree.push(next.parent, next.token) {
                draft.p.push(next.p);
                break added;
            }
        };
        node = added;
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The children of a path by a fixed rule: the weights, rotated by the sum of the path's tokens.
    fn rule(weights: &[f32]) -> impl Fn(&[Token], f32, &mut Vec<(Token, f32)>) + '_ {
        |path, _, out| {
            out.clear();
            let shift = path.iter().map(|token| token.index()).sum::<usize>();
            out.extend(
                (0..weights.len()).map(|i| (Token(i32::try_from(i).unwrap()), weights[(i + shift) % weights.len()])),
            );
        }
    }

    /// The naive twin: all nodes down to a depth, sorted by probability.
    fn naive(weights: &[f32], depth: usize) -> Vec<f32> {
        let expand = rule(weights);
        let (mut all, mut level) = (Vec::new(), vec![(Vec::new(), 1.0f32)]);
        for _ in 0..depth {
            let mut next = Vec::new();
            for (path, p) in level {
                let mut children = Vec::new();
                expand(&path, p, &mut children);
                for (token, q) in children {
                    let mut path: Vec<Token> = path.clone();
                    path.push(token);
                    next.push((path, q * p));
                }
            }
            all.extend(next.iter().map(|(_, p)| *p).filter(|&p| p >= LEAST_P));
            level = next.into_iter().filter(|(_, p)| *p >= LEAST_P).collect();
        }
        all.sort_by(|a, b| b.total_cmp(a));
        all
    }

    proptest! {
        #[test]
        fn takes_the_likeliest_nodes(weights in prop::collection::vec(0.0f32..0.5, 1..4), max_nodes in 1usize..8) {
            let limits = TreeLimits { max_nodes, ..TreeLimits::TREE };
            let draft = best_first(Token(9), limits, rule(&weights));
            draft.tree.check().unwrap();
            let mut expected = naive(&weights, max_nodes);
            expected.truncate(max_nodes - 1);
            prop_assert_eq!(&draft.p[1..], &expected[..]);
        }

        #[test]
        fn keeps_to_the_limits(weights in prop::collection::vec(0.0f32..1.0, 1..6), max_nodes in 1usize..65, max_leaves in 1usize..33, max_depth in 0usize..9) {
            let draft = best_first(Token(9), TreeLimits { max_nodes, max_leaves, max_depth, ..TreeLimits::TREE }, rule(&weights));
            prop_assert!(draft.tree.nodes().all(|node| draft.tree.depth(node) <= max_depth));
            draft.tree.check().unwrap();
            prop_assert!(draft.tree.len() <= max_nodes && draft.tree.n_leaves() <= max_leaves);
            prop_assert_eq!(draft.p.len(), draft.tree.len());
            prop_assert!(draft.p.is_sorted_by(|a, b| a >= b));
        }
    }
}
