//! Decides where a draft model is asked.
//!
//! At a node of the search, the free sources propose first; their best candidate is right with probability `confidence`.
//! With the model, a right child is verified more often: of the places where the free sources are wrong, the model is
//! right at a `share`. So asking brings `P(node) * share * (1 - confidence)` tokens. A right child also carries the draft
//! further: the predictions after it bring tokens of their own. The model is asked if all these tokens are worth more
//! time than the prediction takes.
//!
//! The share is one number for all confidences. It is learned only where the model is asked. A number for each
//! confidence could fall by bad luck until the model was not asked there any more, and then nothing corrected it. For
//! the same reason it is learned from `confidence` and not from what the free sources would have got: the mean is the
//! same, the luck is not.
//!
//! Two rules bound the loss if the estimates are wrong:
//!
//! 1. Predictions are paid from the loss budget (`loss_budget.rs`), so an answer loses no more than without a model. A
//!    part of the budget is left to the free drafts, which a poor model must not end. A chain of predictions takes at
//!    most a share of what can be spent, since it fails as a whole: one such failure must not end the asking.
//! 2. Decoding a long prompt first is an investment, made at most once in a text: when the tokens emitted so far would
//!    have paid for it (the ski-rental rule). So it costs at most the time that the model could already have saved. The
//!    loss budget does not count it.

use std::cell::RefCell;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::draft::draft_model::{Asked, DraftModel, candidates};
use crate::draft::{Candidate, Verified};
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::NodeId;

/// How often the model is expected to be right where the free sources are wrong, before anything was measured.
const EXPECTED: f64 = 0.6;

/// How many observations that is worth.
const N_EXPECTED: f64 = 4.0;

/// The weight of a new observation never falls below 1 / this.
const MOST_OBSERVED: f64 = 64.0;

/// The weight of an observation where the free sources are sure.
const LEAST_LEFT: f64 = 1e-3;

/// How far each new text moves the measured gains back to the expected ones, so that a model that failed on one text
/// is tried again a few texts later.
const FORGOTTEN: f64 = 0.1;

/// The predictions of a step may take this share of what can be spent; the first one may take all.
const CHAIN_SHARE: f64 = 0.25;

/// Predictions that are looked ahead to what a right child brings later.
const N_AHEAD: usize = 16;

/// What asking the model is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gains {
    /// How often the model is right where the free sources are wrong.
    #[serde(default = "Gain::at_first")]
    share: Gain,
    /// How often a right child is verified where the model was asked.
    #[serde(default = "Gain::at_first")]
    right: Gain,
}

/// A running mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Gain {
    mean: f64,
    /// The weight of `mean` in observations.
    n: f64,
}

impl Gain {
    fn at_first() -> Gain {
        Gain { mean: EXPECTED, n: N_EXPECTED }
    }

    /// Learns `outcome` with a weight of at most 1.
    fn learn(&mut self, outcome: f64, weight: f64) {
        self.n = (self.n + weight).min(MOST_OBSERVED);
        self.mean = (self.mean + weight * (outcome - self.mean) / self.n).clamp(0.0, 1.0);
    }

    fn is_sound(&self) -> bool {
        (0.0..=1.0).contains(&self.mean) && (0.0..=MOST_OBSERVED).contains(&self.n)
    }

    fn forget(&mut self) {
        self.mean += FORGOTTEN * (EXPECTED - self.mean);
    }
}

impl Default for Gains {
    fn default() -> Gains {
        Gains { share: Gain::at_first(), right: Gain::at_first() }
    }
}

impl Gains {
    /// How much likelier a right child is verified with the model than without.
    fn of(&self, confidence: f32) -> f64 {
        self.share.mean * f64::from(1.0 - confidence)
    }

    /// Learns whether a right child was verified (1) or not (0).
    fn learn(&mut self, confidence: f32, with: f64) {
        // The model could bring `left` and brought `with - confidence`.
        let left = f64::from(1.0 - confidence).max(LEAST_LEFT);
        self.share.learn(1.0 - (1.0 - with) / left, left);
        self.right.learn(with, 1.0);
    }

