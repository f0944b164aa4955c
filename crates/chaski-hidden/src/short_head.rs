//! The cut head as a product of two small matrices, so that its logits cost a fraction.

use nalgebra::{Cholesky, DMatrix, SymmetricEigen};

use crate::error::TrainError;
use crate::matrix::{REPLACE, matrix, matrix_mut, multiply};

/// Added to the second moments of states, as a share of their mean, so that they can be factored.
const RIDGE: f64 = 1e-5;

/// The decomposition of the head ends with an error after this many steps for each number of a state. Two or three are usual.
const MAX_STEPS: usize = 100;

/// The cut head in two factors: logits ≈ `up` · (`down` · state). Both are in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortHead {
    /// How many numbers a state is reduced to.
    pub rank: usize,
    /// `rank` rows of `n_embd` numbers. Over the states of the training, `down` · state has numbers of mean square 1.
    pub down: Vec<f32>,
    /// For each token of the cut head, `rank` numbers.
    pub up: Vec<f32>,
}

impl ShortHead {
    /// Factors `head` (rows of `n_embd` numbers) such that the squared error of the logits over `states` (the same) is
    /// least.
    ///
    /// With the second moments of the states C = L·Lᵀ, that is the truncated singular value decomposition of head · L.
    pub(crate) fn new(
        head: &[f32],
        states: &[f32],
        n_embd: usize,
        rank: usize,
        n_threads: usize,
    ) -> Result<ShortHead, TrainError> {
        let rank = rank.min(n_embd);
        let lower = factor(states, n_embd, n_threads)?;
        let lower32: Vec<f32> = row_major(&lower);
        let n_tokens = head.len() / n_embd;

        // The right singular vectors of head · L are the eigenvectors of Lᵀ · headᵀ · head · L.
        let mut product = vec![0.0; n_tokens * n_embd];
        let (head, lower_ref) = (matrix(head, n_embd), matrix(&lower32, n_embd));
        multiply(matrix_mut(&mut product, n_embd), REPLACE, head, lower_ref, 1.0, n_threads);
        let mut gram = vec![0.0; n_embd * n_embd];
        let product_ref = matrix(&product, n_embd);
        multiply(
            matrix_mut(&mut gram, n_embd),
            REPLACE,
            matrix(&product, n_embd).reversed_axes(),
            product_ref,
            1.0,
            n_threads,
        );
        let gram = DMatrix::from_fn(n_embd, n_embd, |i, j| f64::from(gram[i * n_embd + j]));
        let eigen = SymmetricEigen::try_new(gram, f64::EPSILON, MAX_STEPS * n_embd);
        let eigen = eigen.ok_or(TrainError::Numeric("the decomposition of the head"))?;

        let mut order: Vec<usize> = (0..n_embd).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let strongest = eigen.eigenvectors.select_columns(&order[..rank]);
        let mut up = vec![0.0; n_tokens * rank];
        let strongest32 = row_major(&strongest);
        multiply(matrix_mut(&mut up, rank), REPLACE, product_ref, matrix(&strongest32, rank), 1.0, n_threads);
        // down = strongestᵀ · L⁻¹, so downᵀ solves Lᵀ · downᵀ = strongest.
        let down = lower.tr_solve_lower_triangular(&strongest);
        let down = down.ok_or(TrainError::Numeric("the factoring of the states"))?;
        Ok(ShortHead { rank, down: row_major(&down.transpose()), up })
    }
}

/// The lower factor of the second moments of the states.
fn factor(states: &[f32], n_embd: usize, n_threads: usize) -> Result<DMatrix<f64>, TrainError> {
    let n_rows = states.len() / n_embd;
    let mut moments = vec![0.0; n_embd * n_embd];
    let share = 1.0 / n_rows as f32;
    multiply(
        matrix_mut(&mut moments, n_embd),
        REPLACE,
        matrix(states, n_embd).reversed_axes(),
        matrix(states, n_embd),
        share,
        n_threads,
    );
    let mean = (0..n_embd).map(|i| f64::from(moments[i * n_embd + i])).sum::<f64>() / n_embd as f64;
    let moments = DMatrix::from_fn(n_embd, n_embd, |i, j| {
        f64::from(moments[i * n_embd + j]) + if i == j { RIDGE * mean } else { 0.0 }
    });
    Ok(Cholesky::new(moments).ok_or(TrainError::Numeric("the factoring of the states"))?.unpack())
}

fn row_major(matrix: &DMatrix<f64>) -> Vec<f32> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)] as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const N_EMBD: usize = 24;
    const N_TOKENS: usize = 64;

    /// A head, and states that vary far more in some directions than in others.
    fn example() -> (Vec<f32>, Vec<f32>) {
        let mut random = Random::new(9, 0);
        let head = (0..N_TOKENS * N_EMBD).map(|_| random.normal()).collect();
        let states = (0..500 * N_EMBD).map(|i| random.normal() * 0.8f32.powi((i % N_EMBD) as i32) + 0.3).collect();
        (head, states)
    }

    fn product(rows: &[f32], x: &[f32]) -> Vec<f32> {
        rows.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    }

    /// The mean squared error of the logits.
    fn error(short: &ShortHead, head: &[f32], states: &[f32]) -> f32 {
        let errors = states.chunks_exact(N_EMBD).map(|state| {
            let found = product(&short.up, &product(&short.down, state));
            found.iter().zip(product(head, state)).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        });
        errors.sum::<f32>() / (states.len() / N_EMBD * N_TOKENS) as f32
    }

    #[test]
    fn with_full_rank_it_equals_the_cut_head() {
        let (head, states) = example();
        let short = ShortHead::new(&head, &states, N_EMBD, 1000, 2).unwrap();
        assert_eq!((short.rank, short.up.len()), (N_EMBD, N_TOKENS * N_EMBD));
        assert!(error(&short, &head, &states) < 1e-6);
    }

    #[test]
    fn no_other_projection_of_the_rank_has_a_smaller_error() {
        let (head, states) = example();
        let short = ShortHead::new(&head, &states, N_EMBD, 8, 1).unwrap();
        let least = error(&short, &head, &states);
        assert!(least > 1e-3, "{least}");
        let mut random = Random::new(1, 1);
        for step in 0..40 {
            let mut other = short.clone();
            let numbers = if step % 2 == 0 { &mut other.down } else { &mut other.up };
            let size = 0.01 * numbers.iter().map(|number| number.abs()).sum::<f32>() / numbers.len() as f32;
            numbers.iter_mut().for_each(|number| *number += size * random.normal());
            assert!(error(&other, &head, &states) > least, "step {step}");
        }
        // The head's own strongest directions, which ignore the states, are worse.
        let mut unit = vec![0.0; N_EMBD * N_EMBD];
        (0..N_EMBD).for_each(|i| unit[i * N_EMBD + i] = 1.0);
        let ignorant = ShortHead::new(&head, &unit, N_EMBD, 8, 1).unwrap();
        assert!(error(&ignorant, &head, &states) > 1.2 * least);
    }

    #[test]
    fn states_that_are_all_zero_are_an_error() {
        let (head, _) = example();
        let found = ShortHead::new(&head, &[0.0; 10 * N_EMBD], N_EMBD, 8, 1);
        assert_eq!(found, Err(TrainError::Numeric("the factoring of the states")));
    }
}
