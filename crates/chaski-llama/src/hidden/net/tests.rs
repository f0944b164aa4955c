//! The network against a twin with plain loops.

use super::*;
use crate::hidden::rows::Decoder;
use crate::hidden::testing::{EMBD, Random, Shape, VOCAB, matrices, matrices_for, network, small};

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

/// The logits that the target's own head gives for a state.
fn logits(file: &HiddenFile, target: &TargetMatrices, state: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; state.len()];
    let logit = |token: &Token| {
        target.head(*token, &mut row);
        row.iter().zip(state).map(|(a, b)| a * b).sum()
    };
    file.tokens.iter().map(logit).collect()
}

/// The greatest difference, as a share of the greatest number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

/// Compares steps of several rows with the twin.
fn assert_agrees(shape: Shape, kind: &str, n_threads: usize, tolerance: f32) {
    let file = network(shape, kind, 5);
    let target = matrices_for(shape, "f16");
    let mut net = HiddenNet::new(&file, matrices_for(shape, "f16"), n_threads).unwrap();
    let mut random = Random(11);
    for n_rows in [1, 5, 1, 2, 5] {
        let states: Vec<Vec<f32>> = (0..n_rows).map(|_| random.numbers(shape.n_embd)).collect();
        let rows: Vec<(&[f32], Token)> =
            states.iter().map(|state| (&state[..], Token((random.number().abs() * 299.0) as i32))).collect();
        let mut step = net.step(&rows).unwrap();
        for (number, (state, token)) in rows.iter().enumerate() {
            let (next, expected) = twin(&file, &target, state, *token);
            let scores = step.scores(number).to_vec();
            let found = (difference(step.state(number), &next), difference(&scores, &expected));
            assert!(found.0 <= tolerance && found.1 <= 2.0 * tolerance, "{kind} row {number}: {found:?}");
            // All tokens are scored with the target's own head, which is kept in bf16.
            let logits = logits(&file, &target, step.state(number));
            let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = logits.iter().map(|logit| (logit - greatest).exp()).sum();
            let top: Vec<Successor> = step.top(number, 8).collect();
            assert!(top.len() == 8 && top.is_sorted_by(|a, b| a.weight >= b.weight));
            for found in &top {
                let at = file.tokens.iter().position(|token| *token == found.token).unwrap();
                let expected = (logits[at] - greatest).exp() / sum;
                assert!((found.weight - expected).abs() < 0.03, "{kind} row {number}: {found:?}, expected {expected}");
            }
        }
    }
}

#[test]
fn it_agrees_with_its_twin() {
    // Activations are quantized to 8 bits where weights are.
    for (kind, tolerance) in [("f32", 1e-5), ("f16", 2e-3), ("q8_0", 0.03), ("q5_0", 0.03), ("q4_0", 0.03)] {
        // 48 tokens are whole tiles of our kernels, 37 are not.
        for (n_tokens, n_threads) in [(48, 1), (37, 2)] {
            assert_agrees(small(n_tokens), kind, n_threads, tolerance);
        }
    }
    let wide = Shape { n_embd: 256, n_hidden: 256, rank: 256, ..small(48) };
    assert_agrees(wide, "q6_K", 2, 0.03);
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

#[test]
fn the_targets_own_head_ranks_what_the_short_head_finds() {
    // More tokens than are scored, and a short head that is no factor of the target's.
    let file = network(small(256), "f32", 7);
    let (target, state) = (matrices("f16"), Random(3).numbers(EMBD));
    let mut net = HiddenNet::new(&file, matrices("f16"), 1).unwrap();
    let mut step = net.step(&[(&state, Token(4))]).unwrap();
    let (scores, logits) = (step.scores(0).to_vec(), logits(&file, &target, step.state(0)));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let best = places[..N_SCORED].iter().copied().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
    assert_eq!(step.top(0, 1).next().map(|top| top.token), Some(file.tokens[best]));
}
