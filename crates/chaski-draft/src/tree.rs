//! The token tree: a draft as flat arrays.
//!
//! Node 0 is the root: the last committed token, which the target has not decoded yet. Every other node is a drafted
//! token. Parents come before their children, so every prefix of the arrays is a tree too, and `truncate` cuts a draft
//! to the size that pays. A tree of only the root is plain decoding.

use crate::token::Token;

/// Most rows in one verify, root included.
pub const MAX_NODES: usize = 64;

/// Most leaves in a tree: each is one sequence of the batch.
pub const MAX_LEAVES: usize = 32;

/// A node's index in the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// The root: the last committed token.
    pub const ROOT: NodeId = NodeId(0);

    /// The node's index in the arrays, which is its row in the batch.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    fn new(index: usize) -> NodeId {
        NodeId(u8::try_from(index).expect("a tree has at most MAX_NODES nodes"))
    }
}

/// Why a node cannot be added or a tree cannot be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The tree already has [`MAX_NODES`] nodes.
    #[error("a token tree has at most {MAX_NODES} nodes")]
    TooManyNodes,
    /// The tree already has [`MAX_LEAVES`] leaves, and the node would start a new branch.
    #[error("a token tree has at most {MAX_LEAVES} leaves")]
    TooManyLeaves,
    /// The parent is not in the tree, or does not come before its child.
    #[error("node {child} has no parent before it")]
    NoParent {
        /// Index of the child.
        child: usize,
    },
    /// Two children of one node carry the same token. They would share a KV cell and silently see each other.
    #[error("node {child} repeats the token of a sibling")]
    RepeatedSibling {
        /// Index of the second child.
        child: usize,
    },
    /// The depth is not the parent's plus one.
    #[error("node {child} is not one deeper than its parent")]
    WrongDepth {
        /// Index of the node.
        child: usize,
    },
}

/// A draft: the root and its candidates. All arrays are indexed by node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTree {
    tokens: Vec<Token>,
    /// The root is its own parent.
    parents: Vec<NodeId>,
    /// Distance from the root.
    depths: Vec<u8>,
    n_leaves: usize,
}

impl TokenTree {
    /// The tree of only the root: plain decoding.
    #[must_use]
    pub fn new(root: Token) -> TokenTree {
        TokenTree { tokens: vec![root], parents: vec![NodeId::ROOT], depths: vec![0], n_leaves: 1 }
    }

    /// A tree with one candidate: `tokens` below the root, one after another.
    ///
    /// # Errors
    /// [`TreeError::TooManyNodes`].
    pub fn chain(root: Token, tokens: &[Token]) -> Result<TokenTree, TreeError> {
        let mut tree = TokenTree::new(root);
        let mut parent = NodeId::ROOT;
        for &token in tokens {
            parent = tree.push(parent, token)?;
        }
        Ok(tree)
    }

    /// Adds a drafted token below `parent`.
    ///
    /// # Errors
    /// If the tree is full, the parent does not exist, or a sibling carries the same token.
    pub fn push(&mut self, parent: NodeId, token: Token) -> Result<NodeId, TreeError> {
        let child = self.tokens.len();
        if child >= MAX_NODES {
            return Err(TreeError::TooManyNodes);
        }
        if parent.index() >= child {
            return Err(TreeError::NoParent { child });
        }
        let mut is_first_child = true;
        for sibling in self.children(parent) {
            if self.token(sibling) == token {
                return Err(TreeError::RepeatedSibling { child });
            }
            is_first_child = false;
        }
        // The first child replaces its parent as a leaf; every further child adds one.
        if !is_first_child {
            if self.n_leaves == MAX_LEAVES {
                return Err(TreeError::TooManyLeaves);
            }
            self.n_leaves += 1;
        }
        self.tokens.push(token);
        self.parents.push(parent);
        self.depths.push(self.depths[parent.index()] + 1);
        Ok(NodeId::new(child))
    }

    /// Rows of the verify: the root and all drafted nodes. At least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a tree always has its root")]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The number of nodes, not counting the root.
    #[must_use]
    pub fn n_drafted(&self) -> usize {
        self.len() - 1
    }

    /// The number of candidates; 1 for the root alone.
    #[must_use]
    pub fn n_leaves(&self) -> usize {
        self.n_leaves
    }

