//! Matrix products and work on rows with several threads.
//!
//! Each part of a work has a thread of its own. Starting one costs about 20 µs, a product of a batch 10 ms. The parts
//! write to places of their own, so the results do not depend on which thread is faster.

use faer::linalg::matmul::matmul;
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Accum, MatMut, MatRef, Par};

/// Below this many multiplications a product is not split.
const MIN_SPLIT: usize = 1 << 18;

/// Parts of a product are multiples of this many rows or columns, which is a vector register of f32.
const MULTIPLE: usize = 16;

/// Calls `work` for each part, each in a thread of its own, and returns the results in order.
pub(crate) fn each<P: Send, R: Send>(parts: Vec<P>, work: impl Fn(P) -> R + Sync) -> Vec<R> {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return Vec::new() };
    let work = &work;
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let mut results = vec![work(first)];
        for other in others {
            results.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    })
}

/// How many of `n` items a part has when they are split into `n_parts`, in multiples of `multiple`.
pub(crate) fn part_len(n: usize, n_parts: usize, multiple: usize) -> usize {
    n.div_ceil(n_parts.max(1)).next_multiple_of(multiple).max(1)
}

/// A matrix in row-major order, as faer sees it.
pub(crate) fn matrix(numbers: &[f32], n_columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(numbers, numbers.len() / n_columns, n_columns)
}

/// A matrix in row-major order to write to.
pub(crate) fn matrix_mut(numbers: &mut [f32], n_columns: usize) -> MatMut<'_, f32> {
    let n_rows = numbers.len() / n_columns;
    MatMut::from_row_major_slice_mut(numbers, n_rows, n_columns)
}

/// `result = factor * a · b`, or `result += ..`.
pub(crate) fn multiply(
    result: MatMut<'_, f32>,
    accum: Accum,
    a: MatRef<'_, f32>,
    b: MatRef<'_, f32>,
    factor: f32,
    n_threads: usize,
) {
    let (n_rows, n_columns) = (result.nrows(), result.ncols());
    if n_threads == 1 || n_rows * n_columns * a.ncols() < MIN_SPLIT {
        return matmul(result, accum, a, b, factor, Par::Seq);
    }
    let mut parts = Vec::new();
    let mut rest = result;
    if n_rows >= n_columns {
        let len = part_len(n_rows, n_threads, MULTIPLE);
        for start in (0..n_rows).step_by(len) {
            let len = len.min(n_rows - start);
            let (part, others) = rest.split_at_row_mut(len);
            parts.push((part, a.subrows(start, len), b));
            rest = others;
        }
    } else {
        let len = part_len(n_columns, n_threads, MULTIPLE);
        for start in (0..n_columns).step_by(len) {
            let len = len.min(n_columns - start);
            let (part, others) = rest.split_at_col_mut(len);
            parts.push((part, a, b.subcols(start, len)));
            rest = others;
        }
    }
    each(parts, |(mut part, a, b)| matmul(part.rb_mut(), accum, a.rb(), b.rb(), factor, Par::Seq));
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
                let (left, right) = (matrix(&a, n_inner), matrix(&b, n_inner).transpose());
                multiply(matrix_mut(&mut result, n_columns), Accum::Add, left, right, 2.0, n_threads);
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

    #[test]
    fn results_come_in_the_order_of_the_parts() {
        assert_eq!(each(vec![3, 1, 2], |part| part * 2), [6, 2, 4]);
        assert!(each(Vec::<u8>::new(), |part| part).is_empty());
    }
}
