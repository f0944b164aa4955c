//! The interface between the loop and an engine: one text in the target's KV cache.
//!
//! Chaski implements it with `llama::Session`. [`Scripted`] is a deterministic target without a model, for tests.

use std::ops::ControlFlow;

use crate::token::Token;
use crate::tree::{MAX_LEAVES, MAX_NODES, NodeId, TokenTree, TreeError};

/// The logits of a verified tree.
pub trait Rows {
    /// The logits after `node`, one per vocabulary token.
    fn logits(&self, node: NodeId) -> &[f32];

    /// The hidden state behind them, if the target keeps states.
    fn hidden_state(&self, _node: NodeId) -> Option<&[f32]> {
        None
    }
}

/// One text in the target's KV cache (a timeline), and the logits of the last verify.
///
/// Between calls the cache holds the committed tokens except the last one, which is the root of the next verify.
pub trait Target: Rows {
    /// The widest tree to draft for the next verify. Some targets can verify wider ones.
    fn limits(&self) -> TreeLimits;

    /// Committed positions in the cache.
    fn n_past(&self) -> usize;

    /// Committed tokens that went out of the cache with a rejected draft. The next verify decodes them again, in the
    /// same batch as its tree. 0 for targets that can drop the rejected tokens alone.
    fn n_lost(&self) -> usize {
        0
    }

    /// Makes the cache hold exactly `prefix`, reusing the longest prefix it already holds. Calls `progress` with
    /// (tokens done, total tokens) before each chunk; `Break` stops the work.
    ///
    /// # Errors
    /// [`TargetError::Interrupted`] after a `Break`. The decoded part stays, and the next call reuses it.
    fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError>;

    /// Decodes every node of `tree` in one batch, on top of the committed positions.
    ///
    /// # Errors
    /// If the tree is malformed or does not fit; the cache is then unchanged.
    fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError>;

    /// Commits `path` (the root, then parent to child) and drops the other nodes of the last verify. An empty path
    /// drops the root too, which undoes the verify.
    ///
    /// # Errors
    /// If `path` is not a path of the last verified tree. A target that can only verify the root may be unable to drop
    /// it; it then forgets everything.
    fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError>;
}

/// Called with (done, total) before each chunk of a prefill.
pub type Progress<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

/// Limits on a token tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeLimits {
    /// Most rows, root included; 1 means plain decoding only.
    pub max_nodes: usize,
    /// Most candidates; 1 means chains only.
    pub max_leaves: usize,
    /// Greatest depth: no more tokens are wanted, or no more positions are free.
    pub max_depth: usize,
    /// Do not draft nodes less likely than this.
    pub least_p: f32,
    /// What one emitted token is worth now: the time in milliseconds that one takes lately. 0 if that is unknown or
    /// nothing shall be spent on drafting; a draft model is then not asked.
    pub token_ms: f64,
    /// The time in milliseconds that a further row takes lately; 0 if that is unknown.
    pub row_ms: f64,
    /// How many milliseconds the predictions of a step may take.
    pub spend_ms: f64,
}

impl TreeLimits {
    /// The limits of [`TokenTree`] itself.
    pub const TREE: TreeLimits = TreeLimits {
        max_nodes: MAX_NODES,
        max_leaves: MAX_LEAVES,
        max_depth: MAX_NODES,
        least_p: 0.0,
        token_ms: 0.0,
        row_ms: 0.0,
        spend_ms: 0.0,
    };
    /// Plain decoding only.
    pub const PLAIN: TreeLimits = TreeLimits { max_nodes: 1, max_leaves: 1, max_depth: 0, ..TreeLimits::TREE };
}

