//! `--exact`, and how chaski reports whether a context is exact.

use clap::Args as ClapArgs;
use serde::{Serialize, Serializer};

use crate::cli::failure::Failure;
use crate::cli::kernels::{KernelReport, Left};
use crate::cli::output::stderr_line;
use crate::engine::RequestError;
use crate::exactness::Exactness;
use crate::llama::exact;
use crate::tune::Settings;

/// The flag `--exact`.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct ExactArg {
    /// Refuse to run if drafts, threads or batching could change the text
    ///
    /// `chaski models show` reports whether they could. Weight types without a fast exact kernel then use a slower
    /// exact one, so reading prompts takes longer.
    #[arg(long)]
    pub exact: bool,
}

impl ExactArg {
    /// Demands exactness of all contexts if the flag is given. Call it before setting up the engine.
    pub fn demand(self) {
        if self.exact {
            exact::demand();
        }
    }

    /// Prints with `-v` whether the answer was exact.
    ///
    /// # Errors
    /// If exactness was demanded and the answer was not exact; the failure has the reasons.
    pub fn check(self, exactness: &Exactness, is_verbose: bool) -> Result<(), Failure> {
        if is_verbose {
            stderr_line(&format!("exact: {exactness}"));
        }
        match self.exact {
            true => Ok(RequestError::unless_exact(exactness.clone())?),
            false => Ok(()),
        }
    }
}

/// Two members of a JSON object: `exact`, and `inexact` with the reasons if it is not exact.
#[derive(Clone, Debug, Serialize)]
pub struct ExactFields {
    #[serde(serialize_with = "is_exact")]
    exact: Exactness,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inexact: Vec<String>,
}

fn is_exact<S: Serializer>(exactness: &Exactness, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(exactness.is_exact())
}

impl From<&Exactness> for ExactFields {
    fn from(exactness: &Exactness) -> ExactFields {
        ExactFields { exact: exactness.clone(), inexact: exactness.reasons() }
    }
}

/// The exactness that follows from a model's header and the settings.
#[must_use]
pub fn of_file(kernels: &KernelReport, settings: &Settings) -> Exactness {
    let Exactness(mut reasons) = exact::of_setup(settings, None);
    reasons.extend(kernels.left.iter().filter_map(Left::inexact));
    Exactness(reasons)
}
