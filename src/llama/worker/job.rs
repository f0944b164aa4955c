//! The messages between a worker and its caller: jobs, events, notices and failures.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::batch::engine::TokenLogprob;
use crate::chat::template::{Segment, SpecialGuard, SpecialTexts};
use crate::llama::exact::Exactness;
use crate::llama::model::{LoadError, Model};
use crate::llama::sampler::Sampling;
use crate::llama::tune::Tuned;
use crate::llama::worker::explain::StepReport;
use crate::llama::worker::measure::Measured;
use crate::replay::trace::Trace;
use crate::stats::Stats;
use crate::store::learned::LearnedError;
use crate::store::prompt_cache::PromptCacheConfig;
use crate::store::prompt_cache::file::StateError;
use crate::structure::{Constraint, StructureError};
use crate::target::TargetError;
use crate::text::StopError;
use crate::token::Token;
use crate::tune::Settings;

/// Which drafter answers a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DrafterKind {
    /// Draft from several sources, as many tokens as pay off on this machine
    Auto,
    /// ADED as published: always draft 64 tokens
    Aded,
    /// ADED's drafts, cut to the size that pays off
    AdedSized,
    /// Do not draft
    None,
}

/// A text to continue.
#[derive(Clone, Debug)]
pub struct Job {
    /// The prompt.
    pub prompt: Vec<Segment>,
    /// Most tokens to generate; `None`: until the end of the text or of the context.
    pub max_tokens: Option<usize>,
    /// Size of the context in positions; `None`: as many as needed.
    pub n_ctx: Option<usize>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Stop strings: each ends the answer and is cut off.
    pub stops: Vec<String>,
    /// Schema, grammar or regex that the answer must match.
    pub constraint: Option<Constraint>,
    /// Alternatives reported with each token's log-probability; `None`: no log-probabilities.
    pub n_logprobs: Option<usize>,
    /// The drafter.
    pub drafter: DrafterKind,
    /// Time for measuring what the cost curve lacks.
    pub curve_budget: Duration,
    /// Whether to record a trace.
    pub record: bool,
    /// Whether the drafter uses and updates the learned state.
    pub learns: bool,
    /// Whether to send each step as [`Event::Step`].
    pub explain: bool,
    /// Where prompts are cached; `None`: do not read or write the cache.
    pub prompt_cache: Option<PromptCacheConfig>,
    /// State file of this job alone, such as a chat session's. It is read if it covers more of the prompt than the
    /// context does, and written after the answer. A missing, damaged or foreign file costs time but never changes the
    /// text.
    pub state_file: Option<PathBuf>,
}

/// Why an answer ended. The names are llama-server's, except `interrupted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopType {
    /// The model emitted an end-of-generation token.
    Eos,
    /// This stop string occurred.
    Word(String),
    /// The answer reached `max_tokens`.
    Limit,
    /// The context is full.
    Context,
    /// The user interrupted it.
    Interrupted,
}

/// A finished answer. Its text was sent as [`Event::Text`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// The generated tokens, without an end-of-generation token.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub stop: StopType,
    /// Counts and times.
    pub stats: Stats,
    /// Positions of the context.
    pub n_ctx: usize,
    /// The trace, if requested, with an empty id.
    pub trace: Option<Box<Trace>>,
    /// Settings of the context.
    pub settings: Settings,
    /// Log-probabilities of the tokens; empty unless requested.
    pub logprobs: Vec<TokenLogprob>,
    /// Whether everything this context has computed is exact.
    pub exactness: Exactness,
}

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

/// Events of a worker.
#[derive(Debug)]
pub enum Event {
    /// Fraction of the model loaded, from 0 to 1.
    Loading(f32),
    /// The model is ready for jobs.
    Loaded(Box<Loaded>),
    /// Prompt tokens done, and their total.
    Prefill(usize, usize),
    /// The cost curve is being measured.
    Measuring,
    /// The next piece of the answer. Always valid UTF-8.
    Text(String),
    /// A step and the reasons for it, if requested.
    Step(Box<StepReport>),
    /// A notice for the user.
    Notice(Notice),
    /// Settings are being measured: the fraction of the time used, and which settings.
    Tuning(f32, String),
    /// Settings were measured and chosen.
    Tuned(Box<Tuned>),
    /// The answer is finished.
    Done(Box<Answer>),
    /// Steps of a measurement done, and their total.
    Progress(usize, usize),
    /// The measurement is finished.
    Measured(Box<Measured>),
    /// Number of tokens of a prompt.
    Counted(usize),
    /// Loading or a task failed.
    Failed(Failure),
}

/// A problem to report to the user; the work continues.
#[derive(Debug, thiserror::Error)]
pub enum Notice {
    /// The model's state cannot be rolled back.
    #[error("this model is recurrent: drafts cannot be undone in it, so chaski decodes plainly")]
    Recurrent,
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
    /// A part of the drafter file is damaged.
    #[error("{}: parts of this drafter file are damaged and not used; hint: see chaski drafter inspect FILE", .0.display())]
    BaseDamaged(PathBuf),
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The prompt fills the context.
    #[error("the prompt has {n_prompt} tokens, but the context has {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Positions of the context.
        n_ctx: usize,
        /// Context length of the model's training.
        n_ctx_train: usize,
    },
    /// More positions than the model was trained for: its output would be noise, or llama.cpp would abort.
    #[error("this needs a context of {n_ctx} tokens, but the model was trained for {n_ctx_train}")]
    ContextTooLong {
        /// Positions needed.
        n_ctx: usize,
        /// Context length of the model's training.
        n_ctx_train: usize,
    },
    /// The context does not fit into the memory left beside the model.
    #[error(
        "a context of {n_ctx} tokens needs {} MiB of memory, but {} MiB are available",
        needed >> 20,
        available >> 20
    )]
    NotEnoughMemory {
        /// Positions of the context.
        n_ctx: usize,
        /// Bytes it needs.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// Exactness was demanded, but this is not exact.
    #[error("this is not exact: {}", .0.reasons().join("; "))]
    Inexact(Exactness),
    /// A recurrent model decodes plainly, so its settings cannot be tuned for drafts.
    #[error("this model is recurrent: chaski decodes it plainly, so there is nothing to tune for drafts")]
    NothingToTune,
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A stop string is invalid.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The constraint is invalid.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The engine failed.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Failure {
    /// Checks that `exactness` is exact.
    ///
    /// # Errors
    /// [`Failure::Inexact`] with the reasons.
    pub fn unless_exact(exactness: Exactness) -> Result<(), Failure> {
        if exactness.is_exact() { Ok(()) } else { Err(Failure::Inexact(exactness)) }
    }

    /// Whether the user interrupted the job.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Failure::Load(LoadError::Interrupted) | Failure::Target(TargetError::Interrupted))
    }
}
