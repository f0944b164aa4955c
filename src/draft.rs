//! Drafting: guesses at what the target will say next.
//!
//! ```text
//! sources ──► mixer (a calibrated p per candidate token) ──► best-first search ──► Draft, likeliest nodes first
//!    ▲                                                                               │
//!    └───────────────── learn: every emitted token ◄──── verify, accept ◄── schedule ┘
//! ```
//!
//! A drafter only ever costs or saves time; it cannot change the text.

use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::TokenTree;

pub mod aded;
pub mod auto;
pub mod base;
pub mod mixer;
pub mod search;
pub mod suffix;
pub mod table;
pub mod top;
pub mod trigram;

/// A token tree and what its nodes are worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The nodes, in the order the drafter would have them verified: every prefix is its best tree of that size.
    pub tree: TokenTree,
    /// Per node, the estimated probability that it is accepted; 1 for the root.
    pub p: Vec<f32>,
}

impl Draft {
    /// Nothing drafted: plain decoding.
    #[must_use]
    pub fn none(root: Token) -> Draft {
        Draft { tree: TokenTree::new(root), p: vec![1.0] }
    }

    /// Keeps the first `n_rows` nodes.
    pub fn truncate(&mut self, n_rows: usize) {
        self.tree.truncate(n_rows);
        self.p.truncate(self.tree.len());
    }
}

/// Proposes candidates, and learns from what the target said instead.
pub trait Drafter {
    /// Takes in a new text, which begins with `prompt`.
    fn begin(&mut self, prompt: &[Token]);

    /// Drafts what may follow `context`, whose last token is the root of the tree.
    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft;

    /// Takes in that `context[from..]` was emitted since the last call.
    fn learn(&mut self, context: &[Token], from: usize);
}

/// The tokens before a node that a source looks at.
pub const TAIL_LEN: usize = 32;

/// A memory that names tokens which may come next.
pub trait Source {
    /// Forgets what belongs to the text before; a new one begins.
    fn begin(&mut self) {}

    /// Takes in that `token` followed `text` (the whole text so far).
    fn learn(&mut self, text: &[Token], token: Token);

    /// Adds what may follow a text that ends with `tail` (at most [`TAIL_LEN`] tokens), no token twice.
    fn propose(&self, tail: &[Token], candidates: &mut Vec<mixer::Candidate>);

    /// How many kinds of evidence this source tells apart.
    fn n_bins(&self) -> usize;

    /// How often a candidate of this kind is right on texts in general.
    fn prior(&self, bin: usize) -> f32;
}

/// Plain decoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDraft;

impl Drafter for NoDraft {
    fn begin(&mut self, _prompt: &[Token]) {}

    fn draft(&mut self, context: &[Token], _limits: TreeLimits) -> Draft {
        Draft::none(root_of(context))
    }

    fn learn(&mut self, _context: &[Token], _from: usize) {}
}

/// The last committed token.
fn root_of(context: &[Token]) -> Token {
    *context.last().expect("a context has at least the root")
}
