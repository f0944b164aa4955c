//! Why an engine ends, and what it reports to the user.

use std::io;
use std::path::PathBuf;

use crate::chat::template::{SpecialGuard, SpecialTexts};
use crate::hidden::HiddenError;
use crate::model::{LoadError, Model};
use crate::store::learned::LearnedError;
use crate::store::prompt_cache::file::StateError;
use crate::target::TargetError;
use chaski_core::engine::RequestError;

/// What callers need to build prompts.
#[derive(Debug)]
pub struct Loaded {
    /// The special tokens that chat templates name.
    pub specials: SpecialTexts,
    /// Escapes special tokens in user text.
    pub guard: SpecialGuard,
}

impl Loaded {
    /// Reads them from `model`.
    #[must_use]
    pub fn of(model: &Model) -> Loaded {
        let (specials, all) = model.special_texts();
        Loaded { specials, guard: SpecialGuard::new(all) }
    }
}

/// A problem to report to the user; the work continues.
#[derive(Debug, thiserror::Error)]
pub enum Notice {
    /// In lanes, the model's state cannot be taken back.
    #[error("this model is recurrent: chaski decodes several texts at a time without drafts")]
    Recurrent,
    /// The model's state cannot be taken back at all.
    #[error("this model's state cannot go back to an earlier token: chaski decodes without drafts")]
    NoCheckpoint,
    /// The cost curve could not be saved.
    #[error("could not save the cost curve: {0}; it will be measured again next time")]
    CurveNotKept(io::Error),
    /// The learned state cannot be read.
    #[error("{0}; drafting starts without the learned state; hint: to delete it, run chaski data delete learned")]
    LearnedUnusable(LearnedError),
    /// The learned state is intact, but in the format of another version.
    #[error(
        "the learned state is from another version of chaski; drafting starts without it; hint: to delete it, \
             run chaski data delete learned"
    )]
    LearnedStrange,
    /// The learned state could not be saved.
    #[error("could not save the learned state: {0}; hint: to stop learning, run chaski data learning off")]
    NotLearned(LearnedError),
    /// A state on disk cannot be used.
    #[error("{0}; the model reads the prompt again")]
    StateUnusable(StateError),
    /// llama.cpp failed to save or restore a state.
    #[error("{0}; the model reads the prompt again")]
    StateRefused(TargetError),
    /// The prompt could not be saved in the cache.
    #[error("could not save the prompt in the cache: {0}; hint: to turn the cache off, use --no-prompt-cache")]
    PromptNotKept(StateError),
    /// The draft model cannot be used.
    #[error("the draft model failed: {0}; drafting continues without it")]
    DraftModel(TargetError),
    /// The drafter on hidden states cannot be used.
    #[error("the drafter on hidden states cannot be used: {0}; drafting continues without it")]
    HiddenUnusable(HiddenError),
    /// A part of the drafter file is damaged.
    #[error("{}: parts of this drafter file are damaged and not used; hint: see chaski drafter inspect FILE", .0.display())]
    BaseDamaged(PathBuf),
}

/// Why an engine ended, or a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The thread cannot be started.
    #[error("cannot start the engine's thread: {0}")]
    Thread(io::Error),
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// In recurrent models, a long context cannot be filled with copies of a short one.
    #[error("this model is recurrent: filling its context takes too long for chaski tune")]
    NothingToTune,
    /// The only request, or work that all requests need, failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The thread is gone without a reason.
    #[error("the engine stopped")]
    Ended,
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        Failure::Request(RequestError::Target(error))
    }
}

impl Failure {
    /// Whether the user interrupted it.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        let is_interrupted = |error: &RequestError| matches!(error, RequestError::Target(TargetError::Interrupted));
        match self {
            Failure::Load(error) => matches!(error, LoadError::Interrupted),
            Failure::Request(error) => is_interrupted(error),
            Failure::Thread(_) | Failure::NothingToTune | Failure::Ended => false,
        }
    }
}
