//! Adds the draft model's source to what a mixer has learned about the others.

use super::{Bin, MixerState, Reliability, SHARED};
use crate::draft::draft_model::{NAME, centers};

/// How many observations the initial probability of a bin is worth.
const N_OBSERVED: f32 = 8.0;

/// The probability of a token that the model does not name, as a share of what the model leaves for all tokens but its
/// best.
const UNNAMED_SHARE: f32 = 0.05;

/// The model's weight for a token that only the model names: its probability is believed.
const ALONE: f32 = 1.0;

/// The model's weight for a token that other sources name as well.
const BESIDE_OTHERS: f32 = 0.75;

/// What remains of the weights of the other sources for such a token.
const OTHERS_SHARE: f32 = 0.5;

/// The model's weight for a token that only other sources name.
const AGAINST_OTHERS: f32 = 0.5;

impl MixerState {
    /// Whether the draft model's source is among the sources, which makes it the last one.
    pub(in crate::draft) fn has_draft_model(&self) -> bool {
        self.sources.last().is_some_and(|source| source.name == NAME)
    }

    /// Adds the draft model's source as the last one. As long as that source names nothing, every probability is the
    /// same as before.
    pub(super) fn add_draft_model(&mut self) {
        let named: Vec<Bin> = centers().map(|p| Bin::from((p, N_OBSERVED))).collect();
        let unnamed = centers().map(|p| Bin::from((UNNAMED_SHARE * (1.0 - p), N_OBSERVED)));
        // Even odds are no evidence in the logistic domain.
        let silent = Bin::from((0.5, N_OBSERVED));
        let unnamed = unnamed.chain([silent]).collect();
        self.sources.push(Reliability { name: NAME.to_owned(), named, unnamed });

        let shared = self.weights[SHARED].clone();
        let with_model = |(set, own): (usize, &Vec<f32>)| {
            let (share, model) = if set == SHARED { (0.0, ALONE) } else { (OTHERS_SHARE, BESIDE_OTHERS) };
            // The shared weights are added to a set's own, so they are subtracted here.
            let own = own.iter().zip(&shared).map(|(own, shared)| share * (own + shared) - shared);
            let mut own: Vec<f32> = own.collect();
            own.insert(own.len() - 1, model);
            own
        };
        let with: Vec<Vec<f32>> = self.weights.iter().enumerate().map(with_model).collect();
        for (set, own) in self.weights.iter_mut().enumerate() {
            let model = if set == SHARED { 0.0 } else { AGAINST_OTHERS };
            own.insert(own.len() - 1, model);
        }
        self.weights.extend(with);
    }
}
