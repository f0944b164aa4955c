//! Estimates how much memory a model takes, from the numbers in its header.
//!
//! The estimate counts memory that is touched: mapped weights, the repacked copies that some kernels make, the KV
//! cache, the compute buffer, and the program. llama.cpp reserves more (logits for every row of a batch), but pages
//! that are never touched take no memory. `scripts/memory-fit.sh` compares the estimate with the peak of real runs.
//!
//! Where a GPU takes layers, their weights, copies and caches are its own ([`ModelShape::split`]). What it needs beside them
//! is guessed as for the CPU; no run on a GPU was compared with the estimate.
//!
//! This module does not know how much memory the machine has.

use serde::Serialize;

use crate::tree::{MAX_LEAVES, MAX_NODES};
use crate::tune::{CacheType, FlashAttention, KvType, Settings};

/// Rows of the largest batch, a prefill.
const N_BATCH: u64 = 256;

/// llama.cpp pads a context to a multiple of this.
const N_CTX_STEP: usize = 256;

/// The program, its libraries and the threads' stacks, in bytes: measured.
const PROGRAM_BYTES: u64 = 20 << 20;

/// Bytes per token of the vocabulary and per merge of a BPE tokenizer, in llama.cpp's tables and ours: measured.
const BYTES_PER_TOKEN: u64 = 200;

/// Bytes of a drafter, whose tables are bounded.
const DRAFTER_BYTES: u64 = 8 << 20;

/// What a layer stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerShape {
    /// Its weights.
    pub weights: Weights,
    /// Numbers per position: the keys.
    pub keys: u64,
    /// Numbers per position: the values.
    pub values: u64,
    /// Numbers of the recurrent state, independent of the length of the text.
    pub state: u64,
}

/// Bytes of some weights, by where they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// As in the file: what a GPU takes.
    pub in_file: u64,
    /// Mapped from the file, where the CPU computes.
    pub mapped: u64,
    /// Copies that kernels of the CPU make.
    pub copied: u64,
}

impl Weights {
    /// Adds further weights.
    pub fn add(&mut self, other: Weights) {
        self.in_file = self.in_file.saturating_add(other.in_file);
        self.mapped = self.mapped.saturating_add(other.mapped);
        self.copied = self.copied.saturating_add(other.copied);
    }
}

/// The properties of a model that determine its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelShape {
    /// All tensors.
    pub weights: Weights,
    /// The output matrix, which a GPU takes first. Where the embeddings serve as such, the CPU keeps them as well.
    pub output: Weights,
    /// The layers, in order.
    pub layers: Vec<LayerShape>,
    /// Recurrent states of a context for one text: its own, a checkpoint, and snapshots of both.
    pub n_states: u64,
    /// Tokens in the vocabulary.
    pub n_vocab: u64,
    /// Merges of a BPE tokenizer.
    pub n_merges: u64,
    /// Width of the residual stream.
    pub n_embd: u64,
    /// Attention heads of the layer that has the most.
    pub n_heads: u64,
    /// Width of the feed-forward network in the widest layer.
    pub n_ff: u64,
    /// Context length the model was trained on.
    pub n_ctx_train: usize,
    /// The draft model loaded beside it, if any.
    pub draft_model: Option<Box<ModelShape>>,
}

/// Peak memory of a run, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Weights, mapped from the file.
    pub weights: u64,
    /// Repacked copies of weights.
    pub copies: u64,
    /// Keys, values and states.
    pub cache: u64,
    /// Compute buffer and logits.
    pub compute: u64,
    /// The program, its vocabulary tables, and the drafter.
    pub program: u64,
}

impl Estimate {
    /// The sum of all parts.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.weights, self.copies, self.program].into_iter().fold(self.context(), u64::saturating_add)
    }

    /// Both together, where `draft` is a draft model's in the same program.
    fn beside(&self, draft: &Estimate) -> Estimate {
        Estimate {
            weights: self.weights.saturating_add(draft.weights),
            copies: self.copies.saturating_add(draft.copies),
            cache: self.cache.saturating_add(draft.cache),
            compute: self.compute.saturating_add(draft.compute),
            // There is one program and one drafter.
            program: self.program.saturating_add(draft.program.saturating_sub(PROGRAM_BYTES + DRAFTER_BYTES)),
        }
    }

    /// The bytes that a context adds to a loaded model.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.cache.saturating_add(self.compute)
    }
}

