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
