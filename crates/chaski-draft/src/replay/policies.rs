//! Other policies for where a source with a price is asked, to compare with the rules of `asking.rs` by replay.
//!
//! All but [`Linear`] choose once per step between two arms, "ask" and "do not ask". To ask means to ask at the root, and
//! at deeper nodes down to a least probability, as drafts of a fixed form do.

use std::cell::RefCell;
use std::rc::Rc;

use crate::cost::CostCurve;
use crate::draft::asking::{Choice, Outcome, Policy};

/// Always, or never.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    /// Ask at nodes at least this likely; above 1 is never.
    pub least_p: f32,
}

impl Policy for Fixed {
    fn asks(&mut self, choice: &Choice) -> bool {
        choice.p >= self.least_p
    }

    fn learn(&mut self, _outcome: &Outcome<'_>) {}
}

/// How a bandit explores.
#[derive(Clone, Copy, Debug)]
pub enum Exploration {
    /// A random arm with this probability, else the better one.
    EpsilonGreedy(f64),
    /// The arm with the greatest upper confidence bound (UCB1: Auer et al., 2002), whose width has this factor. The reward
    /// is in tokens per plain step.
    Ucb1(f64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Arm {
    n_steps: f64,
    n_tokens: f64,
    /// In plain steps.
    time: f64,
}

/// A bandit over "ask" and "do not ask", rewarded with the tokens per time of each step.
#[derive(Clone, Debug)]
pub struct Bandit {
    exploration: Exploration,
    least_p: f32,
    curve: CostCurve,
    arms: [Arm; 2],
    /// The arm of this step, if there was a choice.
    arm: Option<usize>,
    dice: u64,
}

impl Bandit {
    /// A bandit that has seen nothing. Asking means to ask at nodes at least `least_p` likely.
    #[must_use]
    pub fn new(exploration: Exploration, least_p: f32, curve: CostCurve) -> Bandit {
        Bandit { exploration, least_p, curve, arms: [Arm::default(); 2], arm: None, dice: 1 }
    }

    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 40) as f64 / (1 << 24) as f64
    }

    fn choose(&mut self) -> usize {
        if let Some(untried) = self.arms.iter().position(|arm| arm.n_steps == 0.0) {
            return untried;
        }
        let n_all: f64 = self.arms.iter().map(|arm| arm.n_steps).sum();
        let mut values = self.arms.map(|arm| arm.n_tokens / arm.time);
        let exploration = self.exploration;
        match exploration {
            Exploration::EpsilonGreedy(epsilon) if self.roll() < epsilon => return usize::from(self.roll() < 0.5),
            Exploration::EpsilonGreedy(_) => {}
            Exploration::Ucb1(width) => {
                for (value, arm) in values.iter_mut().zip(&self.arms) {
                    *value += width * (2.0 * n_all.ln() / arm.n_steps).sqrt();
                }
            }
        }
        usize::from(values[1] > values[0])
    }
}

impl Policy for Bandit {
    fn asks(&mut self, choice: &Choice) -> bool {
        let arm = match self.arm {
            Some(arm) => arm,
            None => self.choose(),
        };
        self.arm = Some(arm);
        arm == 1 && choice.p >= self.least_p
    }

    fn learn(&mut self, outcome: &Outcome<'_>) {
        let Some(arm) = self.arm.take() else { return };
        let curve = self.curve.at(outcome.n_past);
        let (Some(plain_ms), Some((_, ms))) = (curve.get(&1), curve.range(outcome.n_rows..).next()) else { return };
        let arm = &mut self.arms[arm];
        arm.n_steps += 1.0;
        arm.n_tokens += outcome.n_emitted as f64;
        arm.time += (ms + outcome.asked_ms) / plain_ms;
    }
}

/// The number of features of a choice.
pub const N_FEATURES: usize = 9;

/// Weights that several texts share.
pub type Weights = Rc<RefCell<[f64; N_FEATURES]>>;

/// Predicts by a linear function of the context what asking brings, and asks where that is worth more than it costs.
#[derive(Clone, Debug)]
pub struct Linear {
    weights: Weights,
    /// While training: the learning rate, and the least probability of the nodes at which it always asks.
    training: Option<(f64, f32)>,
    /// The features of the predictions of this step.
    asked: Vec<[f64; N_FEATURES]>,
    /// Running mean of the tokens accepted per step.
    accepted: f64,
    /// The probability of the likeliest token of the last row, and the entropy of the likely ones, in nats.
    last_row: (f64, f64),
}

impl Linear {
    /// Asks by `weights`.
    #[must_use]
    pub fn new(weights: Weights) -> Linear {
        Linear { weights, training: None, asked: Vec::new(), accepted: 0.0, last_row: (0.5, 1.0) }
    }

