//! llama.cpp's adaptive-p, which its bindings do not offer: favours tokens of about one probability, and moves what it
//! aims at so that those chosen are near it in the long run.
//!
//! The numbers are those of `llama_sampler_adaptive_p` (llama-sampler.cpp, PR 17927). The draw is that of llama.cpp's
//! last link, so the probabilities are the same, and the tokens that a seed gives are not.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::sampling::Sampling;

/// A probability this far from the target is one unit away.
const WIDTH: f32 = 0.3;
/// The logit of a token at the target.
const PEAK: f32 = 5.0;
/// How steeply logits fall from there.
const SHARPNESS: f32 = 10.0;

/// The sampler and its memory.
pub(super) struct AdaptiveP {
    target: f32,
    decay: f32,
    /// Sums over the tokens chosen, older ones counting less: probabilities, and ones.
    weighted_sum: f32,
    total_weight: f32,
    /// What was chosen, and how probable it was before.
    pending: Option<(LlamaToken, f32)>,
    dist: LlamaSampler,
}

impl AdaptiveP {
    pub(super) fn new(sampling: &Sampling) -> AdaptiveP {
        let (target, decay) = (sampling.adaptive_target, sampling.adaptive_decay);
        AdaptiveP {
            target,
            decay,
            // As if all tokens before had been at the target.
            weighted_sum: target / (1.0 - decay),
            total_weight: 1.0 / (1.0 - decay),
            pending: None,
            dist: LlamaSampler::dist(sampling.seed),
        }
    }

    pub(super) fn choose(&mut self, candidates: &mut LlamaTokenDataArray) {
        let p = softmax(candidates.data.iter().map(|candidate| candidate.logit()));
        if self.target >= 0.0 {
            let aim = (2.0 * self.target - self.weighted_sum / self.total_weight).clamp(0.0, 1.0);
            for (candidate, p) in candidates.data.iter_mut().zip(&p) {
                if candidate.logit() != f32::NEG_INFINITY {
                    let distance = ((p - aim) / WIDTH).abs();
                    candidate.set_logit(PEAK - SHARPNESS * distance * distance / (1.0 + distance));
                }
            }
            candidates.sorted = false;
        }
        self.dist.apply(candidates);
        let chosen = candidates.selected.filter(|&at| at < p.len());
        self.pending = chosen.map(|at| (candidates.data[at].id(), p[at]));
    }

    pub(super) fn accept(&mut self, token: LlamaToken) {
        if let Some((_, p)) = self.pending.take().filter(|(chosen, _)| *chosen == token) {
            self.weighted_sum = p + self.decay * self.weighted_sum;
            self.total_weight = 1.0 + self.decay * self.total_weight;
        }
    }
}

fn softmax(logits: impl Iterator<Item = f32> + Clone) -> Vec<f32> {
    let max = logits.clone().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.map(|logit| (logit - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
