//! The loss budget: bounds how much slower drafting may make an answer, in tokens of plain decoding.
//!
//! The budget is a credit. It starts with a reserve, grows a little with every token, and changes by what each step
//! gained or lost. A draft is verified only if both hold:
//!
//! 1. The credit covers its risk. The risk is the expected shortfall in tokens, multiplied by [`LossBudget::DISTRUST`]
//!    in case the drafter overrates itself. It is at most the worst case, in which nothing is accepted.
//! 2. Its worst case overdraws the credit by at most [`LossBudget::OVERDRAFT`].
//!
//! So doubtful drafts lose at most `RESERVE + INCOME * n` over n tokens (1.5% of 160), and drafts the drafter is sure
//! of lose at most `OVERDRAFT` more. Wide drafts must be earned by narrow ones. If drafting does not pay, the credit
//! runs out and drafting stops. The income then allows a probe now and then; a more expensive probe has to wait longer.
//!
//! Predictions of a draft model are paid from the same credit, but not its last [`LossBudget::FREE_DRAFTS`]. So the bound
//! is the same with a draft model and without. Only the investment in a long prompt comes on top (`asking.rs`).
//!
//! No credit carries over to the next answer. A gain on a copied file says nothing about the essay after it, and the
//! bound must hold for each answer.

/// The credit of one answer.
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
    /// The credit that the predictions of a draft model leave to the free drafts: half of the reserve.
    const FREE_DRAFTS: f64 = 0.8;
    /// Assume the drafter is wrong this many times as often as it says.
    const DISTRUST: f64 = 3.0;
    /// Cap on the credit: after pages of copying, a text may turn into one that drafts badly.
    const GREATEST_CREDIT: f64 = 32.0;

    /// True once the credit is used up: no draft that costs time would be allowed, so drafting is pointless.
    pub(crate) fn is_shut(&self) -> bool {
        self.credit <= 0.0
    }

    /// How many plain steps the predictions of a step may take.
    pub(crate) fn for_predictions(&self) -> f64 {
        (self.credit - LossBudget::FREE_DRAFTS).max(0.0)
    }

    /// Whether a step may be verified that takes as long as `n_plain` plain steps if all is rejected. `reach[d]` is the
    /// probability that at least d drafted tokens are accepted, for d >= 1 (`reach[0]` is unused). It is 0 beyond the
    /// end.
    pub(crate) fn allows(&self, n_plain: f64, reach: &[f64]) -> bool {
        let worst = n_plain - 1.0;
        let risk = (LossBudget::DISTRUST * shortfall(worst, reach)).min(worst);
        risk <= self.credit.max(0.0) && worst <= (self.credit + LossBudget::OVERDRAFT).max(0.0)
    }

    /// Records a step that emitted `n_emitted` tokens and took as long as `n_plain` plain steps.
    pub(crate) fn record(&mut self, n_emitted: f64, n_plain: f64) {
        self.credit =
            (self.credit + LossBudget::INCOME * n_emitted + n_emitted - n_plain).min(LossBudget::GREATEST_CREDIT);
    }
}

/// The expected number of tokens by which the accepted ones fall short of `needed`.
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
        // 16 rows cost 3.7 steps on the 1.5B model.
        assert!(loss_budget.allows(3.7, &chain(0.95)) && !loss_budget.allows(3.7, &chain(0.6)));
        // A few rows may be tried once on little evidence.
        assert!(loss_budget.allows(1.73, &chain(0.4)));
        // Even a certain draft must be earned if it could lose more than credit and overdraft.
        assert!(!loss_budget.allows(8.2, &[1.0; 16]));
        assert!(LossBudget { credit: 6.0 }.allows(8.2, &[1.0; 16]));
        // A step without extra cost is always allowed.
        assert!(LossBudget { credit: -9.0 }.allows(1.0, &[]));
    }

    proptest! {
        #[test]
        fn the_shortfall_is_the_expectation(needed in -1.0f64..9.0, p in prop::collection::vec(0.0f64..1.0, 0..12)) {
            // Exactly d tokens are accepted with probability reach[d] - reach[d + 1].
            let reach: Vec<f64> = p.iter().scan(1.0, |reach, &p| { let at = *reach; *reach *= p; Some(at) }).collect();
            let exactly = |d: usize| reach.get(d).copied().unwrap_or(f64::from(d == 0)) - reach.get(d + 1).unwrap_or(&0.0);
            let naive: f64 = (0..=p.len()).map(|d| exactly(d) * (needed - d as f64).max(0.0)).sum();
            prop_assert!((shortfall(needed, &reach) - naive).abs() < 1e-9);
        }
    }
}
