//! What one sequence of a context holds, as bytes and back.
//!
//! llama.cpp believes what a state says of its positions: what is restored must be what [`read`] gave for the same model,
//! settings and version of llama.cpp, and a context with as many streams, unchanged. `store::prompt_cache` sees to that.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;

use crate::llama::logs;
use crate::llama::session::engine_error;
use crate::target::TargetError;

/// How long [`read`] is.
pub(super) fn n_bytes(context: &LlamaContext<'_>, sequence: i32) -> usize {
    context.state_seq_get_size_ext(sequence, LlamaStateSeqFlags::empty())
}

/// The state of a sequence.
///
/// # Errors
/// When llama.cpp does not write what it said it would.
#[expect(unsafe_code, reason = "the safe call hides the bytes")]
pub(super) fn read(context: &LlamaContext<'_>, sequence: i32) -> Result<Vec<u8>, TargetError> {
    let mut bytes = vec![0; n_bytes(context, sequence)];
    // SAFETY: llama.cpp writes as many bytes as it just asked for: the context did not change in between, and nobody else
    // has it.
    let n = unsafe { context.state_seq_get_data_ext(bytes.as_mut_ptr(), sequence, LlamaStateSeqFlags::empty()) };
    if n == bytes.len() { Ok(bytes) } else { Err(engine_error("cannot read the cache", &format!("{n} bytes"))) }
}

/// Makes an empty sequence that of a state of `n_tokens` tokens. Where that fails, it may hold anything.
///
/// # Errors
/// When llama.cpp refuses it: it does not fit, or is another model's.
#[expect(unsafe_code, reason = "the safe call takes no bytes from a file")]
pub(super) fn write(
    context: &mut LlamaContext<'_>,
    sequence: i32,
    state: &[u8],
    n_tokens: usize,
) -> Result<(), TargetError> {
    // An error logged before this call is not about this call.
    let _ = logs::take_error();
    // SAFETY: the bytes are those of a state, by the contract above, and live through the call.
    let is_set = unsafe { context.state_seq_set_data_ext(state, sequence, LlamaStateSeqFlags::empty()) };
    let last = context.kv_cache_seq_pos_max(sequence);
    if is_set && usize::try_from(last + 1).is_ok_and(|n| n == n_tokens) {
        return Ok(());
    }
    Err(engine_error("cannot restore a prompt", &format!("it ends at position {last}")))
}
