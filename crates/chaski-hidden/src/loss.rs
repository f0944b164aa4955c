//! The losses on logits, and their gradients.

use crate::parallel::{each, part_len};
use crate::settings::Loss;

/// Below this the variance of rewards is taken for this.
const MIN_VARIANCE: f64 = 1e-6;

/// For each row of a batch, columns of its logits and the target's probabilities there.
#[derive(Default)]
pub(crate) struct Goals {
    entries: Vec<(u32, f32)>,
    ends: Vec<usize>,
}

impl Goals {
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.ends.clear();
    }

    /// Adds a row. Its probabilities are scaled to sum 1, since those of all other tokens are not known.
    pub(crate) fn push(&mut self, row: impl Iterator<Item = (u32, f32)>) {
        let start = self.entries.len();
        self.entries.extend(row);
        let sum: f32 = self.entries[start..].iter().map(|(_, p)| p).sum();
        for (_, p) in &mut self.entries[start..] {
            *p /= sum.max(1e-6);
        }
        self.ends.push(self.entries.len());
    }

    fn row(&self, row: usize) -> &[(u32, f32)] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.entries[start..self.ends[row]]
    }
}

/// Replaces the logits by the gradient of the summed loss with respect to them, and returns the mean loss.
///
/// The gradient of TVD++ is that of the loss, divided by the standard deviation of the reward over the batch.
pub(crate) fn gradient(loss: Loss, logits: &mut [f32], n_columns: usize, goals: &Goals, n_threads: usize) -> f64 {
    let n_rows = logits.len() / n_columns;
    let len = part_len(n_rows, n_threads, 1);
    let parts = logits.chunks_mut(len * n_columns).enumerate().collect();
    let rows = each(parts, |(part, logits)| {
        let rows = logits.chunks_exact_mut(n_columns).enumerate();
        rows.map(|(i, logits)| {
            let goals = goals.row(part * len + i);
            match loss {
                Loss::CrossEntropy => cross_entropy(logits, goals),
                Loss::TotalVariation => total_variation(logits, goals),
            }
        })
        .collect::<Vec<Row>>()
    });
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    if loss == Loss::TotalVariation {
        normalize(logits, n_columns, goals, &rows, n_threads);
    }
    rows.iter().map(|row| f64::from(row.loss)).sum::<f64>() / n_rows as f64
}

/// The loss of a row, and for TVD++ the mean reward: the drafter's probability of tokens that get 1.
struct Row {
    loss: f32,
    reward: f32,
}

/// Replaces logits by probabilities, and returns the logarithm of the sum of their exponentials.
fn softmax(logits: &mut [f32]) -> f32 {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for number in logits.iter_mut() {
        *number = (*number - greatest).exp();
    }
    let sum: f32 = logits.iter().sum();
    for number in logits.iter_mut() {
        *number /= sum;
    }
    greatest + sum.ln()
}

fn cross_entropy(logits: &mut [f32], goals: &[(u32, f32)]) -> Row {
    let expected: f32 = goals.iter().map(|(column, p)| p * logits[*column as usize]).sum();
    let total: f32 = goals.iter().map(|(_, p)| p).sum();
    let loss = total * softmax(logits) - expected;
    for (column, p) in goals {
        logits[*column as usize] -= p;
    }
    Row { loss, reward: 0.0 }
}

/// Leaves probabilities; [`normalize`] makes them gradients.
fn total_variation(logits: &mut [f32], goals: &[(u32, f32)]) -> Row {
    softmax(logits);
    let (mut common, mut reward) = (0.0, 0.0);
    for (column, p) in goals {
        let q = logits[*column as usize];
        common += q.min(*p);
        reward += if *p > q { q } else { 0.0 };
    }
    // A sum that is not a number must not look like a small loss.
    Row { loss: 1.0 - common + 0.0 * logits[0], reward }
}

