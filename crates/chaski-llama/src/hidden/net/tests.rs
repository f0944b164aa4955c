//! The network against a twin with plain loops.

use std::path::Path;

use super::*;
use crate::gguf::{Gguf, Value, Writer};
use crate::hidden::quantize;
use crate::hidden::rows::Decoder;

pub(in crate::hidden) const EMBD: usize = 64;
const HIDDEN: usize = 96;
const VOCAB: usize = 300;

/// SplitMix64, as numbers from -1 to 1.
pub(in crate::hidden) struct Random(pub(in crate::hidden) u64);

impl Random {
    pub(in crate::hidden) fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(in crate::hidden) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// A model file with an embedding and, unless it is tied, an output matrix.
pub(in crate::hidden) fn target(n_embd: usize, n_vocab: usize, kind: &str, is_tied: bool) -> Gguf {
    let tensor_type = TensorType::from_name(kind).unwrap();
    let mut random = Random(99);
    let mut matrix = || quantize(&random.numbers(n_embd * n_vocab), n_embd, tensor_type).unwrap();
    let (embedding, head) = (matrix(), matrix());
    let dims = [n_embd as u64, n_vocab as u64];
    let mut w = Writer::new();
    w.pair("general.architecture", &Value::Str(b"llama"));
    w.pair("llama.embedding_length", &Value::U32(n_embd as u32));
    w.tensor("token_embd.weight", &dims, tensor_type, &embedding);
    if !is_tied {
        w.tensor("output.weight", &dims, tensor_type, &head);
    }
    let mut bytes = Vec::new();
    w.write(&mut bytes).unwrap();
    Gguf::from_bytes(bytes, Path::new("target.gguf")).unwrap()
}

/// The shape of a random network.
#[derive(Clone, Copy)]
pub(in crate::hidden) struct Shape {
    pub(in crate::hidden) n_embd: usize,
    pub(in crate::hidden) n_hidden: usize,
    pub(in crate::hidden) rank: usize,
    pub(in crate::hidden) n_tokens: usize,
    pub(in crate::hidden) n_vocab: usize,
}

/// A random network whose states keep their size from step to step.
pub(in crate::hidden) fn network(shape: Shape, kind: &str, seed: u64) -> HiddenFile {
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

fn small(n_tokens: usize) -> Shape {
    Shape { n_embd: EMBD, n_hidden: HIDDEN, rank: 32, n_tokens, n_vocab: VOCAB }
}

fn matrices(kind: &str) -> TargetMatrices {
    TargetMatrices::new(vec![target(EMBD, VOCAB, kind, false)]).unwrap()
}

/// Each row of a matrix times `x`.
fn product(weights: &Weights, x: &[f32]) -> Vec<f32> {
    let decoder = Decoder::new(weights.tensor_type).unwrap();
    let mut row = vec![0.0; weights.n_columns];
    let rows = weights.data.chunks(weights.data.len() / weights.n_rows);
    rows.map(|bytes| {
        decoder.decode(bytes, &mut row);
        row.iter().zip(x).map(|(w, x)| w * x).sum()
    })
    .collect()
}

/// The next state and the scores, with plain loops.
fn twin(file: &HiddenFile, target: &TargetMatrices, state: &[f32], token: Token) -> (Vec<f32>, Vec<f32>) {
    let mut embedding = vec![0.0; state.len()];
    target.embedding(token, &mut embedding);
    let input = state.iter().chain(&embedding);
    let x: Vec<f32> = input.zip(&file.mean).zip(&file.std).map(|((x, mean), std)| (x - mean) / std).collect();
    let y: Vec<f32> = product(&file.first, &x).iter().zip(&file.first_bias).map(|(y, bias)| y + bias).collect();
    let inner: Vec<f32> = y[state.len()..].iter().map(|x| x.max(0.0)).collect();
    let inner = product(&file.second, &inner);
    let next: Vec<f32> = y.iter().zip(&inner).map(|(y, inner)| file.scale * (y + inner)).collect();
    let scores = product(&file.up, &product(&file.down, &next));
    (next, scores)
}

/// The greatest difference, as a share of the greatest number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

#[test]
fn it_agrees_with_its_twin() {
    // Activations are quantized to 8 bits where weights are. 48 tokens are whole tiles of our kernels, 37 are not.
    for (kind, tolerance) in [("f32", 1e-5), ("f16", 2e-3), ("q8_0", 0.03), ("q5_0", 0.03), ("q4_0", 0.03)] {
        for (n_tokens, n_threads) in [(48, 1), (37, 2)] {
            let file = network(small(n_tokens), kind, 5);
            let target = matrices("f16");
            let mut net = HiddenNet::new(&file, matrices("f16"), n_threads).unwrap();
            let mut random = Random(11);
            for n_rows in [1, 5, 1, 2, 5] {
                let states: Vec<Vec<f32>> = (0..n_rows).map(|_| random.numbers(EMBD)).collect();
                let rows: Vec<(&[f32], Token)> =
                    states.iter().map(|state| (&state[..], Token((random.number().abs() * 299.0) as i32))).collect();
                let mut step = net.step(&rows).unwrap();
                for (number, (state, token)) in rows.iter().enumerate() {
                    let (next, scores) = twin(&file, &target, state, *token);
                    let found = (difference(step.state(number), &next), difference(step.scores(number), &scores));
                    assert!(found.0 <= tolerance && found.1 <= 2.0 * tolerance, "{kind} row {number}: {found:?}");
                    let scores = step.scores(number).to_vec();
                    let greatest = (0..n_tokens).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
                    let top: Vec<Successor> = step.top(number, 8).collect();
                    assert_eq!(top[0].token, file.tokens[greatest]);
                    assert!(top.len() == 8 && top.is_sorted_by(|a, b| a.weight >= b.weight));
                    let sum: f32 = scores.iter().map(|x| (x - scores[greatest]).exp()).sum();
                    assert!((top[0].weight - 1.0 / sum).abs() < 1e-3);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    if kernels::in_use() == Ok(None) {
        // ggml's products differ for several rows.
        return;
    }
    let mut net = HiddenNet::new(&network(small(48), "q8_0", 5), matrices("q8_0"), 2).unwrap();
    let states: Vec<Vec<f32>> = (0..4).map(|n| Random(n).numbers(EMBD)).collect();
    let rows: Vec<(&[f32], Token)> = states.iter().zip(0..).map(|(state, n)| (&state[..], Token(n))).collect();
    let step = net.step(&rows).unwrap();
    let together: Vec<(Vec<f32>, Vec<f32>)> =
        (0..4).map(|n| (step.state(n).to_vec(), step.scores(n).to_vec())).collect();
    for (row, expected) in rows.iter().zip(together) {
        let step = net.step(&[*row]).unwrap();
        assert!((step.state(0), step.scores(0)) == (&expected.0[..], &expected.1[..]));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let message = |file: &HiddenFile| HiddenNet::new(file, matrices("f32"), 1).unwrap_err().to_string();
    let wide = Shape { n_embd: 2 * EMBD, ..small(8) };
    assert!(message(&network(wide, "f32", 1)).contains("expected states of 64 numbers, found 128"));
    let mut file = network(small(8), "f32", 1);
    file.tokens[3] = Token(VOCAB as i32);
    assert!(message(&file).contains("a vocabulary of 300 tokens, found token 300"));
    file.tokens.truncate(3);
    assert!(message(&file).contains("head.up.weight"));
    let mut net = HiddenNet::new(&network(small(8), "f32", 1), matrices("f32"), 1).unwrap();
    let state = [0.0; EMBD];
    for rows in [&[][..], &[(&state[1..], Token(0))], &[(&state, Token(300))], &[(&state, Token(-1))]] {
        assert!(matches!(net.step(rows), Err(HiddenError::Input(_))));
    }
    net.step(&[(&state, Token(299))]).unwrap();
}

#[test]
fn a_state_with_infinity_predicts_nothing() {
    let mut net = HiddenNet::new(&network(small(48), "f32", 1), matrices("f32"), 1).unwrap();
    let mut state = [0.0; EMBD];
    state[5] = f32::INFINITY;
    assert_eq!(net.step(&[(&state, Token(1))]).unwrap().top(0, 8).count(), 0);
}