/// Memory of a run in which a GPU computes some layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// In the machine's memory.
    pub cpu: Estimate,
    /// On the GPU: weights, cache and compute buffer.
    pub gpu: Estimate,
}

impl ModelShape {
    /// The number of layers as llama.cpp counts them for a GPU: the output is one of them.
    #[must_use]
    pub fn n_gpu_layers(&self) -> usize {
        self.layers.len() + 1
    }

    /// Estimates a run in which a GPU computes the last `n_gpu_layers`, as llama.cpp counts them: the output first, then
    /// layers from the last one down. The draft model is on the GPU in the same way.
    #[must_use]
    pub fn split(&self, n_ctx: usize, settings: &Settings, n_gpu_layers: usize) -> Split {
        let own = self.split_alone(n_ctx, settings, n_gpu_layers);
        let Some(draft) = &self.draft_model else { return own };
        // All layers of the target means all of the draft model, which may have more.
        let n_draft_layers = if n_gpu_layers >= self.n_gpu_layers() { usize::MAX } else { n_gpu_layers };
        let draft = draft.split_alone(n_ctx.min(draft.n_ctx_train), settings, n_draft_layers);
        Split { cpu: own.cpu.beside(&draft.cpu), gpu: own.gpu.beside(&draft.gpu) }
    }

    fn split_alone(&self, n_ctx: usize, settings: &Settings, n_gpu_layers: usize) -> Split {
        let mut cpu = self.estimate_alone(n_ctx, settings);
        let Some(n_layers) = n_gpu_layers.min(self.n_gpu_layers()).checked_sub(1) else {
            return Split { cpu, gpu: Estimate::default() };
        };
        let layers = self.layers[self.layers.len() - n_layers..].to_vec();
        let mut weights = self.output;
        layers.iter().for_each(|layer| weights.add(layer.weights));
        let moved = ModelShape { layers, ..self.clone() };
        let moved = moved.estimate_alone(n_ctx, settings);
        cpu.weights = cpu.weights.saturating_sub(weights.mapped);
        cpu.copies = cpu.copies.saturating_sub(weights.copied);
        cpu.cache = cpu.cache.saturating_sub(moved.cache);
        let gpu =
            Estimate { weights: weights.in_file, cache: moved.cache, compute: moved.compute, ..Estimate::default() };
        Split { cpu, gpu }
    }

    /// The most layers that fit into `n_available` bytes of a GPU; 0 if not even the output does.
    #[must_use]
    pub fn most_gpu_layers(&self, n_ctx: usize, settings: &Settings, n_available: u64) -> usize {
        let fits = |n: &usize| self.split(n_ctx, settings, *n).gpu.total() <= n_available;
        (1..=self.n_gpu_layers()).rev().find(fits).unwrap_or(0)
    }

    /// Estimates a run with a context of `n_ctx` positions, in which the draft model has a context of the same size.
    #[must_use]
    pub fn estimate(&self, n_ctx: usize, settings: &Settings) -> Estimate {
        let own = self.estimate_alone(n_ctx, settings);
        let Some(draft) = &self.draft_model else { return own };
        own.beside(&draft.estimate_alone(n_ctx.min(draft.n_ctx_train), settings))
    }

    fn estimate_alone(&self, n_ctx: usize, settings: &Settings) -> Estimate {
        // The cache holds the widest tree in addition to the text.
        let n_cells = n_ctx.saturating_add(MAX_NODES).checked_next_multiple_of(N_CTX_STEP).unwrap_or(usize::MAX) as u64;
        Estimate {
            weights: self.weights.mapped,
            copies: self.weights.copied,
            // Those to which a rejected draft goes back are beside the text's own.
            cache: self
                .cache_bytes(n_cells, settings.kv_type)
                .saturating_add(self.state_bytes().saturating_mul(self.n_states.saturating_sub(1))),
            compute: self.compute_bytes(n_cells, settings.flash_attention),
            program: (PROGRAM_BYTES + DRAFTER_BYTES)
                .saturating_add(self.n_vocab.saturating_add(self.n_merges).saturating_mul(BYTES_PER_TOKEN)),
        }
    }

