//! A small world with a known next state, for tests: what a network can reach is known there.

use chaski_draft::draft::table::Successor;
use chaski_draft::token::Token;
use half::f16;

use crate::random::Random;
use crate::text::{Matrices, Said, Text};

pub(crate) const N_EMBD: usize = 32;
pub(crate) const N_VOCAB: usize = 64;

/// Units of the function that gives the next state.
const N_UNITS: usize = 6;

/// The next state is a linear map of the last state and the token's embedding, plus a few units with a kink.
pub(crate) struct World {
    embedding: Vec<f32>,
    head: Vec<f32>,
    linear: Vec<f32>,
    inner: Vec<f32>,
    outer: Vec<f32>,
}

impl Matrices for World {
    fn n_embd(&self) -> usize {
        N_EMBD
    }

    fn embedding(&self, token: Token, row: &mut [f32]) {
        row.copy_from_slice(&self.embedding[token.index() * N_EMBD..][..N_EMBD]);
    }

    fn head(&self, token: Token, row: &mut [f32]) {
        row.copy_from_slice(&self.head[token.index() * N_EMBD..][..N_EMBD]);
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed, 0);
        let mut normal = |n: usize, size: f32| (0..n).map(|_| random.normal() * size).collect::<Vec<f32>>();
        World {
            embedding: normal(N_VOCAB * N_EMBD, 1.0),
            head: normal(N_VOCAB * N_EMBD, 0.5),
            linear: normal(N_EMBD * 2 * N_EMBD, 0.07),
            inner: normal(N_UNITS * 2 * N_EMBD, 0.125),
            outer: normal(N_EMBD * N_UNITS, 0.55),
        }
    }

    /// The state after `state` and `token`.
    pub(crate) fn next_state(&self, state: &[f32], token: Token) -> Vec<f32> {
        let x = [state, &self.embedding[token.index() * N_EMBD..][..N_EMBD]].concat();
        let active: Vec<f32> = product(&self.inner, &x).iter().map(|number| number.abs() - 0.8).collect();
        let sum = product(&self.linear, &x).into_iter().zip(product(&self.outer, &active)).map(|(a, b)| a + b);
        // Beyond ±4 it is cut off, so that states stay small.
        sum.map(|number| number.clamp(-4.0, 4.0)).collect()
    }

    /// Texts of `length` tokens, drawn from the world's own probabilities.
    pub(crate) fn texts(&self, n: usize, length: usize, seed: u64) -> Vec<Text> {
        (0..n).map(|text| self.text(length, &mut Random::new(seed, text as u64))).collect()
    }

    fn text(&self, length: usize, random: &mut Random) -> Text {
        let mut state: Vec<f32> = (0..N_EMBD).map(|_| random.normal()).collect();
        let mut text = Text::default();
        for _ in 0..length {
            text.states.extend(state.iter().map(|number| f16::from_f32(*number)));
            let top = self.likeliest(&state);
            let mut drawn = random.share() as f32 * top.iter().map(|top| top.weight).sum::<f32>();
            let chosen = top.iter().find(|top| {
                drawn -= top.weight;
                drawn < 0.0
            });
            let token = chosen.unwrap_or(&top[0]).token;
            state = self.next_state(&state, token);
            text.said.push(Said { token, top });
        }
        text
    }

    fn likeliest(&self, state: &[f32]) -> Vec<Successor> {
        let exponentials: Vec<f32> = product(&self.head, state).iter().map(|logit| logit.exp()).collect();
        let sum: f32 = exponentials.iter().sum();
        let all = exponentials.iter().enumerate();
        let mut top: Vec<_> = all.map(|(token, e)| Successor { token: Token(token as i32), weight: e / sum }).collect();
        top.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        top.truncate(8);
        top
    }
}

fn product(matrix: &[f32], x: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}
