//! Reads from a header the numbers that a model's memory use depends on. Missing values are assumed as in
//! `llama-hparams.cpp` of llama-cpp-sys-2 0.1.161.

use crate::gguf::{Gguf, GgufError, Tensor, can_checkpoint, n_snapshots};
use crate::memory::{LayerShape, ModelShape, Weights};

/// The engine's kernels: which tensors they keep in a second, rearranged copy.
#[derive(Clone, Debug, Default)]
pub struct Kernels {
    features: Vec<String>,
    /// Whether our kernels take a matrix, by type, columns and rows. The matrix is then copied, and its pages in the
    /// file are released.
    ours: Option<fn(u32, u64, u64) -> bool>,
}

impl Kernels {
    /// From llama.cpp's feature names: `AVX2`, `REPACK`, ...
    pub fn new(features: &[String]) -> Kernels {
        Kernels { features: features.to_vec(), ours: None }
    }

    /// Adds our own kernels, which take precedence.
    pub fn with_ours(self, takes: fn(u32, u64, u64) -> bool) -> Kernels {
        Kernels { ours: Some(takes), ..self }
    }

    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// Same rules as `ggml_repack_get_optimal_repack_type`, without RISC-V and s390x.
    fn repacks(&self, type_name: &str, n_rows: u64) -> bool {
        let neon = self.has("NEON");
        let (avx2, avx512) = (self.has("AVX2"), self.has("AVX512"));
        let (dotprod, int8) = (neon && self.has("DOTPROD"), neon && self.has("MATMUL_INT8"));
        let by_8 = n_rows.is_multiple_of(8);
        let by_4 = n_rows.is_multiple_of(4);
        match type_name {
            _ if !self.has("REPACK") => false,
            "q4_0" | "iq4_nl" | "mxfp4" => avx2 && by_8 || (dotprod || int8) && by_4,
            "q4_K" => (avx2 || dotprod || int8) && by_8,
            "q2_K" => avx512 && by_8,
            "q5_K" | "q6_K" => (dotprod || int8) && by_8,
            "q8_0" | "q1_0" => (dotprod || int8) && by_4,
            _ => false,
        }
    }

    /// Bytes of a tensor. Embeddings are looked up, not multiplied, so they are copied only if they are the output head as
    /// well.
    fn weights(&self, tensor: &Tensor, has_output: bool) -> Weights {
        let (mapped, copied) = self.bytes(tensor, has_output);
        Weights { in_file: tensor.size_bytes, mapped, copied }
    }

    fn bytes(&self, tensor: &Tensor, has_output: bool) -> (u64, u64) {
        let size = tensor.size_bytes;
        let is_matrix = is_matrix(tensor);
        let is_embedding = tensor.name.starts_with("token_embd");
        let (n_columns, n_rows) = (tensor.dims.first().copied().unwrap_or(0), tensor.dims.get(1).copied().unwrap_or(0));
        if !is_matrix || is_embedding && has_output {
            (size, 0)
        } else if self.ours.is_some_and(|takes| takes(tensor.tensor_type.code, n_columns, n_rows)) {
            // For embeddings, only a few rows are read from the file again.
            (0, size)
        } else if self.repacks(tensor.tensor_type.name, n_rows) {
            (size, size)
        } else {
            (size, 0)
        }
    }
}

/// Whether a tensor is a weight matrix. Embeddings count.
pub fn is_matrix(tensor: &Tensor) -> bool {
    tensor.name.ends_with(".weight") && matches!(tensor.dims.len(), 2 | 3)
}