    /// The largest context that fits into `n_available` bytes: a multiple of llama.cpp's step, at most the context the
    /// model was trained on. `None` if not even one step fits.
    #[must_use]
    pub fn most_positions(&self, n_available: u64, settings: &Settings) -> Option<usize> {
        self.most_positions_where(|n_ctx| self.estimate(n_ctx, settings).total() <= n_available)
    }

    /// Like [`ModelShape::most_positions`], with any condition.
    pub fn most_positions_where(&self, fits: impl Fn(usize) -> bool) -> Option<usize> {
        // Memory grows with the context, so bisect for the last step that fits.
        let n_steps = self.n_ctx_train.div_ceil(N_CTX_STEP);
        let n_ctx = |step: usize| (step * N_CTX_STEP).min(self.n_ctx_train);
        let (mut fitting, mut beyond) = (0, n_steps + 1);
        while beyond - fitting > 1 {
            let middle = fitting.midpoint(beyond);
            if fits(n_ctx(middle)) { fitting = middle } else { beyond = middle }
        }
        (fitting > 0).then(|| n_ctx(fitting))
    }

    /// Cache bytes of one text: keys and values of `n_cells` positions, and one recurrent state.
    #[must_use]
    pub fn cache_bytes(&self, n_cells: u64, kv_type: KvType) -> u64 {
        let of_layer = |layer: &LayerShape| {
            let cell = bytes(kv_type.k, layer.keys).saturating_add(bytes(kv_type.v, layer.values));
            // llama.cpp always stores states as F32.
            cell.saturating_mul(n_cells).saturating_add(layer.state.saturating_mul(4))
        };
        self.layers.iter().map(of_layer).fold(0, u64::saturating_add)
    }

    /// Bytes of one recurrent state, of all layers.
    fn state_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.state.saturating_mul(4)).fold(0, u64::saturating_add)
    }

    /// The largest stage of a batch (the stages share one buffer), plus the logits that are handed out.
    fn compute_bytes(&self, n_cells: u64, flash_attention: FlashAttention) -> u64 {
        let has_attention = self.layers.iter().any(|layer| layer.keys > 0);
        let n_scores = match flash_attention {
            _ if !has_attention => 0,
            // llama.cpp also makes an f16 copy of the scores, to multiply it with the values.
            FlashAttention::Off => self.n_heads.saturating_add(self.n_heads / 2),
            // Flash attention stores no scores. Its mask is half as large too, which this estimate leaves out.
            FlashAttention::On | FlashAttention::Auto => 0,
        };
        let mask = if has_attention { 1 } else { 0 };
        let attention = N_BATCH.saturating_mul(n_cells).saturating_mul(n_scores.saturating_add(mask));
        let stream = N_BATCH.saturating_mul(self.n_embd.saturating_mul(4));
        let feed_forward = N_BATCH.saturating_mul(self.n_ff.saturating_mul(2));
        let logits = self.n_vocab.saturating_mul(MAX_LEAVES as u64);
        let stages = attention.max(feed_forward).saturating_add(stream).max(logits);
        // Logits are copied out of the buffer.
        stages.saturating_add(logits).saturating_mul(4)
    }
}

