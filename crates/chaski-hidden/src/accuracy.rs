//! How often the network's candidates have the target's likeliest token.

use chaski_draft::token::Token;

use crate::error::TrainError;
use crate::net::{Layers, Net};
use crate::pairs::{Pair, Pairs};
use crate::parallel::{each, matrix, matrix_mut, multiply, part_len};
use crate::short_head::ShortHead;
use crate::text::{Matrices, Text, check};
use crate::tokens::{TokenRows, by_frequency};
use faer::Accum;

/// Rows that are measured at once.
const BLOCK: usize = 512;

/// Shares of rows by how the network ranks the target's likeliest next token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// It is the network's first candidate.
    pub top1: f64,
    /// It is among the first 3.
    pub top3: f64,
    /// It is among the first 8.
    pub top8: f64,
    /// It is in the cut head.
    pub covered: f64,
    /// How many rows were counted.
    pub n: usize,
}

/// What turns predicted states into logits of the cut head.
pub enum Candidates<'a> {
    /// The rows of the target's own head.
    Cut,
    /// The short head.
    Short(&'a ShortHead),
}

/// Measures a network on all pairs of neighbouring rows of `texts`.
///
/// # Errors
/// If the texts, the network and the matrices do not fit each other, or there are no pairs.
pub fn accuracy(
    net: &Net,
    tokens: &[Token],
    candidates: &Candidates<'_>,
    texts: &[Text],
    matrices: &dyn Matrices,
    n_threads: usize,
) -> Result<Accuracy, TrainError> {
    let n_embd = matrices.n_embd();
    check(texts, n_embd)?;
    net.check(n_embd, net.n_hidden)?;
    let pairs = Pairs::new(texts, n_embd, |_| true);
    if pairs.all.is_empty() {
        return Err(TrainError::TooFew { n_texts: texts.len(), n_pairs: 0, n_held_out: 0, min_pairs: 1 });
    }
    let embeddings = TokenRows::gather(&by_frequency(texts.iter()), n_embd, "embedding", |token, row| {
        matrices.embedding(token, row)
    })?;
    let head = TokenRows::gather(tokens, n_embd, "head", |token, row| matrices.head(token, row))?;
    let rows = head.first(tokens.len());
    let factors = match candidates {
        Candidates::Cut => Factors { down: None, up: &rows },
        Candidates::Short(head) => Factors::short(head),
    };
    Ok(measure(net, &pairs, &embeddings, &head, &factors, n_threads.max(1)))
}

/// A head for measuring: logits = `up` · `down` · state, or `up` · state.
pub(crate) struct Factors<'a> {
    pub(crate) down: Option<&'a [f32]>,
    pub(crate) up: &'a [f32],
}

impl Factors<'_> {
    pub(crate) fn short(head: &ShortHead) -> Factors<'_> {
        Factors { down: Some(&head.down), up: &head.up }
    }

    /// Writes the logits of the states in the first columns of `layers`.
    fn logits(&self, layers: &Layers, net: &Net, logits: &mut Vec<f32>, reduced: &mut Vec<f32>, n_threads: usize) {
        let states = matrix(&layers.outputs, net.n_outputs()).subcols(0, net.n_embd);
        let n_rows = states.nrows();
        let (states, width) = match self.down {
            None => (states, net.n_embd),
            Some(down) => {
                let rank = down.len() / net.n_embd;
                reduced.resize(n_rows * rank, 0.0);
                let down = matrix(down, net.n_embd).transpose();
                multiply(matrix_mut(reduced, rank), Accum::Replace, states, down, 1.0, n_threads);
                (matrix(reduced, rank), rank)
            }
        };
        let n_tokens = self.up.len() / width;
        logits.resize(n_rows * n_tokens, 0.0);
        let up = matrix(self.up, width).transpose();
        multiply(matrix_mut(logits, n_tokens), Accum::Replace, states, up, net.scale, n_threads);
    }
}

/// Measures on all pairs. The head has the first tokens of `numbers`, as many as `factors` has rows.
pub(crate) fn measure(
    net: &Net,
    pairs: &Pairs<'_>,
    embeddings: &TokenRows,
    numbers: &TokenRows,
    factors: &Factors<'_>,
    n_threads: usize,
) -> Accuracy {
    let (mut x, mut layers, mut logits, mut reduced) = (Vec::new(), Layers::default(), Vec::new(), Vec::new());
    let (mut hits, mut n_covered) = ([0usize; 3], 0);
    for block in pairs.all.chunks(BLOCK) {
        pairs.write_inputs(block, embeddings, net, &mut x, n_threads);
        layers.run(net, &x, |_, _| (), n_threads);
        factors.logits(&layers, net, &mut logits, &mut reduced, n_threads);
        let n_tokens = logits.len() / block.len();
        let goal =
            |pair: Pair| numbers.number(pairs.goal_top(pair)[0].token).filter(|number| (*number as usize) < n_tokens);
        let len = part_len(block.len(), n_threads, 1);
        let parts = block.chunks(len).zip(logits.chunks(len * n_tokens)).collect();
        let ranks = each(parts, |(pairs, logits)| {
            let rows = pairs.iter().zip(logits.chunks_exact(n_tokens));
            rows.filter_map(|(pair, logits)| Some(rank(logits, goal(*pair)? as usize))).collect::<Vec<usize>>()
        });
        for rank in ranks.into_iter().flatten() {
            n_covered += 1;
            for (hits, k) in hits.iter_mut().zip([1, 3, 8]) {
                *hits += usize::from(rank < k);
            }
        }
    }
    let share = |n: usize| n as f64 / pairs.all.len() as f64;
    Accuracy {
        top1: share(hits[0]),
        top3: share(hits[1]),
        top8: share(hits[2]),
        covered: share(n_covered),
        n: pairs.all.len(),
    }
}

/// How many other logits are not below the goal's. Numbers that are not a number count as above it.
fn rank(logits: &[f32], goal: usize) -> usize {
    let limit = logits[goal];
    let n_below: u32 = logits.iter().map(|logit| u32::from(*logit < limit)).sum();
    logits.len() - 1 - n_below as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_numbers_that_are_none_count_against_the_network() {
        assert_eq!(rank(&[1.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank(&[1.0, 3.0, 2.0], 0), 2);
        assert_eq!(rank(&[2.0, 2.0, 2.0], 1), 2);
        assert_eq!(rank(&[f32::NAN, 3.0, 2.0], 1), 1);
        assert_eq!(rank(&[1.0, f32::NAN, 2.0], 1), 2);
    }
}