/// The shape of a model, with all its shards.
///
/// # Errors
/// As [`Gguf::check`].
pub fn shape(gguf: &Gguf, kernels: &Kernels) -> Result<ModelShape, GgufError> {
    let files = gguf.check()?;
    let mut shape = ModelShape { layers: layers(gguf), n_states: n_states(gguf), ..ModelShape::default() };
    let shards: Vec<Gguf> = files.paths.iter().skip(1).map(|path| Gguf::open(path)).collect::<Result<_, _>>()?;
    let tensors = || std::iter::once(gguf).chain(&shards).flat_map(Gguf::tensors);
    let has_output = tensors().any(|tensor| tensor.name == "output.weight");
    for tensor in tensors() {
        let weights = kernels.weights(tensor, has_output);
        shape.weights.add(weights);
        match layer_of(&tensor.name).and_then(|layer| shape.layers.get_mut(layer)) {
            Some(layer) => layer.weights.add(weights),
            // A GPU has no use for the CPU's copy, but the embeddings are looked up on the CPU.
            None if tensor.name == "token_embd.weight" && !has_output => {
                shape.output.add(Weights { mapped: 0, copied: 0, ..weights });
            }
            None if tensor.name.starts_with("output") => shape.output.add(weights),
            None => {}
        }
    }
    shape.n_vocab = gguf.n_vocab().unwrap_or(0) as u64;
    shape.n_merges = gguf.get_array("tokenizer.ggml.merges").map_or(0, |merges| merges.len() as u64);
    shape.n_embd = u64::from(gguf.embedding_length().unwrap_or(0));
    shape.n_heads = u64::from(gguf.head_count().unwrap_or(0));
    shape.n_ff = gguf.per_layer_u32("feed_forward_length").into_iter().max().map_or(0, u64::from);
    shape.n_ctx_train = gguf.context_length().unwrap_or(0) as usize;
    Ok(shape)
}

/// The layer that a tensor belongs to, as in `blk.7.attn_q.weight`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

fn layers(gguf: &Gguf) -> Vec<LayerShape> {
    let n_layers = gguf.block_count().unwrap_or(0).min(512) as usize;
    let number = |suffix: &str| gguf.arch_u32(suffix).map(u64::from);
    let heads = gguf.per_layer_u32("attention.head_count");
    let heads_kv = gguf.per_layer_u32("attention.head_count_kv");
    let n_embd = u64::from(gguf.embedding_length().unwrap_or(0));
    // The last layers that share the cache of an earlier layer.
    let n_shared = number("attention.shared_kv_layers").unwrap_or(0) as usize;
    // In hybrid models with this value, every n-th layer has attention.
    let interval = number("full_attention_interval").filter(|n| *n > 1);
    let state = state_numbers(gguf, n_embd);
    (0..n_layers)
        .map(|layer| {
            let n_heads = u64::from(heads.get(layer).copied().unwrap_or(0));
            let n_kv = u64::from(heads_kv.get(layer).or(heads.get(layer)).copied().unwrap_or(0));
            let usual = n_embd.checked_div(n_heads).unwrap_or(0);
            let has_attention = n_kv > 0 && interval.is_none_or(|n| (layer as u64 + 1).is_multiple_of(n));
            if !has_attention {
                return LayerShape { state, ..LayerShape::default() };
            }
            if layer >= n_layers - n_shared.min(n_layers) {
                return LayerShape::default();
            }
            LayerShape {
                keys: n_kv.saturating_mul(number("attention.key_length").unwrap_or(usual)),
                values: n_kv.saturating_mul(number("attention.value_length").unwrap_or(usual)),
                state: if is_parallel_hybrid(gguf) { state } else { 0 },
                weights: Weights::default(),
            }
        })
        .collect()
}

/// Recurrent states of a context for one text. Beside the text's own there is the checkpoint's, and llama.cpp allocates
/// the snapshots for both.
fn n_states(gguf: &Gguf) -> u64 {
    let architecture = gguf.architecture().unwrap_or_default();
    let is_causal = gguf.arch_get("attention.causal").and_then(|value| value.as_bool()) != Some(false);
    if can_checkpoint(architecture) { 2 * (1 + n_snapshots(architecture, is_causal) as u64) } else { 1 }
}

/// Whether each layer has both a KV cache and a state.
fn is_parallel_hybrid(gguf: &Gguf) -> bool {
    gguf.architecture() == Some("falcon-h1")
}

/// Size of a recurrent state per layer, in numbers.
fn state_numbers(gguf: &Gguf, n_embd: u64) -> u64 {
    let number = |suffix: &str| gguf.arch_u32(suffix).map_or(0, u64::from);
    let wkv = number("wkv.head_size");
    if wkv > 0 {
        // RWKV: two shifted tokens and one matrix per head.
        return n_embd.saturating_mul(wkv + 2);
    }
    let shortconv = number("shortconv.l_cache");
    if shortconv > 0 {
        return n_embd.saturating_mul(shortconv - 1);
    }
    let (inner, size) = (number("ssm.inner_size"), number("ssm.state_size"));
    let convolved = inner.saturating_add((2 * number("ssm.group_count")).saturating_mul(size));
    let convolution = number("ssm.conv_kernel").saturating_sub(1).saturating_mul(convolved);
    convolution.saturating_add(size.saturating_mul(inner))
}
