//! The tokens of the texts, and their rows of the target's matrices: only rows that are needed, as f16.

use std::collections::BTreeMap;

use chaski_draft::token::Token;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::error::TrainError;
use crate::text::Text;

/// How much a probability counts beside a token that was emitted.
const TOP_COUNT: f64 = 0.5;

/// All tokens that the texts have or could have had, most frequent first.
pub(crate) fn by_frequency<'a>(texts: impl Iterator<Item = &'a Text>) -> Vec<Token> {
    let mut counts: BTreeMap<Token, f64> = BTreeMap::new();
    for said in texts.flat_map(|text| &text.said) {
        *counts.entry(said.token).or_default() += 1.0;
        for top in &said.top {
            *counts.entry(top.token).or_default() += TOP_COUNT * f64::from(top.weight);
        }
    }
    let mut counts: Vec<(Token, f64)> = counts.into_iter().collect();
    // A stable sort: equally frequent tokens stay in the order of their ids.
    counts.sort_by(|a, b| b.1.total_cmp(&a.1));
    counts.into_iter().map(|(token, _)| token).collect()
}

/// Rows of one of the target's matrices, numbered in the order in which their tokens were given.
pub(crate) struct TokenRows {
    /// Sorted by token.
    numbers: Vec<(Token, u32)>,
    rows: Vec<f16>,
    n_embd: usize,
}

impl TokenRows {
    /// The rows of these tokens, each of which occurs once. `name` is the matrix, for errors.
    pub(crate) fn gather(
        tokens: &[Token],
        n_embd: usize,
        name: &'static str,
        read: impl Fn(Token, &mut [f32]),
    ) -> Result<TokenRows, TrainError> {
        let mut rows = vec![f16::ZERO; tokens.len() * n_embd];
        let mut row = vec![0.0; n_embd];
        for (token, place) in tokens.iter().zip(rows.chunks_exact_mut(n_embd)) {
            read(*token, &mut row);
            place.convert_from_f32_slice(&row);
            if !place.iter().all(|number| number.is_finite()) {
                return Err(TrainError::Matrix { token: token.0, matrix: name });
            }
        }
        let mut numbers: Vec<(Token, u32)> = tokens.iter().copied().zip(0..).collect();
        numbers.sort_unstable();
        Ok(TokenRows { numbers, rows, n_embd })
    }

    /// The number of the token's row.
    pub(crate) fn number(&self, token: Token) -> Option<u32> {
        let at = self.numbers.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        Some(self.numbers[at].1)
    }

    /// Writes the row with this number to `row`.
    pub(crate) fn copy(&self, number: u32, row: &mut [f32]) {
        let start = number as usize * self.n_embd;
        self.rows[start..start + self.n_embd].convert_to_f32_slice(row);
    }

    /// The first `n` rows, as f32.
    pub(crate) fn first(&self, n: usize) -> Vec<f32> {
        let mut rows = vec![0.0; n * self.n_embd];
        self.rows[..n * self.n_embd].convert_to_f32_slice(&mut rows);
        rows
    }
}
