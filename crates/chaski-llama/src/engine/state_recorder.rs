//! Records an answer with its hidden states, to train a drafter on them.

use chaski_core::engine::{Emitted, Request};

use crate::draft::top::TopK;
use crate::generate::{Observer, Step};

/// Most likely tokens that are recorded with each token.
const N_TOP: usize = 8;

/// Records emitted tokens with the states of their rows.
pub(super) struct StateRecorder {
    /// The request's id.
    id: u64,
    /// Tokens that may still be recorded.
    n_left: usize,
    top_k: TopK,
    pub(super) recorded: Vec<Emitted>,
}

impl StateRecorder {
    pub(super) fn new(request: &Request) -> StateRecorder {
        StateRecorder { id: request.id, n_left: request.alone.n_states, top_k: TopK::default(), recorded: Vec::new() }
    }
}

impl Observer for StateRecorder {
    fn step(&mut self, step: &Step<'_>) {
        // Each emitted token was chosen from the row of the node before it.
        let emitted = step.context[step.from..].iter().zip(step.path);
        for (&token, &node) in emitted.take(self.n_left) {
            let Some(state) = step.verified.target.hidden_state(node) else {
                // The tokens after a gap do not follow those before it.
                self.n_left = 0;
                return;
            };
            let top = self.top_k.of(step.verified.target.logits(node), N_TOP).to_vec();
            self.recorded.push(Emitted { id: self.id, token, top, state: state.to_vec() });
            self.n_left -= 1;
        }
    }
}
