//! llama.cpp's own sampler chain behind [`Sampler`].

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::accept::{Greedy, Sampler, argmax};

pub use crate::accept::Sampling;
use crate::llama::model::Model;
use crate::target::TargetError;
use crate::token::Token;

/// Recent tokens that a repeat penalty looks at.
const PENALTY_LAST_N: i32 = 64;

/// Candidates that top-p and min-p keep at least.
const MIN_KEEP: usize = 1;

/// A sampler for one text; `prompt` counts as said before for the repeat penalty.
#[must_use]
pub fn sampler(sampling: &Sampling, model: &Model, prompt: &[Token]) -> Box<dyn Sampler> {
    if sampling.temperature <= 0.0 && sampling.repeat_penalty == 1.0 {
        return Box::new(Greedy);
    }
    Box::new(Chain { chain: chain(sampling, model, prompt), candidates: LlamaTokenDataArray::new(Vec::new(), false) })
}

/// The links of a chain, the last of which selects.
pub(super) fn chain(sampling: &Sampling, model: &Model, prompt: &[Token]) -> LlamaSampler {
    let has_penalty = sampling.repeat_penalty != 1.0;
    let mut links = Vec::new();
    if has_penalty {
        let n_vocab = model.inner.n_vocab();
        links.push(LlamaSampler::penalties(n_vocab, PENALTY_LAST_N, sampling.repeat_penalty, 0.0, 0.0));
    }
    if sampling.temperature <= 0.0 {
        links.push(LlamaSampler::greedy());
    } else {
        links.push(LlamaSampler::top_k(sampling.top_k));
        links.push(LlamaSampler::top_p(sampling.top_p, MIN_KEEP));
        links.push(LlamaSampler::min_p(sampling.min_p, MIN_KEEP));
        links.push(LlamaSampler::temp(sampling.temperature));
        links.push(LlamaSampler::dist(sampling.seed));
    }
    let mut chain = LlamaSampler::chain(links, true);
    if has_penalty {
        chain.accept_many(prompt.iter().map(|token| LlamaToken(token.0)));
    }
    chain
}

struct Chain {
    chain: LlamaSampler,
    /// Kept for its memory: 1.8 MB at a vocabulary of 150k.
    candidates: LlamaTokenDataArray,
}

impl Sampler for Chain {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        // llama.cpp checks nothing: a NaN would come out as some token.
        argmax(logits).ok_or(TargetError::NotFinite)?;
        let candidates = &mut self.candidates;
        candidates.data.clear();
        let rows = (0..).zip(logits).map(|(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
        candidates.data.extend(rows);
        candidates.selected = None;
        candidates.sorted = false;
        self.chain.apply(candidates);
        let token = candidates
            .selected_token()
            .ok_or_else(|| TargetError::Engine("the sampler chain selected no token".to_owned()))?;
        self.chain.accept(token);
        Ok(Token(token.0))
    }
}
