//! What the training reads: the target's texts with their states, and rows of its matrices.

use chaski_draft::draft::table::Successor;
use chaski_draft::token::Token;
use half::f16;

use crate::error::TrainError;

/// A text that the target wrote.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// `n_embd` numbers for each token of `said`: the hidden state after the final norm that the token was taken from.
    pub states: Vec<f16>,
    /// The tokens of the text, in order.
    pub said: Vec<Said>,
}

/// A token of a text.
#[derive(Clone, Debug)]
pub struct Said {
    /// The token that the target emitted.
    pub token: Token,
    /// The likeliest tokens here (up to 8) with the target's probabilities, likeliest first. A row without any is not
    /// a goal of the training.
    pub top: Vec<Successor>,
}

/// Rows of the target's two matrices, as f32.
pub trait Matrices {
    /// The length of each row, and of a hidden state.
    fn n_embd(&self) -> usize;

    /// Writes the token's row of the embedding matrix to `row`, which has `n_embd` numbers.
    fn embedding(&self, token: Token, row: &mut [f32]);

    /// Writes the token's row of the output matrix (the head) to `row`, which has `n_embd` numbers.
    fn head(&self, token: Token, row: &mut [f32]);
}

/// Checks lengths and numbers, so that nothing after it can fail on them.
pub(crate) fn check(texts: &[Text], n_embd: usize) -> Result<(), TrainError> {
    if n_embd == 0 {
        return Err(TrainError::NoWidth);
    }
    for (text, Text { states, said }) in texts.iter().enumerate() {
        if states.len() != said.len() * n_embd {
            return Err(TrainError::Length { text, n_numbers: states.len(), n_tokens: said.len(), n_embd });
        }
        // The exponent of infinities and of NaN has only ones.
        if !states.iter().all(|number| is_finite(*number)) {
            let at = states.iter().position(|number| !is_finite(*number)).expect("one is not finite");
            return Err(TrainError::State { text, row: at / n_embd });
        }
        if let Some(row) = said.iter().position(|said| !is_valid(said)) {
            return Err(TrainError::Token { text, row });
        }
    }
    Ok(())
}

fn is_finite(number: f16) -> bool {
    number.to_bits() & 0x7c00 != 0x7c00
}

fn is_valid(said: &Said) -> bool {
    let is_probability = |weight: f32| (0.0..=1.001).contains(&weight);
    said.token.0 >= 0 && said.top.iter().all(|top| top.token.0 >= 0 && is_probability(top.weight))
}
