//! Pairs of neighbouring rows: a state and its token, and the next row, which is to be predicted.

use chaski_draft::draft::table::Successor;
use chaski_draft::token::Token;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::net::Net;
use crate::parallel::{each, part_len};
use crate::text::Text;
use crate::tokens::TokenRows;

/// One of so many texts is held out.
const HELD_OUT: usize = 12;

/// The index of the first text that is held out.
const HELD_OUT_INDEX: usize = 5;

/// Whether the text with this index is kept from the training, to measure on.
#[must_use]
pub fn is_held_out(text: usize) -> bool {
    text % HELD_OUT == HELD_OUT_INDEX
}

/// The row whose state and token are the input; the next row is the goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    text: u32,
    row: u32,
}

impl Pair {
    /// The input that comes before this one in the text. Its goal is this one's state.
    pub(crate) fn previous(self) -> Option<Pair> {
        Some(Pair { row: self.row.checked_sub(1)?, ..self })
    }
}

/// The pairs of some texts.
pub(crate) struct Pairs<'a> {
    texts: &'a [Text],
    n_embd: usize,
    pub(crate) all: Vec<Pair>,
}

impl<'a> Pairs<'a> {
    /// All pairs of the texts that `is_chosen` (by index), except those whose goal has no likeliest tokens.
    pub(crate) fn new(texts: &'a [Text], n_embd: usize, is_chosen: impl Fn(usize) -> bool) -> Pairs<'a> {
        let mut all = Vec::new();
        for (number, text) in texts.iter().enumerate().filter(|(number, _)| is_chosen(*number)) {
            for row in 1..text.said.len() {
                if !text.said[row].top.is_empty() {
                    all.push(Pair { text: number as u32, row: row as u32 - 1 });
                }
            }
        }
        Pairs { texts, n_embd, all }
    }

    /// Up to `n` pairs, evenly spread.
    pub(crate) fn sample(&self, n: usize) -> Vec<Pair> {
        let n = n.min(self.all.len());
        (0..n).map(|i| self.all[i * self.all.len() / n]).collect()
    }

    pub(crate) fn token(&self, pair: Pair) -> Token {
        self.texts[pair.text as usize].said[pair.row as usize].token
    }

    pub(crate) fn state(&self, pair: Pair) -> &'a [f16] {
        let start = pair.row as usize * self.n_embd;
        &self.texts[pair.text as usize].states[start..start + self.n_embd]
    }

    pub(crate) fn goal_state(&self, pair: Pair) -> &'a [f16] {
        self.state(Pair { row: pair.row + 1, ..pair })
    }

    /// The target's likeliest tokens in the goal's row.
    pub(crate) fn goal_top(&self, pair: Pair) -> &'a [Successor] {
        &self.texts[pair.text as usize].said[pair.row as usize + 1].top
    }

    /// Writes the state and the embedding of the token to `input`.
    pub(crate) fn write_input(&self, pair: Pair, embeddings: &TokenRows, input: &mut [f32]) {
        let (state, embedding) = input.split_at_mut(self.n_embd);
        self.state(pair).convert_to_f32_slice(state);
        let number = embeddings.number(self.token(pair)).expect("the embeddings of all tokens were gathered");
        embeddings.copy(number, embedding);
    }

    /// Writes the inputs of these pairs to `x`, standardized for the network.
    pub(crate) fn write_inputs(
        &self,
        pairs: &[Pair],
        embeddings: &TokenRows,
        net: &Net,
        x: &mut Vec<f32>,
        n_threads: usize,
    ) {
        let width = 2 * self.n_embd;
        x.resize(pairs.len() * width, 0.0);
        let len = part_len(pairs.len(), n_threads, 1);
        let parts = pairs.chunks(len).zip(x.chunks_mut(len * width)).collect();
        each(parts, |(pairs, x)| {
            for (pair, row) in pairs.iter().zip(x.chunks_exact_mut(width)) {
                self.write_input(*pair, embeddings, row);
                net.standardize(row);
            }
        });
    }
}
