//! Drafters: they guess which tokens the target will emit next.
//!
//! ```text
//! sources ──► mixer (a calibrated p per candidate token) ──► best-first search ──► Draft, likeliest nodes first
//!    ▲                                                                               │
//!    └── learn: every emitted token, top logits of verified rows ◄──── verify, accept ◄── schedule
//! ```
//!
//! A drafter changes only how long a text takes, never the text.

use crate::draft::draft_model::Asked;
use crate::draft::table::Successor;
use crate::target::{Rows, TreeLimits};
use crate::token::Token;
use crate::tree::TokenTree;

pub mod aded;
pub mod asking;
pub mod auto;
pub mod learned_state;

pub mod backoff;
pub mod base;
pub mod cursor;
pub mod draft_model;
pub mod fading_table;
pub mod logits;
pub mod trigram;
pub mod with_model;

pub mod calibration;
pub mod mcts;
pub mod mixer;
pub mod ngram_index;
pub mod search;
pub mod table;
pub mod top;

/// A token tree with the estimated probability of each node.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The nodes, best first: every prefix is the drafter's best tree of that size.
    pub tree: TokenTree,
    /// Per node, the estimated probability that it is accepted. The root has 1.
    pub p: Vec<f32>,
    /// What it asked of a draft model.
    pub asked: Asked,
}

impl Draft {
    /// A draft of the root alone, which makes the step plain decoding.
    #[must_use]
    pub fn none(root: Token) -> Draft {
        Draft { tree: TokenTree::new(root), p: vec![1.0], asked: Asked::default() }
    }
}

/// A verified tree and its logits.
#[derive(Clone, Copy)]
pub struct Verified<'a> {
    /// The verified tree.
    pub tree: &'a TokenTree,
    /// Has one row of logits for each node of `tree`.
    pub target: &'a dyn Rows,
}

/// Proposes token trees, and learns from what the target emits.
pub trait Drafter {
    /// Starts a new text, which begins with `prompt`.
    fn begin(&mut self, prompt: &[Token]);

    /// Drafts a continuation of `context`. The last token of `context` is the root of the tree.
    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft;

    /// Learns from a step: it verified `verified` and emitted `context[from..]`.
    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>);
}

/// Removes drafted tokens that the output format forbids, so that no row is spent on them.
pub trait DraftFilter {
    /// Filters `children`: the tokens that may follow `path` after `text`, with their probabilities.
    fn narrow(&mut self, text: &[Token], path: &[Token], children: &mut Vec<(Token, f32)>);
}

/// How many committed tokens a source sees.
pub const TAIL_LEN: usize = 32;

/// The end of a text whose last tokens may be drafted, not committed.
#[derive(Clone, Copy, Debug)]
pub struct Tail<'a> {
    /// At most [`TAIL_LEN`] committed tokens, followed by the drafted ones.
    pub tokens: &'a [Token],
    /// How many of `tokens` are drafted.
    pub n_drafted: usize,
}

/// A token that a source proposes, with the kind of evidence for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// The kind of evidence: an index below the source's [`Source::n_bins`].
    pub bin: usize,
}

/// Proposes next tokens with a kind of evidence for each. The [`mixer`] learns how much each kind is worth.
pub trait Source {
    /// The source's name in tables and options.
    fn name(&self) -> &'static str;

    /// The number of kinds of evidence.
    fn n_bins(&self) -> usize;

    /// Starts a new text: forgets what belongs to the previous one.
    fn begin(&mut self) {}

    /// A fresh source for another text decoded at the same time. `None` if all texts can share this source.
    fn beside(&self) -> Option<Box<dyn Source>> {
        None
    }

    /// Learns that `token` followed `text` (the whole text so far).
    fn learn(&mut self, text: &[Token], token: Token);

    /// Learns the target's likeliest tokens after a text that ends with `tail`. The tail may be a rejected draft.
    fn harvest(&mut self, _tail: &[Token], _top: &[Successor]) {}

    /// Adds the tokens that may follow `tail`, each once, strongest evidence first.
    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>);
}

/// A drafter that proposes nothing: plain decoding.
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
