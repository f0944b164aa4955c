//! The network: h' = scale · (A·x + W2·relu(W1·x)), where x is the last state and the newest token's embedding.

use ndarray::Axis;

use crate::error::TrainError;
use crate::matrix::{ADD, REPLACE, matrix, matrix_mut, multiply};
use crate::parallel::{each, part_len};
use crate::random::Random;

/// A trained network. All matrices are in row-major order.
///
/// With the input x = ([state, embedding] - `mean`) / `std`, and y = `first` · x + `first_bias`, the next state is
/// `scale` * (y\[..`n_embd`\] + `second` · relu(y\[`n_embd`..\])).
#[derive(Clone, Debug, PartialEq)]
pub struct Net {
    /// The length of a state and of an embedding.
    pub n_embd: usize,
    /// Units of the hidden layer.
    pub n_hidden: usize,
    /// The means of the `2 * n_embd` inputs.
    pub mean: Vec<f32>,
    /// The standard deviations of the `2 * n_embd` inputs.
    pub std: Vec<f32>,
    /// `n_embd + n_hidden` rows of `2 * n_embd` inputs: first the linear part A, then the hidden layer W1.
    pub first: Vec<f32>,
    /// `n_embd + n_hidden` numbers.
    pub first_bias: Vec<f32>,
    /// `n_embd` rows of `n_hidden` numbers: W2.
    pub second: Vec<f32>,
    /// The standard deviation of the numbers in states.
    pub scale: f32,
}

impl Net {
    /// Predicts the state after `state` and the token with this embedding (`n_embd` numbers each). Plain loops, for one row.
    ///
    /// # Panics
    /// If a length is not `n_embd`.
    #[must_use]
    pub fn next_state(&self, state: &[f32], embedding: &[f32]) -> Vec<f32> {
        assert!(state.len() == self.n_embd && embedding.len() == self.n_embd, "expected {} numbers", self.n_embd);
        let mut x = [state, embedding].concat();
        self.standardize(&mut x);
        let y: Vec<f32> =
            self.first.chunks_exact(x.len()).zip(&self.first_bias).map(|(row, b)| dot(row, &x) + b).collect();
        let (linear, hidden) = y.split_at(self.n_embd);
        let active: Vec<f32> = hidden.iter().map(|number| number.max(0.0)).collect();
        let second = self.second.chunks_exact(self.n_hidden);
        linear.iter().zip(second).map(|(number, row)| self.scale * (number + dot(row, &active))).collect()
    }

    /// A network that starts as a linear map: `linear` (`n_embd` rows of `2 * n_embd`) and its bias.
    pub(crate) fn start(
        linear: Vec<f32>,
        bias: Vec<f32>,
        (mean, std): (Vec<f32>, Vec<f32>),
        scale: f32,
        n_hidden: usize,
        random: &mut Random,
    ) -> Net {
        let (n_embd, n_inputs) = (bias.len(), mean.len());
        let size = (2.0 / n_inputs as f32).sqrt();
        let (mut first, mut first_bias) = (linear, bias);
        first.extend((0..n_hidden * n_inputs).map(|_| random.normal() * size));
        first_bias.resize(n_embd + n_hidden, 0.0);
        Net { n_embd, n_hidden, mean, std, first, first_bias, second: vec![0.0; n_embd * n_hidden], scale }
    }

    /// Checks a network that comes from outside.
    pub(crate) fn check(&self, n_embd: usize, n_hidden: usize) -> Result<(), TrainError> {
        let n_outputs = n_embd + n_hidden;
        let counts = [
            ("numbers in a state", self.n_embd, n_embd),
            ("hidden units", self.n_hidden, n_hidden),
            ("means", self.mean.len(), 2 * n_embd),
            ("standard deviations", self.std.len(), 2 * n_embd),
            ("weights in its first matrix", self.first.len(), n_outputs * 2 * n_embd),
            ("biases", self.first_bias.len(), n_outputs),
            ("weights in its second matrix", self.second.len(), n_embd * n_hidden),
        ];
        if let Some((what, found, expected)) = counts.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(TrainError::Start { what, found, expected });
        }
        let lists = [&self.mean, &self.std, &self.first, &self.first_bias, &self.second];
        let is_finite = lists.iter().all(|list| list.iter().all(|number| number.is_finite()));
        let divides = self.scale > 0.0 && self.scale.is_finite() && self.std.iter().all(|number| *number > 0.0);
        if is_finite && divides { Ok(()) } else { Err(TrainError::StartNumbers) }
    }

    /// How many inputs it has.
    pub(crate) fn n_inputs(&self) -> usize {
        2 * self.n_embd
    }

    /// How many rows the first matrix has.
    pub(crate) fn n_outputs(&self) -> usize {
        self.n_embd + self.n_hidden
    }

    /// Turns a state and an embedding, or a state alone, into inputs.
    pub(crate) fn standardize(&self, input: &mut [f32]) {
        for (number, (mean, std)) in input.iter_mut().zip(self.mean.iter().zip(&self.std)) {
            *number = (*number - mean) / std;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What the layers give for the rows of a batch.
#[derive(Default)]
pub(crate) struct Layers {
    /// For each row `n_embd` numbers, the predicted state divided by `scale`, and `n_hidden` numbers before the relu.
    pub(crate) outputs: Vec<f32>,
    /// For each row `n_hidden` numbers after relu and dropout.
    pub(crate) active: Vec<f32>,
}

impl Layers {
    /// Runs the network on the rows of `x`, which are standardized. `drop_out` gets the index of each row and the numbers of
    /// its hidden units.
    pub(crate) fn run(&mut self, net: &Net, x: &[f32], drop_out: impl Fn(usize, &mut [f32]) + Sync, n_threads: usize) {
        let (n_inputs, n_outputs, n_embd, n_hidden) = (net.n_inputs(), net.n_outputs(), net.n_embd, net.n_hidden);
        let n_rows = x.len() / n_inputs;
        self.outputs.resize(n_rows * n_outputs, 0.0);
        self.active.resize(n_rows * n_hidden, 0.0);
        let first = matrix(&net.first, n_inputs).reversed_axes();
        multiply(matrix_mut(&mut self.outputs, n_outputs), REPLACE, matrix(x, n_inputs), first, 1.0, n_threads);

        let len = part_len(n_rows, n_threads, 1);
        let parts = self.outputs.chunks_mut(len * n_outputs).zip(self.active.chunks_mut(len * n_hidden)).enumerate();
        each(parts.collect(), |(part, (outputs, active))| {
            let rows = outputs.chunks_exact_mut(n_outputs).zip(active.chunks_exact_mut(n_hidden));
            for (i, (outputs, active)) in rows.enumerate() {
                for (output, bias) in outputs.iter_mut().zip(&net.first_bias) {
                    *output += bias;
                }
                for (active, output) in active.iter_mut().zip(&outputs[n_embd..]) {
                    *active = output.max(0.0);
                }
                drop_out(part * len + i, active);
            }
        });

        let outputs = matrix_mut(&mut self.outputs, n_outputs);
        let second = matrix(&net.second, n_hidden).reversed_axes();
        multiply(outputs.split_at(Axis(1), n_embd).0, ADD, matrix(&self.active, n_hidden), second, 1.0, n_threads);
    }

    /// The predicted state of a row, divided by `scale`.
    pub(crate) fn state(&self, net: &Net, row: usize) -> &[f32] {
        &self.outputs[row * net.n_outputs()..][..net.n_embd]
    }
}
