//! llama.cpp's sampler chain as a [`Sampler`].
//!
//! [`crate::accept::walk`] samples exactly once per emitted token, in order. So samplers with a memory (penalties, DRY,
//! mirostat, adaptive-p) and random draws give the same text with any draft.

mod adaptive;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use crate::accept::{Greedy, Sampler, argmax};
use crate::draft::top::TopK;
use crate::model::Model;
use crate::sampler::adaptive::AdaptiveP;
use crate::sampling::{DRY_BREAKERS, SamplerKind, n_looked_back};
use crate::target::TargetError;
use crate::token::Token;

pub use crate::sampling::Sampling;

/// Fewest candidates that samplers keep: llama.cpp's default.
const MIN_KEEP: usize = 0;

/// With a larger top-k, the chain gets the whole vocabulary instead of the top k.
const MAX_PICKED: usize = 256;

/// Number of candidates from which mirostat 1 estimates: llama.cpp's constant.
const MIROSTAT_M: i32 = 100;

/// A sampler for one text. Penalties count `prompt` as already emitted.
#[must_use]
pub fn sampler(sampling: &Sampling, model: &Model, prompt: &[Token]) -> Box<dyn Sampler> {
    if sampling.is_greedy() { Box::new(Greedy) } else { Box::new(Chain::new(sampling, model, prompt)) }
}

/// llama.cpp's chain and its candidates.
pub(super) struct Chain {
    links: LlamaSampler,
    /// Selects from the candidates if the links do not.
    adaptive: Option<AdaptiveP>,
    /// Reused to avoid allocations: 1.8 MB for a vocabulary of 150k.
    pub(super) candidates: LlamaTokenDataArray,
    /// Top-k, if it is the first link and small: only so many candidates need to be passed to the chain.
    n_likeliest: Option<usize>,
    /// Whether there are logit biases: they change which tokens are the most likely.
    pub(super) has_biases: bool,
    top: TopK,
}

/// What the links depend on besides the sampling parameters.
struct Surroundings<'a> {
    n_vocab: usize,
    /// For samplers that need the text of tokens.
    model: Option<&'a Model>,
    prompt: &'a [Token],
}

impl Chain {
    /// A chain whose penalties count `prompt` as already emitted.
    pub(super) fn new(sampling: &Sampling, model: &Model, prompt: &[Token]) -> Chain {
        Chain::with(sampling, &Surroundings { n_vocab: model.n_vocab(), model: Some(model), prompt })
    }

    fn with(sampling: &Sampling, surroundings: &Surroundings<'_>) -> Chain {
        let kinds = sampling.links();
        let biases = biases(sampling, surroundings.model);
        let is_plain = biases.is_empty() && sampling.mirostat == 0 && kinds.first() == Some(&SamplerKind::TopK);
        let n_likeliest = usize::try_from(sampling.top_k).ok().filter(|k| is_plain && (1..=MAX_PICKED).contains(k));
        let is_adaptive = sampling.mirostat == 0 && kinds.contains(&SamplerKind::AdaptiveP);
        Chain {
            links: links(sampling, &kinds, &biases, surroundings),
            adaptive: is_adaptive.then(|| AdaptiveP::new(sampling)),
            candidates: LlamaTokenDataArray::new(Vec::new(), false),
            n_likeliest,
            has_biases: !biases.is_empty(),
            top: TopK::default(),
        }
    }

    /// Sets the candidates from a row of logits. Picking the top k here is faster than passing all to llama.cpp.
    pub(super) fn fill(&mut self, logits: &[f32]) -> Result<(), TargetError> {
        match self.n_likeliest {
            Some(k) => self.fill_likeliest(logits, k),
            // llama.cpp does not check: with a NaN it would select some token.
            None if argmax(logits).is_none() => self.candidates.data.clear(),
            None => self.fill_all(logits),
        }
        if self.candidates.data.is_empty() { Err(TargetError::NotFinite) } else { Ok(()) }
    }

    /// Sets the candidates to the `k` most likely tokens.
    pub(super) fn fill_likeliest(&mut self, logits: &[f32], k: usize) {
        let picked = self.top.of(logits, k).iter().map(|likely| likely.token);
        let row = |token: Token| LlamaTokenData::new(LlamaToken(token.0), logits[token.index()], 0.0);
        self.candidates.data.clear();
        self.candidates.data.extend(picked.map(row));
        (self.candidates.selected, self.candidates.sorted) = (None, true);
    }

    /// Sets the candidates to the whole vocabulary.
    fn fill_all(&mut self, logits: &[f32]) {
        self.fill_some(logits, (0..).map(Token).take(logits.len()));
    }

    /// Sets the candidates to `tokens`.
    pub(super) fn fill_some(&mut self, logits: &[f32], tokens: impl Iterator<Item = Token>) {
        let rows = tokens.map(|token| LlamaTokenData::new(LlamaToken(token.0), logits[token.index()], 0.0));
        self.candidates.data.clear();
        self.candidates.data.extend(rows);
        (self.candidates.selected, self.candidates.sorted) = (None, false);
    }

