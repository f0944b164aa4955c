//! Random networks and targets for the tests of this folder.

use std::path::Path;

use crate::gguf::{Gguf, ModelId, TensorType, Value, Writer};
use crate::hidden::{TargetMatrices, quantize};
use crate::store::hidden_file::{HiddenFile, Weights};
use crate::token::Token;

pub(super) const EMBD: usize = 64;
pub(super) const HIDDEN: usize = 96;
pub(super) const VOCAB: usize = 300;

/// SplitMix64, as numbers from -1 to 1.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(super) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// A model file with an embedding and an output matrix.
fn target(n_embd: usize, n_vocab: usize, kind: &str) -> Gguf {
    let tensor_type = TensorType::from_name(kind).unwrap();
    let mut random = Random(99);
    let mut matrix = || quantize(&random.numbers(n_embd * n_vocab), n_embd, tensor_type).unwrap();
    let (embedding, head) = (matrix(), matrix());
    let dims = [n_embd as u64, n_vocab as u64];
    let mut w = Writer::new();
    w.pair("general.architecture", &Value::Str(b"llama"));
    w.pair("llama.embedding_length", &Value::U32(n_embd as u32));
    w.tensor("token_embd.weight", &dims, tensor_type, &embedding);
    w.tensor("output.weight", &dims, tensor_type, &head);
    let mut bytes = Vec::new();
    w.write(&mut bytes).unwrap();
    Gguf::from_bytes(bytes, Path::new("target.gguf")).unwrap()
}

/// The shape of a random network.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) n_embd: usize,
    pub(super) n_hidden: usize,
    pub(super) rank: usize,
    pub(super) n_tokens: usize,
    pub(super) n_vocab: usize,
}

/// A random network whose states keep their size from step to step.
pub(super) fn network(shape: Shape, kind: &str, seed: u64) -> HiddenFile {
    let Shape { n_embd, n_hidden, rank, n_tokens, n_vocab } = shape;
    let tensor_type = TensorType::from_name(kind).unwrap();
    let mut random = Random(seed);
    let mut weights = |n_columns: usize, n_rows: usize| {
        let size = (n_columns as f32).sqrt();
        let rows: Vec<f32> = random.numbers(n_columns * n_rows).iter().map(|x| x / size).collect();
        Weights { tensor_type, n_columns, n_rows, data: quantize(&rows, n_columns, tensor_type).unwrap() }
    };
    let (first, second) = (weights(2 * n_embd, n_embd + n_hidden), weights(n_hidden, n_embd));
    let (down, up) = (weights(n_embd, rank), weights(rank, n_tokens));
    HiddenFile {
        model: ModelId::from("target.gguf 0123456789abcdef".to_owned()),
        n_trained_tokens: 1000,
        held_out_top1: 0.4,
        experience: None,
        scale: 1.7,
        mean: random.numbers(2 * n_embd),
        std: random.numbers(2 * n_embd).iter().map(|x| x.abs() + 0.5).collect(),
        first,
        first_bias: random.numbers(n_embd + n_hidden),
        second,
        down,
        up,
        // Not in order, and not all of them.
        tokens: (0..n_tokens).map(|n| Token(((n * 7 + 3) % n_vocab) as i32)).collect(),
    }
}

/// A network for [`matrices`].
pub(super) fn small(n_tokens: usize) -> Shape {
    Shape { n_embd: EMBD, n_hidden: HIDDEN, rank: 32, n_tokens, n_vocab: VOCAB }
}

/// Matrices of a random target in some type.
pub(super) fn matrices_for(shape: Shape, kind: &str) -> TargetMatrices {
    TargetMatrices::new(vec![target(shape.n_embd, shape.n_vocab, kind)]).unwrap()
}

/// Those for [`small`] networks.
pub(super) fn matrices(kind: &str) -> TargetMatrices {
    matrices_for(small(8), kind)
}
