//! Sends each step as data: what was drafted, verified and accepted, and why. The receiver formats it.

use crate::generate::{Observer, Step};
use crate::llama::model::Model;
use crate::llama::thread::Outbox;
use crate::llama::worker::Event;
use crate::schedule::Explanation;
use crate::token::Token;

/// One step of the loop.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Positions in the cache before the step.
    pub n_past: usize,
    /// The bytes of each emitted token.
    pub emitted: Vec<Vec<u8>>,
    /// The drafted nodes without the root, parents before children.
    pub nodes: Vec<NodeReport>,
    /// Why this many of them were verified.
    pub choice: Explanation,
}

/// One drafted node.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// Bytes of its token.
    pub bytes: Vec<u8>,
    /// Index of its parent in [`StepReport::nodes`]; `None` is the root.
    pub parent: Option<usize>,
    /// The drafter's estimate of the probability that it is accepted.
    pub p: f32,
    /// Whether it was verified and accepted.
    pub fate: Fate,
}

/// Outcome of a drafted node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not verified, because it would not have paid off.
    NotVerified,
    /// Verified, but the target chose another token.
    Rejected,
    /// Verified, and the target chose the same token.
    Accepted,
}

/// Sends every step.
pub(super) struct Explainer<'a> {
    pub(super) model: &'a Model,
    pub(super) outbox: &'a Outbox<Event>,
}

impl Observer for Explainer<'_> {
    fn step(&mut self, step: &Step<'_>) {
        let bytes = |token: &Token| self.model.bytes(*token);
        let tree = &step.draft.tree;
        let nodes = tree.nodes().skip(1).map(|node| NodeReport {
            bytes: bytes(&tree.token(node)),
            parent: tree.parent(node).and_then(|parent| parent.index().checked_sub(1)),
            p: step.draft.p[node.index()],
            fate: match node.index() < step.verified.tree.len() {
                false => Fate::NotVerified,
                true if step.path.contains(&node) => Fate::Accepted,
                true => Fate::Rejected,
            },
        });
        // The root is the last token before the step and has no position in the cache yet.
        let n_past = step.from - 1;
        self.outbox.send(Event::Step(Box::new(StepReport {
            n_past,
            emitted: step.context[step.from..].iter().map(bytes).collect(),
            nodes: nodes.collect(),
            // The schedule has not recorded this step yet, so it makes the same choice again.
            choice: step.schedule.explain(step.draft, n_past),
        })));
    }
}
