//! Why an engine cannot answer a request.

use crate::exactness::Exactness;
use crate::structure::StructureError;
use crate::target::TargetError;
use crate::text::StopError;

/// Why an engine cannot answer a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_prompt} tokens, but the context has {n_ctx}")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Size of the context.
        n_ctx: usize,
        /// Positions the model was trained with.
        n_ctx_train: usize,
    },
    /// More positions than the model was trained with: the output would be noise, or llama.cpp would end the process.
    #[error("this needs a context of {n_ctx} tokens, but the model was trained for {n_ctx_train}")]
    ContextTooLong {
        /// Positions asked for.
        n_ctx: usize,
        /// Positions the model was trained with.
        n_ctx_train: usize,
    },
    /// The context does not fit into memory beside the model.
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
    /// The text does not fit into memory even alone; the message says what would fit.
    #[error("{0}")]
    TextTooLarge(String),
    /// Exactness was demanded, and the context is not exact.
    #[error("this is not exact: {}", .0.reasons().join("; "))]
    Inexact(Exactness),
    /// A stop string cannot be used.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The constraint cannot be used.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// Decoding failed.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl RequestError {
    /// Fails if a computation was not exact.
    ///
    /// # Errors
    /// [`RequestError::Inexact`], with the reasons.
    pub fn unless_exact(exactness: Exactness) -> Result<(), RequestError> {
        if exactness.is_exact() { Ok(()) } else { Err(RequestError::Inexact(exactness)) }
    }

    /// A code for programs, as in the error records of a batch.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            RequestError::EmptyPrompt => "empty_prompt",
            RequestError::PromptTooLong { .. } | RequestError::ContextTooLong { .. } => "context_length_exceeded",
            RequestError::NotEnoughMemory { .. } | RequestError::TextTooLarge(_) => "not_enough_memory",
            RequestError::Inexact(_) => "not_exact",
            RequestError::Stop(_) => "invalid_stop",
            RequestError::Structure(_) => "invalid_grammar",
            RequestError::Target(TargetError::UnknownToken { .. }) => "invalid_value",
            RequestError::Target(TargetError::NotFinite) => "not_finite",
            RequestError::Target(_) => "generation_failed",
        }
    }
}
