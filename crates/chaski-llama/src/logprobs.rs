//! Log-probabilities of emitted tokens and of their alternatives, before the samplers, as in OpenAI's API.

use crate::draft::top::TopK;
use crate::generate::{Observer, Step};
use crate::model::Model;
use crate::token::Token;
use chaski_core::engine::TokenLogprob;

/// Most alternatives per token, as in OpenAI's API.
pub const MAX_LOGPROBS: usize = 20;

/// Computes log-probabilities from rows of logits.
pub(super) struct Logprobs {
    n_top: usize,
    top: TopK,
}

impl Logprobs {
    /// With `n_top` alternatives per token.
    pub(super) fn new(n_top: usize) -> Logprobs {
        Logprobs { n_top: n_top.min(MAX_LOGPROBS), top: TopK::default() }
    }

    /// The log-probability of `token`, chosen from `logits`; `None` if the logits are not finite.
    pub(super) fn of(&mut self, token: Token, logits: &[f32], model: &Model) -> Option<TokenLogprob> {
        let top = self.top.of(logits, self.n_top.max(1));
        let best = top.first()?;
        // Computed from logits: a very small probability would round to 0, and its logarithm would be infinite.
        let logprob = |token: Token| best.weight.ln() + logits[token.index()] - logits[best.token.index()];
        let alternatives = top.iter().take(self.n_top);
        let alternatives = alternatives.map(|likely| (model.bytes(likely.token), logprob(likely.token)));
        Some(TokenLogprob { bytes: model.bytes(token), logprob: logprob(token), top: alternatives.collect() })
    }
}

/// Records every token of a text except the one that ends it.
pub(super) struct LogprobsOf<'a> {
    pub(super) model: &'a Model,
    pub(super) logprobs: Logprobs,
    pub(super) found: Vec<TokenLogprob>,
}

impl Observer for LogprobsOf<'_> {
    fn step(&mut self, step: &Step<'_>) {
        // Each token was chosen from the row of the node before it.
        let emitted = step.context[step.from..].iter().zip(step.path).filter(|(token, _)| !self.model.is_end(**token));
        for (&token, &node) in emitted {
            self.found.extend(self.logprobs.of(token, step.verified.target.logits(node), self.model));
        }
    }
}
