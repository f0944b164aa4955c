//! Drafting: guesses at what the target will say next.
//!
//! ```text
//! sources ──► mixer (a calibrated p per candidate token) ──► best-first search ──► Draft, likeliest nodes first
//!    ▲                                                                               │
//!    └── learn: every emitted token, every verified row's likeliest ◄──── verify, accept ◄── schedule
//! ```
//!
//! A drafter only ever costs or saves time; it cannot change the text.

use crate::draft::table::Successor;
use crate::target::{Rows, TreeLimits};
use crate::token::Token;
use crate::tree::TokenTree;

pub mod aded;
pub mod auto;
pub mod learned_state;

pub mod backoff;
pub mod base;
pub mod cursor;
pub mod logits;
pub mod trigram;

pub mod calibration;
pub mod mcts;
pub mod mixer;
pub mod ngram_index;
pub mod search;
pub mod table;
pub mod top;

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
}

/// A verified tree and the target that has its logits.
#[derive(Clone, Copy)]
pub struct Verified<'a> {
    /// What was verified.
    pub tree: &'a TokenTree,
    /// Has a row of logits for each of its nodes.
    pub target: &'a dyn Rows,
}

/// Proposes candidates, and learns from what the target said instead.
pub trait Drafter {
    /// Takes in a new text, which begins with `prompt`.
    fn begin(&mut self, prompt: &[Token]);

    /// Drafts what may follow `context`, whose last token is the root of the tree.
    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft;

    /// Takes in that `context[from..]` was emitted since the last call, by what `verified` says.
    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>);
}

/// What a text is held to, as far as a drafter cares: what cannot follow needs no verifying.
pub trait DraftFilter {
    /// Changes the tokens that may follow `path` after `text`, with their probabilities, to those that can.
    fn narrow(&mut self, text: &[Token], path: &[Token], children: &mut Vec<(Token, f32)>);
}

/// The said tokens that a source looks at.
pub const TAIL_LEN: usize = 32;

/// The end of a text, of which the last tokens may be drafted and not yet said.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// At most [`TAIL_LEN`] tokens that were said, then the drafted ones.
    pub tokens: &'a [Token],
    /// How many are drafted.
    pub n_drafted: usize,
}

/// A token that may come next, and why a source thinks so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// Which kind of evidence speaks for it: less than the source's [`Source::n_bins`].
    pub bin: usize,
}

/// A memory that names tokens which may come next, and says what kind of evidence speaks for each. How much a kind is
/// worth is learned by the [`mixer`].
pub trait Source {
    /// What tables and options call it.
    fn name(&self) -> &'static str;

    /// How many kinds of evidence this source tells apart.
    fn n_bins(&self) -> usize;

    /// A new text begins: forgets what belongs to the one before.
    fn begin(&mut self) {}

    /// A fresh one for a text beside this one's; `None` where what it knows is of all texts, so that they share it.
    fn beside(&self) -> Option<Box<dyn Source>> {
        None
    }

    /// Takes in that `token` followed `text` (the whole text so far).
    fn learn(&mut self, text: &[Token], token: Token);

    /// Takes in what the target held likely after a text that ends with `tail`, drafted or not.
    fn harvest(&mut self, _tail: &[Token], _top: &[Successor]) {}

    /// Adds what may follow `tail`, no token twice; the strongest evidence first.
    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>);
}

/// Plain decoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDraft;

impl Drafter for NoDraft {
    fn begin(&mut self, _prompt: &[Token]) {}

    fn draft(&mut self, context: &[Token], _limits: TreeLimits) -> Draft {
        Draft::none(root_of(context))
    }

    fn learn(&mut self, _context: &[Token], _from: usize, _verified: Verified<'_>) {}
}

/// The last committed token.
fn root_of(context: &[Token]) -> Token {
    *context.last().expect("a context has at least the root")
}
