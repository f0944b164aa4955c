//! Makes a context give the hidden state behind each row of logits: the state after the final norm.
//!
//! llama.cpp calls them embeddings. While they are on, it computes logits for every row of a batch, also for the rows of
//! a prompt, whose logits nobody reads. So a [`Session`](crate::session::Session) turns them on for a verify only.

use llama_cpp_2::context::LlamaContext;

use crate::model::Model;
use crate::session::engine_error;
use crate::target::TargetError;

/// Checks that a model gives hidden states beside logits.
///
/// # Errors
/// If it gives either of them.
pub(crate) fn check(model: &Model) -> Result<(), TargetError> {
    match model.gives_states() {
        true => Ok(()),
        false => Err(TargetError::Engine("llama.cpp gives either logits or hidden states of this model".to_owned())),
    }
}

/// Turns the hidden states of `context` on or off, from its next batch on.
///
/// # Errors
/// If the context cannot be addressed.
#[expect(unsafe_code, reason = "the safe bindings set this only when a context is created")]
pub(crate) fn set(context: &mut LlamaContext<'_>, is_on: bool) -> Result<(), TargetError> {
    let raw = address(context)
        .ok_or_else(|| engine_error("cannot turn hidden states on", &"llama-cpp-2 shows no address of its context"))?;
    // SAFETY: `raw` is the context that `context` owns, which nothing else uses during this call.
    unsafe { llama_cpp_sys_2::llama_set_embeddings(raw, is_on) };
    Ok(())
}

/// The address of the C++ object. llama-cpp-2 keeps it private, but shows it as the only field of its `Debug` output.
fn address(context: &LlamaContext<'_>) -> Option<*mut llama_cpp_sys_2::llama_context> {
    let shown = format!("{context:?}");
    let number = shown.strip_prefix("LlamaContext { context: 0x")?.strip_suffix(" }")?;
    let address = usize::from_str_radix(number, 16).ok().filter(|&address| address != 0)?;
    Some(std::ptr::with_exposed_provenance_mut(address))
}
