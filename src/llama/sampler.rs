//! llama.cpp's own sampler chain behind [`Sampler`].

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::accept::{Greedy, Sampler, argmax};
use crate::draft::top::TopK;

pub use crate::accept::Sampling;
use crate::llama::model::Model;
use crate::target::TargetError;
use crate::token::Token;

/// Recent tokens that a repeat penalty looks at.
const PENALTY_LAST_N: i32 = 64;

/// Candidates that top-p and min-p keep at least.
const MIN_KEEP: usize = 1;

/// Where a chain begins with more of the likeliest than this, it gets all.
const MAX_PICKED: usize = 256;

/// A sampler for one text; `prompt` counts as said before for the repeat penalty.
#[must_use]
pub fn sampler(sampling: &Sampling, model: &Model, prompt: &[Token]) -> Box<dyn Sampler> {
    if sampling.temperature <= 0.0 && sampling.repeat_penalty == 1.0 {
        return Box::new(Greedy);
    }
    Box::new(Chain::new(sampling, model.n_vocab(), prompt))
}

/// llama.cpp's chain, and what it chooses from.
pub(super) struct Chain {
    links: LlamaSampler,
    /// Kept for its memory: 1.8 MB at a vocabulary of 150k.
    pub(super) candidates: LlamaTokenDataArray,
    /// The links keep no more than so many of the likeliest, whatever comes after.
    n_likeliest: Option<usize>,
    top: TopK,
}

impl Chain {
    /// A chain that knows `prompt` as said before.
    pub(super) fn new(sampling: &Sampling, n_vocab: usize, prompt: &[Token]) -> Chain {
        let n_kept = if sampling.temperature <= 0.0 { Ok(1) } else { usize::try_from(sampling.top_k) };
        // A penalty changes which ones are likeliest.
        let has_penalty = sampling.repeat_penalty != 1.0;
        Chain {
            links: links(sampling, n_vocab, prompt),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            n_likeliest: n_kept.ok().filter(|k| !has_penalty && (1..=MAX_PICKED).contains(k)),
            top: TopK::default(),
        }
    }

    /// Makes the candidates those of a row of logits. Picking the likeliest here is faster than handing over all.
    pub(super) fn fill(&mut self, logits: &[f32]) -> Result<(), TargetError> {
        match self.n_likeliest {
            Some(k) => self.fill_likeliest(logits, k),
            // llama.cpp checks nothing: a NaN would come out as some token.
            None if argmax(logits).is_none() => self.candidates.data.clear(),
            None => self.fill_all(logits),
        }
        if self.candidates.data.is_empty() { Err(TargetError::NotFinite) } else { Ok(()) }
    }

    /// Makes the candidates the `k` likeliest.
    pub(super) fn fill_likeliest(&mut self, logits: &[f32], k: usize) {
        let picked = self.top.of(logits, k).iter().map(|likely| likely.token);
        let row = |token: Token| LlamaTokenData::new(LlamaToken(token.0), logits[token.index()], 0.0);
        self.candidates.data.clear();
        self.candidates.data.extend(picked.map(row));
        (self.candidates.selected, self.candidates.sorted) = (None, true);
    }

    /// Makes the candidates the whole vocabulary.
    pub(super) fn fill_all(&mut self, logits: &[f32]) {
        let rows = (0..).zip(logits).map(|(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
        self.candidates.data.clear();
        self.candidates.data.extend(rows);
        (self.candidates.selected, self.candidates.sorted) = (None, false);
    }

    /// Chooses one of the candidates.
    pub(super) fn choose(&mut self) -> Result<LlamaToken, TargetError> {
        self.links.apply(&mut self.candidates);
        let chosen = self.candidates.selected_token();
        chosen.ok_or_else(|| TargetError::Engine("the sampler chain selected no token".to_owned()))
    }

    /// Takes in that a token was emitted.
    pub(super) fn accept(&mut self, token: LlamaToken) {
        self.links.accept(token);
    }
}

/// The links of a chain, the last of which selects.
fn links(sampling: &Sampling, n_vocab: usize, prompt: &[Token]) -> LlamaSampler {
    let has_penalty = sampling.repeat_penalty != 1.0;
    let mut links = Vec::new();
    if has_penalty {
        let n_vocab = i32::try_from(n_vocab).unwrap_or(i32::MAX);
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

impl Sampler for Chain {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.fill(logits)?;
        let token = self.choose()?;
        self.accept(token);
        Ok(Token(token.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_picked_is_what_the_chain_would_keep(
            rows in prop::collection::vec(prop::collection::vec(-9.0f32..9.0, 200), 1..8),
            top_k in 1i32..60,
            temperature in -1.0f32..2.0,
            seed in 0u32..1000,
        ) {
            let sampling = Sampling { temperature, top_k, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed };
            let mut picking = Chain::new(&sampling, 200, &[]);
            let mut naive = Chain { n_likeliest: None, ..Chain::new(&sampling, 200, &[]) };
            prop_assert!(picking.n_likeliest.is_some());
            for row in &rows {
                prop_assert_eq!(picking.sample(row), naive.sample(row));
            }
        }
    }

    #[test]
    fn nothing_finite_is_an_error() {
        for top_k in [0, 40] {
            let sampling = Sampling { temperature: 0.8, top_k, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, seed: 1 };
            let mut chain = Chain::new(&sampling, 3, &[]);
            assert_eq!(chain.sample(&[0.0, f32::NAN, 1.0]), Err(TargetError::NotFinite));
            assert_eq!(chain.sample(&[f32::NEG_INFINITY; 3]), Err(TargetError::NotFinite));
        }
    }
}
