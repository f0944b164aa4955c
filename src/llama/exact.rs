//! Whether this process computes exactly: a row of logits has the same bits whatever else is in its batch, for any
//! number of threads, and wherever its text lies in the cache. Then a text is the same with and without drafts, alone
//! and beside others.
//!
//! The answer comes from the setup (kernels, GPU, flash attention) and from the audit that `chaski-kernels` keeps of
//! every operation computed. Like the kernels, it applies to the whole process.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::llama::has_gpu;
use crate::llama::kernels::{self, ChoiceError};
use crate::tune::{FlashAttention, Settings};

/// A reason why contexts are not exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inexact {
    /// ggml's kernels are in use, for this reason.
    Kernels(String),
    /// A GPU computes.
    Gpu,
    /// Flash attention is on.
    FlashAttention,
    /// The value cache is quantized, and llama.cpp supports that only with flash attention.
    QuantizedValues,
    /// The file has matrices of a type that is computed differently for several rows.
    Matrices {
        /// Number of these matrices.
        n_tensors: usize,
        /// Their type.
        tensor_type: String,
        /// Why they are not exact.
        reason: String,
    },
    /// An inexact operation was computed.
    Operation(String),
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inexact::Kernels(why) => write!(f, "ggml's kernels are used: {why}"),
            Inexact::Gpu => f.write_str("a GPU computes, with kernels of its own"),
            Inexact::FlashAttention => f.write_str("flash attention is on"),
            Inexact::QuantizedValues => f.write_str("the value cache is quantized, which needs flash attention"),
            Inexact::Matrices { n_tensors, tensor_type, reason } => {
                write!(f, "{n_tensors} matrices of {tensor_type}: {reason}")
            }
            Inexact::Operation(what) => f.write_str(what),
        }
    }
}

/// Result of a check: exact if there is no reason against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exactness(pub Vec<Inexact>);

impl Exactness {
    /// Whether there are no reasons against it.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons as texts.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.0.iter().map(Inexact::to_string).collect()
    }

    /// A hint for the user: what to change.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let has = |wanted: fn(&Inexact) -> bool| self.0.iter().any(wanted);
        match () {
            () if has(|r| matches!(r, Inexact::Kernels(why) if why.contains(kernels::VARIABLE))) => {
                "unset CHASKI_KERNELS"
            }
            () if has(|r| matches!(r, Inexact::Kernels(_))) => "leave --exact away, or use an x86-64 machine with AVX2",
            () if has(|r| matches!(r, Inexact::Gpu)) => "leave --exact away, or use a build without a GPU",
            () if has(|r| matches!(r, Inexact::QuantizedValues)) => "-ctv f16 -fa off",
            () if has(|r| matches!(r, Inexact::FlashAttention)) => "-fa off",
            () => "leave --exact away; chaski models show tells which matrices have exact kernels",
        }
    }
}

/// `yes`, or `no` and the reasons.
impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_exact() {
            true => f.write_str("yes"),
            false => write!(f, "no: {}", self.reasons().join("; ")),
        }
    }
}

static IS_DEMANDED: AtomicBool = AtomicBool::new(false);

/// From now on refuses contexts that are not exact. Types without a kernel of ours are computed exactly, which slows
/// down prefill. Call this before loading a model.
pub fn demand() {
    IS_DEMANDED.store(true, Ordering::Relaxed);
    if matches!(kernels::in_use(), Ok(Some(_))) {
        kernels::exact_at_any_cost();
    }
}

/// Whether [`demand`] was called.
#[must_use]
pub fn is_demanded() -> bool {
    IS_DEMANDED.load(Ordering::Relaxed)
}

/// Exactness as far as the setup determines it, before any computation.
#[must_use]
pub fn of_setup(settings: &Settings) -> Exactness {
    let mut reasons = Vec::new();
    match kernels::in_use() {
        Ok(Some(_)) => {}
        Ok(None) => reasons.push(Inexact::Kernels(kernels::why_ggml())),
        Err(ChoiceError::Misfit(why)) => reasons.push(Inexact::Kernels(format!("the self-test failed ({why})"))),
        Err(error) => reasons.push(Inexact::Kernels(error.to_string())),
    }
    // Even without offloaded layers: long batches are sent to the GPU.
    if has_gpu() {
        reasons.push(Inexact::Gpu);
    }
    if settings.kv_type.v.is_quantized() {
        reasons.push(Inexact::QuantizedValues);
    } else if settings.flash_attention == FlashAttention::On {
        reasons.push(Inexact::FlashAttention);
    }
    Exactness(reasons)
}

/// Exactness of the setup and of everything computed since the last [`reset`].
#[must_use]
pub fn of_work(settings: &Settings) -> Exactness {
    let Exactness(mut reasons) = of_setup(settings);
    let is_flash = reasons.iter().any(|r| matches!(r, Inexact::FlashAttention | Inexact::QuantizedValues));
    for (operation, text) in kernels::audit() {
        match operation == "FLASH_ATTN_EXT" {
            true if is_flash => {}
            true => reasons.push(Inexact::FlashAttention),
            false => reasons.push(Inexact::Operation(text)),
        }
    }
    reasons.dedup();
    Exactness(reasons)
}

/// Clears the audit for a new context.
pub fn reset() {
    kernels::reset_audit();
}

/// Part of the key of states on disk: exact products differ from ggml's.
#[must_use]
pub fn state_key() -> &'static str {
    if is_demanded() { " exact" } else { "" }
}
