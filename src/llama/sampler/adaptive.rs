//! llama.cpp's adaptive-p, which its safe bindings do not offer: favours tokens of about one probability, and moves what
//! it aims at so that those chosen are near it in the long run. It draws by itself, with a generator of its own.

use std::ptr::NonNull;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_sys_2::{
    llama_sampler, llama_sampler_accept, llama_sampler_apply, llama_sampler_free, llama_sampler_init_adaptive_p,
    llama_token_data, llama_token_data_array,
};

use crate::sampling::Sampling;

/// The sampler and its memory.
pub(super) struct AdaptiveP {
    sampler: NonNull<llama_sampler>,
    /// Kept for its memory.
    rows: Vec<llama_token_data>,
}

impl AdaptiveP {
    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    pub(super) fn new(sampling: &Sampling) -> AdaptiveP {
        // SAFETY: takes numbers.
        let sampler =
            unsafe { llama_sampler_init_adaptive_p(sampling.adaptive_target, sampling.adaptive_decay, sampling.seed) };
        AdaptiveP { sampler: NonNull::new(sampler).expect("it allocates or aborts"), rows: Vec::new() }
    }

    /// Selects one of the candidates, and leaves them as they are.
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
            // SAFETY: the sampler lives until it is dropped and nobody else has it; the rows live through the call, as many
            // as it is told. It writes into them, and neither moves nor adds any.
            unsafe { llama_sampler_apply(self.sampler.as_ptr(), &raw mut array) };
        }
        candidates.selected = usize::try_from(array.selected).ok();
    }

    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    pub(super) fn accept(&mut self, token: LlamaToken) {
        // SAFETY: the sampler lives until it is dropped, and nobody else has it.
        unsafe { llama_sampler_accept(self.sampler.as_ptr(), token.0) };
    }
}

impl Drop for AdaptiveP {
    #[expect(unsafe_code, reason = "the bindings have no safe call")]
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed here only.
        unsafe { llama_sampler_free(self.sampler.as_ptr()) };
    }
}
