//! What the default drafter has learned over all texts.

use serde::{Deserialize, Serialize};

use crate::draft::Source;
use crate::draft::calibration::Calibrator;
use crate::draft::mixer::MixerState;
use crate::draft::with_model::ModelExperience;

/// How much of what a text taught is kept for the next one. By replay (`examples/keeping.rs`): with all of it, edits are
/// drafted 3% slower and quotations 6% slower than with nothing kept; with this share, 1.5% slower and 1% faster.
const KEPT: f32 = 0.1;

/// What a drafter has learned about its sources over all texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// How much each kind of evidence is worth.
    pub mixer: MixerState,
    /// How often nodes with a given estimate are accepted.
    pub calibrator: Calibrator,
    /// What is known about a draft model; `None` if none was ever asked.
    #[serde(default)]
    pub model: Option<ModelExperience>,
}

impl Experience {
    /// The state before anything was learned about `sources`.
    #[must_use]
    pub fn fresh(sources: &[Box<dyn Source>]) -> Experience {
        Experience { mixer: MixerState::fresh(sources), calibrator: Calibrator::default(), model: None }
    }

    /// The state shipped with the crate for `sources`: trained by `scripts/train-drafter.sh` for the default sources
    /// with and without a base. Fresh for any other set.
    ///
    /// # Panics
    /// Never: a test parses the shipped file.
    #[must_use]
    pub fn shipped(sources: &[Box<dyn Source>]) -> Experience {
        let all: Vec<Experience> =
            serde_json::from_str(include_str!("../shipped.json")).expect("what is shipped is sound");
        let fitting = all.into_iter().find(|experience| experience.mixer.fits(sources));
        fitting.unwrap_or_else(|| Experience::fresh(sources))
    }

    /// What is kept of this experience and that of one more text, `then`. Each text fits the mixer to itself, most of all
    /// to its length and kind: a drafter that kept all of it would have forgotten the texts before.
    #[must_use]
    pub(super) fn after(&self, then: Experience) -> Experience {
        Experience {
            mixer: self.mixer.towards(&then.mixer, KEPT),
            calibrator: self.calibrator.towards(&then.calibrator, KEPT),
            model: then.model.map(|then| self.model.clone().unwrap_or_default().after(then)),
        }
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mixer.is_sound() && self.calibrator.is_sound() && self.model.as_ref().is_none_or(ModelExperience::is_sound)
    }
}
