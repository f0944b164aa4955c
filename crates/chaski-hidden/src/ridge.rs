//! The start of a training: the best linear map from the last state and the newest token's embedding to the next state.

use half::slice::HalfFloatSliceExt;
use nalgebra::{Cholesky, DMatrix};

use crate::error::TrainError;
use crate::matrix::{ADD, matrix, matrix_mut, multiply};
use crate::net::Net;
use crate::pairs::{Pair, Pairs};
use crate::parallel::{each, part_len};
use crate::random::Random;
use crate::settings::Settings;
use crate::tokens::TokenRows;

/// At most so many pairs are used, to bound the time: for 1536 numbers in a state, their products take 10 s on two cores.
const MAX_PAIRS: usize = 60_000;

/// The penalty on squared weights, as a share of the number of pairs.
const PENALTY: f32 = 0.06;

/// Pairs that are multiplied at once.
const BLOCK: usize = 1024;

/// A network that is this linear map. Its hidden layer is random and adds nothing yet.
pub(crate) fn start(
    pairs: &Pairs<'_>,
    embeddings: &TokenRows,
    n_embd: usize,
    settings: &Settings,
) -> Result<Net, TrainError> {
    let sample = pairs.sample(MAX_PAIRS);
    let (moments, scale) = statistics(pairs, embeddings, n_embd, &sample);
    let mut random = Random::new(settings.seed, u64::MAX);
    let (linear, bias) = (vec![0.0; 2 * n_embd * n_embd], vec![0.0; n_embd]);
    let mut net = Net::start(linear, bias, moments, scale, settings.n_hidden, &mut random);
    fit(pairs, embeddings, &sample, &mut net, settings.n_threads)?;
    Ok(net)
}

/// Means and standard deviations of the inputs, and the standard deviation of all numbers of the goals.
fn statistics(
    pairs: &Pairs<'_>,
    embeddings: &TokenRows,
    n_embd: usize,
    sample: &[Pair],
) -> ((Vec<f32>, Vec<f32>), f32) {
    let (mut sums, mut squares) = (vec![0.0f64; 3 * n_embd], vec![0.0f64; 3 * n_embd]);
    let mut row = vec![0.0; 3 * n_embd];
    for pair in sample {
        pairs.write_input(*pair, embeddings, &mut row[..2 * n_embd]);
        pairs.goal_state(*pair).convert_to_f32_slice(&mut row[2 * n_embd..]);
        for ((sum, square), number) in sums.iter_mut().zip(&mut squares).zip(&row) {
            let number = f64::from(*number);
            *sum += number;
            *square += number * number;
        }
    }
    let n = sample.len() as f64;
    let spread = |sum: f64, square: f64, n: f64| ((square / n - (sum / n).powi(2)).max(0.0).sqrt() + 1e-6) as f32;
    let both = || sums.iter().zip(&squares);
    let mean = sums[..2 * n_embd].iter().map(|sum| (sum / n) as f32).collect();
    let std = both().take(2 * n_embd).map(|(sum, square)| spread(*sum, *square, n)).collect();
    let goals = both().skip(2 * n_embd).fold((0.0, 0.0), |all, (sum, square)| (all.0 + sum, all.1 + square));
    ((mean, std), spread(goals.0, goals.1, n * n_embd as f64))
}

/// Sets the linear part of the network by ridge regression, with the normal equations.
fn fit(
    pairs: &Pairs<'_>,
    embeddings: &TokenRows,
    sample: &[Pair],
    net: &mut Net,
    n_threads: usize,
) -> Result<(), TrainError> {
    let (n_embd, n_inputs) = (net.n_embd, net.n_inputs());
    // One more input, always 1, gives the bias.
    let width = n_inputs + 1;
    let (mut gram, mut cross) = (vec![0.0; width * width], vec![0.0; width * n_embd]);
    let (mut x, mut ones, mut goals) = (Vec::new(), Vec::new(), Vec::new());
    for block in sample.chunks(BLOCK) {
        pairs.write_inputs(block, embeddings, net, &mut x, n_threads);
        ones.clear();
        x.chunks_exact(n_inputs).for_each(|row| ones.extend(row.iter().copied().chain([1.0])));
        goals.resize(block.len() * n_embd, 0.0);
        for (pair, goal) in block.iter().zip(goals.chunks_exact_mut(n_embd)) {
            pairs.goal_state(*pair).convert_to_f32_slice(goal);
        }
        let inputs = matrix(&ones, width);
        multiply(matrix_mut(&mut gram, width), ADD, matrix(&ones, width).reversed_axes(), inputs, 1.0, n_threads);
        let goals = matrix(&goals, n_embd);
        multiply(
            matrix_mut(&mut cross, n_embd),
            ADD,
            matrix(&ones, width).reversed_axes(),
            goals,
            1.0 / net.scale,
            n_threads,
        );
    }
    let penalty = |i: usize| if i < n_inputs { PENALTY * sample.len() as f32 } else { 0.0 };
    let gram = DMatrix::from_fn(width, width, |i, j| {
        f64::from(gram[i * width + j]) + if i == j { f64::from(penalty(i)) } else { 0.0 }
    });
    let factors = Cholesky::new(gram).ok_or(TrainError::Numeric("the linear regression"))?;
    let len = part_len(n_embd, n_threads, 1);
    let parts = net.first.chunks_mut(len * n_inputs).zip(net.first_bias[..n_embd].chunks_mut(len));
    each(parts.enumerate().collect(), |(part, (rows, biases))| {
        let cross = |i: usize, output: usize| f64::from(cross[i * n_embd + part * len + output]);
        let mut solution = DMatrix::from_fn(width, biases.len(), cross);
        factors.solve_mut(&mut solution);
        for ((row, bias), weights) in rows.chunks_exact_mut(n_inputs).zip(biases).zip(solution.column_iter()) {
            row.iter_mut().zip(&weights).for_each(|(number, weight)| *number = *weight as f32);
            *bias = weights[n_inputs] as f32;
        }
    });
    Ok(())
}
