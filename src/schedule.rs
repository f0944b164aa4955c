//! How much of a draft to verify.
//!
//! The tree of n drafted nodes that maximizes `(1 + sum p) / (ms(1 + n) + t_draft)`: expected tokens by time, with n = 0
//! (plain decoding) among the choices. Should that be wrong all the same, the latch bounds the loss.

use crate::cost::CostCurve;
use crate::draft::Draft;
use crate::target::TreeLimits;

/// Widest tree the cost-aware schedule asks for: beyond it the logits alone take more memory than a drafter may
/// (a row is 0.6 MB at a vocabulary of 150k), and no measured CPU curve pays for it.
const MAX_ROWS: usize = 32;

/// A draft must promise this much more than plain decoding: below it the promise is within the noise.
const LEAST_GAIN: f64 = 1.02;

/// After so many drafted steps one is plain: all is compared to the time of a plain step, which must not go stale.
const LONGEST_WITHOUT_PLAIN: u32 = 48;

/// The share of the newest draft in the running mean of drafting times.
const NEWEST_SHARE: f64 = 0.1;

/// Decides, step by step, how much of a draft is verified.
#[derive(Clone, Debug)]
pub struct Schedule {
    curve: CostCurve,
    policy: Policy,
}

#[derive(Clone, Debug)]
enum Policy {
    /// Verify all of every draft, as ADED does.
    Everything,
    /// Verify what pays by the measured curve.
    CostAware {
        draft_ms: f64,
        latch: Latch,
        /// Drafted steps since the last plain one.
        n_since_plain: u32,
    },
}

/// What one step did, for the schedule to learn from.
#[derive(Clone, Copy, Debug)]
pub struct StepRecord {
    /// Positions before the step.
    pub n_past: usize,
    /// Rows verified, root included.
    pub n_rows: usize,
    /// Tokens it brought: accepted ones and the bonus.
    pub n_emitted: usize,
    /// Drafting time in milliseconds.
    pub draft_ms: f64,
    /// Verifying time in milliseconds.
    pub verify_ms: f64,
}

impl Schedule {
    /// Verifies what pays by `curve`; nothing where it knows nothing.
    #[must_use]
    pub fn cost_aware(curve: CostCurve) -> Schedule {
        Schedule { curve, policy: Policy::CostAware { draft_ms: 0.0, latch: Latch::default(), n_since_plain: 0 } }
    }

    /// Verifies all of every draft; `curve` only tells what plain decoding would have taken.
    #[must_use]
    pub fn everything(curve: CostCurve) -> Schedule {
        Schedule { curve, policy: Policy::Everything }
    }

    /// The curve, as refined by the steps so far.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        &self.curve
    }

    /// The tree to ask the drafter for.
    #[must_use]
    pub fn limits(&self, target: TreeLimits) -> TreeLimits {
        match &self.policy {
            Policy::Everything => target,
            Policy::CostAware { n_since_plain: LONGEST_WITHOUT_PLAIN.., .. } => TreeLimits::PLAIN,
            Policy::CostAware { .. } => TreeLimits { max_nodes: target.max_nodes.min(MAX_ROWS), ..target },
        }
    }

    /// Rows of `draft` to verify on top of `n_past` positions.
    #[must_use]
    pub fn choose(&self, draft: &Draft, n_past: usize) -> usize {
        match self.policy {
            Policy::Everything => draft.tree.len(),
            Policy::CostAware { draft_ms, latch, .. } => self.best_size(&draft.p, n_past, draft_ms, latch),
        }
    }

    fn best_size(&self, p: &[f32], n_past: usize, draft_ms: f64, latch: Latch) -> usize {
        let curve = self.curve.at(n_past);
        let Some(plain_ms) = curve.get(&1) else { return 1 };
        let mut best = (1, LEAST_GAIN / plain_ms);
        let mut n_expected = 0.0;
        for (n_rows, p) in (1..).zip(p) {
            n_expected += f64::from(*p);
            // A width that was never measured is taken for the next wider one.
            let Some((_, ms)) = curve.range(n_rows..).next() else {
                break;
            };
            let tokens_per_ms = n_expected / (ms + draft_ms);
            if n_rows > 1 && tokens_per_ms > best.1 && latch.allows(ms / plain_ms) {
                best = (n_rows, tokens_per_ms);
            }
        }
        best.0
    }

    /// Takes in what a step did.
    pub fn record(&mut self, step: &StepRecord) {
        self.curve.observe(step.n_rows, step.n_past, step.verify_ms);
        let Policy::CostAware { draft_ms, latch, n_since_plain } = &mut self.policy else {
            return;
        };
        *n_since_plain = if step.n_rows > 1 { *n_since_plain + 1 } else { 0 };
        *draft_ms += NEWEST_SHARE * (step.draft_ms - *draft_ms);
        let Some(plain_ms) = self.curve.plain_ms(step.n_past) else {
            return;
        };
        let n_plain = if step.n_rows > 1 { (step.draft_ms + step.verify_ms) / plain_ms } else { 1.0 };
        latch.record(step.n_emitted, n_plain);
    }
}

/// Bounds what drafting may lose, in tokens of plain decoding: a draft is verified only if the worst case, that nothing
/// of it is accepted, is covered by what drafting has gained so far, a reserve for the beginning, and a small income.
///
/// Drafting that does not pay closes the latch by itself, and the income opens it again for a probe: the rarer, the
/// dearer the probe. Over a text of n tokens the loss stays below `RESERVE + INCOME * n`, whatever the drafter says.
#[derive(Clone, Copy, Debug)]
struct Latch {
    credit: f64,
}

