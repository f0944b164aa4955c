//! The cut head as a product of two small matrices, so that its logits cost a fraction.

use faer::linalg::solvers::{Llt, SelfAdjointEigen};
use faer::{Accum, Mat, Side};

use crate::error::TrainError;
use crate::parallel::{matrix, matrix_mut, multiply};

/// Added to the second moments of states, as a share of their mean, so that they can be factored.
const RIDGE: f64 = 1e-5;

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
        multiply(matrix_mut(&mut product, n_embd), Accum::Replace, head, lower_ref, 1.0, n_threads);
        let mut gram = vec![0.0; n_embd * n_embd];
        let product = matrix(&product, n_embd);
        multiply(matrix_mut(&mut gram, n_embd), Accum::Replace, product.transpose(), product, 1.0, n_threads);
        let gram = Mat::from_fn(n_embd, n_embd, |i, j| f64::from(gram[i * n_embd + j]));
        let eigen = SelfAdjointEigen::new(gram.as_ref(), Side::Lower);
        let eigen = eigen.map_err(|_| TrainError::Numeric("the decomposition of the head"))?;

        // Eigenvalues come in ascending order: the last vectors are the strongest.
        let vectors = eigen.U();
        let strongest = Mat::from_fn(n_embd, rank, |i, j| vectors[(i, n_embd - 1 - j)]);
        let mut up = vec![0.0; n_tokens * rank];
        let strongest32 = row_major(&strongest);
        multiply(matrix_mut(&mut up, rank), Accum::Replace, product, matrix(&strongest32, rank), 1.0, n_threads);
        // down = strongestᵀ · L⁻¹, so downᵀ solves Lᵀ · downᵀ = strongest.
        let mut down = strongest;
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(
            lower.transpose(),
            down.as_mut(),
            faer::Par::Seq,
        );
        Ok(ShortHead { rank, down: row_major(&down.transpose().to_owned()), up })
    }
}

/// The lower factor of the second moments of the states.
fn factor(states: &[f32], n_embd: usize, n_threads: usize) -> Result<Mat<f64>, TrainError> {
    let n_rows = states.len() / n_embd;
    let mut moments = vec![0.0; n_embd * n_embd];
    let states = matrix(states, n_embd);
    let share = 1.0 / n_rows as f32;
    multiply(matrix_mut(&mut moments, n_embd), Accum::Replace, states.transpose(), states, share, n_threads);
    let mean = (0..n_embd).map(|i| f64::from(moments[i * n_embd + i])).sum::<f64>() / n_embd as f64;
    let moments = Mat::from_fn(n_embd, n_embd, |i, j| {
        f64::from(moments[i * n_embd + j]) + if i == j { RIDGE * mean } else { 0.0 }
    });
    let factors = Llt::new(moments.as_ref(), Side::Lower);
    Ok(factors.map_err(|_| TrainError::Numeric("the factoring of the states"))?.L().to_owned())
}

fn row_major(matrix: &Mat<f64>) -> Vec<f32> {
    (0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| matrix[(i, j)] as f32)).collect()
}