    fn forget(&mut self) {
        self.share.forget();
        self.right.forget();
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.share.is_sound() && self.right.is_sound()
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

/// A place at which a [`Policy`] may ask.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Drafted tokens before it.
    pub depth: usize,
    /// The probability of the path to it.
    pub p: f32,
    /// The probability of the likeliest child without the model; 0 if there is none.
    pub confidence: f32,
    /// What asking takes, in tokens: the prediction and the rows for what it brings.
    pub price: f64,
}

/// What a step did.
#[derive(Clone, Copy)]
pub struct Outcome<'a> {
    /// Committed tokens before the step, without the root.
    pub n_past: usize,
    /// Rows verified, root included.
    pub n_rows: usize,
    /// Tokens emitted.
    pub n_emitted: usize,
    /// The time of the step's predictions, in milliseconds.
    pub asked_ms: f64,
    /// For each of the step's predictions that turned out to be on the emitted path, its number in the order asked, and
    /// the tokens it brought: -1, 0 or 1.
    pub gains: &'a [(usize, f64)],
    /// The logits that the last emitted token was drawn from.
    pub last_row: &'a [f32],
}

/// Another policy for where the model is asked, in place of this module's rules; for comparisons (`replay/policies.rs`).
pub trait Policy {
    /// Starts a new text.
    fn begin(&mut self) {}

    /// Whether the model is asked here.
    fn asks(&mut self, choice: &Choice) -> bool;

    /// Learns from a step.
    fn learn(&mut self, outcome: &Outcome<'_>);
}

impl<T: Policy + ?Sized> Policy for Rc<RefCell<T>> {
    fn begin(&mut self) {
        self.borrow_mut().begin();
    }

    fn asks(&mut self, choice: &Choice) -> bool {
        self.borrow_mut().asks(choice)
    }

