//! Matrices in row-major order, and products of them with several threads.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis};

/// A matrix to read.
pub(crate) type Matrix<'a> = ArrayView2<'a, f32>;

/// A matrix to write to.
pub(crate) type MatrixMut<'a> = ArrayViewMut2<'a, f32>;

/// For [`multiply`]: the product replaces what is there.
pub(crate) const REPLACE: f32 = 0.0;

/// For [`multiply`]: the product is added to what is there.
pub(crate) const ADD: f32 = 1.0;

/// Below this many multiplications a product is not split.
const MIN_SPLIT: usize = 1 << 18;

/// Parts of a product are multiples of this many rows or columns, which is a vector register of f32.
const MULTIPLE: usize = 16;

/// The matrix with these rows of `n_columns` numbers.
pub(crate) fn matrix(numbers: &[f32], n_columns: usize) -> Matrix<'_> {
    Matrix::from_shape((numbers.len() / n_columns, n_columns), numbers).expect("the numbers fill the rows")
}

/// The matrix with these rows of `n_columns` numbers, to write to.
pub(crate) fn matrix_mut(numbers: &mut [f32], n_columns: usize) -> MatrixMut<'_> {
    MatrixMut::from_shape((numbers.len() / n_columns, n_columns), numbers).expect("the numbers fill the rows")
}

/// `result = factor * a · b`, or `result += ..`: `kept` is [`REPLACE`] or [`ADD`].
pub(crate) fn multiply(
    mut result: MatrixMut<'_>,
    kept: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    n_threads: usize,
) {
    let (n_rows, n_columns) = result.dim();
    let axis = Axis(usize::from(n_rows < n_columns));
    let n = result.len_of(axis);
    // The first part gets this many of the threads.
    let n_first = n_threads.div_ceil(2);
    let len = (n * n_first / n_threads).next_multiple_of(MULTIPLE);
    if n_threads == 1 || n_rows * n_columns * a.ncols() < MIN_SPLIT || len >= n {
        return general_mat_mul(factor, &a, &b, kept, &mut result);
    }
    let (first, second) = result.split_at(axis, len);
    let ((first_a, second_a), (first_b, second_b)) = match axis {
        Axis(0) => (a.split_at(axis, len), (b, b)),
        _ => ((a, a), b.split_at(axis, len)),
    };
    std::thread::scope(|scope| {
        scope.spawn(move || multiply(second, kept, second_a, second_b, factor, n_threads - n_first));
        multiply(first, kept, first_a, first_b, factor, n_first);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn products_equal_plain_loops_for_any_number_of_threads() {
        let mut random = Random::new(7, 0);
        let mut filled = |n: usize| (0..n).map(|_| random.normal()).collect::<Vec<f32>>();
        for (n_rows, n_inner, n_columns) in [(3, 5, 2), (70, 131, 90), (90, 131, 70), (257, 64, 33)] {
            let (a, b) = (filled(n_rows * n_inner), filled(n_columns * n_inner));
            for n_threads in [1, 2, 3, 8] {
                let mut result = vec![1.0; n_rows * n_columns];
                let (left, right) = (matrix(&a, n_inner), matrix(&b, n_inner).reversed_axes());
                multiply(matrix_mut(&mut result, n_columns), ADD, left, right, 2.0, n_threads);
                for i in 0..n_rows {
                    for j in 0..n_columns {
                        let sum: f32 = (0..n_inner).map(|k| a[i * n_inner + k] * b[j * n_inner + k]).sum();
                        let found = result[i * n_columns + j];
                        assert!((found - 1.0 - 2.0 * sum).abs() < 1e-3, "{n_rows} {n_threads}: {found}, {sum}");
                    }
                }
            }
        }
    }
}
