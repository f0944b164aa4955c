//! Why a training did not give a network.

use thiserror::Error;

/// Why a training did not give a network.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TrainError {
    /// The matrices have rows of no numbers.
    #[error("the target's matrices have rows of 0 numbers")]
    NoWidth,
    /// The states of a text do not fit its tokens.
    #[error(
        "text {text}: {n_numbers} numbers in its states, expected {n_tokens} tokens of {n_embd} numbers ({} numbers)",
        n_tokens * n_embd
    )]
    Length {
        /// The text's index.
        text: usize,
        /// How many numbers its states have.
        n_numbers: usize,
        /// How many tokens it has.
        n_tokens: usize,
        /// The length of a state.
        n_embd: usize,
    },
    /// A state has a number that is infinite or not a number.
    #[error("text {text}, row {row}: a number of the state is not finite, expected finite numbers")]
    State {
        /// The text's index.
        text: usize,
        /// The index of the row in the text.
        row: usize,
    },
    /// A token is negative, or a weight is not a probability.
    #[error("text {text}, row {row}: expected token ids from 0 on, and probabilities from 0 to 1")]
    Token {
        /// The text's index.
        text: usize,
        /// The index of the row in the text.
        row: usize,
    },
    /// A row of the target's matrices has a number that is infinite or not a number.
    #[error("token {token}: a number of its row in the {matrix} is not finite, expected numbers that f16 can hold")]
    Matrix {
        /// The token's id.
        token: i32,
        /// Which matrix: `embedding` or `head`.
        matrix: &'static str,
    },
    /// There is too little to learn from.
    #[error(
        "{n_texts} texts with {n_pairs} pairs of rows to learn from and {n_held_out} held out: expected at least \
         {min_pairs}, and 1 held out (each 12th text from the 6th on; a text of n tokens has n - 1 pairs)"
    )]
    TooFew {
        /// How many texts were given.
        n_texts: usize,
        /// How many pairs of neighbouring rows are for training.
        n_pairs: usize,
        /// How many such pairs are held out.
        n_held_out: usize,
        /// How many pairs are needed for training.
        min_pairs: usize,
    },
    /// The texts have fewer different tokens than the cut head needs.
    #[error("the texts to learn from have {n_tokens} different tokens, expected at least {min_tokens}")]
    TooFewTokens {
        /// How many different tokens were found.
        n_tokens: usize,
        /// How many are needed.
        min_tokens: usize,
    },
    /// A setting is out of its range.
    #[error("setting {name}: expected {expected}")]
    Setting {
        /// The field of `Settings`.
        name: &'static str,
        /// Which values it may have.
        expected: &'static str,
    },
    /// The network to start from does not fit the target or the settings.
    #[error("the network to start from has {found} {what}, expected {expected}")]
    Start {
        /// What was counted.
        what: &'static str,
        /// How many the network has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// The network to start from has a number that is infinite or not a number, or a standard deviation of 0.
    #[error("the network to start from has numbers that are not finite, or a scale or standard deviation of 0")]
    StartNumbers,
    /// The loss is infinite or not a number.
    #[error("the loss became {loss} in step {step}: expected a finite loss; try a smaller rate")]
    Diverged {
        /// The step, from 1 on.
        step: usize,
        /// The loss there.
        loss: f64,
    },
    /// A matrix that should be positive definite is not, or an eigenvalue iteration did not end.
    #[error("{0} failed: the states are probably not those of a language model (all the same, or extremely large)")]
    Numeric(&'static str),
    /// The progress callback ended the training.
    #[error("the training was interrupted")]
    Interrupted,
}
