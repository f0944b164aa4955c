//! Decides where a draft model is asked.
//!
//! At a node of the search, the free sources propose first. Asking the model there brings
//! `P(node) * gain` tokens, where `gain` is how much likelier the best child is right with the model than without. It
//! depends on how sure the free sources are, and is measured. The model is asked if these tokens are worth more time
//! than the prediction takes.
//!
//! Two rules bound the loss if the estimates are wrong:
//!
//! 1. Predictions are paid from what they earned: a credit in tokens, which grows by one with every token that was
//!    accepted only because the model was asked. Where that is not enough, an advance covers the rest. It starts with
//!    `RESERVE` and grows by `INCOME` with every emitted token. So over n tokens, predictions cost at most the time
//!    of `RESERVE + INCOME * n` tokens more than they bring.
//! 2. Decoding a long prompt first is an investment, made at most once in a text: when the tokens emitted so far would
//!    have paid for it (the ski-rental rule). So it costs at most the time that the model could already have saved.
//!
//! The loss budget counts neither advances nor investments. It would otherwise stop the free drafts of a text because
//! the model failed on it.

use serde::{Deserialize, Serialize};

use crate::draft::draft_model::{Asked, DraftModel, propose};
use crate::draft::{Candidate, Verified};
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::NodeId;

/// The advance at the start of a text, in tokens.
const RESERVE: f64 = 0.8;

/// What each emitted token adds to the advance.
const INCOME: f64 = 0.005;

/// Cap on what is earned: a text may turn into one that the model knows little about.
const MOST_EARNED: f64 = 8.0;

/// Upper bounds of the levels of the free sources' confidence; the last level has none.
const LEVELS: [f32; 5] = [0.1, 0.25, 0.45, 0.65, 0.85];

const N_LEVELS: usize = LEVELS.len() + 1;

/// How often the model is expected to be right where the free sources are wrong, before anything was measured.
const EXPECTED: f64 = 0.6;

/// How many observations that is worth.
const N_EXPECTED: f64 = 4.0;

/// The weight of a new observation never falls below 1 / this.
const MOST_OBSERVED: f64 = 64.0;

/// How far each new text moves the measured gains back to the expected ones, so that a model that failed on one text
/// is tried again a few texts later.
const FORGOTTEN: f64 = 0.1;

/// What asking the model is worth, by how sure the free sources are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    levels: [Gain; N_LEVELS],
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Gain {
    /// How much likelier the best child is right with the model than without it.
    mean: f64,
    /// The weight of `mean` in observations.
    n: f64,
}

/// The level of a confidence.
fn level_of(confidence: f32) -> usize {
    LEVELS.iter().position(|&most| confidence < most).unwrap_or(LEVELS.len())
}

fn expected_gain(level: usize) -> f64 {
    let least = level.checked_sub(1).map_or(0.0, |below| LEVELS[below]);
    let most = LEVELS.get(level).copied().unwrap_or(1.0);
    EXPECTED * (1.0 - f64::from(least + most) / 2.0)
}

impl Default for Gains {
    fn default() -> Gains {
        Gains { levels: std::array::from_fn(|level| Gain { mean: expected_gain(level), n: N_EXPECTED }) }
    }
}

impl Gains {
    fn of(&self, confidence: f32) -> f64 {
        self.levels[level_of(confidence)].mean
    }

    fn learn(&mut self, confidence: f32, gain: f64) {
        let level = &mut self.levels[level_of(confidence)];
        level.n = (level.n + 1.0).min(MOST_OBSERVED);
        level.mean += (gain - level.mean) / level.n;
    }

    fn forget(&mut self) {
        for (at, level) in self.levels.iter_mut().enumerate() {
            level.mean += FORGOTTEN * (expected_gain(at) - level.mean);
        }
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.levels.iter().all(|gain| (-1.0..=1.0).contains(&gain.mean) && (0.0..=MOST_OBSERVED).contains(&gain.n))
    }
}

/// A node of the search at which the model may be asked.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The committed text.
    pub(super) text: &'a [Token],
    /// The drafted tokens after it.
    pub(super) path: &'a [Token],
    /// The probability of the path.
    pub(super) p: f32,
}

/// A prediction of the current step.
struct Prediction {
    path: Vec<Token>,
    candidates: Vec<Candidate>,
    /// The likeliest child without the model and its probability.
    free: Option<(Token, f32)>,
    /// The likeliest child with the model.
    best: Option<Token>,
}

/// How a prediction is paid.
struct Payment {
    /// From what was earned, in tokens.
    earned: f64,
    /// From the advance, in tokens.
    advance: f64,
    /// The time of the prediction without the investment, in milliseconds.
    price_ms: f64,
    invested_ms: f64,
}