/// Cache types to suggest, each with its flags, the most precise first.
#[must_use]
pub fn cache_choices(base: &Settings) -> [(&'static str, Settings); 3] {
    let with = |k, v, flash_attention| Settings { kv_type: KvType { k, v }, flash_attention, ..*base };
    let f16 = base.flash_attention;
    [
        ("-ctk f16 -ctv f16", with(CacheType::F16, CacheType::F16, f16)),
        ("-ctk q8_0", with(CacheType::Q8_0, CacheType::F16, f16)),
        ("-ctk q8_0 -ctv q8_0 -fa on", with(CacheType::Q8_0, CacheType::Q8_0, FlashAttention::On)),
    ]
}

fn bytes(cache_type: CacheType, n: u64) -> u64 {
    // A header may claim any number: clamp it, so the product cannot overflow.
    cache_type.bytes(usize::try_from(n).unwrap_or(usize::MAX).min(usize::MAX / 64)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings =
        Settings { flash_attention: FlashAttention::Off, n_threads: 2, n_threads_batch: 2, kv_type: KvType::F16 };

    const LAYER: Weights = Weights { in_file: 14 << 20, mapped: 14 << 20, copied: 1 << 20 };

    /// The shape of Qwen2.5-Coder-0.5B.
    fn qwen() -> ModelShape {
        ModelShape {
            weights: Weights { in_file: 485 << 20, mapped: 485 << 20, copied: 28 << 20 },
            output: Weights { in_file: 140 << 20, mapped: 0, copied: 0 },
            layers: vec![LayerShape { weights: LAYER, keys: 128, values: 128, state: 0 }; 24],
            n_states: 1,
            n_vocab: 151_936,
            n_merges: 151_387,
            n_embd: 896,
            n_heads: 14,
            n_ff: 4864,
            n_ctx_train: 32_768,
            draft_model: None,
        }
    }

    #[test]
    fn the_cache_is_as_large_as_llama_cpp_says() {
        let cache = |n_ctx, kv_type| qwen().estimate(n_ctx, &Settings { kv_type, ..SETTINGS }).cache;
        assert_eq!(cache(2048, KvType::F16), 27 << 20);
        assert_eq!(cache(8192, KvType::F16), 99 << 20);
        assert_eq!(cache(8192, KvType::F32), 198 << 20);
        let q8_0 = KvType { k: CacheType::Q8_0, v: CacheType::Q8_0 };
        assert_eq!(cache(8192, q8_0), (99 << 20) * 34 / 64);
    }

    #[test]
    fn scores_are_kept_without_flash_attention_only() {
        let compute = |flash_attention| qwen().estimate(8192, &Settings { flash_attention, ..SETTINGS }).compute;
        let scores = 4 * 256 * 8448 * 14;
        assert!(compute(FlashAttention::Off) > scores);
        assert!(compute(FlashAttention::On) < scores / 2);
    }

    #[test]
    fn a_state_takes_the_same_for_any_length() {
        let mut mamba = qwen();
        mamba.layers = vec![LayerShape { weights: LAYER, keys: 0, values: 0, state: 1000 }; 24];
        for n_states in [1, 2, 16] {
            mamba.n_states = n_states;
            let estimate = |n_ctx| mamba.estimate(n_ctx, &SETTINGS);
            assert_eq!(estimate(1), estimate(30_000));
            assert_eq!(estimate(1).cache, n_states * 24 * 4000);
        }
    }

    #[test]
    fn a_draft_model_takes_memory_for_its_weights_and_its_context() {
        let draft = ModelShape { n_ctx_train: 4096, ..qwen() };
        let both = ModelShape { draft_model: Some(Box::new(draft.clone())), ..qwen() };
        let (alone, with) = (qwen().estimate(4096, &SETTINGS), both.estimate(4096, &SETTINGS));
        assert_eq!((with.weights, with.cache, with.compute), (2 * alone.weights, 2 * alone.cache, 2 * alone.compute));
        assert!(with.program < 2 * alone.program, "there is one program and one drafter");
        let longer = [8192, 4096].map(|n_ctx| both.estimate(n_ctx, &SETTINGS).cache);
        let own = [8192, 4096].map(|n_ctx| qwen().estimate(n_ctx, &SETTINGS).cache);
        assert_eq!(longer[0] - longer[1], own[0] - own[1], "its context is no longer than it was trained for");
    }

    #[test]
    fn layers_on_a_gpu_take_no_memory_of_the_machine() {
        let split = |n| qwen().split(4096, &SETTINGS, n);
        assert_eq!(split(0), Split { cpu: qwen().estimate(4096, &SETTINGS), gpu: Estimate::default() });
        // The output alone, then two of the layers.
        assert_eq!((split(1).gpu.weights, split(1).gpu.cache), (140 << 20, 0));
        let cache = split(0).cpu.cache;
        assert_eq!((split(3).gpu.weights, split(3).gpu.cache), ((140 + 28) << 20, cache / 24 * 2));
        assert_eq!((split(3).cpu.weights, split(3).cpu.copies), ((485 - 28) << 20, 26 << 20));
        assert_eq!(split(3).cpu.cache, cache / 24 * 22);
        assert_eq!((split(25), split(25).cpu.cache), (split(999), 0), "more than all are all");
        let model = qwen();
        assert_eq!(model.most_gpu_layers(4096, &SETTINGS, split(9).gpu.total()), 9);
        assert_eq!(model.most_gpu_layers(4096, &SETTINGS, split(9).gpu.total() - 1), 8);
        assert_eq!(model.most_gpu_layers(4096, &SETTINGS, split(1).gpu.total() - 1), 0);
        assert_eq!(model.most_gpu_layers(4096, &SETTINGS, u64::MAX), 25);
        let both = ModelShape { draft_model: Some(Box::new(qwen())), ..qwen() };
        assert_eq!(both.split(4096, &SETTINGS, 25).gpu.total(), 2 * split(25).gpu.total());
        let shallow = ModelShape { layers: qwen().layers[..5].to_vec(), ..both };
        let gpu = |n| shallow.split(4096, &SETTINGS, n).gpu.weights;
        assert_eq!(gpu(6), ((140 + 5 * 14) + (140 + 24 * 14)) << 20, "all layers of both");
        assert_eq!(gpu(3), (2 * (140 + 28)) << 20);
    }

    #[test]
    fn the_longest_context_that_fits_is_found() {
        let model = qwen();
        let exactly = |n_ctx| model.estimate(n_ctx, &SETTINGS).total();
        assert_eq!(model.most_positions(exactly(4096), &SETTINGS), Some(4096));
        assert_eq!(model.most_positions(exactly(4096) - 1, &SETTINGS), Some(3840));
        assert_eq!(model.most_positions(u64::MAX, &SETTINGS), Some(32_768));
        assert_eq!(model.most_positions(1 << 20, &SETTINGS), None);
        let odd = ModelShape { n_ctx_train: 1000, ..qwen() };
        assert_eq!(odd.most_positions(u64::MAX, &SETTINGS), Some(1000));
    }

    proptest! {
        #[test]
        fn nothing_overflows_and_more_positions_take_no_less(
            numbers in prop::array::uniform9(prop_oneof![0_u64..100_000, any::<u64>()]),
            n_ctx in prop_oneof![0_usize..100_000, any::<usize>()],
        ) {
            let [mapped, copied, keys, values, state, n_states, n_vocab, n_embd, n_ff] = numbers;
            let weights = Weights { in_file: mapped, mapped, copied };
            let model = ModelShape {
                weights, output: weights, layers: vec![LayerShape { weights, keys, values, state }; 3], n_states,
                n_vocab, n_merges: n_vocab, n_embd, n_heads: keys % 1024, n_ff, n_ctx_train: n_ctx, draft_model: None,
            };
            let total = model.estimate(n_ctx, &SETTINGS).total();
            let splits: Vec<Split> = (0..6).map(|n| model.split(n_ctx, &SETTINGS, n)).collect();
            prop_assert!(splits.is_sorted_by(|a, b| a.gpu.total() <= b.gpu.total() && a.cpu.total() >= b.cpu.total()));
            prop_assert!(total <= model.estimate(n_ctx.saturating_add(256), &SETTINGS).total());
            if let Some(n) = model.most_positions(total, &SETTINGS) {
                prop_assert!(n <= n_ctx && model.estimate(n, &SETTINGS).total() <= total);
            }
        }

        #[test]
        fn the_longest_context_equals_that_of_trying_all(n_available in 500_u64 << 20..2000 << 20) {
            let model = qwen();
            let tried = (1..=128).map(|step| step * 256).filter(|n| model.estimate(*n, &SETTINGS).total() <= n_available);
            prop_assert_eq!(model.most_positions(n_available, &SETTINGS), tried.max());
        }
    }
}
