//! A small model of the target's vocabulary as a source with a price: each of its predictions takes time, so `Auto`
//! asks it only where that pays (`asking.rs`).

use crate::draft::auto::Auto;
use crate::draft::table::Successor;
use crate::draft::{Candidate, Draft, Drafter, Verified};
use crate::target::TreeLimits;
use crate::token::Token;

/// Predicts what follows a text.
///
/// All tokens of a text but the last one are its *past*. Before its first prediction in a text the model decodes the
/// past, which may take as long as many steps but is done once. So it has a time of its own.
pub trait DraftModel {
    /// The expected time in milliseconds of [`predict`](DraftModel::predict) after `text` and `path`, once the past of
    /// `text` is decoded: for the last token of `text` and those tokens of `path` that the model has not decoded yet.
    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64;

    /// The expected time in milliseconds to decode what the model does not hold yet of the past of `text`. The next
    /// `predict` after `text` takes this long in addition. 0 if there is nothing to decode.
    fn catch_up_ms(&self, text: &[Token]) -> f64;

    /// It is not asked where the free sources are surer than this of their best candidate: they are more often right there
    /// than it is, and its other candidates only take rows.
    fn most_confidence(&self) -> f32 {
        1.0
    }

    /// The likeliest tokens after the committed `text` and the drafted `path`, likeliest first, with their
    /// probabilities at temperature 1 as weights. All are tokens of the target. Empty if the model fails; it is then not
    /// asked again in this text.
    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor];
}

/// The predictions that a draft took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Asked {
    /// How many predictions.
    pub n: usize,
    /// Their expected time in milliseconds, without `invested_ms`.
    pub ms: f64,
    /// The expected time in milliseconds of decoding the prompt once. It has a bound of its own (`asking.rs`), so that the
    /// loss budget does not count it.
    pub invested_ms: f64,
}

/// [`Auto`] with a draft model.
pub struct Assisted<'a> {
    auto: &'a mut Auto,
    model: &'a mut dyn DraftModel,
}

impl<'a> Assisted<'a> {
    /// A drafter that asks `model` where that pays.
    #[must_use]
    pub fn new(auto: &'a mut Auto, model: &'a mut dyn DraftModel) -> Assisted<'a> {
        Assisted { auto, model }
    }
}

impl Drafter for Assisted<'_> {
    fn begin(&mut self, prompt: &[Token]) {
        self.auto.forget_gains();
        self.auto.begin(prompt);
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        self.auto.draft_with(context, limits, Some(self.model))
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.auto.learn_with(context, from, verified, Some(self.model));
    }
}

/// Most candidates of one prediction.
const MAX_PROPOSED: usize = 5;

/// Candidates that the model finds less likely than this are not proposed.
const LEAST_P: f32 = 0.005;

/// Lower bounds of the bins for the likeliest token, by its probability.
const BEST: [f32; 8] = [0.97, 0.9, 0.75, 0.55, 0.35, 0.2, 0.1, 0.0];

/// Lower bounds of the bins for the other tokens.
const OTHERS: [f32; 5] = [0.3, 0.15, 0.07, 0.03, 0.0];

/// The probability in the middle of each bin, for bins with these lower bounds. No probability is above `most`.
pub(super) fn middles(bounds: &'static [f32], most: f32) -> impl Iterator<Item = f32> {
    let upper = std::iter::once(most).chain(bounds.iter().copied());
    bounds.iter().zip(upper).map(|(least, most)| (least + most) / 2.0)
}

/// The probability in the middle of each bin: of the likeliest token, then of the others.
pub(super) fn centers() -> impl Iterator<Item = f32> {
    middles(&BEST, 1.0).chain(middles(&OTHERS, 0.5))
}

/// The candidates of a prediction.
pub(super) fn candidates(predicted: &[Successor]) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for (rank, successor) in predicted.iter().take(MAX_PROPOSED).enumerate() {
        let (bounds, first) = if rank == 0 { (&BEST[..], 0) } else { (&OTHERS[..], BEST.len()) };
        let is_new = candidates.iter().all(|known| known.token != successor.token);
        if is_new && (rank == 0 || successor.weight >= LEAST_P) {
            let bin = bounds.iter().position(|&least| successor.weight >= least).unwrap_or(bounds.len() - 1);
            candidates.push(Candidate { token: successor.token, bin: first + bin });
        }
    }
    candidates
}

#[cfg(test)]
mod tests;
