//! ADED as published (arXiv 2407.12021), the baseline: a tri-gram matrix, Monte-Carlo tree search with PUCT, and always
//! as many nodes as fit.
//!
//! Constants are the paper's and its first release's: c1 = 1.8, c2 = 8, 150 simulations of depth 4, the 24 most visited
//! prefixes, each extended by its likeliest token, 64 nodes; after each step every tri-gram of the last 16 tokens gains
//! 0.04, up to 3. Differences, all on purpose:
//! - The released code looks the reward up under the wrong key, so its search follows the prior alone. Here the reward
//!   of a simulation is the probability of the path it ends on, which is what the paper describes.
//! - The released code draws from an unseeded generator and depends on the order of a hash map. Here ties go to the
//!   likelier, then to the earlier, successor, so there is nothing to draw.
//! - The matrix is not built from a corpus beforehand: it starts from the prompt.

use crate::draft::table::{Key, Row, Successor, SuccessorTable};
use crate::draft::{Draft, Drafter, root_of};
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::NodeId;

const MAX_BYTES: usize = 16 << 20;
const C1: f32 = 1.8;
const C2: f32 = 8.0;
const N_SIMULATIONS: usize = 150;
const DEPTH: usize = 4;
const N_PREFIXES: usize = 24;
const GAIN: f32 = 0.04;
const GREATEST_P: f32 = 3.0;
const N_RECENT: usize = 16;

/// The published drafter.
#[derive(Clone, Debug)]
pub struct Aded {
    matrix: SuccessorTable,
}

impl Default for Aded {
    fn default() -> Aded {
        Aded { matrix: SuccessorTable::new(MAX_BYTES) }
    }
}

/// A node of the search, not of the draft: most are never verified.
struct SearchNode {
    token: Token,
    /// Of this token after the two before it.
    prior: f32,
    /// Of the path down to here.
    path_p: f32,
    parent: usize,
    depth: usize,
    /// Empty until the node is visited a second time.
    children: Vec<usize>,
    is_expanded: bool,
    n_visits: f32,
    reward: f32,
}

impl Aded {
    /// The successors of a bigram; adapted weights may exceed 1.
    fn successors(&self, bigram: [Token; 2]) -> &[Successor] {
        let row = Key::of(&bigram, 2).and_then(|key| self.matrix.row(key));
        row.map_or(&[], Row::successors)
    }

    fn search(&self, bigram: [Token; 2]) -> Vec<SearchNode> {
        let node = |token, prior, path_p, parent, depth| SearchNode {
            token,
            prior,
            path_p,
            parent,
            depth,
            children: Vec::new(),
            is_expanded: false,
            n_visits: 0.0,
            reward: 0.0,
        };
        let mut nodes = vec![node(bigram[1], 1.0, 1.0, 0, 0)];
        for _ in 0..N_SIMULATIONS {
            let (mut at, mut last) = (0, bigram);
            while nodes[at].depth < DEPTH {
                if !nodes[at].is_expanded {
                    nodes[at].is_expanded = true;
                    for successor in self.successors(last) {
                        let child = nodes.len();
                        let path_p = nodes[at].path_p * successor.weight.min(1.0);
                        nodes.push(node(successor.token, successor.weight, path_p, at, nodes[at].depth + 1));
                        nodes[at].children.push(child);
                    }
                }
                let Some(best) = best_child(&nodes, at) else { break };
                at = best;
                last = [last[1], nodes[at].token];
                if nodes[at].n_visits == 0.0 {
                    break;
                }
            }
            let reward = nodes[at].path_p;
            loop {
                nodes[at].n_visits += 1.0;
                nodes[at].reward += reward;
                if at == 0 {
                    break;
                }
                at = nodes[at].parent;
            }
        }
        nodes
    }
}

/// The child with the greatest PUCT score; the first of equals, hence the likeliest.
fn best_child(nodes: &[SearchNode], parent: usize) -> Option<usize> {
    let n_parent = nodes[parent].n_visits;
    let exploration = C1 + ((n_parent + C2 + 1.0) / C2).ln();
    let score = |child: usize| {
        let SearchNode { prior, n_visits, reward, .. } = nodes[child];
        let mean = if n_visits > 0.0 { reward / n_visits } else { 0.0 };
        mean + exploration * prior * n_parent.sqrt() / (1.0 + n_visits)
    };
    nodes[parent].children.iter().copied().rev().max_by(|&a, &b| score(a).total_cmp(&score(b)))
}

