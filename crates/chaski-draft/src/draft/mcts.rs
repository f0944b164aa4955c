//! Monte-Carlo tree search with PUCT, as in ADED (arXiv 2407.12021).
//!
//! The constants are those of the paper and its first release: c1 = 1.8, c2 = 8, 150 simulations of depth 4, and the 24
//! most visited prefixes, each extended by its likeliest token. Two things differ on purpose from the released code. It
//! looks up the reward under the wrong key, so its search follows the prior alone; here the reward is the probability
//! of the path a simulation ends on, as the paper says. And it draws from an unseeded generator; here ties go to the
//! likelier successor, then to the earlier one, so nothing is random.

use crate::draft::Draft;
use crate::draft::search::Expand;
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::NodeId;

const C1: f32 = 1.8;
const C2: f32 = 8.0;
const N_SIMULATIONS: usize = 150;
const DEPTH: usize = 4;
const N_PREFIXES: usize = 24;

/// A node of the search tree; most are never drafted.
struct SearchNode {
    token: Token,
    /// Prior of this token after the path above it; adapted weights may exceed 1.
    prior: f32,
    /// Probability of the path down to this node.
    path_p: f32,
    parent: usize,
    depth: usize,
    /// Empty until the node is visited a second time.
    children: Vec<usize>,
    is_expanded: bool,
    n_visits: f32,
    reward: f32,
}

impl SearchNode {
    fn new(token: Token, prior: f32, path_p: f32, parent: usize, depth: usize) -> SearchNode {
        let (children, is_expanded, n_visits, reward) = (Vec::new(), false, 0.0, 0.0);
        SearchNode { token, prior, path_p, parent, depth, children, is_expanded, n_visits, reward }
    }
}

/// Builds a draft below `root` from the most visited prefixes. `expand` fills in priors, likeliest
/// first.
pub fn mcts(root: Token, limits: TreeLimits, mut expand: impl Expand) -> Draft {
    let nodes = search(root, &mut expand);
    let mut prefixes: Vec<usize> = (1..nodes.len()).filter(|&at| nodes[at].n_visits > 0.0).collect();
    // The sort is stable, so parents stay before their children: they have at least as many visits and were found
    // earlier.
    prefixes.sort_by(|&a, &b| nodes[b].n_visits.total_cmp(&nodes[a].n_visits));
    let mut draft = Draft::none(root);
    let mut next = Vec::new();
    for &prefix in prefixes.iter().take(N_PREFIXES) {
        let mut path = path_to(&nodes, prefix);
        let tokens: Vec<Token> = path.iter().map(|(token, _)| *token).collect();
        expand(&tokens, nodes[prefix].path_p, &mut next);
        path.extend(next.first().map(|&(token, p)| (token, nodes[prefix].path_p * p.min(1.0))));
        add_path(&mut draft, &path, limits);
    }
    draft
}

/// The path from the root (excluded) to a node: tokens, and the probabilities of the paths down to them.
fn path_to(nodes: &[SearchNode], node: usize) -> Vec<(Token, f32)> {
    let upwards = std::iter::successors(Some(node), |&at| Some(nodes[at].parent)).take_while(|&at| at != 0);
    let mut path: Vec<(Token, f32)> = upwards.map(|at| (nodes[at].token, nodes[at].path_p)).collect();
    path.reverse();
    path
}

fn search(root: Token, expand: &mut impl Expand) -> Vec<SearchNode> {
    let mut nodes = vec![SearchNode::new(root, 1.0, 1.0, 0, 0)];
    let mut children = Vec::new();
    for _ in 0..N_SIMULATIONS {
        let mut at = 0;
        while nodes[at].depth < DEPTH {
            if !nodes[at].is_expanded {
                let path: Vec<Token> = path_to(&nodes, at).into_iter().map(|(token, _)| token).collect();
                expand(&path, nodes[at].path_p, &mut children);
                nodes[at].is_expanded = true;
                for &(token, prior) in &children {
                    let (child, path_p) = (nodes.len(), nodes[at].path_p * prior.min(1.0));
                    nodes.push(SearchNode::new(token, prior, path_p, at, nodes[at].depth + 1));
                    nodes[at].children.push(child);
                }
            }
            let Some(best) = best_child(&nodes, at) else { break };
            at = best;
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

/// The child with the greatest PUCT score; on a tie the first, which is the likeliest.
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

/// Adds `path` below the root of the draft as far as it fits.
fn add_path(draft: &mut Draft, path: &[(Token, f32)], limits: TreeLimits) {
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
                let Some(added) = added else { return };
                draft.p.push(p);
                added
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After every path: token 3 with 0.8 and token 4 with 0.2.
    fn expand(_path: &[Token], _p: f32, children: &mut Vec<(Token, f32)>) {
        children.clear();
        children.extend([(Token(3), 0.8), (Token(4), 0.2)]);
    }

    #[test]
    fn search_prefers_what_is_likely_and_still_explores() {
        let nodes = search(Token(0), &mut expand);
        let visits =
            |token| nodes[1..].iter().find(|node| node.depth == 1 && node.token == Token(token)).unwrap().n_visits;
        assert!(visits(3) > visits(4) && visits(4) > 1.0, "{} {}", visits(3), visits(4));
        assert_eq!(nodes[0].n_visits, N_SIMULATIONS as f32);
    }

    #[test]
    fn the_most_visited_prefixes_are_extended() {
        let draft = mcts(Token(0), TreeLimits::TREE, expand);
        draft.tree.check().unwrap();
        let deepest = draft.tree.nodes().map(|node| draft.tree.depth(node)).max();
        assert_eq!(deepest, Some(DEPTH + 1));
        assert_eq!(draft.tree.token(draft.tree.nodes().nth(1).unwrap()), Token(3));
    }
}