fn normalize(probabilities: &mut [f32], n_columns: usize, goals: &Goals, rows: &[Row], n_threads: usize) {
    let mean = rows.iter().map(|row| f64::from(row.reward)).sum::<f64>() / rows.len() as f64;
    let spread = |reward: f64| reward * (1.0 - mean).powi(2) + (1.0 - reward) * mean.powi(2);
    let variance = rows.iter().map(|row| spread(f64::from(row.reward))).sum::<f64>() / rows.len() as f64;
    let factor = 1.0 / variance.max(MIN_VARIANCE).sqrt() as f32;
    let len = part_len(rows.len(), n_threads, 1);
    let parts = probabilities.chunks_mut(len * n_columns).enumerate().collect();
    each(parts, |(part, probabilities)| {
        for (i, probabilities) in probabilities.chunks_exact_mut(n_columns).enumerate() {
            let row = part * len + i;
            // The gradient is -q · (reward - mean reward of the row). A sign marks the tokens whose reward is 1, not 0.
            for (column, p) in goals.row(row) {
                let q = &mut probabilities[*column as usize];
                if *p > *q {
                    *q = -*q;
                }
            }
            let (unrewarded, rewarded) = (factor * rows[row].reward, factor * (1.0 - rows[row].reward));
            for q in probabilities.iter_mut() {
                *q *= if *q < 0.0 { rewarded } else { unrewarded };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const N_ROWS: usize = 5;
    const N_COLUMNS: usize = 12;

    fn example() -> (Vec<f32>, Goals) {
        let mut random = Random::new(11, 0);
        let logits = (0..N_ROWS * N_COLUMNS).map(|_| random.normal() * 1.5).collect();
        let mut goals = Goals::default();
        for row in 0..N_ROWS as u32 {
            goals.push([(row, 0.6), (row + 3, 0.2), (11, 0.1)].into_iter());
        }
        (logits, goals)
    }

    /// The mean loss in f64, from its definition.
    fn naive(loss: Loss, logits: &[f64], goals: &Goals) -> f64 {
        let rows = logits.chunks_exact(N_COLUMNS).enumerate().map(|(row, logits)| {
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            let both = goals.row(row).iter().map(|(column, p)| (logits[*column as usize].exp() / sum, f64::from(*p)));
            match loss {
                Loss::CrossEntropy => both.map(|(q, p)| -p * q.ln()).sum::<f64>(),
                Loss::TotalVariation => 1.0 - both.map(|(q, p)| q.min(p)).sum::<f64>(),
            }
        });
        rows.sum::<f64>() / N_ROWS as f64
    }

    /// The gradient of the summed loss by central differences, divided by `factor`.
    fn assert_gradient(loss: Loss, factor: impl Fn(&[f32], &Goals) -> f64) {
        let (start, goals) = example();
        let factor = factor(&start, &goals);
        for n_threads in [1, 3] {
            let mut found = start.clone();
            let mean = gradient(loss, &mut found, N_COLUMNS, &goals, n_threads);
            let exact: Vec<f64> = start.iter().copied().map(f64::from).collect();
            assert!((mean - naive(loss, &exact, &goals)).abs() < 1e-5, "{loss:?}");
            for i in 0..start.len() {
                let at = |delta: f64| {
                    let mut moved = exact.clone();
                    moved[i] += delta;
                    naive(loss, &moved, &goals) * N_ROWS as f64
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5 / factor;
                assert!((f64::from(found[i]) - expected).abs() < 1e-4, "{loss:?} {i}: {} {expected}", found[i]);
            }
        }
    }

    #[test]
    fn the_gradient_of_cross_entropy_equals_finite_differences() {
        assert_gradient(Loss::CrossEntropy, |_, _| 1.0);
    }

    #[test]
    fn the_gradient_of_tvd_equals_finite_differences_over_the_standard_deviation_of_the_reward() {
        assert_gradient(Loss::TotalVariation, |logits, goals| {
            // Every token of every row, by its probability: 1 where the target's probability is greater.
            let mut rewards = Vec::new();
            for (row, logits) in logits.chunks_exact(N_COLUMNS).enumerate() {
                let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
                for (column, logit) in logits.iter().enumerate() {
                    let q = f64::from(*logit).exp() / sum;
                    let p = goals.row(row).iter().find(|(goal, _)| *goal as usize == column).map_or(0.0, |(_, p)| *p);
                    rewards.push((q / N_ROWS as f64, if f64::from(p) > q { 1.0 } else { 0.0 }));
                }
            }
            let mean: f64 = rewards.iter().map(|(share, reward)| share * reward).sum();
            rewards.iter().map(|(share, reward)| share * (reward - mean).powi(2)).sum::<f64>().sqrt()
        });
    }

    #[test]
    fn logits_that_are_no_numbers_give_no_finite_loss() {
        for loss in [Loss::CrossEntropy, Loss::TotalVariation] {
            for number in [f32::NAN, f32::INFINITY] {
                let (mut logits, goals) = example();
                logits[3] = number;
                assert!(!gradient(loss, &mut logits, N_COLUMNS, &goals, 1).is_finite(), "{loss:?} {number}");
            }
        }
    }
}
