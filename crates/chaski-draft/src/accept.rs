//! Acceptance: what of a verified tree becomes text.
//!
//! From the root down, the sampler takes one token from each node's logits. While a child carries that token the walk
//! goes on there; the first token no child carries is the bonus. The sampler advances exactly once per emitted token,
//! as in plain decoding, so the same seed gives the same draws with any draft, and penalties and grammars just work.
//! No probability of the drafter enters: the output is the target's.

use std::ops::ControlFlow;

use crate::target::{Rows, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// Chooses the next token from the target's logits, and remembers that it did.
pub trait Sampler {
    /// The token that follows. `logits` has one finite value or minus infinity per token of the vocabulary.
    ///
    /// # Errors
    /// When no token can be chosen.
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError>;
}

/// The likeliest token, the first one on a tie: sampling at temperature 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Greedy;

impl Sampler for Greedy {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        let best = argmax(logits).ok_or(TargetError::NotFinite)?;
        Ok(Token(i32::try_from(best).expect("a vocabulary has less than 2^31 tokens")))
    }
}

/// The place of the greatest value, the first one on a tie; `None` where there is none (NaN, infinity, or all minus infinity).
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<usize> {
    // The greatest value first, then its place: two passes that vectorize beat one that does not (150k logits a row).
    let mut lanes = [(f32::NEG_INFINITY, false); 16];
    for chunk in logits.chunks(16) {
        for ((max, has_nan), &logit) in lanes.iter_mut().zip(chunk) {
            *max = if logit > *max { logit } else { *max };
            *has_nan |= logit.is_nan();
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |max, lane| max.max(lane.0));
    if !max.is_finite() || lanes.iter().any(|lane| lane.1) {
        return None;
    }
    logits.iter().position(|&logit| logit == max)
}

/// Walks a verified tree, giving each token to `emit` as it is accepted, and last the bonus; `Break` makes a token the
/// last. Returns the root and the nodes below it whose tokens were emitted.
///
/// # Errors
/// What the sampler fails with.
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
