//! How often the network's candidates have the target's likeliest token.

use chaski_draft::token::Token;
use ndarray::Axis;

use crate::error::TrainError;
use crate::matrix::{Matrix, REPLACE, matrix, matrix_mut, multiply};
use crate::net::{Layers, Net};
use crate::pairs::{Pair, Pairs};
use crate::parallel::{each, part_len};
use crate::short_head::ShortHead;
use crate::text::{Matrices, Text, check};
use crate::tokens::{TokenRows, by_frequency};

/// Tokens that the short head finds, for the target's own head to score.
pub const N_SCORED: usize = 128;

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
    /// The short head finds the likeliest [`N_SCORED`] tokens, and the rows of the target's own head score those again.
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
    let heads = match candidates {
        Candidates::Cut => Heads { cut: &rows, short: None },
        Candidates::Short(head) => Heads { cut: &rows, short: Some(head) },
    };
    Ok(measure(net, &pairs, &embeddings, &head, &heads, n_threads.max(1)))
}

/// The heads to measure with.
pub(crate) struct Heads<'a> {
    /// The rows of the cut head.
    pub(crate) cut: &'a [f32],
    /// What chooses the tokens that the cut head scores; else all are scored.
    pub(crate) short: Option<&'a ShortHead>,
}

/// Logits of a block of states by one head.
#[derive(Default)]
struct Logits {
    all: Vec<f32>,
    reduced: Vec<f32>,
}

impl Logits {
    /// For the states in the first columns of `layers`. The scale of the states is left out, since only ranks are asked for.
    fn of_cut(&mut self, layers: &Layers, net: &Net, cut: &[f32], n_threads: usize) {
        let outputs = matrix(&layers.outputs, net.n_outputs());
        self.product(outputs.split_at(Axis(1), net.n_embd).0, cut, net.n_embd, n_threads);
    }

    fn of_short(&mut self, layers: &Layers, net: &Net, short: &ShortHead, n_threads: usize) {
        let outputs = matrix(&layers.outputs, net.n_outputs());
        let states = outputs.split_at(Axis(1), net.n_embd).0;
        let mut reduced = std::mem::take(&mut self.reduced);
        reduced.resize(states.nrows() * short.rank, 0.0);
        let down = matrix(&short.down, net.n_embd).reversed_axes();
        multiply(matrix_mut(&mut reduced, short.rank), REPLACE, states, down, 1.0, n_threads);
        self.product(matrix(&reduced, short.rank), &short.up, short.rank, n_threads);
        self.reduced = reduced;
    }

    fn product(&mut self, states: Matrix<'_>, rows: &[f32], width: usize, n_threads: usize) {
        let n_tokens = rows.len() / width;
        self.all.resize(states.nrows() * n_tokens, 0.0);
        let rows = matrix(rows, width).reversed_axes();
        multiply(matrix_mut(&mut self.all, n_tokens), REPLACE, states, rows, 1.0, n_threads);
    }
}

/// Measures on all pairs. The cut head has the first tokens of `numbers`.
pub(crate) fn measure(
    net: &Net,
    pairs: &Pairs<'_>,
    embeddings: &TokenRows,
    numbers: &TokenRows,
    heads: &Heads<'_>,
    n_threads: usize,
) -> Accuracy {
    let n_tokens = heads.cut.len() / net.n_embd;
    let goal =
        |pair: Pair| numbers.number(pairs.goal_top(pair)[0].token).filter(|number| (*number as usize) < n_tokens);
    let (mut x, mut layers, mut cut, mut short) = (Vec::new(), Layers::default(), Logits::default(), Logits::default());
    let (mut hits, mut n_covered) = ([0usize; 3], 0);
    for block in pairs.all.chunks(BLOCK) {
        pairs.write_inputs(block, embeddings, net, &mut x, n_threads);
        layers.run(net, &x, |_, _| (), n_threads);
        cut.of_cut(&layers, net, heads.cut, n_threads);
        if let Some(head) = heads.short {
            short.of_short(&layers, net, head, n_threads);
        }
        let len = part_len(block.len(), n_threads, 1);
        let parts = block.chunks(len).enumerate().collect();
        let ranks = each(parts, |(part, block)| {
            let rows = block.iter().enumerate().map(|(i, pair)| ((part * len + i) * n_tokens, pair));
            rows.filter_map(|(start, pair)| {
                let goal = goal(*pair)? as usize;
                let chooser = short.all.get(start..start + n_tokens);
                Some(rank(&cut.all[start..start + n_tokens], chooser, goal))
            })
            .collect::<Vec<usize>>()
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

/// The goal's rank by `logits`, from 0 on; if there is a `chooser`, among the tokens that it ranks first.
fn rank(logits: &[f32], chooser: Option<&[f32]>, goal: usize) -> usize {
    let Some(chooser) = chooser else { return n_not_below(logits, logits[goal]) - 1 };
    if n_not_below(chooser, chooser[goal]) > N_SCORED {
        return usize::MAX;
    }
    let mut sorted = chooser.to_vec();
    let place = N_SCORED.min(sorted.len()) - 1;
    let (_, least, _) = sorted.select_nth_unstable_by(place, |a, b| b.total_cmp(a));
    let chosen = logits.iter().zip(chooser).filter(|(_, score)| **score >= *least).map(|(logit, _)| *logit);
    n_not_below(&chosen.collect::<Vec<f32>>(), logits[goal]) - 1
}

/// How many numbers are not below the limit. Each that is not a number counts, and if the limit is none, all.
fn n_not_below(numbers: &[f32], limit: f32) -> usize {
    let n_below: u32 = numbers.iter().map(|number| u32::from(*number < limit)).sum();
    numbers.len() - n_below as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_and_numbers_that_are_none_count_against_the_network() {
        let rank = |logits: &[f32], goal| rank(logits, None, goal);
        assert_eq!(rank(&[1.0, 3.0, 2.0], 1), 0);
        assert_eq!(rank(&[1.0, 3.0, 2.0], 0), 2);
        assert_eq!(rank(&[2.0, 2.0, 2.0], 1), 2);
        assert_eq!(rank(&[f32::NAN, 3.0, 2.0], 1), 1);
        assert_eq!(rank(&[1.0, f32::NAN, 2.0], 1), 2);
    }

    #[test]
    fn a_chooser_leaves_the_tokens_that_it_ranks_first() {
        // Logits fall with the index; the chooser prefers the last ones.
        let logits: Vec<f32> = (0..200).map(|i| -(i as f32)).collect();
        let chooser: Vec<f32> = (0..200).map(|i| i as f32).collect();
        assert_eq!(rank(&logits, Some(&chooser), 72), 0);
        assert_eq!(rank(&logits, Some(&chooser), 74), 2);
        assert_eq!(rank(&logits, Some(&chooser), 199), 127);
        assert_eq!(rank(&logits, Some(&chooser), 71), usize::MAX);
        // Fewer tokens than would be scored.
        assert_eq!(rank(&logits[..3], Some(&chooser[..3]), 1), 1);
    }
}
