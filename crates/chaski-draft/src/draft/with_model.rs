//! Mixes the predictions of a draft model with the candidates of the free sources, at the nodes where it was asked.
//!
//! The free sources count as one source here: their mixed probability. So what is learned where a model was asked changes
//! no draft where none was: a text that is copied is drafted as without a model.

use serde::{Deserialize, Serialize};

use crate::draft::Candidate;
use crate::draft::asking::Gains;
use crate::draft::calibration::Calibrator;
use crate::draft::draft_model;
use crate::draft::mixer::{Mixer, MixerState};
use crate::token::Token;

/// Lower bounds of the bins of the free sources, by their mixed probability.
const FREE: [f32; 14] = [0.97, 0.93, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15, 0.08, 0.04, 0.02, 0.0];

/// Most candidates of the free sources, so that the mixer has room for the model's.
const MAX_FREE: usize = 24;

/// How much of what a text taught is kept for the next one. More than for the free sources, which are trained beforehand.
const KEPT: f32 = 0.3;

/// What is known about a draft model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelExperience {
    /// How reliable its candidates are beside those of the free sources.
    pub mixer: MixerState,
    /// How often nodes are accepted that it was asked for, or that come after such a node.
    pub calibrator: Calibrator,
    /// What asking it is worth.
    pub gains: Gains,
}

impl Default for ModelExperience {
    /// Before anything was learned: its probabilities are believed.
    fn default() -> ModelExperience {
        let free = draft_model::middles(&FREE, 1.0).collect();
        let mixer = MixerState::with_model([("free", free), ("draft-model", draft_model::centers().collect())]);
        ModelExperience { mixer, calibrator: Calibrator::default(), gains: Gains::default() }
    }
}

impl ModelExperience {
    /// What is kept of this experience and that of one more text, `then`.
    pub(super) fn after(&self, then: ModelExperience) -> ModelExperience {
        ModelExperience {
            mixer: self.mixer.towards(&then.mixer, KEPT),
            calibrator: self.calibrator.towards(&then.calibrator, KEPT),
            // These forget by themselves.
            gains: then.gains,
        }
    }

    /// False if a number is impossible or missing, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mixer.is_like(&ModelExperience::default().mixer)
            && self.mixer.is_sound()
            && self.calibrator.is_sound()
            && self.gains.is_sound()
    }
}

/// A mixer for the free sources together and a draft model.
pub(super) struct WithModel {
    mixer: Mixer,
    /// Of the free sources, then of the model.
    proposals: [Vec<Candidate>; 2],
}

impl WithModel {
    pub(super) fn new(state: MixerState) -> WithModel {
        WithModel { mixer: Mixer::new(state), proposals: [Vec::new(), Vec::new()] }
    }

    pub(super) fn with_rate(self, factor: f32) -> WithModel {
        WithModel { mixer: self.mixer.with_rate(factor), ..self }
    }

    pub(super) fn state(&self) -> &MixerState {
        self.mixer.state()
    }

    fn gather(&mut self, free: &[(Token, f32)], model: &[Candidate]) {
        let [of_free, of_model] = &mut self.proposals;
        let mut sorted = free.to_vec();
        sorted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        sorted.truncate(MAX_FREE);
        let bin = |p: f32| FREE.iter().position(|&least| p >= least).unwrap_or(FREE.len() - 1);
        of_free.clear();
        of_free.extend(sorted.into_iter().map(|(token, p)| Candidate { token, bin: bin(p) }));
        model.clone_into(of_model);
    }

    /// Sets `mixed`, which holds the free sources' children with their probabilities, to those with the model.
    pub(super) fn mix(&mut self, mixed: &mut Vec<(Token, f32)>, model: &[Candidate]) {
        self.gather(mixed, model);
        self.mixer.mix(&self.proposals, mixed);
    }

    /// Learns that `token` came next.
    pub(super) fn learn(&mut self, free: &[(Token, f32)], model: &[Candidate], token: Token) {
        self.gather(free, model);
        self.mixer.learn(&self.proposals, token);
    }
}
