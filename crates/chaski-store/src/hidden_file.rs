//! Files of a hidden-state drafter: a small network that predicts the target's next hidden state, and a short head that
//! turns the state into candidates.
//!
//! From the target's last hidden state `h` and the embedding `e` of the token after it, the network predicts the next
//! state, and the head scores the tokens after that:
//!
//! ```text
//! x = ([h, e] - mean) / std              y = first x + first_bias
//! h' = scale (y[..n_embd] + second relu(y[n_embd..]))      scores = up (down h')
//! ```
//!
//! A file is a GGUF file of the architecture `chaski-hidden`:
//!
//! | tensor | elements | type |
//! |---|---|---|
//! | `input.mean`, `input.std` | 2 `n_embd` | F32 |
//! | `first.weight` | `n_embd + n_hidden` rows of 2 `n_embd` | one of [`WEIGHT_TYPES`] |
//! | `first.bias` | `n_embd + n_hidden` | F32 |
//! | `second.weight` | `n_embd` rows of `n_hidden` | one of [`WEIGHT_TYPES`] |
//! | `head.down.weight` | `rank` rows of `n_embd` | one of [`WEIGHT_TYPES`] |
//! | `head.up.weight` | `n_tokens` rows of `rank` | one of [`WEIGHT_TYPES`] |
//! | `head.tokens` | `n_tokens` ids of the target's vocabulary | I32 |
//!
//! A network belongs to one model: the states of another one mean something else.
//!
//! Nothing in the file is trusted: every type, length and token id is checked when it is opened. The checksum finds
//! accidents, not forgeries; a forged file can make drafts worse, but cannot change the text.

mod error;
mod reader;
mod writer;

pub use error::HiddenFileError;

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::gguf::{ModelId, TensorType};
use crate::token::Token;

/// The format version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// ggml's names of the types that weights may have.
pub const WEIGHT_TYPES: [&str; 6] = ["f32", "f16", "q8_0", "q6_K", "q5_0", "q4_0"];

/// The name in the id of each ([`HiddenFile::id`]).
pub const NAME: &str = "hidden-states";

const ARCHITECTURE: &str = "chaski-hidden";

/// Greatest `n_embd`, `n_hidden` and `rank`, so that products of them fit into 64 bits.
const MAX_WIDTH: usize = 1 << 20;

/// Most tokens of the head, as in the check of model files.
const MAX_TOKENS: usize = 1 << 21;

/// A matrix in the blocks of a ggml type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// One of [`WEIGHT_TYPES`].
    pub tensor_type: TensorType,
    /// Elements of a row.
    pub n_columns: usize,
    /// Number of rows.
    pub n_rows: usize,
    /// The rows, encoded.
    pub data: Vec<u8>,
}

impl Weights {
    /// `columns × rows`, for messages.
    fn shape(&self) -> String {
        format!("{} × {}", self.n_columns, self.n_rows)
    }

    /// Checks that the data fills the shape.
    fn check(&self, name: &str) -> Result<(), String> {
        let kind = self.tensor_type.name;
        if !WEIGHT_TYPES.contains(&kind) {
            return Err(format!("{name} has the type {kind}, expected {}", WEIGHT_TYPES.join(", ")));
        }
        let row_bytes = self.tensor_type.size_bytes(self.n_columns as u64);
        let bytes = row_bytes.and_then(|bytes| bytes.checked_mul(self.n_rows as u64));
        if bytes == Some(self.data.len() as u64) {
            return Ok(());
        }
        Err(format!("{name}: {} bytes are not {} elements of type {kind}", self.data.len(), self.shape()))
    }
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenFile {
    /// The target.
    pub model: ModelId,
    /// Tokens that the network was trained on.
    pub n_trained_tokens: u64,
    /// How often the likeliest token is the target's on texts it was not trained on, 0 to 1.
    pub held_out_top1: f32,
    /// What drafting with it taught the mixer, as JSON. Not read here.
    pub experience: Option<String>,
    /// The factor of the next state.
    pub scale: f32,
    /// Means of the input: `n_embd` of states, then `n_embd` of embeddings.
    pub mean: Vec<f32>,
    /// Their standard deviations, in the same order.
    pub std: Vec<f32>,
    /// `n_embd + n_hidden` rows of 2 `n_embd`.
    pub first: Weights,
    /// One for each row of `first`.
    pub first_bias: Vec<f32>,
    /// `n_embd` rows of `n_hidden`.
    pub second: Weights,
    /// The head's first matrix: `rank` rows of `n_embd`.
    pub down: Weights,
    /// The head's second matrix: a row of `rank` for each of `tokens`.
    pub up: Weights,
    /// The tokens that the head scores.
    pub tokens: Vec<Token>,
}

impl HiddenFile {
    /// The width of the target's hidden states.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.mean.len() / 2
    }

