//! Creates the drafters of an engine, and loads and saves their learned state.

use std::path::PathBuf;
use std::sync::Arc;

use crate::batching::chains::Drafting;
use crate::cost::CostCurve;
use crate::draft::aded::Aded;
use crate::draft::auto::Auto;
use crate::draft::base::Base;
use crate::draft::learned_state::Memory;
use crate::draft::with_model::ModelExperience;
use crate::draft::{DraftFilter, Drafter, NoDraft};
use crate::engine::Notice;
use crate::schedule::Schedule;
use crate::store::drafter_file::DrafterFile;
use crate::store::hidden_file::HiddenFile;
use crate::store::learned::{self, LearnedKey, Updated};
use crate::token::Token;
use chaski_core::engine::DrafterKind;

/// Configuration of the drafters.
#[derive(Clone, Debug, Default)]
pub struct DraftersConfig {
    /// A drafter file: tri-grams built beforehand.
    pub base: Option<Arc<DrafterFile>>,
    /// Folder and key of the learned state; `None`: do not learn.
    pub learned: Option<(PathBuf, LearnedKey)>,
    /// A drafter on hidden states, used unless there is a draft model.
    pub hidden: Option<Arc<HiddenFile>>,
}

/// Drafter files and learned state, from which a drafter is created for each answer.
pub(super) struct Drafters {
    config: DraftersConfig,
    memory: Memory,
    /// What `align` learned about the drafter on hidden states.
    aligned: Option<ModelExperience>,
    is_damage_reported: bool,
}

/// The drafter of one answer.
pub(super) enum Active {
    Auto(Box<Auto>),
    Other(Box<dyn Drafter>),
}

impl Active {
    pub(super) fn as_mut(&mut self) -> &mut dyn Drafter {
        match self {
            Active::Auto(auto) => auto.as_mut(),
            Active::Other(drafter) => drafter.as_mut(),
        }
    }

    /// Restricts drafts to `filter`. Other drafters do not support that; the sampler rejects their invalid tokens.
    pub(super) fn set_filter(&mut self, filter: Box<dyn DraftFilter>) {
        if let Active::Auto(auto) = self {
            auto.set_filter(filter);
        }
    }
}

impl Drafters {
    /// Loads the learned state. If it is unusable, returns a notice and starts without it.
    pub(super) fn new(config: DraftersConfig) -> (Drafters, Option<Notice>) {
        let kept = config.learned.as_ref().map(|(folder, key)| learned::load(folder, key));
        let (memory, notice) = match kept {
            None | Some(Ok(None)) => (None, None),
            Some(Ok(Some(bytes))) => match Memory::from_bytes(&bytes) {
                Some(memory) => (Some(memory), None),
                None => (None, Some(Notice::LearnedStrange)),
            },
            Some(Err(error)) => (None, Some(Notice::LearnedUnusable(error))),
        };
        let aligned = config.hidden.as_ref().and_then(|hidden| experience_of(hidden));
        (Drafters { config, memory: memory.unwrap_or_default(), aligned, is_damage_reported: false }, notice)
    }

    /// A drafter and its schedule. With `knows_past` the drafter starts from the learned state.
    pub(super) fn make(
        &self,
        kind: DrafterKind,
        curve: CostCurve,
        max_rows: usize,
        knows_past: bool,
    ) -> (Active, Schedule) {
        let cost_aware = |curve| Schedule::cost_aware(curve).with_max_rows(max_rows);
        match kind {
            DrafterKind::Auto => {
                let fresh = Memory::default();
                let memory = if knows_past { &self.memory } else { &fresh };
                (Active::Auto(Box::new(self.auto(memory))), cost_aware(curve))
            }
            DrafterKind::AutoAlone => (Active::Auto(Box::new(self.auto(&Memory::default()))), cost_aware(curve)),
            DrafterKind::Aded => (Active::Other(Box::new(Aded::default())), Schedule::everything(curve)),
            DrafterKind::AdedSized => (Active::Other(Box::new(Aded::default())), cost_aware(curve)),
            DrafterKind::None => (Active::Other(Box::new(NoDraft)), Schedule::everything(curve)),
        }
    }

    /// A drafter for many texts that starts from the learned state. It saves nothing.
    pub(super) fn make_for_batch(&self, n_lanes: usize) -> Drafting {
        Drafting::new(self.auto(&self.memory), n_lanes)
    }

    /// A drafter that starts from `memory`.
    fn auto(&self, memory: &Memory) -> Auto {
        let base = self.config.base.clone().map(|base| -> Arc<dyn Base> { base });
        let auto = Auto::new(Auto::sources_with(base, memory.trigram.clone()), memory.experience.as_ref());
        match &self.aligned {
            Some(aligned) if !auto.knows_model() => auto.with_model_experience(aligned.clone()),
            _ => auto,
        }
    }

    /// Saves what an answer taught; `generated` are its tokens.
    pub(super) fn keep(&mut self, active: &Active, generated: &[Token]) -> Option<Notice> {
        let (Active::Auto(auto), Some((folder, key))) = (active, &self.config.learned) else { return None };
        let (memory, experience) = (&mut self.memory, auto.experience_to_keep());
        // Another process may have updated or deleted the state meanwhile. The state on disk wins, so that nothing
        // deleted comes back.
        let updated = learned::update(folder, key, |kept| {
            *memory = kept.and_then(|bytes| Memory::from_bytes(&bytes)).unwrap_or_default();
            memory.learn(generated, experience);
            memory.to_bytes()
        });
        match updated {
            Ok(Updated::Kept | Updated::Skipped) => None,
            Err(error) => {
                // Report the failure once.
                self.config.learned = None;
                Some(Notice::NotLearned(error))
            }
        }
    }

    /// A notice if the drafter file turned out to be damaged; given once.
    pub(super) fn damage(&mut self) -> Option<Notice> {
        let base = self.config.base.as_ref().filter(|base| base.is_damaged() && !self.is_damage_reported)?;
        self.is_damage_reported = true;
        Some(Notice::BaseDamaged(base.path().to_owned()))
    }
}

/// What `align` learned about a drafter on hidden states. None if another version of the mixer wrote it.
fn experience_of(hidden: &HiddenFile) -> Option<ModelExperience> {
    let json = hidden.experience.as_deref()?;
    serde_json::from_str(json).ok().filter(ModelExperience::is_sound)
}