    fn learn(&mut self, outcome: &Outcome<'_>) {
        self.borrow_mut().learn(outcome);
    }
}

/// A prediction of the current step.
struct Prediction {
    path: Vec<Token>,
    candidates: Vec<Candidate>,
    /// The probability of the likeliest child without the model; 0 if there is none.
    confidence: f32,
    /// That child, if it would have been verified.
    free: Option<Token>,
}

/// What a prediction takes, in milliseconds.
struct Payment {
    /// Without the investment.
    price_ms: f64,
    invested_ms: f64,
}

/// Where the model is asked, and what came of it.
pub(super) struct Asking {
    gains: Gains,
    n_predictions: u64,
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
    /// Replaces the rules of this module.
    policy: Option<Box<dyn Policy>>,
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
            missed_ms: 0.0,
            has_invested: false,
            has_failed: false,
            limits: TreeLimits::PLAIN,
            predictions: Vec::new(),
            asked: Asked::default(),
            policy: None,
        }
    }

    /// The same with what was learned about asking.
    pub(super) fn with_gains(self, gains: Gains) -> Asking {
        Asking { gains, ..self }
    }

    pub(super) fn set_policy(&mut self, policy: Box<dyn Policy>) {
        self.policy = Some(policy);
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
        (self.missed_ms, self.has_invested, self.has_failed) = (0.0, false, false);
        if let Some(policy) = &mut self.policy {
            policy.begin();
        }
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

    /// The time of the tokens that a prediction brings, in milliseconds, at a node reached with probability `p`, where
    /// one takes `price_ms`.
    fn brought_ms(&self, p: f64, confidence: f32, price_ms: f64) -> f64 {
        let (without, gain) = (f64::from(confidence), self.gains.of(confidence));
        let with = (without + gain).clamp(0.0, 1.0);
        let further_ms = self.further_ms(p * with, price_ms) - self.further_ms(p * without, price_ms);
        p * gain * self.limits.token_ms + further_ms
    }

    /// The time of the tokens that predictions bring after a node reached with probability `p`, less what they take, in
    /// milliseconds: one after the other, as long as each pays.
    fn further_ms(&self, p: f64, price_ms: f64) -> f64 {
        let right = self.gains.right.mean;
        let TreeLimits { token_ms, row_ms, .. } = self.limits;
        let reached = std::iter::successors(Some(p * right), |p| Some(p * right)).take(N_AHEAD);
        reached.map(|p| p * token_ms - price_ms - row_ms).take_while(|&saved_ms| saved_ms > 0.0).sum()
    }

    /// The time of verifying what it brings, in milliseconds.
    fn rows_ms(&self, p: f64, confidence: f32) -> f64 {
        let TreeLimits { token_ms, row_ms, .. } = self.limits;
        // The predicted token takes a row. Where the free sources' best child would be verified anyway, that row is
        // not an additional one.
        (row_ms - p * f64::from(confidence) * token_ms).max(0.0)
    }

    /// How a prediction at `place` is paid, where the free sources have this confidence. `None` if it does not pay.
    fn payment(&mut self, model: &dyn DraftModel, place: Place<'_>, confidence: f32) -> Option<Payment> {
        if self.has_failed || self.limits.token_ms <= 0.0 || confidence > model.most_confidence() {
            return None;
        }
        if self.policy.is_some() {
            return self.payment_by_policy(model, place, confidence);
        }
        let p = f64::from(place.p);
        let rows_ms = self.rows_ms(p, confidence);
        // A model compares texts to find its price, which takes time too.
        if self.brought_ms(p, confidence, 0.0) <= rows_ms {
            return None;
        }
        let price_ms = model.price_ms(place.text, place.path);
        let saved_ms = self.brought_ms(p, confidence, price_ms) - price_ms - rows_ms;
        if saved_ms.is_nan() || saved_ms <= 0.0 {
            return None;
        }
        let catch_up_ms = model.catch_up_ms(place.text);
        let invested_ms = match saved_ms > catch_up_ms {
            true => 0.0,
            false if saved_ms + self.missed_ms > catch_up_ms && !self.has_invested => catch_up_ms,
            false if saved_ms + self.missed_ms > catch_up_ms => 0.0,
            false => return None,
        };
        let price_ms = price_ms + catch_up_ms - invested_ms;
        let share = if place.path.is_empty() { 1.0 } else { CHAIN_SHARE };
        let can_spend = self.asked.ms + price_ms <= share * self.limits.spend_ms;
        can_spend.then_some(Payment { price_ms, invested_ms })
    }

    /// The payment where another policy decides: an investment, so that the loss budget does not count it.
    fn payment_by_policy(&mut self, model: &dyn DraftModel, place: Place<'_>, confidence: f32) -> Option<Payment> {
        let price_ms = model.price_ms(place.text, place.path) + model.catch_up_ms(place.text);
        let price = (price_ms + self.rows_ms(f64::from(place.p), confidence)) / self.limits.token_ms;
        let choice = Choice { depth: place.path.len(), p: place.p, confidence, price };
        let asks = price.is_finite() && self.policy.as_mut()?.asks(&choice);
        asks.then_some(Payment { price_ms: 0.0, invested_ms: price_ms })
    }

    /// Asks the model for the tokens after `place` if that pays. `free` are the children without the model.
    pub(super) fn ask(
        &mut self,
        model: &mut dyn DraftModel,
        place: Place<'_>,
        free: &[(Token, f32)],
    ) -> Option<&[Candidate]> {
        let free = best_of(free);
        let confidence = confidence_of(free);
        let payment = self.payment(model, place, confidence)?;
        self.missed_ms = 0.0;
        self.has_invested |= payment.invested_ms > 0.0;
        self.asked.n += 1;
        self.asked.ms += payment.price_ms;
        self.asked.invested_ms += payment.invested_ms;
        self.n_predictions += 1;
        let candidates = candidates(model.predict(place.text, place.path));
        self.has_failed = candidates.is_empty();
        if self.has_failed {
            return None;
        }
        let TreeLimits { token_ms, row_ms, .. } = self.limits;
        let pays = |&(_, p): &(Token, f32)| f64::from(place.p * p) * token_ms > row_ms;
        let free = free.filter(pays).map(|(token, _)| token);
        self.predictions.push(Prediction { path: place.path.to_vec(), candidates, confidence, free });
        self.predictions.last().map(|prediction| prediction.candidates.as_slice())
    }

    /// The prediction that this step made after `path`.
    pub(super) fn candidates_after(&self, path: &[Token]) -> Option<&[Candidate]> {
        self.number_after(path).map(|number| self.predictions[number].candidates.as_slice())
    }

    /// The drafted tokens before each prediction of this step.
    pub(super) fn paths(&self) -> impl Iterator<Item = &[Token]> {
        self.predictions.iter().map(|prediction| prediction.path.as_slice())
    }

    /// The number of the prediction after `path`, in the order asked.
    fn number_after(&self, path: &[Token]) -> Option<usize> {
        self.predictions.iter().position(|prediction| prediction.path == path)
    }

    /// Whether the step had the choice to ask and did not.
    pub(super) fn has_declined(&self) -> bool {
        self.asked.n == 0 && !self.has_failed && self.limits.token_ms > 0.0
    }

    /// Notes what a prediction after `text` would have been worth, where the free sources say `free`.
    pub(super) fn miss(&mut self, model: &dyn DraftModel, text: &[Token], free: &[(Token, f32)]) {
        let confidence = confidence_of(best_of(free));
        let price_ms = model.price_ms(text, &[]);
        let cost_ms = price_ms + self.rows_ms(1.0, confidence);
        self.missed_ms += (self.brought_ms(1.0, confidence, price_ms) - cost_ms).max(0.0);
    }

    /// Learns from the step, which verified `verified` after `n_past` committed tokens and the root, and emitted
    /// `emitted`.
    pub(super) fn learn(&mut self, n_past: usize, emitted: &[Token], verified: Verified<'_>) {
        let mut gains = Vec::new();
        let (mut node, mut last) = (Some(NodeId::ROOT), NodeId::ROOT);
        for (at, &token) in emitted.iter().enumerate() {
            last = node.unwrap_or(last);
            node = node.and_then(|parent| verified.tree.child(parent, token));
            let Some(number) = self.number_after(&emitted[..at]) else { continue };
            let prediction = &self.predictions[number];
            let one_if = |is_right: bool| f64::from(u8::from(is_right));
            // A token that was not verified brings nothing, whoever named it.
            let (with, without) = (one_if(node.is_some()), one_if(prediction.free == Some(token)));
            self.gains.learn(prediction.confidence, with);
            gains.push((number, with - without));
        }
        if let Some(policy) = &mut self.policy {
            let asked_ms = self.asked.ms + self.asked.invested_ms;
            let (n_rows, n_emitted, last_row) = (verified.tree.len(), emitted.len(), verified.target.logits(last));
            policy.learn(&Outcome { n_past, n_rows, n_emitted, asked_ms, gains: &gains, last_row });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::Drafter as _;
    use crate::draft::auto::{Auto, Experience};
    use crate::draft::draft_model::Assisted;
    use crate::draft::table::Successor;
    use crate::draft::with_model::ModelExperience;

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
        let mut model = ModelExperience::default();
        for _ in 0..100 {
            model.gains.learn(0.0, 0.0);
        }
        assert!(model.gains.of(0.0) < 0.1 * EXPECTED);
        let mut experience = Experience { model: Some(model), ..Auto::default().experience() };
        // Each text has a drafter of its own, which starts from what the earlier ones learned.
        for _ in 0..20 {
            let mut auto = Auto::new(Auto::sources(None), Some(&experience));
            Assisted::new(&mut auto, &mut Unavailable).begin(&[]);
            experience = auto.experience();
        }
        assert!(experience.model.unwrap().gains.of(0.0) > 0.8 * EXPECTED);
    }

    #[test]
    fn bad_luck_at_one_confidence_ends_no_asking_there() {
        let mut gains = Gains::default();
        // The model is always right; where the free sources are half sure, they happen to be right as well.
        (0..30).for_each(|_| gains.learn(0.05, 1.0));
        (0..8).for_each(|_| gains.learn(0.4, 1.0));
        assert!(gains.of(0.4) > 0.5, "{}", gains.of(0.4));
        // A model that is right as often as the free sources brings nothing.
        let mut gains = Gains::default();
        (0..200).for_each(|at| gains.learn(0.75, f64::from(u8::from(at % 4 > 0))));
        assert!(gains.of(0.75) < 0.05, "{}", gains.of(0.75));
        assert!(gains.is_sound());
    }

    /// Takes `price_ms`, and is always sure.
    struct Sure(f64);

    impl DraftModel for Sure {
        fn price_ms(&self, _text: &[Token], _path: &[Token]) -> f64 {
            self.0
        }

        fn catch_up_ms(&self, _text: &[Token]) -> f64 {
            0.0
        }

        fn predict(&mut self, _text: &[Token], _path: &[Token]) -> &[Successor] {
            &[Successor { token: Token(1), weight: 0.99 }]
        }
    }

    /// How many predictions of a chain are made where a plain step takes 100 ms and a prediction 5 ms.
    fn n_asked(spend_ms: f64) -> usize {
        let mut asking = Asking::new(Gains::default());
        asking.begin_step(TreeLimits { token_ms: 100.0, row_ms: 2.0, spend_ms, ..TreeLimits::TREE });
        let chain = [Token(1); 30];
        let asks =
            |n: &usize| asking.ask(&mut Sure(5.0), Place { text: &chain, path: &chain[..*n], p: 0.9 }, &[]).is_some();
        (0..30).take_while(asks).count()
    }

    #[test]
    fn a_chain_takes_a_quarter_of_what_can_be_spent() {
        assert_eq!([4.0, 5.0, 20.0, 80.0, 400.0].map(n_asked), [0, 1, 1, 4, 20]);
    }
}
