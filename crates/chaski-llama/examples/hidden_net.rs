//! Measures one step of a hidden-state drafter's network, with random weights:
//! `cargo run --release -p chaski-llama --features kernels --example hidden_net [TYPE,TYPE,...]`.
//!
//! *warm*: steps in a row. *after a target*: between steps, a larger network streams 72 MB through the same threads, as a
//! target does. *after a pause*: between steps, the main thread alone touches 64 MB. Medians and 9th deciles.

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use chaski_draft::token::Token;
use chaski_gguf::{Gguf, ModelId, TensorType, Value, Writer};
use chaski_llama::hidden::{HiddenNet, TargetMatrices, quantize};
use chaski_store::hidden_file::{HiddenFile, Weights};

/// The shape of the network for Qwen2.5-Coder-1.5B.
const N_EMBD: usize = 1536;
const N_HIDDEN: usize = 1024;
const RANK: usize = 128;
const N_TOKENS: usize = 8192;

/// Makes the standard deviation of the scores about that of a model's logits.
const SCALE: f32 = 10.0;

/// A hidden layer with which the network has 72 MB in Q8_0.
const N_HIDDEN_OF_TARGET: usize = 13_824;

const N_STEPS: usize = 101;

/// Numbers from -1 to 1.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn weights(n_columns: usize, n_rows: usize, kind: TensorType) -> Result<Weights, Box<dyn Error>> {
    let size = (n_columns as f32).sqrt();
    let rows: Vec<f32> = numbers(n_columns * n_rows, n_rows as u64).iter().map(|x| x / size).collect();
    Ok(Weights { tensor_type: kind, n_columns, n_rows, data: quantize(&rows, n_columns, kind)? })
}

fn network(n_hidden: usize, kind: &str) -> Result<HiddenFile, Box<dyn Error>> {
    let kind = TensorType::from_name(kind).ok_or_else(|| format!("expected a type of ggml, found {kind}"))?;
    Ok(HiddenFile {
        model: ModelId::default(),
        n_trained_tokens: 0,
        held_out_top1: 0.0,
        experience: None,
        scale: SCALE,
        mean: numbers(2 * N_EMBD, 1),
        std: vec![1.0; 2 * N_EMBD],
        first: weights(2 * N_EMBD, N_EMBD + n_hidden, kind)?,
        first_bias: numbers(N_EMBD + n_hidden, 2),
        second: weights(n_hidden, N_EMBD, kind)?,
        down: weights(N_EMBD, RANK, kind)?,
        up: weights(RANK, N_TOKENS, kind)?,
        tokens: (0..N_TOKENS as i32).map(Token).collect(),
    })
}

/// A model file with nothing but an embedding, which is the output matrix as well.
fn target() -> Result<Vec<u8>, Box<dyn Error>> {
    let kind = TensorType::from_name("q6_K").ok_or("no type q6_K")?;
    let embedding = weights(N_EMBD, N_TOKENS, kind)?;
    let mut out = Vec::new();
    Writer::new()
        .pair("general.architecture", &Value::Str(b"llama"))
        .pair("llama.embedding_length", &Value::U32(N_EMBD as u32))
        .tensor("token_embd.weight", &[N_EMBD as u64, N_TOKENS as u64], kind, &embedding.data)
        .write(&mut out)?;
    Ok(out)
}

/// Times in milliseconds.
struct Times {
    /// Median and 9th decile of a step with the eight likeliest tokens of each row.
    median: f64,
    decile: f64,
    /// Median of finding those tokens.
    top: f64,
}

/// Measures steps. `before` runs before each.
fn time(net: &mut HiddenNet, n_rows: usize, mut before: impl FnMut()) -> Result<Times, Box<dyn Error>> {
    let state = numbers(N_EMBD, 5);
    let (mut times, mut tops) = (Vec::new(), Vec::new());
    for n in 0..N_STEPS {
        before();
        let start = Instant::now();
        let rows: Vec<(&[f32], Token)> =
            (0..n_rows).map(|row| (&state[..], Token(((n * 97 + row * 13) % N_TOKENS) as i32))).collect();
        let mut step = net.step(&rows)?;
        let computed = Instant::now();
        for row in 0..n_rows {
            black_box(step.top(row, 8).last());
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        tops.push(computed.elapsed().as_secs_f64() * 1e3);
    }
    // The first builds the graph.
    let quantile = |times: &mut Vec<f64>, tenths: usize| {
        let times = &mut times[1..];
        times.sort_by(f64::total_cmp);
        times[times.len() * tenths / 10]
    };
    Ok(Times { median: quantile(&mut times, 5), decile: quantile(&mut times, 9), top: quantile(&mut tops, 5) })
}

/// The standard deviation of the scores after one step.
fn spread(net: &mut HiddenNet) -> Result<f32, Box<dyn Error>> {
    let state = numbers(N_EMBD, 5);
    let step = net.step(&[(&state, Token(0))])?;
    let scores = step.scores(0);
    let mean = scores.iter().sum::<f32>() / N_TOKENS as f32;
    Ok((scores.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / N_TOKENS as f32).sqrt())
}

fn main() -> Result<(), Box<dyn Error>> {
    let kinds = std::env::args().nth(1).unwrap_or_else(|| "q8_0,q6_K,q5_0,q4_0".to_owned());
    let gguf = target()?;
    let matrices = || TargetMatrices::new(vec![Gguf::from_bytes(gguf.clone(), Path::new("target.gguf"))?]);
    let mut out = std::io::stdout().lock();
    let kernels = chaski_llama::kernels::in_use()?.unwrap_or("ggml");
    writeln!(out, "{N_EMBD} wide, {N_HIDDEN} hidden, rank {RANK}, {N_TOKENS} tokens; kernels: {kernels}")?;
    let spread = spread(&mut HiddenNet::new(&network(N_HIDDEN, "q8_0")?, matrices()?, 1)?)?;
    writeln!(out, "standard deviation of the scores: {spread:.2}")?;
    writeln!(out, "type  threads rows    MB |    warm 9th (top 8) | after a target 9th | after a pause 9th (ms)")?;
    let large = network(N_HIDDEN_OF_TARGET, "q8_0")?;
    let mut buffer = vec![0_u8; 64 << 20];
    let state = numbers(N_EMBD, 5);
    for kind in kinds.split(',') {
        let file = network(N_HIDDEN, kind)?;
        let bytes: usize = [&file.first, &file.second, &file.down, &file.up].iter().map(|one| one.data.len()).sum();
        for (n_threads, n_rows) in [(1, 1), (2, 1), (2, 4)] {
            let mut net = HiddenNet::new(&file, matrices()?, n_threads)?;
            let warm = time(&mut net, n_rows, || {})?;
            let mut large = HiddenNet::new(&large, matrices()?, 2)?;
            let streamed = time(&mut net, n_rows, || {
                black_box(large.step(&[(&state, Token(0))]).map(|step| step.scores(0)[0]).unwrap_or_default());
            })?;
            let touched = time(&mut net, n_rows, || {
                buffer.chunks_mut(64).for_each(|line| line[0] = line[0].wrapping_add(1));
                black_box(&buffer);
            })?;
            writeln!(
                out,
                "{kind:<5} {n_threads:>7} {n_rows:>4} {:>5.1} | {:>7.3} {:.3} ({:.3}) | {:>14.3} {:.3} | {:>13.3} {:.3}",
                bytes as f64 / 1e6,
                warm.median,
                warm.decile,
                warm.top,
                streamed.median,
                streamed.decile,
                touched.median,
                touched.decile
            )?;
        }
    }
    Ok(())
}
