//! The loss budget bounds what drafting may lose over an answer, in tokens of plain decoding.
//!
//! A ledger: drafting starts with a reserve, earns a small income with every token, and is credited with what each step
//! gained or charged with what it lost. A draft is verified only if
//!
//! 1. its risk is covered by the credit. The risk is the expected shortfall, were the drafter [`LossBudget::DISTRUST`] times
//!    as often wrong as it says, and never more than the worst case, that nothing is accepted; and
//! 2. its worst case would overdraw the credit by no more than [`LossBudget::OVERDRAFT`].
//!
//! So doubtful drafts can lose `RESERVE + INCOME * n` over n tokens (1.5% of 160), and only drafts that the drafter is
//! sure of can lose `OVERDRAFT` more. Wide drafts are earned by narrow ones. Drafting that does not pay closes the
//! loss budget by itself; the income opens it again for a probe, the later the dearer the probe.
//!
//! Nothing is carried from one answer to the next: what a copied file earned says nothing about the essay after it, and
//! each answer keeps the same promise whatever came before.

/// The ledger of one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossBudget {
    pub(crate) credit: f64,
}

impl Default for LossBudget {
    fn default() -> LossBudget {
        LossBudget { credit: LossBudget::RESERVE }
    }
}

impl LossBudget {
    pub(crate) const RESERVE: f64 = 1.6;
    pub(crate) const INCOME: f64 = 0.005;
    pub(crate) const OVERDRAFT: f64 = 1.2;
    /// How much more often than it says the drafter may be wrong.
    const DISTRUST: f64 = 3.0;
    /// A text that copied for pages may change its nature.
    const GREATEST_CREDIT: f64 = 32.0;

    /// Whether nothing that costs time is covered: drafting would be in vain.
    pub(crate) fn is_shut(&self) -> bool {
        self.credit <= 0.0
    }

    /// Whether a step that takes as long as `n_plain` plain ones may be risked. `reach[d]` is the probability that at
    /// least d drafted tokens are accepted, d from 1 (place 0 is not used); beyond its end it is 0.
    pub(crate) fn allows(&self, n_plain: f64, reach: &[f64]) -> bool {
        let worst = n_plain - 1.0;
        let risk = (LossBudget::DISTRUST * shortfall(worst, reach)).min(worst);
        risk <= self.credit.max(0.0) && worst <= (self.credit + LossBudget::OVERDRAFT).max(0.0)
    }

    /// Takes in a step that brought `n_emitted` tokens in the time of `n_plain` plain steps.
    pub(crate) fn record(&mut self, n_emitted: f64, n_plain: f64) {
        self.credit =
            (self.credit + LossBudget::INCOME * n_emitted + n_emitted - n_plain).min(LossBudget::GREATEST_CREDIT);
    }
}

/// The expectation of how many tokens fewer than `needed` are accepted.
fn shortfall(needed: f64, reach: &[f64]) -> f64 {
    let n_whole = needed.max(0.0).ceil() as usize;
    let misses = (0..n_whole).map(|d| {
        let p_deeper = reach.get(d + 1).map_or(0.0, |p| p.clamp(0.0, 1.0));
        (needed - d as f64).min(1.0) * (1.0 - p_deeper)
    });
    misses.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sure_draft_may_risk_what_a_doubtful_one_may_not() {
        let loss_budget = LossBudget::default();
        let chain = |p: f64| (0..16).map(|depth| p.powi(depth)).collect::<Vec<_>>();
        // 16 rows of the 1.5B: 3.7 steps.
        assert!(loss_budget.allows(3.7, &chain(0.95)) && !loss_budget.allows(3.7, &chain(0.6)));
        // A few rows may be tried on little evidence, once.
        assert!(loss_budget.allows(1.73, &chain(0.4)));
        // However sure: a step that could lose more than is left and lent must be earned.
        assert!(!loss_budget.allows(8.2, &[1.0; 16]));
        assert!(LossBudget { credit: 6.0 }.allows(8.2, &[1.0; 16]));
        // What costs nothing is never refused.
        assert!(LossBudget { credit: -9.0 }.allows(1.0, &[]));
    }

    proptest! {
        #[test]
        fn the_shortfall_is_the_expectation(needed in -1.0f64..9.0, p in prop::collection::vec(0.0f64..1.0, 0..12)) {
            // Exactly d are accepted with probability reach[d] - reach[d + 1].
            let reach: Vec<f64> = p.iter().scan(1.0, |reach, &p| { let at = *reach; *reach *= p; Some(at) }).collect();
            let exactly = |d: usize| reach.get(d).copied().unwrap_or(f64::from(d == 0)) - reach.get(d + 1).unwrap_or(&0.0);
            let naive: f64 = (0..=p.len()).map(|d| exactly(d) * (needed - d as f64).max(0.0)).sum();
            prop_assert!((shortfall(needed, &reach) - naive).abs() < 1e-9);
        }
    }
}