/// Why a target failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TargetError {
    /// The caller stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// The tree is malformed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The tree exceeds the limits of this target.
    #[error("a tree of {n_nodes} nodes and {n_leaves} leaves, but this target verifies {limits:?}")]
    TooWide {
        /// Rows in the tree.
        n_nodes: usize,
        /// Leaves in the tree.
        n_leaves: usize,
        /// The limits of the target.
        limits: TreeLimits,
    },
    /// The text does not fit the context.
    #[error("the text needs a context of {needed} tokens, but the context has {n_ctx}")]
    ContextFull {
        /// Positions needed.
        needed: usize,
        /// Positions in the context.
        n_ctx: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {} is outside the vocabulary of {n_vocab}", token.0)]
    UnknownToken {
        /// The token.
        token: Token,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// The nodes to keep are not a path of the last verified tree.
    #[error("the nodes to keep are not a path of the verified tree")]
    NotAPath,
    /// A logit is NaN or infinite, or every one is minus infinity.
    #[error("the model computed NaN or infinity; its file or its quantization is damaged")]
    NotFinite,
    /// A context cannot be created.
    #[error("{0}")]
    Context(String),
    /// The model cannot use a cache of this type.
    #[error("{0}")]
    CacheType(String),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}

/// Checks that `path` starts at the root and goes from parent to child. An empty path is valid.
///
/// # Errors
/// [`TargetError::NotAPath`].
pub fn check_path(tree: &TokenTree, path: &[NodeId]) -> Result<(), TargetError> {
    let starts_at_root = path.first().is_none_or(|&first| first == NodeId::ROOT);
    let descends = path.windows(2).all(|pair| pair[1].index() < tree.len() && tree.parent(pair[1]) == Some(pair[0]));
    if starts_at_root && descends { Ok(()) } else { Err(TargetError::NotAPath) }
}

/// A deterministic target without a model: the logits after a text are a pure function of the seed and its last few
/// tokens. With a small order and vocabulary the text repeats itself, which gives drafters something to find.
#[derive(Clone, Debug)]
pub struct Scripted {
    n_vocab: usize,
    order: usize,
    seed: u64,
    limits: TreeLimits,
    committed: Vec<Token>,
    verified: Option<TokenTree>,
    logits: Vec<Vec<f32>>,
}

impl Scripted {
    /// A target with `n_vocab` tokens whose logits depend on the last `order` tokens.
    #[must_use]
    pub fn new(n_vocab: usize, order: usize, seed: u64) -> Scripted {
        Scripted {
            n_vocab,
            order,
            seed,
            limits: TreeLimits::TREE,
            committed: Vec::new(),
            verified: None,
            logits: Vec::new(),
        }
    }

    /// The same target with these limits.
    #[must_use]
    pub fn with_limits(self, limits: TreeLimits) -> Scripted {
        Scripted { limits, ..self }
    }

    /// The logits after `text`.
    #[must_use]
    pub fn logits_after(&self, text: &[Token]) -> Vec<f32> {
        let tail = &text[text.len().saturating_sub(self.order)..];
        let state = tail.iter().fold(self.seed, |state, token| mix(state ^ u64::from(token.0.unsigned_abs())));
        (0..self.n_vocab as u64)
            // 24 bits are exact in an f32. The range makes some choices clear and others close.
            .map(|token| (mix(state ^ mix(token)) >> 40) as f32 / (1 << 21) as f32)
            .collect()
    }
}

/// The finalizer of SplitMix64 (Steele et al., 2014).
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rows for Scripted {
    fn logits(&self, node: NodeId) -> &[f32] {
        &self.logits[node.index()]
    }
}

impl Target for Scripted {
    fn limits(&self) -> TreeLimits {
        self.limits
    }

    fn n_past(&self) -> usize {
        self.committed.len()
    }

    fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
        if progress(0, prefix.len()).is_break() {
            return Err(TargetError::Interrupted);
        }
        self.committed = prefix.to_vec();
        self.verified = None;
        Ok(())
    }

    fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
        tree.check()?;
        let (n_nodes, n_leaves) = (tree.len(), tree.n_leaves());
        if n_nodes > self.limits.max_nodes || n_leaves > self.limits.max_leaves {
            return Err(TargetError::TooWide { n_nodes, n_leaves, limits: self.limits });
        }
        let text_of = |node| {
            let path = tree.path(node).into_iter().map(|at| tree.token(at));
            self.committed.iter().copied().chain(path).collect::<Vec<_>>()
        };
        self.logits = tree.nodes().map(|node| self.logits_after(&text_of(node))).collect();
        self.verified = Some(tree.clone());
        Ok(())
    }

    fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
        let tree = self.verified.take().ok_or(TargetError::NotAPath)?;
        check_path(&tree, path)?;
        self.committed.extend(path.iter().map(|&node| tree.token(node)));
        Ok(())
    }
}
