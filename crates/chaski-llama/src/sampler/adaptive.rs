//! llama.cpp's adaptive-p sampler, which the safe bindings lack. It favours tokens near a target probability and
//! adjusts its aim so that the chosen tokens average to the target. It has its own random generator.

use std::ptr::NonNull;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_sys_2::{
    llama_sampler, llama_sampler_accept, llama_sampler_apply, llama_sampler_free, llama_sampler_init_adaptive_p,
    llama_token_data, llama_token_data_array,
};

use crate::sampling::Sampling;

/// The sampler and its buffer.
pub(super) struct AdaptiveP {
    sampler: NonNull<llama_sampler>,
    /// Reused to avoid allocations.
    rows: Vec<llama_token_data>,
}

impl AdaptiveP {
    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    pub(super) fn new(sampling: &Sampling) -> AdaptiveP {
        // SAFETY: the arguments are plain numbers.
        let sampler =
            unsafe { llama_sampler_init_adaptive_p(sampling.adaptive_target, sampling.adaptive_decay, sampling.seed) };
        AdaptiveP { sampler: NonNull::new(sampler).expect("it allocates or aborts"), rows: Vec::new() }
    }

    /// Selects one of the candidates without changing them.
    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    pub(super) fn choose(&mut self, candidates: &mut LlamaTokenDataArray) {
        let row = |id: LlamaToken, logit| llama_token_data { id: id.0, logit, p: 0.0 };
        self.rows.clear();
        self.rows.extend(candidates.data.iter().map(|candidate| row(candidate.id(), candidate.logit())));
        let mut array = llama_token_data_array {
            data: self.rows.as_mut_ptr(),
            size: self.rows.len(),
            selected: -1,
            sorted: candidates.sorted,
        };
        if !self.rows.is_empty() {
            // SAFETY: the sampler lives until it is dropped and nobody else uses it. The rows live through the call,
            // and `size` is their number. The call writes into them and neither moves nor adds any.
            unsafe { llama_sampler_apply(self.sampler.as_ptr(), &raw mut array) };
        }
        candidates.selected = usize::try_from(array.selected).ok();
    }

    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    pub(super) fn accept(&mut self, token: LlamaToken) {
        // SAFETY: the sampler lives until it is dropped, and nobody else uses it.
        unsafe { llama_sampler_accept(self.sampler.as_ptr(), token.0) };
    }
}

impl Drop for AdaptiveP {
    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    fn drop(&mut self) {
        // SAFETY: created by `new` and freed only here.
        unsafe { llama_sampler_free(self.sampler.as_ptr()) };
    }
}