    /// All nodes, parents first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.len()).map(NodeId::new)
    }

    /// The token a node carries.
    #[must_use]
    pub fn token(&self, node: NodeId) -> Token {
        self.tokens[node.index()]
    }

    /// The parent; `None` for the root.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> Option<NodeId> {
        (node != NodeId::ROOT).then(|| self.parents[node.index()])
    }

    /// Distance from the root.
    #[must_use]
    pub fn depth(&self, node: NodeId) -> usize {
        usize::from(self.depths[node.index()])
    }

    /// The children of `node`, in the order they were added.
    pub fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        // Children come after their parent. The skip keeps the root, its own parent, from counting as its child.
        self.nodes().skip(node.index() + 1).filter(move |child| self.parents[child.index()] == node)
    }

    /// The child of `node` that carries `token`.
    #[must_use]
    pub fn child(&self, node: NodeId, token: Token) -> Option<NodeId> {
        self.children(node).find(|&child| self.token(child) == token)
    }

    /// The nodes without children, in order.
    #[must_use]
    pub fn leaves(&self) -> Vec<NodeId> {
        let mut is_leaf = vec![true; self.len()];
        for node in self.nodes().skip(1) {
            is_leaf[self.parents[node.index()].index()] = false;
        }
        self.nodes().filter(|node| is_leaf[node.index()]).collect()
    }

    /// The nodes from the root to `node`, both included.
    #[must_use]
    pub fn path(&self, node: NodeId) -> Vec<NodeId> {
        let mut path: Vec<_> = std::iter::successors(Some(node), |&at| self.parent(at)).collect();
        path.reverse();
        path
    }

    /// Keeps the first `n_rows` nodes, at least the root.
    pub fn truncate(&mut self, n_rows: usize) {
        let n_rows = n_rows.clamp(1, self.len());
        self.tokens.truncate(n_rows);
        self.parents.truncate(n_rows);
        self.depths.truncate(n_rows);
        self.n_leaves = self.leaves().len();
    }

    /// Checks the invariants that an engine relies on.
    ///
    /// # Errors
    /// The first invariant that is violated.
    pub fn check(&self) -> Result<(), TreeError> {
        if self.len() > MAX_NODES {
            return Err(TreeError::TooManyNodes);
        }
        for node in self.nodes().skip(1) {
            let child = node.index();
            let parent = self.parents[child];
            if parent >= node {
                return Err(TreeError::NoParent { child });
            }
            if self.depths[child] != self.depths[parent.index()] + 1 {
                return Err(TreeError::WrongDepth { child });
            }
            if self.child(parent, self.token(node)) != Some(node) {
                return Err(TreeError::RepeatedSibling { child });
            }
        }
        if self.leaves().len() > MAX_LEAVES {
            return Err(TreeError::TooManyLeaves);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(id: i32) -> Token {
        Token(id)
    }

    #[test]
    fn the_root_alone_is_plain_decoding() {
        let tree = TokenTree::new(t(7));
        assert_eq!((tree.len(), tree.n_drafted(), tree.n_leaves()), (1, 0, 1));
        assert_eq!(tree.leaves(), [NodeId::ROOT]);
        assert_eq!(tree.parent(NodeId::ROOT), None);
        assert_eq!(tree.children(NodeId::ROOT).count(), 0);
        tree.check().unwrap();
    }

    #[test]
    fn limits_and_mistakes_are_errors() {
        let mut tree = TokenTree::new(t(0));
        let a = tree.push(NodeId::ROOT, t(1)).unwrap();
        assert_eq!(tree.push(NodeId::ROOT, t(1)), Err(TreeError::RepeatedSibling { child: 2 }));
        assert_eq!(tree.push(NodeId(9), t(1)), Err(TreeError::NoParent { child: 2 }));
        for id in 2..=32 {
            tree.push(NodeId::ROOT, t(id)).unwrap();
        }
        assert_eq!(tree.push(NodeId::ROOT, t(33)), Err(TreeError::TooManyLeaves));
        let b = tree.push(a, t(1)).expect("growing a leaf adds none");
        assert_eq!(tree.path(b), [NodeId::ROOT, a, b]);
        assert_eq!(TokenTree::chain(t(0), &[t(1); 64]), Err(TreeError::TooManyNodes));
    }

    #[test]
    fn check_finds_what_push_refuses() {
        let good = TokenTree::chain(t(0), &[t(1), t(2)]).unwrap();
        let mut bad = good.clone();
        bad.parents[1] = NodeId(2);
        assert_eq!(bad.check(), Err(TreeError::NoParent { child: 1 }));
        let mut bad = good.clone();
        bad.depths[2] = 1;
        assert_eq!(bad.check(), Err(TreeError::WrongDepth { child: 2 }));
        let mut bad = good;
        (bad.parents[2], bad.depths[2], bad.tokens[2]) = (NodeId::ROOT, 1, t(1));
        assert_eq!(bad.check(), Err(TreeError::RepeatedSibling { child: 2 }));
    }

    proptest! {
        #[test]
        fn every_prefix_of_a_tree_is_a_tree(links in prop::collection::vec((0usize..64, 0i32..4), 0..90), cut in 0usize..70) {
            let mut tree = TokenTree::new(t(0));
            for (parent, token) in links {
                let _ = tree.push(NodeId::new(parent % tree.len()), t(token));
            }
            tree.check().unwrap();
            prop_assert_eq!(tree.leaves().len(), tree.n_leaves());
            tree.truncate(cut);
            tree.check().unwrap();
            prop_assert_eq!(tree.leaves().len(), tree.n_leaves());
            for leaf in tree.leaves() {
                let path = tree.path(leaf);
                prop_assert_eq!(path.len(), tree.depth(leaf) + 1);
                for pair in path.windows(2) {
                    prop_assert_eq!(tree.child(pair[0], tree.token(pair[1])), Some(pair[1]));
                }
            }
        }
    }
}
