//! Whether this process computes exactly (see [`crate::exactness`]).
//!
//! The answer comes from the setup (kernels, GPU, flash attention) and from the audit that `chaski-kernels` keeps of
//! every operation computed. Like the kernels, it applies to the whole process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::exactness::{Exactness, Inexact};
use crate::has_gpu;
use crate::kernels::{self, ChoiceError};
use crate::tune::{FlashAttention, Settings};

static IS_DEMANDED: AtomicBool = AtomicBool::new(false);

/// Whether a model was loaded that may use a GPU.
static MAY_USE_GPU: AtomicBool = AtomicBool::new(false);

/// Notes that a model was loaded that may use a GPU.
pub(crate) fn note_gpu() {
    MAY_USE_GPU.store(true, Ordering::Relaxed);
}

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

/// Exactness as far as the setup determines it, before any computation. `n_gpu_layers` is that of the model.
#[must_use]
pub fn of_setup(settings: &Settings, n_gpu_layers: Option<u32>) -> Exactness {
    of_devices(settings, n_gpu_layers != Some(0))
}

fn of_devices(settings: &Settings, may_use_gpu: bool) -> Exactness {
    let mut reasons = Vec::new();
    match kernels::in_use() {
        Ok(Some(_)) => {}
        Ok(None) => reasons.push(Inexact::Kernels(kernels::why_ggml())),
        Err(ChoiceError::Misfit(why)) => reasons.push(Inexact::Kernels(format!("the self-test failed ({why})"))),
        Err(error) => reasons.push(Inexact::Kernels(error.to_string())),
    }
    // A single layer is enough: llama.cpp then sends long batches of the other layers to the GPU as well.
    if may_use_gpu && has_gpu() {
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
    let Exactness(mut reasons) = of_devices(settings, MAY_USE_GPU.load(Ordering::Relaxed));
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