    /// The width of the hidden layer.
    #[must_use]
    pub fn n_hidden(&self) -> usize {
        self.second.n_columns
    }

    /// The rank of the head.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.down.n_rows
    }

    /// Tells two of these apart, as a model's id tells two models apart. Training further keeps it: only the head counts.
    #[must_use]
    pub fn id(&self) -> ModelId {
        let all = [&self.down, &self.up].map(|weights| XxHash3_64::oneshot(&weights.data));
        let bytes: Vec<u8> = all.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        format!("{NAME} {:016x}", XxHash3_64::oneshot(&bytes)).into()
    }

    /// Checks that all parts fit together, as those of a file do that was opened.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self) -> Result<(), String> {
        let (n_embd, n_hidden, rank, n_tokens) = (self.n_embd(), self.n_hidden(), self.rank(), self.tokens.len());
        for (what, n, most) in [
            ("states", n_embd, MAX_WIDTH),
            ("its hidden layer", n_hidden, MAX_WIDTH),
            ("its head", rank, MAX_WIDTH),
            ("the list of tokens", n_tokens, MAX_TOKENS),
        ] {
            if !(1..=most).contains(&n) {
                return Err(format!("expected {what} of 1 to {most} elements, found {n}"));
            }
        }
        for (name, weights, n_columns, n_rows) in [
            ("first.weight", &self.first, 2 * n_embd, n_embd + n_hidden),
            ("second.weight", &self.second, n_hidden, n_embd),
            ("head.down.weight", &self.down, n_embd, rank),
            ("head.up.weight", &self.up, rank, n_tokens),
        ] {
            if (weights.n_columns, weights.n_rows) != (n_columns, n_rows) {
                return Err(format!("{name}: expected {n_columns} × {n_rows} elements, found {}", weights.shape()));
            }
            weights.check(name)?;
        }
        for (name, values, n) in [
            ("input.mean", &self.mean, 2 * n_embd),
            ("input.std", &self.std, 2 * n_embd),
            ("first.bias", &self.first_bias, n_embd + n_hidden),
        ] {
            if values.len() != n {
                return Err(format!("{name}: expected {n} elements, found {}", values.len()));
            }
            if !values.iter().all(|x| x.is_finite()) {
                return Err(format!("{name} has NaN or infinity"));
            }
        }
        if !self.std.iter().all(|x| *x > 0.0) {
            return Err("input.std has a number that is not positive".to_owned());
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(format!("expected a positive scale, found {}", self.scale));
        }
        if !(0.0..=1.0).contains(&self.held_out_top1) {
            return Err(format!("expected a share of right tokens from 0 to 1, found {}", self.held_out_top1));
        }
        let mut known = BTreeSet::new();
        match self.tokens.iter().find(|token| token.0 < 0 || !known.insert(**token)) {
            Some(token) if token.0 < 0 => Err(format!("head.tokens has the id {}", token.0)),
            Some(token) => Err(format!("head.tokens has the id {} twice", token.0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