    /// Trains `weights`: asks at nodes at least `least_p` likely, and learns what each prediction brought.
    #[must_use]
    pub fn training(weights: Weights, rate: f64, least_p: f32) -> Linear {
        Linear { training: Some((rate, least_p)), ..Linear::new(weights) }
    }

    fn features(&self, choice: &Choice) -> [f64; N_FEATURES] {
        let confidence = f64::from(choice.confidence);
        [
            1.0,
            confidence,
            confidence * confidence,
            if confidence < 0.1 { 1.0 } else { 0.0 },
            (self.accepted / 4.0).min(1.0),
            self.last_row.0,
            self.last_row.1 / 3.0,
            (choice.depth as f64 / 4.0).min(1.0),
            f64::from(choice.p),
        ]
    }
}

fn dot(a: &[f64; N_FEATURES], b: &[f64; N_FEATURES]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Policy for Linear {
    fn begin(&mut self) {
        (self.accepted, self.last_row) = (0.0, (0.5, 1.0));
    }

    fn asks(&mut self, choice: &Choice) -> bool {
        let features = self.features(choice);
        let asks = match self.training {
            Some((_, least_p)) => choice.p >= least_p,
            None => f64::from(choice.p) * dot(&self.weights.borrow(), &features) > choice.price,
        };
        if asks {
            self.asked.push(features);
        }
        asks
    }

    fn learn(&mut self, outcome: &Outcome<'_>) {
        if let Some((rate, _)) = self.training {
            let mut weights = self.weights.borrow_mut();
            for &(prediction, gain) in outcome.gains {
                let features = &self.asked[prediction];
                let error = gain - dot(&weights, features);
                weights.iter_mut().zip(features).for_each(|(weight, feature)| *weight += rate * error * feature);
            }
        }
        self.asked.clear();
        self.accepted += 0.2 * (outcome.n_emitted as f64 - 1.0 - self.accepted);
        let likely = || outcome.last_row.iter().filter(|logit| logit.is_finite()).map(|logit| f64::from(logit.exp()));
        self.last_row = (likely().fold(0.0, f64::max), likely().map(|p| -p * p.max(1e-9).ln()).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Choice = Choice { depth: 0, p: 1.0, confidence: 0.0, price: 0.3 };

    fn curve() -> CostCurve {
        CostCurve::exact([(1, 10.0), (2, 11.0), (4, 13.0)])
    }

    fn outcome(n_emitted: usize, n_rows: usize, asked_ms: f64) -> Outcome<'static> {
        Outcome { n_past: 5, n_rows, n_emitted, asked_ms, gains: &[], last_row: &[0.0] }
    }

    /// How often a policy asks in 400 steps where a prediction takes `asked_ms` and always brings a token.
    fn n_asked(mut policy: Bandit, asked_ms: f64) -> usize {
        let steps = (0..400).map(|_| {
            let asks = policy.asks(&ROOT);
            assert!(!policy.asks(&Choice { depth: 1, p: 0.4, ..ROOT }), "not likely enough");
            assert_eq!(policy.asks(&Choice { depth: 1, p: 0.5, ..ROOT }), asks, "one choice a step");
            policy.learn(&if asks { outcome(2, 2, asked_ms) } else { outcome(1, 1, 0.0) });
            usize::from(asks)
        });
        steps.sum()
    }

    #[test]
    fn bandits_find_the_better_arm_and_try_both() {
        for exploration in [Exploration::EpsilonGreedy(0.1), Exploration::Ucb1(0.3)] {
            let bandit = || Bandit::new(exploration, 0.5, curve());
            // Two tokens take 16 ms with a cheap prediction and 31 ms with a dear one; without, they take 20 ms.
            let (cheap, dear) = (n_asked(bandit(), 5.0), n_asked(bandit(), 20.0));
            assert!((300..400).contains(&cheap) && (1..100).contains(&dear), "{exploration:?}: {cheap} {dear}");
        }
    }

    #[test]
    fn the_linear_policy_learns_what_depends_on_the_context() {
        let weights: Weights = Rc::new(RefCell::new([0.0; N_FEATURES]));
        let unsure = Choice { confidence: 0.0, ..ROOT };
        let sure = Choice { confidence: 0.95, ..ROOT };
        let mut pupil = Linear::training(Rc::clone(&weights), 0.05, 0.3);
        for _ in 0..500 {
            pupil.begin();
            assert!(pupil.asks(&unsure) && pupil.asks(&sure), "it asks everywhere while it learns");
            // The model is right where the free sources are unsure, and wrong where they are right.
            pupil.learn(&Outcome { gains: &[(0, 1.0), (1, -1.0)], ..outcome(2, 3, 1.0) });
        }
        let mut trained = Linear::new(weights);
        assert!(trained.asks(&unsure) && !trained.asks(&sure));
        assert!(!trained.asks(&Choice { price: 1.5, ..unsure }), "more than it brings");
    }
}