    /// Selects one of the candidates.
    pub(super) fn choose(&mut self) -> Result<LlamaToken, TargetError> {
        self.links.apply(&mut self.candidates);
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.choose(&mut self.candidates);
        }
        let chosen = self.candidates.selected.and_then(|at| self.candidates.data.get(at));
        let chosen = chosen.ok_or_else(|| TargetError::Engine("the sampler chain selected no token".to_owned()))?;
        if chosen.logit() == f32::NEG_INFINITY || chosen.logit().is_nan() {
            return Err(TargetError::Engine("logit biases leave no token to choose".to_owned()));
        }
        Ok(chosen.id())
    }

    /// Records an emitted token.
    pub(super) fn accept(&mut self, token: LlamaToken) {
        self.links.accept(token);
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.accept(token);
        }
    }
}

/// The requested biases, and minus infinity for end-of-text tokens with `ignore_eos`.
fn biases(sampling: &Sampling, model: Option<&Model>) -> Vec<LlamaLogitBias> {
    let bias = |&(token, bias): &(Token, f32)| LlamaLogitBias::new(LlamaToken(token.0), bias);
    let ends = model.filter(|_| sampling.ignore_eos).into_iter().flat_map(Model::end_tokens);
    let never = ends.map(|token| (token, f32::NEG_INFINITY));
    sampling.logit_bias.iter().copied().chain(never).map(|pair| bias(&pair)).collect()
}

/// The links of a chain, in llama.cpp's order. The last one selects, unless adaptive-p does.
fn links(
    sampling: &Sampling,
    kinds: &[SamplerKind],
    biases: &[LlamaLogitBias],
    surroundings: &Surroundings<'_>,
) -> LlamaSampler {
    let n_vocab = i32::try_from(surroundings.n_vocab).unwrap_or(i32::MAX);
    let mut links = Vec::new();
    if !biases.is_empty() {
        links.push(LlamaSampler::logit_bias(n_vocab, biases));
    }
    let (seed, tau, eta) = (sampling.seed, sampling.mirostat_tau, sampling.mirostat_eta);
    match sampling.mirostat {
        0 => {
            links.extend(kinds.iter().filter_map(|&kind| link(sampling, kind, surroundings)));
            if !kinds.contains(&SamplerKind::AdaptiveP) {
                links.push(LlamaSampler::dist(seed));
            }
        }
        version => {
            links.push(LlamaSampler::temp(sampling.temperature));
            links.push(match version {
                1 => LlamaSampler::mirostat(n_vocab, seed, tau, eta, MIROSTAT_M),
                _ => LlamaSampler::mirostat_v2(seed, tau, eta),
            });
        }
    }
    let mut chain = LlamaSampler::chain(links, true);
    if kinds.iter().any(|kind| matches!(kind, SamplerKind::Penalties | SamplerKind::Dry)) {
        chain.accept_many(surroundings.prompt.iter().map(|token| LlamaToken(token.0)));
    }
    chain
}

/// One link; `None` for samplers that are not part of llama.cpp's chain.
fn link(sampling: &Sampling, kind: SamplerKind, surroundings: &Surroundings<'_>) -> Option<LlamaSampler> {
    Some(match kind {
        SamplerKind::Penalties => LlamaSampler::penalties(
            i32::try_from(surroundings.n_vocab).unwrap_or(i32::MAX),
            n_looked_back(sampling.repeat_last_n),
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        ),
        SamplerKind::Dry => {
            let given = sampling.dry_breakers.clone();
            LlamaSampler::dry(
                &surroundings.model?.inner,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                n_looked_back(sampling.dry_penalty_last_n),
                given.unwrap_or_else(|| DRY_BREAKERS.map(str::to_owned).to_vec()),
            )
        }
        SamplerKind::TopNSigma => LlamaSampler::top_n_sigma(sampling.top_n_sigma),
        SamplerKind::TopK => LlamaSampler::top_k(sampling.top_k),
        SamplerKind::Typical => LlamaSampler::typical(sampling.typical_p, MIN_KEEP),
        SamplerKind::TopP => LlamaSampler::top_p(sampling.top_p, MIN_KEEP),
        SamplerKind::MinP => LlamaSampler::min_p(sampling.min_p, MIN_KEEP),
        SamplerKind::Xtc => {
            LlamaSampler::xtc(sampling.xtc_probability, sampling.xtc_threshold, MIN_KEEP, sampling.seed)
        }
        SamplerKind::Temperature => {
            LlamaSampler::temp_ext(sampling.temperature, sampling.dynatemp_range, sampling.dynatemp_exponent)
        }
        SamplerKind::AdaptiveP => return None,
    })
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
mod tests;
