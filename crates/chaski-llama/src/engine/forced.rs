//! Checks position by position, for `chaski bench`, whether wide batches choose the same tokens as plain decoding.
//!
//! The greedy text of plain decoding is *forced*: it is decoded again in wide batches, chains and trees, and at each
//! position the most likely token is compared. Both see the same tokens before it, so one difference does not cause the
//! next, as it would between two free texts. Whole texts are compared elsewhere in `bench`.

use std::hash::{DefaultHasher, Hasher as _};

use crate::engine::measure::go_on;
use crate::exact;
use crate::exactness::Exactness;
use crate::model::Model;
use crate::target::{Progress, Target, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};
use crate::tune::Settings;

/// The shape of the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows, root included. The last batch of a text may have fewer.
    pub n_rows: usize,
    /// True: every token has a sibling, the runner-up of plain decoding. False: a chain.
    pub is_tree: bool,
}

/// Result for one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// Positions compared for each shape.
    pub n_positions: usize,
    /// Positions where all logits have the same bits, per shape.
    pub n_same_bits: Vec<usize>,
    /// Positions where the chosen token differs, per shape.
    pub differences: Vec<Vec<Difference>>,
    /// Whether the computation is known to be exact.
    pub exactness: Exactness,
}

/// A position where a batch chooses another token.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Number of answer tokens before it.
    pub position: usize,
    /// Text of plain decoding's token; invalid UTF-8 is replaced.
    pub plain: String,
    /// Text of the batch's token.
    pub batch: String,
    /// In the plain row: the highest logit minus the second.
    pub plain_margin: f32,
    /// In the batch's row: the logit of the batch's token minus that of the plain token.
    pub batch_margin: f32,
}

/// Plain decoding's choice at one position.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decision {
    token: Token,
    runner_up: Token,
    margin: f32,
    /// Hash of the bits of the row of logits.
    bits: u64,
}

/// Decodes at most `max_tokens` plainly after `prompt` (not empty), then the same tokens again in each shape.
pub(super) fn compare(
    target: &mut dyn Target,
    prompt: &[Token],
    max_tokens: usize,
    shapes: &[Shape],
    (model, settings): (&Model, &Settings),
    progress: &mut Progress<'_>,
) -> Result<Forced, TargetError> {
    let plain = decode_plainly(target, prompt, max_tokens, &|token| model.is_end(token), progress)?;
    let spelled = |token| match model.is_end(token) {
        true => "(end)".to_owned(),
        false => String::from_utf8_lossy(&model.bytes(token)).into_owned(),
    };
    let mut differences = Vec::with_capacity(shapes.len());
    let mut n_same_bits = Vec::with_capacity(shapes.len());
    for &shape in shapes {
        let (found, n_same) = force(target, prompt, &plain, shape, progress)?;
        n_same_bits.push(n_same);
        let differing = found.into_iter().map(|(position, token, batch_margin)| Difference {
            position,
            plain: spelled(plain[position].token),
            batch: spelled(token),
            plain_margin: plain[position].margin,
            batch_margin,
        });
        differences.push(differing.collect());
    }
    let exactness = exact::of_work(settings);
    Ok(Forced { n_positions: plain.len(), n_same_bits, differences, exactness })
}

fn decode_plainly(
    target: &mut dyn Target,
    prompt: &[Token],
    max_tokens: usize,
    is_end: &dyn Fn(Token) -> bool,
    progress: &mut Progress<'_>,
) -> Result<Vec<Decision>, TargetError> {
    let (mut root, before) = split(prompt)?;
    target.sync(before, progress)?;
    let mut decisions: Vec<Decision> = Vec::new();
    while decisions.len() < max_tokens && !decisions.last().is_some_and(|last| is_end(last.token)) {
        go_on(progress, decisions.len(), max_tokens)?;
        target.verify(&TokenTree::new(root))?;
        let decision = decide(target.logits(NodeId::ROOT))?;
        target.keep(&[NodeId::ROOT])?;
        root = decision.token;
        decisions.push(decision);
    }
    Ok(decisions)
}

/// A position, the batch's token if it differs, and its margin as in [`Difference::batch_margin`].
type Other = (usize, Token, f32);

/// Decodes the plain text in batches of one shape. Returns the differences, and the number of positions where all
/// logits have the same bits.
fn force(
    target: &mut dyn Target,
    prompt: &[Token],
    plain: &[Decision],
    shape: Shape,
    progress: &mut Progress<'_>,
) -> Result<(Vec<Other>, usize), TargetError> {
    let (mut root, before) = split(prompt)?;
    target.sync(before, progress)?;
    let mut differences = Vec::new();
    let mut n_same_bits = 0;
    let mut done = 0;
    while done < plain.len() {
        go_on(progress, done, plain.len())?;
        let (tree, path) = batch(root, &plain[done..], shape)?;
        target.verify(&tree)?;
        for (position, &node) in (done..).zip(&path) {
            let logits = target.logits(node);
            let decision = decide(logits)?;
            n_same_bits += usize::from(decision.bits == plain[position].bits);
            let (expected, found) = (plain[position].token, decision.token);
            if found != expected {
                differences.push((position, found, logits[found.index()] - logits[expected.index()]));
            }
        }
        target.keep(&path)?;
        done += path.len();
        root = plain[done - 1].token;
    }
    Ok((differences, n_same_bits))
}

