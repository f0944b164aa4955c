//! What the default drafter has learned over all texts.

use serde::{Deserialize, Serialize};

use crate::draft::Source;
use crate::draft::asking::Gains;
use crate::draft::calibration::Calibrator;
use crate::draft::mixer::MixerState;

/// What a drafter has learned about its sources over all texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// How much each kind of evidence is worth.
    pub mixer: MixerState,
    /// How often nodes with a given estimate are accepted.
    pub calibrator: Calibrator,
    /// How much a draft model is worth.
    #[serde(default)]
    pub gains: Gains,
}

impl Experience {
    /// The state before anything was learned about `sources`.
    #[must_use]
    pub fn fresh(sources: &[Box<dyn Source>]) -> Experience {
        Experience { mixer: MixerState::fresh(sources), calibrator: Calibrator::default(), gains: Gains::default() }
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

    /// Whether it is about these sources, and perhaps about a draft model as well.
    #[must_use]
    pub fn is_about(&self, sources: &[Box<dyn Source>]) -> bool {
        self.mixer.names().take(sources.len()).eq(sources.iter().map(|source| source.name()))
            && self.mixer.names().len() == sources.len() + usize::from(self.mixer.has_draft_model())
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mixer.is_sound() && self.calibrator.is_sound() && self.gains.is_sound()
    }
}
