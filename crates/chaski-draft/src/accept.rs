//! Acceptance: walks a verified tree and decides which of its tokens become text.
//!
//! From the root down, the sampler draws one token from each node's logits. If a child carries that token, the walk
//! continues there. If none does, the token is the bonus and the walk ends. The sampler advances exactly once per
//! emitted token, as in plain decoding, so the same seed gives the same draws with any draft, and penalties and
//! grammars work unchanged. The drafter's probabilities are not used: the output is the target's.

use std::ops::ControlFlow;

use crate::maximum::finite_max;
use crate::target::{Rows, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// Chooses the next token from the target's logits, and updates its own state.
pub trait Sampler {
    /// Chooses the next token. `logits` has one value per vocabulary token, finite or minus infinity.
    ///
    /// # Errors
    /// If no token can be chosen.
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError>;
}

/// Sampling at temperature 0: the likeliest token, the first one on a tie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Sampler for Greedy {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        let best = argmax(logits).ok_or(TargetError::NotFinite)?;
        Ok(Token(i32::try_from(best).expect("a vocabulary has less than 2^31 tokens")))
    }
}

/// The index of the greatest value, the first one on a tie. `None` if there is a NaN or plus infinity, or nothing
/// finite.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<usize> {
    // Two passes (the maximum, then its index) vectorize and beat one that does not: a row has up to 150k logits.
    let max = finite_max(logits, |_| {})?;
    logits.iter().position(|&logit| logit == max)
}

/// Walks a verified tree and passes each emitted token to `emit`, the bonus last. If `emit` returns `Break`, that token
/// is the last. Returns the accepted path: the root, then the nodes whose tokens were emitted.
///
/// # Errors
/// Errors of the sampler.
pub fn walk(
    tree: &TokenTree,
    rows: &dyn Rows,
    sampler: &mut dyn Sampler,
    mut emit: impl FnMut(Token) -> ControlFlow<()>,
) -> Result<Vec<NodeId>, TargetError> {
    let mut path = vec![NodeId::ROOT];
    let mut node = NodeId::ROOT;
    loop {
        let token = sampler.sample(rows.logits(node))?;
        let child = tree.child(node, token);
        path.extend(child);
        let flow = emit(token);
        match child {
            Some(child) if flow.is_continue() => node = child,
            _ => return Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn argmax_takes_the_first_of_equals_and_refuses_what_is_no_number() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(argmax(&[]), None);
        assert_eq!(argmax(&[f32::NEG_INFINITY; 40]), None);
        for (place, wrong) in (0..40).flat_map(|place| [(place, f32::NAN), (place, f32::INFINITY)]) {
            let mut logits = vec![1.0; 40];
            logits[place] = wrong;
            assert_eq!(argmax(&logits), None, "{wrong} at {place}");
        }
    }

    proptest! {
        #[test]
        fn argmax_is_the_naive_one(logits in prop::collection::vec(-3i8..3, 1..70)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let naive = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            prop_assert_eq!(argmax(&logits), naive);
        }
    }
}