/// A tree with the start of `plain` below the root, and the nodes of that path. The node at index i decides position i,
/// so the last decision needs no node.
fn batch(root: Token, plain: &[Decision], shape: Shape) -> Result<(TokenTree, Vec<NodeId>), TargetError> {
    let mut tree = TokenTree::new(root);
    let mut path = vec![NodeId::ROOT];
    let mut parent = NodeId::ROOT;
    for decision in &plain[..plain.len() - 1] {
        if tree.len() >= shape.n_rows {
            break;
        }
        let node = tree.push(parent, decision.token)?;
        path.push(node);
        if shape.is_tree && tree.len() < shape.n_rows {
            tree.push(parent, decision.runner_up)?;
        }
        parent = node;
    }
    Ok((tree, path))
}

/// The most likely token and the runner-up; on a tie the first, as in greedy sampling.
fn decide(logits: &[f32]) -> Result<Decision, TargetError> {
    let (mut best, mut second) = ((0, f32::NEG_INFINITY), (0, f32::NEG_INFINITY));
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return Err(TargetError::NotFinite);
        }
        if logit > best.1 {
            (best, second) = ((id, logit), best);
        } else if logit > second.1 {
            second = (id, logit);
        }
    }
    if second.1 == f32::NEG_INFINITY {
        return Err(TargetError::NotFinite);
    }
    let (token, runner_up) = (Token(best.0), Token(second.0));
    Ok(Decision { token, runner_up, margin: best.1 - second.1, bits: bits(logits) })
}

fn bits(logits: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    logits.iter().for_each(|logit| hasher.write_u32(logit.to_bits()));
    hasher.finish()
}

fn split(prompt: &[Token]) -> Result<(Token, &[Token]), TargetError> {
    let (&root, before) =
        prompt.split_last().ok_or_else(|| TargetError::Engine("an empty prompt has nothing to continue".into()))?;
    Ok((root, before))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use proptest::prelude::*;

    use super::*;
    use crate::accept::argmax;
    use crate::target::{Rows, Scripted, TreeLimits};

    const PROMPT: [Token; 3] = [Token(1), Token(2), Token(3)];

    fn shape(n_rows: usize, is_tree: bool) -> Shape {
        Shape { n_rows, is_tree }
    }

    fn plainly(target: &mut dyn Target, max_tokens: usize) -> Vec<Decision> {
        decode_plainly(target, &PROMPT, max_tokens, &|_| false, &mut |_, _| ControlFlow::Continue(())).unwrap()
    }

    /// Differs in a wide batch: the runner-up wins by 0.5 at every position divisible by 5.
    struct Rounding(Scripted, Vec<Vec<f32>>);

    impl Rows for Rounding {
        fn logits(&self, node: NodeId) -> &[f32] {
            &self.1[node.index()]
        }
    }

    impl Target for Rounding {
        fn limits(&self) -> TreeLimits {
            self.0.limits()
        }
        fn n_past(&self) -> usize {
            self.0.n_past()
        }
        fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
            self.0.sync(prefix, progress)
        }
        fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
            self.0.verify(tree)?;
            let row = |node| {
                let mut logits = self.0.logits(node).to_vec();
                if tree.len() > 1 && (self.0.n_past() + tree.depth(node)).is_multiple_of(5) {
                    let decision = decide(&logits).unwrap();
                    logits[decision.runner_up.index()] = logits[decision.token.index()] + 0.5;
                }
                logits
            };
            self.1 = tree.nodes().map(row).collect();
            Ok(())
        }
        fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
            self.0.keep(path)
        }
    }

    #[test]
    fn finds_exactly_the_positions_that_differ() {
        let mut target = Rounding(Scripted::new(50, 3, 7), Vec::new());
        let plain = plainly(&mut target, 21);
        assert_eq!(plain.len(), 21);
        // The root of position 0 is at 2 = PROMPT.len() - 1.
        let expected: Vec<usize> = (0..21).filter(|position| (position + 2) % 5 == 0).collect();
        for shape in [shape(21, false), shape(64, true), shape(7, true)] {
            let (found, n_same_bits) =
                force(&mut target, &PROMPT, &plain, shape, &mut |_, _| ControlFlow::Continue(())).unwrap();
            assert_eq!(n_same_bits, 21 - expected.len());
            let positions: Vec<usize> = found.iter().map(|difference| difference.0).collect();
            assert_eq!(positions, expected, "{shape:?}");
            for (position, token, margin) in found {
                assert_eq!(token, plain[position].runner_up);
                assert!((margin - 0.5).abs() < 1e-5, "{margin}");
            }
        }
    }

    #[test]
    fn a_text_that_ends_is_not_continued() {
        let mut target = Scripted::new(4, 1, 1);
        let whole = plainly(&mut target, 9);
        let is_end = |token| token == whole[0].token;
        let ended = decode_plainly(&mut target, &PROMPT, 9, &is_end, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(ended, whole[..1]);
    }

    proptest! {
        #[test]
        fn an_exact_target_never_differs(n_rows in 1usize..65, is_tree: bool, n in 1usize..90, seed: u64) {
            let mut target = Scripted::new(9, 2, seed);
            let plain = plainly(&mut target, n);
            let found =
                force(&mut target, &PROMPT, &plain, shape(n_rows, is_tree), &mut |_, _| ControlFlow::Continue(()));
            prop_assert_eq!(found, Ok((Vec::new(), n)));
            prop_assert_eq!(target.n_past(), PROMPT.len() - 1 + n);
        }

        #[test]
        fn a_decision_is_the_two_greatest(logits in prop::collection::vec(-4i8..4, 2..40)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let decision = decide(&logits).unwrap();
            prop_assert_eq!(Some(decision.token.index()), argmax(&logits));
            let mut rest = logits.clone();
            rest.remove(decision.token.index());
            prop_assert_eq!(decision.margin, logits[decision.token.index()] - rest[argmax(&rest).unwrap()]);
        }
    }
}
