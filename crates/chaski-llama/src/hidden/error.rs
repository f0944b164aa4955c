//! Why there is no hidden-state drafter.

use std::path::PathBuf;

use crate::gguf::GgufError;
use crate::store::hidden_file::HiddenFileError;

/// Why a hidden-state drafter cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HiddenError {
    /// Its file.
    #[error(transparent)]
    File(#[from] HiddenFileError),
    /// The file of the target.
    #[error(transparent)]
    Model(#[from] GgufError),
    /// The matrices of the target cannot be read, or are of a kind for which there is no drafter.
    #[error("{}: a hidden-state drafter is not possible for this model: {what}", path.display())]
    Unsupported {
        /// The file of the target.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// The drafter and the target do not fit together.
    #[error("the hidden-state drafter does not fit the model: {0}")]
    Misfit(String),
    /// Weights cannot be quantized.
    #[error("cannot quantize weights: {0}")]
    Quantize(String),
    /// A state or a token that the network does not take.
    #[error("the hidden-state drafter cannot continue here: {0}")]
    Input(String),
    /// ggml failed.
    #[error("the hidden-state drafter failed: {0}")]
    Engine(&'static str),
}

impl HiddenError {
    /// What the user can do; `None` if the message says it all.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::File(error) => error.hint(),
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }
}
