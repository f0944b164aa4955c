//! What is said between a worker and whoever gives it work.

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
use crate::llama::worker::explain::StepTold;
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
    /// What comes before.
    pub prompt: Vec<Segment>,
    /// Most tokens to emit; `None` is until the end of the text or of the context.
    pub max_tokens: Option<usize>,
    /// Positions of the context; `None` is as many as needed.
    pub n_ctx: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it.
    pub stops: Vec<String>,
    /// What the answer must be.
    pub constraint: Option<Constraint>,
    /// Alternatives told of each token; `None` tells nothing of tokens.
    pub n_logprobs: Option<usize>,
    /// What proposes.
    pub drafter: DrafterKind,
    /// Time for measuring what the cost curve lacks.
    pub curve_budget: Duration,
    /// Whether a trace is wanted.
    pub record: bool,
    /// Whether the drafter begins with what was learned from earlier answers, and what it learns is kept.
    pub learns: bool,
    /// Whether each step is told as [`Event::Step`].
    pub explain: bool,
    /// Where prompts read before are kept; `None` neither reads nor writes there.
    pub prompt_cache: Option<PromptCacheConfig>,
    /// A state of this job's own, as a session has one: read where it holds more of the prompt than the context does, and
    /// written after the answer. It may be missing, damaged or another model's: that costs time, never text.
    pub state_file: Option<PathBuf>,
}

/// Why an answer ended; names are llama-server's, and `interrupted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopType {
    /// The model ended it.
    Eos,
    /// A stop string occurred: this one.
    Word(String),
    /// `max_tokens` were emitted.
    Limit,
    /// The context is full.
    Context,
    /// The user interrupted it.
    Interrupted,
}

/// A finished answer; its text went out as [`Event::Text`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was emitted, without an end-of-generation token.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub stop: StopType,
    /// Counts and times.
    pub stats: Stats,
    /// Positions of the context it had.
    pub n_ctx: usize,
    /// What a replay needs, if it was wanted; its id is empty.
    pub trace: Option<Box<Trace>>,
    /// What the context was made with.
    pub settings: Settings,
    /// How likely each token was, if it was wanted.
    pub logprobs: Vec<TokenLogprob>,
    /// Whether what its context computed until now was exact.
    pub exactness: Exactness,
}

/// What a prompt is made with.
#[derive(Debug)]
pub struct Loaded {
    /// The special tokens that templates name.
    pub specials: SpecialTexts,
    /// Keeps all special tokens out of users' texts.
    pub guard: SpecialGuard,
}

impl Loaded {
    /// What `model` knows.
    #[must_use]
    pub fn of(model: &Model) -> Loaded {
        let (specials, all) = model.special_texts();
        Loaded { specials, guard: SpecialGuard::new(all) }
    }
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// Share of the model loaded, in 0 ..= 1.
    Loading(f32),
    /// The model is ready for jobs.
    Loaded(Box<Loaded>),
    /// Prompt tokens done, and in all.
    Prefill(usize, usize),
    /// The cost curve is being measured.
    Measuring,
    /// The next piece of the answer: valid UTF-8.
    Text(String),
    /// What a step did and why, if it was wanted.
    Step(Box<StepTold>),
    /// Something the user should know.
    Notice(Notice),
    /// Settings are being measured: the share of the time that is over, and which.
    Tuning(f32, String),
    /// Settings were measured and chosen.
    Tuned(Box<Tuned>),
    /// The job is finished.
    Done(Box<Answer>),
    /// Steps of a measurement done, and in all.
    Progress(usize, usize),
    /// The measurement is finished.
    Measured(Box<Measured>),
    /// Tokens of a prompt.
    Counted(usize),
    /// The job, or the loading, failed.
    Failed(Failure),
}

/// Something the user should know, though the work goes on.
#[derive(Debug, thiserror::Error)]
pub enum Notice {
    /// The model's memory cannot be rolled back.
    #[error("this model is recurrent: drafts cannot be undone in it, so chaski decodes plainly")]
    Recurrent,
    /// The curve could not be kept.
    #[error("could not save the cost curve: {0}; it will be measured again next time")]
    CurveNotKept(io::Error),
    /// What was learned before cannot be read.
    #[error("{0}; drafting starts without the learned state; hint: to delete it, run chaski learn forget")]
    LearnedUnusable(LearnedError),
    /// What was learned before is whole, and not what this version writes.
    #[error(
        "the learned state is from another version of chaski; drafting starts without it; hint: to delete it, \
             run chaski learn forget"
    )]
    LearnedStrange,
    /// What was learned now cannot be kept.
    #[error("could not save the learned state: {0}; hint: to stop learning, run chaski learn off")]
    NotLearned(LearnedError),
    /// A state on disk cannot be used.
    #[error("{0}; the model reads the prompt again")]
    StateUnusable(StateError),
    /// llama.cpp does not take or give a state.
    #[error("{0}; the model reads the prompt again")]
    StateRefused(TargetError),
    /// What was read cannot be kept.
    #[error("could not save the prompt in the cache: {0}; hint: to turn the cache off, use --no-prompt-cache")]
    PromptNotKept(StateError),
    /// A part of the base is damaged.
    #[error("{}: parts of this drafter file are damaged and not used; hint: see chaski drafter inspect FILE", .0.display())]
    BaseDamaged(PathBuf),
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The prompt leaves no room.
    #[error("the prompt has {n_prompt} tokens, but the context has {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Positions there are.
        n_ctx: usize,
        /// Positions the model knows.
        n_ctx_train: usize,
    },
    /// More positions than the model knows: its output would be noise, or it would end the process.
    #[error("this needs a context of {n_ctx} tokens, but the model was trained for {n_ctx_train}")]
    ContextTooLong {
        /// Positions asked for.
        n_ctx: usize,
        /// Positions the model knows.
        n_ctx_train: usize,
    },
    /// The context does not fit into memory, beside what is loaded.
    #[error(
        "a context of {n_ctx} tokens needs {} MiB of memory, but {} MiB are available",
        needed >> 20,
        available >> 20
    )]
    NotEnoughMemory {
        /// Positions of the context.
        n_ctx: usize,
        /// Bytes for it.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// Exactness was demanded.
    #[error("this is not exact: {}", .0.reasons().join("; "))]
    Inexact(Exactness),
    /// A model that is decoded plainly has no curve.
    #[error("this model is recurrent: chaski decodes it plainly, so there is nothing to tune for drafts")]
    NothingToTune,
    /// Nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A stop string is unusable.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// What the answer must be is unusable.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The engine failed.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Failure {
    /// Refuses what is not exact.
    ///
    /// # Errors
    /// Why it is not.
    pub fn unless_exact(exactness: Exactness) -> Result<(), Failure> {
        if exactness.is_exact() { Ok(()) } else { Err(Failure::Inexact(exactness)) }
    }

    /// Whether the user broke it off.
    #[must_use]
    pub fn is_interrupt(&self) -> bool {
        matches!(self, Failure::Load(LoadError::Interrupted) | Failure::Target(TargetError::Interrupted))
    }
}
