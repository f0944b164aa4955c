//! What a mixer starts from that mixes two sources: the free sources together, and a draft model.

use super::{Bin, MixerState, Reliability, SHARED};

/// How many observations the initial probability of a bin is worth.
const N_OBSERVED: f32 = 8.0;

/// The probability of a token that a source does not name, as a share of what that source leaves for all tokens but its
/// best.
const UNNAMED_SHARE: f32 = 0.05;

/// The weights for a token that only the free sources name: theirs, and the model's.
const FREE_ALONE: [f32; 2] = [1.0, 0.5];

/// For a token that only the model names: its probability is believed.
const MODEL_ALONE: [f32; 2] = [0.0, 1.0];

/// For a token that both name.
const BOTH: [f32; 2] = [0.5, 0.75];

impl MixerState {
    /// The state before anything was learned about a draft model, for sources of these names and with these
    /// probabilities in the middle of their bins: the free sources and the model. The probabilities are believed.
    pub(in crate::draft) fn with_model(sources: [(&str, Vec<f32>); 2]) -> MixerState {
        let reliability = |(name, centers): (&str, Vec<f32>)| {
            let bin = |p: f32| Bin::from((p, N_OBSERVED));
            let unnamed = centers.iter().map(|p| bin(UNNAMED_SHARE * (1.0 - p)));
            Reliability {
                name: name.to_owned(),
                // Even odds are no evidence in the logistic domain.
                unnamed: unnamed.chain([bin(0.5)]).collect(),
                named: centers.into_iter().map(bin).collect(),
            }
        };
        let mut weights = vec![vec![0.0; 3]; 4];
        for (set, own) in [FREE_ALONE, MODEL_ALONE, BOTH].iter().enumerate() {
            weights[SHARED + 1 + set][..2].copy_from_slice(own);
        }
        MixerState { sources: sources.into_iter().map(reliability).collect(), weights }
    }
}
