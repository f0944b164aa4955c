//! Adam with decoupled weight decay (Kingma and Ba, 2015; Loshchilov and Hutter, 2019).

use ndarray::Axis;

use crate::matrix::{Matrix, REPLACE, matrix_mut, multiply};
use crate::parallel::{each, part_len};

const MEAN_DECAY: f32 = 0.9;
const SQUARE_DECAY: f32 = 0.99;
const EPSILON: f32 = 1e-8;

/// Running means of the gradients and of their squares, for one list of parameters.
pub(crate) struct Moments {
    means: Vec<f32>,
    squares: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(n_parameters: usize) -> Moments {
        Moments { means: vec![0.0; n_parameters], squares: vec![0.0; n_parameters] }
    }

    /// The gradient of the first step.
    #[cfg(test)]
    pub(crate) fn first_gradient(&self) -> Vec<f32> {
        self.means.iter().map(|mean| mean / (1.0 - MEAN_DECAY)).collect()
    }
}

/// The numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// The learning rate, corrected for means that start at 0.
    rate: f32,
    /// The factor on roots of squares that corrects them likewise.
    root: f32,
    /// What is left of each weight.
    kept: f32,
}

impl Step {
    /// The step with this number, from 1 on.
    pub(crate) fn new(number: usize, rate: f32, weight_decay: f32) -> Step {
        let left = |decay: f32| 1.0 - decay.powi(i32::try_from(number).unwrap_or(i32::MAX));
        Step { rate: rate / left(MEAN_DECAY), root: 1.0 / left(SQUARE_DECAY).sqrt(), kept: 1.0 - rate * weight_decay }
    }

    /// The same step for parameters whose size is not to be reduced.
    pub(crate) fn without_decay(self) -> Step {
        Step { kept: 1.0, ..self }
    }

    fn apply(self, parameters: &mut [f32], gradient: &[f32], means: &mut [f32], squares: &mut [f32]) {
        let moments = means.iter_mut().zip(squares);
        for ((parameter, g), (mean, square)) in parameters.iter_mut().zip(gradient).zip(moments) {
            *mean = MEAN_DECAY * *mean + (1.0 - MEAN_DECAY) * g;
            *square = SQUARE_DECAY * *square + (1.0 - SQUARE_DECAY) * (g * g);
            *parameter = self.kept * *parameter - self.rate * *mean / (square.sqrt() * self.root + EPSILON);
        }
    }

    /// Learns a list of parameters from their gradient.
    pub(crate) fn learn(self, parameters: &mut [f32], moments: &mut Moments, gradient: &[f32]) {
        self.apply(parameters, gradient, &mut moments.means, &mut moments.squares);
    }

    /// Learns a matrix of `right.ncols()` columns from its gradient `left · right`, where the columns of `left` and the
    /// rows of `right` are the rows of a batch. `gradient` is room for as many numbers as the matrix has.
    pub(crate) fn learn_product(
        self,
        parameters: &mut [f32],
        moments: &mut Moments,
        (left, right): (Matrix<'_>, Matrix<'_>),
        gradient: &mut [f32],
        n_threads: usize,
    ) {
        let n_columns = right.ncols();
        let len = part_len(left.nrows(), n_threads, 16);
        let size = len * n_columns;
        let moments = moments.means.chunks_mut(size).zip(moments.squares.chunks_mut(size));
        let lefts = left.axis_chunks_iter(Axis(0), len);
        let parts = parameters.chunks_mut(size).zip(gradient.chunks_mut(size)).zip(moments).zip(lefts).collect();
        each(parts, |(((parameters, gradient), (means, squares)), left)| {
            multiply(matrix_mut(gradient, n_columns), REPLACE, left, right, 1.0, 1);
            self.apply(parameters, gradient, means, squares);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same step in f64, as the paper has it.
    #[test]
    fn three_steps_equal_the_published_form() {
        let (rate, decay) = (0.1f64, 0.02f64);
        let gradients = [[0.5, -2.0, 0.0], [0.25, 1.0, 1e-3], [-1.0, 1.0, 0.0]];
        let (mut expected, mut m, mut v) = ([1.0f64, -1.0, 2.0], [0.0f64; 3], [0.0f64; 3]);
        let (mut parameters, mut moments) = ([1.0f32, -1.0, 2.0], Moments::new(3));
        for (number, gradient) in (1..).zip(gradients) {
            for i in 0..3 {
                let g = gradient[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                let (mean, square) = (m[i] / (1.0 - 0.9f64.powi(number)), v[i] / (1.0 - 0.99f64.powi(number)));
                expected[i] -= rate * decay * expected[i];
                expected[i] -= rate * mean / (square.sqrt() + 1e-8);
            }
            let step = Step::new(number as usize, rate as f32, decay as f32);
            step.learn(&mut parameters, &mut moments, &gradient.map(|g| g as f32));
        }
        for (found, expected) in parameters.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{parameters:?} {expected:?}");
        }
    }
}
