//! Sends each step as data: what was drafted, verified and accepted, and why. The receiver formats it.

use crate::engine::Message;
use crate::generate::{Observer, Step};
use crate::model::Model;
use crate::thread::Outbox;
use crate::token::Token;
use chaski_core::engine::{Event, Fate, NodeReport, StepReport};

/// Sends every step.
pub(super) struct Explainer<'a> {
    pub(super) model: &'a Model,
    pub(super) outbox: &'a Outbox<Message>,
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
        let report = StepReport {
            n_past,
            emitted: step.context[step.from..].iter().map(bytes).collect(),
            nodes: nodes.collect(),
            // The schedule has not recorded this step yet, so it makes the same choice again.
            choice: step.schedule.explain(step.draft, n_past, step.n_redone),
        };
        self.outbox.send(Message::Event(Event::Step(Box::new(report))));
    }
}
