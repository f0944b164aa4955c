//! Whether what this process computes is exact: a row of logits has the same bits whatever else is in its batch, for any number of threads, and
//! wherever its text lies in the cache. So a text is the same with drafts and without, alone and beside others.
//!
//! It is not claimed but found out: from the setup (whose kernels, a GPU, flash attention), and from an audit of every operation that was
//! computed, which the crate `chaski-kernels` keeps. Like the kernels, this is one thing for the whole process.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::llama::has_gpu;
use crate::llama::kernels::{self, ChoiceError};
use crate::tune::{FlashAttention, Settings};

/// Why contexts are not exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inexact {
    /// ggml's kernels are used, and why.
    Kernels(String),
    /// A GPU computes.
    Gpu,
    /// Flash attention is on.
    FlashAttention,
    /// The value cache is quantized, for which llama.cpp needs flash attention.
    QuantizedValues,
    /// Matrices of such a type are computed otherwise for several rows; from the header of a file.
    Matrices {
        /// How many.
        n_tensors: usize,
        /// Their type.
        tensor_type: String,
        /// Why.
        reason: String,
    },
    /// Such an operation was computed.
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

/// Whether something is exact: with no reason against it, it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exactness(pub Vec<Inexact>);

impl Exactness {
    /// Whether it is exact.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.0.is_empty()
    }

    /// Why not, one text for each reason.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.0.iter().map(Inexact::to_string).collect()
    }

    /// What would help.
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

/// `yes`, or `no` and why.
impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_exact() {
            true => f.write_str("yes"),
            false => write!(f, "no: {}", self.reasons().join("; ")),
        }
    }
}

static IS_DEMANDED: AtomicBool = AtomicBool::new(false);

/// From now on contexts are refused that are not exact, and products of types without kernels of ours are computed in an exact way, though
/// reading prompts with them takes longer. Call it before a model is loaded.
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

/// What the setup allows to know, before anything is computed.
#[must_use]
pub fn of_setup(settings: &Settings) -> Exactness {
    let mut reasons = Vec::new();
    match kernels::in_use() {
        Ok(Some(_)) => {}
        Ok(None) => reasons.push(Inexact::Kernels(kernels::why_ggml())),
        Err(ChoiceError::Misfit(why)) => reasons.push(Inexact::Kernels(format!("the self-test failed ({why})"))),
        Err(error) => reasons.push(Inexact::Kernels(error.to_string())),
    }
    // Also without layers: long batches are sent to it.
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

/// The same, and what was computed since the last [`reset`].
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

/// Forgets what was computed: a new context begins.
pub fn reset() {
    kernels::reset_audit();
}

/// What states on disk are told apart by, besides the kernels: exact products are not ggml's.
#[must_use]
pub fn state_key() -> &'static str {
    if is_demanded() { " exact" } else { "" }
}
