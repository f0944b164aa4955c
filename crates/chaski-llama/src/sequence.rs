//! Saves and restores one sequence of a context as bytes, for [`session`](crate::session) and
//! [`parallel`](crate::parallel).
//!
//! llama.cpp does not validate the positions in a state. Restore only the unchanged result of [`read`] for the same
//! model, settings, version of llama.cpp and number of streams; `store::prompt_cache` ensures that.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;

use crate::logs;
use crate::session::engine_error;
use crate::target::TargetError;

/// Length of the result of [`read`] in bytes.
pub(super) fn n_bytes(context: &LlamaContext<'_>, sequence: i32) -> usize {
    context.state_seq_get_size_ext(sequence, LlamaStateSeqFlags::empty())
}

/// The state of a sequence.
///
/// # Errors
/// If llama.cpp writes fewer bytes than it announced.
#[expect(unsafe_code, reason = "the safe call hides the bytes")]
pub(super) fn read(context: &LlamaContext<'_>, sequence: i32) -> Result<Vec<u8>, TargetError> {
    let mut bytes = vec![0; n_bytes(context, sequence)];
    // SAFETY: llama.cpp writes as many bytes as `n_bytes` just returned, because the context did not change in between
    // and nobody else uses it.
    let n = unsafe { context.state_seq_get_data_ext(bytes.as_mut_ptr(), sequence, LlamaStateSeqFlags::empty()) };
    if n == bytes.len() { Ok(bytes) } else { Err(engine_error("cannot read the cache", &format!("{n} bytes"))) }
}

/// Replaces an empty sequence by a state of `n_tokens` tokens. After an error its content is undefined.
///
/// # Errors
/// If llama.cpp refuses the state: it does not fit, or belongs to another model.
#[expect(unsafe_code, reason = "the safe call takes no bytes from a file")]
pub(super) fn write(
    context: &mut LlamaContext<'_>,
    sequence: i32,
    state: &[u8],
    n_tokens: usize,
) -> Result<(), TargetError> {
    // An error logged earlier does not belong to this call.
    let _ = logs::take_error();
    // SAFETY: by the contract above the bytes are a valid state, and they live through the call.
    let is_set = unsafe { context.state_seq_set_data_ext(state, sequence, LlamaStateSeqFlags::empty()) };
    let last = context.kv_cache_seq_pos_max(sequence);
    if is_set && usize::try_from(last + 1).is_ok_and(|n| n == n_tokens) {
        return Ok(());
    }
    Err(engine_error("cannot restore a prompt", &format!("it ends at position {last}")))
}
