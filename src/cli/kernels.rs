//! Reports which kernels multiply a model's matrices, and which matrices are left to ggml.

use std::collections::BTreeMap;
use std::fmt;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::output::stderr_line;
use crate::exactness::Inexact;
use crate::gguf::Gguf;
use crate::llama::kernels::{self, ChoiceError};
use crate::llama::system_info;
use crate::models::shape::{Kernels, is_matrix};

/// Checks `CHASKI_KERNELS`. Kernels that fail their self-test are turned off with a notice.
///
/// # Errors
/// If the variable names unknown kernels, or kernels for another CPU.
pub fn check() -> Result<(), Failure> {
    match kernels::in_use() {
        Ok(_) => Ok(()),
        Err(error @ ChoiceError::Misfit(_)) => {
            stderr_line(&format!("notice: {error}; using ggml's kernels"));
            Ok(())
        }
        Err(error) => Err(Failure::usage(error.to_string())
            .with_hint(format!("unset {}: chaski then uses the best kernels for this CPU", kernels::VARIABLE))),
    }
}

/// The kernels in use, as far as a model's memory depends on them.
#[must_use]
pub fn memory_kernels() -> Kernels {
    let kernels = Kernels::new(&system_info().features);
    if kernels::in_use().is_ok_and(|name| name.is_some()) {
        kernels.with_ours(|code, columns, rows| matches!(kernels::takes(code, columns, rows), Some(Ok(()))))
    } else {
        kernels
    }
}

/// The kernels of a model's matrices.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// An instruction set, or `ggml`.
    pub kernels: &'static str,
    /// Number of matrices that chaski's kernels multiply.
    pub n_taken: usize,
    /// Bytes of these matrices.
    pub taken_bytes: u64,
    /// The matrices left to ggml.
    pub left: Vec<Left>,
}

/// Matrices of one type that are left to ggml for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct Left {
    /// Tensor type.
    pub tensor_type: &'static str,
    /// Number of matrices.
    pub n_tensors: usize,
    /// Bytes of these matrices.
    pub bytes: u64,
    /// Why chaski's kernels do not take them.
    pub reason: String,
    /// Why ggml does not compute them exactly; `None` if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inexact: Option<String>,
}

impl Left {
    /// The reason why the model is not exact, if these matrices are one.
    pub(super) fn inexact(&self) -> Option<Inexact> {
        let (n_tensors, tensor_type) = (self.n_tensors, self.tensor_type.to_owned());
        self.inexact.clone().map(|reason| Inexact::Matrices { n_tensors, tensor_type, reason })
    }
}

impl KernelReport {
    /// The report for the first file of a model.
    #[must_use]
    pub fn of(gguf: &Gguf) -> KernelReport {
        let kernels = kernels::in_use().ok().flatten().unwrap_or("ggml");
        let mut report = KernelReport { kernels, n_taken: 0, taken_bytes: 0, left: Vec::new() };
        let mut left: BTreeMap<(&'static str, String, Option<String>), (usize, u64)> = BTreeMap::new();
        for tensor in gguf.tensors().iter().filter(|tensor| is_matrix(tensor)) {
            let size = |i: usize| tensor.dims.get(i).copied().unwrap_or(0);
            match kernels::takes(tensor.tensor_type.code, size(0), size(1)) {
                None => {}
                Some(Ok(())) => {
                    report.n_taken += 1;
                    report.taken_bytes += tensor.size_bytes;
                }
                Some(Err(reason)) => {
                    let inexact = kernels::inexact_left(tensor.tensor_type.code, size(1));
                    let (n, bytes) = left.entry((tensor.tensor_type.name, reason, inexact)).or_default();
                    *n += 1;
                    *bytes += tensor.size_bytes;
                }
            }
        }
        report.left = left
            .into_iter()
            .map(|((tensor_type, reason, inexact), (n_tensors, bytes))| Left {
                tensor_type,
                n_tensors,
                bytes,
                reason,
                inexact,
            })
            .collect();
        report
    }
}

impl fmt::Display for KernelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kernels == "ggml" {
            return f.write_str("ggml's");
        }
        write!(f, "chaski's ({}): {} matrices, {}", self.kernels, self.n_taken, HumanBytes(self.taken_bytes))?;
        for left in &self.left {
            write!(
                f,
                "; ggml's: {} of {} ({}, {})",
                left.n_tensors,
                left.tensor_type,
                HumanBytes(left.bytes),
                left.reason
            )?;
        }
        Ok(())
    }
}