impl Default for Latch {
    fn default() -> Latch {
        Latch { credit: Latch::RESERVE }
    }
}

impl Latch {
    const RESERVE: f64 = 4.0;
    const INCOME: f64 = 0.02;
    /// A text that copied for pages may change its nature.
    const GREATEST_CREDIT: f64 = 32.0;

    /// Whether a step that takes as long as `n_plain` plain ones may be risked.
    fn allows(&self, n_plain: f64) -> bool {
        n_plain - 1.0 <= self.credit
    }

    /// Takes in a step that brought `n_emitted` tokens in the time of `n_plain` plain steps.
    fn record(&mut self, n_emitted: usize, n_plain: f64) {
        let n_emitted = n_emitted as f64;
        self.credit = (self.credit + Latch::INCOME * n_emitted + n_emitted - n_plain).min(Latch::GREATEST_CREDIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Token;
    use crate::tree::TokenTree;
    use proptest::prelude::*;

    const OPEN: Latch = Latch { credit: f64::INFINITY };

    /// The staircase of a 1.5B Q4_K_M on two AVX-512 cores.
    fn staircase() -> CostCurve {
        let mut curve = CostCurve::default();
        for (n_rows, c) in [(1, 1.0), (2, 1.55), (3, 1.94), (4, 1.73), (5, 2.25), (8, 3.08), (12, 3.85), (16, 3.70)] {
            curve.observe(n_rows, 0, 62.0 * c);
        }
        curve
    }

    #[test]
    fn a_doubtful_draft_is_not_verified() {
        let schedule = Schedule::cost_aware(staircase());
        assert_eq!(schedule.best_size(&[1.0], 0, 0.0, OPEN), 1);
        assert_eq!(schedule.best_size(&[1.0, 0.4, 0.1, 0.05], 0, 0.0, OPEN), 1);
    }

    #[test]
    fn widths_that_never_pay_are_skipped() {
        let schedule = Schedule::cost_aware(staircase());
        // Row 3 costs more than row 4 does: the fourth node is free.
        assert_eq!(schedule.best_size(&[1.0, 0.9, 0.8, 0.1], 0, 0.0, OPEN), 4);
        assert_eq!(schedule.best_size(&[0.95; 16], 0, 0.0, OPEN), 16);
        assert_eq!(schedule.best_size(&[0.95; 32], 0, 0.0, OPEN), 16, "nothing is known about more rows");
    }

    #[test]
    fn without_a_curve_there_is_no_draft() {
        assert_eq!(Schedule::cost_aware(CostCurve::default()).best_size(&[1.0, 1.0], 0, 0.0, OPEN), 1);
    }

    #[test]
    fn what_was_lost_must_be_earned_again() {
        let mut schedule = Schedule::cost_aware(staircase());
        let draft = Draft { tree: TokenTree::chain(Token(0), &[Token(1); 15]).unwrap(), p: vec![0.98; 16] };
        let step = |n_rows, n_emitted, verify_ms| StepRecord { n_past: 0, n_rows, n_emitted, draft_ms: 0.0, verify_ms };
        assert_eq!(schedule.choose(&draft, 0), 16);
        schedule.record(&step(16, 1, 229.0));
        assert_eq!(schedule.choose(&draft, 0), 4, "another 16 rows could lose more than is left");
        schedule.record(&step(4, 4, 107.0));
        assert_eq!(schedule.choose(&draft, 0), 16);
    }

    proptest! {
        #[test]
        fn the_loss_is_bounded_whatever_the_drafter_says(n_accepted in prop::collection::vec(0usize..3, 1..400)) {
            let curve = staircase();
            let mut schedule = Schedule::cost_aware(curve.clone());
            let draft = Draft { tree: TokenTree::chain(Token(0), &[Token(1); 15]).unwrap(), p: vec![1.0; 16] };
            let (mut ms, mut n_tokens) = (0.0, 0);
            for n_accepted in n_accepted {
                let n_rows = schedule.choose(&draft, 0);
                let n_emitted = 1 + n_accepted.min(n_rows - 1);
                let verify_ms = curve.at(0)[&n_rows];
                schedule.record(&StepRecord { n_past: 0, n_rows, n_emitted, draft_ms: 0.0, verify_ms });
                ms += verify_ms;
                n_tokens += n_emitted;
            }
            let n_plain = ms / curve.plain_ms(0).unwrap();
            prop_assert!(n_plain <= n_tokens as f64 * (1.0 + Latch::INCOME) + Latch::RESERVE + 1e-6);
        }

        #[test]
        fn the_choice_is_the_best_of_all(p in prop::collection::vec(0.0f32..1.0, 0..20)) {
            let mut p = p;
            p.push(1.0);
            p.sort_by(|a, b| b.total_cmp(a));
            let schedule = Schedule::cost_aware(staircase());
            let rate = |n: usize| {
                let tokens: f64 = p[..n].iter().map(|&p| f64::from(p)).sum();
                schedule.curve.at(0).range(n..).next().map_or(0.0, |(_, ms)| tokens / ms)
            };
            let chosen = schedule.best_size(&p, 0, 0.0, OPEN);
            let best = (2..=p.len()).map(rate).fold(0.0, f64::max);
            if chosen == 1 {
                prop_assert!(best <= rate(1) * LEAST_GAIN * (1.0 + 1e-9));
            } else {
                prop_assert!(rate(chosen) == best && best > rate(1) * LEAST_GAIN);
            }
        }
    }
}
