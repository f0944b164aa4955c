//! Steps as messages: what was drafted, verified and accepted, and why so much. Words are the reader's business.

use crate::generate::{Observer, Step};
use crate::llama::model::Model;
use crate::llama::thread::Outbox;
use crate::llama::worker::Event;
use crate::schedule::Explanation;
use crate::token::Token;

/// One step.
#[derive(Clone, Debug)]
pub struct StepTold {
    /// Positions before the step.
    pub n_past: usize,
    /// The bytes of each token it brought.
    pub emitted: Vec<Vec<u8>>,
    /// What was drafted, parents before children; the root is not among it.
    pub nodes: Vec<NodeTold>,
    /// Why as much of it was verified.
    pub choice: Explanation,
}

/// One drafted token.
#[derive(Clone, Debug)]
pub struct NodeTold {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its parent's place among the nodes; `None` is the root.
    pub parent: Option<usize>,
    /// The probability that it is accepted, as the drafter saw it.
    pub p: f32,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of a drafted token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It did not pay to verify it.
    LeftAway,
    /// The target says something else.
    Rejected,
    /// The target says the same.
    Accepted,
}

/// Tells every step.
pub(super) struct Explainer<'a> {
    pub(super) model: &'a Model,
    pub(super) outbox: &'a Outbox<Event>,
}

impl Observer for Explainer<'_> {
    fn step(&mut self, step: &Step<'_>) {
        let bytes = |token: &Token| self.model.bytes(*token);
        let tree = &step.draft.tree;
        let nodes = tree.nodes().skip(1).map(|node| NodeTold {
            bytes: bytes(&tree.token(node)),
            parent: tree.parent(node).and_then(|parent| parent.index().checked_sub(1)),
            p: step.draft.p[node.index()],
            fate: match node.index() < step.verified.tree.len() {
                false => Fate::LeftAway,
                true if step.path.contains(&node) => Fate::Accepted,
                true => Fate::Rejected,
            },
        });
        // The last token before the step is its root: it has no position yet.
        let n_past = step.from - 1;
        self.outbox.send(Event::Step(Box::new(StepTold {
            n_past,
            emitted: step.context[step.from..].iter().map(bytes).collect(),
            nodes: nodes.collect(),
            // The schedule has not recorded the step yet: it chooses the same again.
            choice: step.schedule.explain(step.draft, n_past),
        })));
    }
}