/// Where the model is asked, and what came of it.
pub(super) struct Asking {
    gains: Gains,
    n_predictions: u64,
    /// What predictions have brought more than they cost, in tokens; at least 0.
    earned: f64,
    /// What predictions may still cost before they earn anything, in tokens.
    advance: f64,
    /// What predictions at the tokens since the last one would have saved, in milliseconds.
    missed_ms: f64,
    /// The investment of this text was made.
    has_invested: bool,
    /// The model failed in this text.
    has_failed: bool,
    /// Those of the current step.
    limits: TreeLimits,
    predictions: Vec<Prediction>,
    asked: Asked,
}

/// The likeliest child.
fn best_of(children: &[(Token, f32)]) -> Option<(Token, f32)> {
    // The first one on a tie.
    children.iter().copied().rev().max_by(|(_, a), (_, b)| a.total_cmp(b))
}

fn confidence_of(free: Option<(Token, f32)>) -> f32 {
    free.map_or(0.0, |(_, p)| p)
}

impl Asking {
    pub(super) fn new(gains: Gains) -> Asking {
        Asking {
            gains,
            n_predictions: 0,
            earned: 0.0,
            advance: RESERVE,
            missed_ms: 0.0,
            has_invested: false,
            has_failed: false,
            limits: TreeLimits::PLAIN,
            predictions: Vec::new(),
            asked: Asked::default(),
        }
    }

    pub(super) fn gains(&self) -> &Gains {
        &self.gains
    }

    pub(super) fn n_predictions(&self) -> u64 {
        self.n_predictions
    }

    /// The predictions of the current step so far.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// Starts a new text.
    pub(super) fn begin(&mut self) {
        (self.earned, self.advance, self.missed_ms) = (0.0, RESERVE, 0.0);
        (self.has_invested, self.has_failed) = (false, false);
        self.begin_step(TreeLimits::PLAIN);
    }

    /// Moves the gains a little back to the expected ones; once per text that has a model.
    pub(super) fn forget(&mut self) {
        self.gains.forget();
    }

    /// Starts a step.
    pub(super) fn begin_step(&mut self, limits: TreeLimits) {
        self.limits = limits;
        self.predictions.clear();
        self.asked = Asked::default();
    }

    /// The time of the tokens that a prediction brings, in milliseconds, at a node reached with probability `p`.
    fn brought_ms(&self, p: f64, confidence: f32) -> f64 {
        p * self.gains.of(confidence) * self.limits.token_ms
    }

    /// The time of verifying what it brings, in milliseconds.
    fn rows_ms(&self, p: f64, confidence: f32) -> f64 {
        let TreeLimits { token_ms, row_ms, .. } = self.limits;
        // The predicted token takes a row. Where the free sources' best child would be verified anyway, that row is
        // not an additional one.
        (row_ms - p * f64::from(confidence) * token_ms).max(0.0)
    }

    /// How a prediction at `place` is paid, where the free sources have this confidence. `None` if it does not pay.
    fn payment(&self, model: &dyn DraftModel, place: Place<'_>, confidence: f32) -> Option<Payment> {
        if self.has_failed || self.limits.token_ms <= 0.0 {
            return None;
        }
        let p = f64::from(place.p);
        let (brought_ms, rows_ms) = (self.brought_ms(p, confidence), self.rows_ms(p, confidence));
        // A model compares texts to find its price, which takes time too.
        if brought_ms <= rows_ms {
            return None;
        }
        let price_ms = model.price_ms(place.text, place.path);
        let saved_ms = brought_ms - price_ms - rows_ms;
        if saved_ms.is_nan() || saved_ms <= 0.0 {
            return None;
        }
        let catch_up_ms = model.catch_up_ms(place.text);
        let invested_ms = match saved_ms > catch_up_ms {
            true => 0.0,
            false if saved_ms + self.missed_ms > catch_up_ms && !self.has_invested => catch_up_ms.min(self.missed_ms),
            false if saved_ms + self.missed_ms > catch_up_ms => 0.0,
            false => return None,
        };
        let price_ms = price_ms + catch_up_ms - invested_ms;
        let price = (price_ms + rows_ms) / self.limits.token_ms;
        let earned = price.min(self.earned);
        let advance = price - earned;
        // One advance per step: a chain that fails at its first token would lose several.
        let can_advance = place.path.is_empty() && advance <= self.advance;
        (advance <= 0.0 || can_advance).then_some(Payment { earned, advance, price_ms, invested_ms })
    }

