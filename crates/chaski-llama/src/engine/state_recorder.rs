//! Records an answer with its hidden states, to train a drafter on them.

use chaski_core::engine::Emitted;

use crate::draft::top::TopK;
use crate::generate::{Observer, Step};

/// Most likely tokens that are recorded with each token.
const N_TOP: usize = 8;

/// Records the emitted tokens whose rows have states.
pub(super) struct StateRecorder {
    /// The request's id.
    id: u64,
    top_k: TopK,
    pub(super) recorded: Vec<Emitted>,
}

impl StateRecorder {
    pub(super) fn new(id: u64) -> StateRecorder {
        StateRecorder { id, top_k: TopK::default(), recorded: Vec::new() }
    }
}

impl Observer for StateRecorder {
    fn step(&mut self, step: &Step<'_>) {
        // Each emitted token was chosen from the row of the node before it.
        for (&token, &node) in step.context[step.from..].iter().zip(step.path) {
            let Some(state) = step.verified.target.hidden_state(node) else { return };
            let top = self.top_k.of(step.verified.target.logits(node), N_TOP).to_vec();
            self.recorded.push(Emitted { id: self.id, token, top, state: state.to_vec() });
        }
    }
}