/// Adds `path` below the root of the draft as far as it fits, and tells the last node.
fn add_path(draft: &mut Draft, path: &[(Token, f32)], limits: TreeLimits) -> NodeId {
    let mut node = NodeId::ROOT;
    for &(token, p) in path {
        node = match draft.tree.child(node, token) {
            Some(known) => known,
            None => {
                let opens_leaf = draft.tree.children(node).next().is_some();
                let is_full = draft.tree.len() == limits.max_nodes
                    || draft.tree.depth(node) == limits.max_depth
                    || opens_leaf && draft.tree.n_leaves() == limits.max_leaves;
                let added = if is_full { None } else { draft.tree.push(node, token).ok() };
                let Some(added) = added else { return node };
                draft.p.push(p);
                added
            }
        };
    }
    node
}

impl Drafter for Aded {
    fn begin(&mut self, prompt: &[Token]) {
        *self = Aded::default();
        for end in 3..=prompt.len() {
            let [bigram @ .., token] = &prompt[end - 3..end] else { unreachable!("three tokens") };
            let row = self.matrix.row_mut(Key::of(bigram, 2).expect("two tokens"));
            row.raise(*token, 1.0, f32::INFINITY);
        }
        // Counts become probabilities.
        self.matrix.rows_mut().for_each(|row| row.scale(1.0 / row.total()));
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let mut draft = Draft::none(root_of(context));
        let &[.., before, root] = context else { return draft };
        let nodes = self.search([before, root]);
        let mut prefixes: Vec<usize> = (1..nodes.len()).filter(|&at| nodes[at].n_visits > 0.0).collect();
        // Stable: a parent has at least its child's visits and was found earlier.
        prefixes.sort_by(|&a, &b| nodes[b].n_visits.total_cmp(&nodes[a].n_visits));
        for &prefix in prefixes.iter().take(N_PREFIXES) {
            let mut path: Vec<(Token, f32)> = std::iter::successors(Some(prefix), |&at| Some(nodes[at].parent))
                .take_while(|&at| at != 0)
                .map(|at| (nodes[at].token, nodes[at].path_p))
                .collect();
            path.reverse();
            let last = [path.len().checked_sub(2).map_or(root, |at| path[at].0), nodes[prefix].token];
            let likeliest = self.successors(last).first();
            path.extend(likeliest.map(|next| (next.token, nodes[prefix].path_p * next.weight.min(1.0))));
            add_path(&mut draft, &path, limits);
        }
        draft
    }

    fn learn(&mut self, context: &[Token], _from: usize) {
        for trigram in context[context.len().saturating_sub(N_RECENT)..].windows(3) {
            let row = self.matrix.row_mut(Key::of(&trigram[..2], 2).expect("two tokens"));
            row.raise(trigram[2], GAIN, GREATEST_P);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn a_text_seen_once_is_drafted_as_a_chain() {
        let mut aded = Aded::default();
        let text = tokens(&[1, 2, 3, 4, 5, 6, 7, 1, 2]);
        aded.begin(&text);
        let draft = aded.draft(&text, TreeLimits::TREE);
        let drafted: Vec<i32> = draft.tree.nodes().map(|node| draft.tree.token(node).0).collect();
        assert_eq!(drafted, [2, 3, 4, 5, 6, 7], "depth 4 and the extension");
    }

    #[test]
    fn adaptation_is_bounded() {
        let mut aded = Aded::default();
        let text = tokens(&[1, 2, 3]);
        aded.begin(&text);
        for _ in 0..200 {
            aded.learn(&text, 3);
        }
        let row = aded.matrix.row(Key::of(&text[..2], 2).unwrap()).unwrap();
        assert_eq!(row.total(), GREATEST_P);
    }

    #[test]
    fn search_prefers_what_is_likely_and_still_explores() {
        let mut aded = Aded::default();
        // After (1, 2): 3 eight times, 4 once.
        let text = tokens(&[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2]);
        aded.begin(&text);
        let nodes = aded.search([Token(1), Token(2)]);
        let visits =
            |token| nodes[1..].iter().find(|node| node.depth == 1 && node.token == Token(token)).unwrap().n_visits;
        assert!(visits(3) > visits(4) && visits(4) > 1.0, "{} {}", visits(3), visits(4));
        assert_eq!(nodes[0].n_visits, N_SIMULATIONS as f32);
    }

    proptest! {
        #[test]
        fn drafts_are_sound_trees(ids in prop::collection::vec(0i32..9, 1..150), max_nodes in 1usize..65, max_leaves in 1usize..33, max_depth in 0usize..9) {
            let mut aded = Aded::default();
            let text = tokens(&ids);
            aded.begin(&text);
            aded.learn(&text, 0);
            let draft = aded.draft(&text, TreeLimits { max_nodes, max_leaves, max_depth });
            prop_assert!(draft.tree.nodes().all(|node| draft.tree.depth(node) <= max_depth));
            draft.tree.check().unwrap();
            prop_assert!(draft.tree.len() <= max_nodes && draft.tree.n_leaves() <= max_leaves);
            prop_assert_eq!(draft.p.len(), draft.tree.len());
            prop_assert!(draft.p.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
}
