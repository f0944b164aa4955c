//! The target of a replay: returns the recorded tokens and logits.

use std::cell::Cell;
use std::time::Duration;

use crate::accept::Sampler;
use crate::cost::{Clock, CostCurve};
use crate::replay::trace::Trace;
use crate::target::{Progress, Rows, Target, TargetError, TreeLimits, check_path};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// A clock that stands still until a verify moves it.
#[derive(Debug, Default)]
pub struct SimulatedClock(Cell<Duration>);

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

impl SimulatedClock {
    pub(crate) fn advance(&self, ms: f64) {
        self.0.set(self.0.get() + Duration::from_secs_f64(ms / 1e3));
    }
}

/// A target that repeats one recorded answer. A verify advances its clock by the time on the cost curve.
pub struct Replayed<'a> {
    text: Vec<Token>,
    /// The recorded rows, which begin after the last prompt token.
    top: &'a [Vec<(i32, f32)>],
    n_prompt: usize,
    curve: &'a CostCurve,
    clock: &'a SimulatedClock,
    n_past: usize,
    verified: Option<TokenTree>,
    /// Rows of nodes on the recorded path, by depth.
    rows: Vec<Vec<f32>>,
    /// The row of all other nodes: every logit is minus infinity.
    unknown: Vec<f32>,
}

impl<'a> Replayed<'a> {
    /// A target that repeats `trace` at the speed of `curve`.
    #[must_use]
    pub fn new(trace: &'a Trace, curve: &'a CostCurve, clock: &'a SimulatedClock) -> Replayed<'a> {
        let text = trace.prompt.iter().chain(&trace.tokens).copied().map(Token).collect();
        let unknown = vec![f32::NEG_INFINITY; trace.n_vocab];
        let n_prompt = trace.prompt.len();
        Replayed { text, top: &trace.top, n_prompt, curve, clock, n_past: 0, verified: None, rows: Vec::new(), unknown }
    }

    /// Whether the path to a node was emitted in the recording.
    fn is_said(&self, tree: &TokenTree, node: NodeId) -> bool {
        let mut at = Some(node);
        while let Some(node) = at {
            if self.text.get(self.n_past + tree.depth(node)) != Some(&tree.token(node)) {
                return false;
            }
            at = tree.parent(node);
        }
        true
    }

    /// The index in `top` of the row after the recorded node at `depth`.
    fn row_at(&self, depth: usize) -> Option<usize> {
        (self.n_past + depth + 1).checked_sub(self.n_prompt).filter(|&at| at < self.top.len())
    }
}

impl Rows for Replayed<'_> {
    fn logits(&self, node: NodeId) -> &[f32] {
        match &self.verified {
            Some(tree) if self.is_said(tree, node) => &self.rows[tree.depth(node)],
            _ => &self.unknown,
        }
    }
}

impl Target for Replayed<'_> {
    fn limits(&self) -> TreeLimits {
        TreeLimits::TREE
    }

    fn n_past(&self) -> usize {
        self.n_past
    }

    fn sync(&mut self, prefix: &[Token], _progress: &mut Progress<'_>) -> Result<(), TargetError> {
        self.n_past = prefix.len();
        self.verified = None;
        Ok(())
    }

    fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
        tree.check()?;
        let ms = self.curve.at(self.n_past).range(tree.len()..).next().map(|(_, &ms)| ms);
        let ms =
            ms.ok_or_else(|| TargetError::Engine(format!("the cost curve has no time for {} rows", tree.len())))?;
        self.clock.advance(ms);
        let deepest = tree.nodes().filter(|&node| self.is_said(tree, node)).map(|node| tree.depth(node)).max();
        for depth in 0..=deepest.unwrap_or(0) {
            if self.rows.len() == depth {
                self.rows.push(self.unknown.clone());
            }
            let likely = self.row_at(depth).map_or(&[][..], |at| self.top[at].as_slice());
            let row = &mut self.rows[depth];
            row.fill(f32::NEG_INFINITY);
            for &(id, p) in likely {
                row[Token(id).index()] = p.ln();
            }
        }
        self.verified = Some(tree.clone());
        Ok(())
    }

    fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
        let tree = self.verified.take().ok_or(TargetError::NotAPath)?;
        check_path(&tree, path)?;
        self.n_past += path.len();
        Ok(())
    }
}

/// A sampler that returns the recorded tokens in turn, whatever the logits.
pub struct Recorded<'a>(pub std::slice::Iter<'a, i32>);

impl Sampler for Recorded<'_> {
    fn sample(&mut self, _logits: &[f32]) -> Result<Token, TargetError> {
        let next = self.0.next().copied().map(Token);
        next.ok_or_else(|| TargetError::Engine("the recorded answer has ended".into()))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::replay::trace::tests::trace;

    #[test]
    fn rows_are_those_recorded_and_others_empty() {
        let trace = trace(&[1, 2], &[3, 4, 5], 0.5);
        let curve = CostCurve::exact([(1, 10.0), (4, 16.0)]);
        let clock = SimulatedClock::default();
        let mut target = Replayed::new(&trace, &curve, &clock);
        target.sync(&[Token(1)], &mut |_, _| ControlFlow::Continue(())).unwrap();
        // The recording emitted 3 and 4 after the prompt, not 9.
        let mut tree = TokenTree::chain(Token(2), &[Token(3), Token(4)]).unwrap();
        let other = tree.push(NodeId::ROOT, Token(9)).unwrap();
        target.verify(&tree).unwrap();
        assert_eq!(clock.now().as_secs_f64().mul_add(1e3, 0.5) as u64, 16, "as the next wider one");
        let nodes: Vec<NodeId> = tree.nodes().collect();
        for (&node, said) in nodes.iter().zip([3, 4, 5]) {
            let row = target.logits(node);
            assert_eq!(row.len(), 32);
            assert!((row[said].exp() - 0.5).abs() < 1e-6, "{said} was half likely");
            assert_eq!(row.iter().filter(|logit| logit.is_finite()).count(), 1);
        }
        assert!(target.logits(other).iter().all(|logit| *logit == f32::NEG_INFINITY));
        target.keep(&nodes[..2]).unwrap();
        assert_eq!(target.n_past(), 3);
        // Nothing is known beyond the last recorded token.
        target.verify(&TokenTree::chain(Token(4), &[Token(5)]).unwrap()).unwrap();
        assert!((target.logits(NodeId::ROOT)[5].exp() - 0.5).abs() < 1e-6);
        assert!(target.logits(nodes[1]).iter().all(|logit| *logit == f32::NEG_INFINITY));
    }

    #[test]
    fn a_curve_that_is_too_short_is_an_error() {
        let trace = trace(&[1], &[2], 1.0);
        let curve = CostCurve::exact([(1, 10.0)]);
        let clock = SimulatedClock::default();
        let mut target = Replayed::new(&trace, &curve, &clock);
        let error = target.verify(&TokenTree::chain(Token(1), &[Token(2)]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("has no time for 2 rows"), "{error}");
    }

    #[test]
    fn says_what_was_recorded_and_no_more() {
        let mut sampler = Recorded([7].iter());
        assert_eq!(sampler.sample(&[]).unwrap(), Token(7));
        assert!(sampler.sample(&[]).is_err());
    }
}