    /// Asks the model for the tokens after `place` if that pays, and fills them into `candidates`. `free` are the
    /// children without the model. Returns whether there is a prediction; [`Asking::compare`] must then follow.
    pub(super) fn ask(
        &mut self,
        model: &mut dyn DraftModel,
        place: Place<'_>,
        free: &[(Token, f32)],
        candidates: &mut Vec<Candidate>,
    ) -> bool {
        let free = best_of(free);
        let Some(payment) = self.payment(model, place, confidence_of(free)) else { return false };
        self.earned -= payment.earned;
        self.advance -= payment.advance;
        self.missed_ms = 0.0;
        self.has_invested |= payment.invested_ms > 0.0;
        self.asked.n += 1;
        let advanced_ms = payment.price_ms.min(payment.advance * self.limits.token_ms);
        self.asked.ms += payment.price_ms - advanced_ms;
        self.asked.advanced_ms += advanced_ms + payment.invested_ms;
        self.n_predictions += 1;
        propose(model.predict(place.text, place.path), candidates);
        self.has_failed = candidates.is_empty();
        if self.has_failed {
            return false;
        }
        let (path, candidates) = (place.path.to_vec(), candidates.clone());
        self.predictions.push(Prediction { path, candidates, free, best: None });
        true
    }

    /// Notes the children with the newest prediction.
    pub(super) fn compare(&mut self, children: &[(Token, f32)]) {
        if let Some(newest) = self.predictions.last_mut() {
            newest.best = best_of(children).map(|(token, _)| token);
        }
    }

    /// The prediction that this step made after `path`.
    pub(super) fn candidates_after(&self, path: &[Token]) -> Option<&Vec<Candidate>> {
        self.after(path).map(|prediction| &prediction.candidates)
    }

    fn after(&self, path: &[Token]) -> Option<&Prediction> {
        self.predictions.iter().find(|prediction| prediction.path == path)
    }

    /// Whether the step had the choice to ask and did not.
    pub(super) fn has_declined(&self) -> bool {
        self.asked.n == 0 && !self.has_failed && self.limits.token_ms > 0.0
    }

    /// Notes what a prediction after `text` would have been worth, where the free sources say `free`.
    pub(super) fn miss(&mut self, model: &dyn DraftModel, text: &[Token], free: &[(Token, f32)]) {
        let confidence = confidence_of(best_of(free));
        let cost_ms = model.price_ms(text, &[]) + self.rows_ms(1.0, confidence);
        self.missed_ms += (self.brought_ms(1.0, confidence) - cost_ms).max(0.0);
    }

    /// Learns from the step, which verified `verified` and emitted `emitted`.
    pub(super) fn learn(&mut self, emitted: &[Token], verified: Verified<'_>) {
        self.advance += INCOME * emitted.len() as f64;
        let mut brought = 0.0;
        let mut node = Some(NodeId::ROOT);
        for (at, &token) in emitted.iter().enumerate() {
            node = node.and_then(|parent| verified.tree.child(parent, token));
            let Some(prediction) = self.after(&emitted[..at]) else { continue };
            let one_if = |is_right: bool| f64::from(u8::from(is_right));
            let free = one_if(prediction.free.is_some_and(|(free, _)| free == token));
            let (best, confidence) = (one_if(prediction.best == Some(token)), confidence_of(prediction.free));
            brought += one_if(node.is_some()) - free;
            self.gains.learn(confidence, best - free);
        }
        // Where the model replaced right tokens by wrong ones, it brought less than nothing.
        let earned = self.earned + brought;
        self.advance += earned.min(0.0);
        self.earned = earned.clamp(0.0, MOST_EARNED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Drafter as _;
    use crate::draft::auto::Auto;
    use crate::draft::draft_model::Assisted;
    use crate::draft::table::Successor;

    struct Unavailable;

    impl DraftModel for Unavailable {
        fn price_ms(&self, _text: &[Token], _path: &[Token]) -> f64 {
            f64::INFINITY
        }

        fn catch_up_ms(&self, _text: &[Token]) -> f64 {
            f64::INFINITY
        }

        fn predict(&mut self, _text: &[Token], _path: &[Token]) -> &[Successor] {
            &[]
        }
    }

    #[test]
    fn a_model_that_failed_is_tried_again_some_texts_later() {
        let mut experience = Auto::default().with_draft_model_source().experience();
        for _ in 0..100 {
            experience.gains.learn(0.0, 0.0);
        }
        assert!(experience.gains.of(0.0) < 0.1 * expected_gain(0));
        // Each text has a drafter of its own, which starts from what the earlier ones learned.
        for _ in 0..20 {
            let mut auto = Auto::new(Auto::sources(None), Some(&experience));
            Assisted::new(&mut auto, &mut Unavailable).begin(&[]);
            experience = auto.experience();
        }
        assert!(experience.gains.of(0.0) > 0.8 * expected_gain(0));
    }
}
