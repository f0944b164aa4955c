//! Settings of a training, and what it reports on the way.

use crate::accuracy::Accuracy;
use crate::error::TrainError;

/// What the network learns to minimize.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// Cross entropy with the target's probabilities.
    #[default]
    CrossEntropy,
    /// Total variation distance to the target's probabilities, by TVD++ ("Direct Alignment of Draft Model", 2024): a
    /// policy gradient on the reward "the target's probability is greater", normalized over the batch.
    TotalVariation,
}

/// Settings of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Units of the hidden layer.
    pub n_hidden: usize,
    /// Tokens of the cut head; at least 32.
    pub n_tokens: usize,
    /// Rank of the short head; no more than `n_embd` is used.
    pub rank: usize,
    /// Passes over the texts. With 0, the start is evaluated and given its heads.
    pub n_epochs: usize,
    /// Adam's learning rate after the warm-up. It falls to 0 over all epochs.
    pub rate: f32,
    /// Share of the inputs and hidden units that are dropped, from 0 to below 1.
    pub dropout: f32,
    /// Decides all random numbers. The same seed and number of threads give the same network on the same processor.
    pub seed: u64,
    /// What the network learns to minimize.
    pub loss: Loss,
    /// Threads for products and for work on rows; at least 1.
    pub n_threads: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            n_hidden: 1024,
            n_tokens: 8192,
            rank: 128,
            n_epochs: 6,
            rate: 3e-4,
            dropout: 0.15,
            seed: 0,
            loss: Loss::CrossEntropy,
            n_threads: 2,
        }
    }
}

/// The tokens of a cut head are a multiple of this, for kernels that work on groups of rows.
pub(crate) const TOKENS_MULTIPLE: usize = 32;

impl Settings {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let wrong = |name, expected| Err(TrainError::Setting { name, expected });
        match self {
            _ if self.n_hidden == 0 => wrong("n_hidden", "at least 1"),
            _ if self.n_tokens < TOKENS_MULTIPLE => wrong("n_tokens", "at least 32"),
            _ if self.rank == 0 => wrong("rank", "at least 1"),
            _ if !(self.rate > 0.0 && self.rate.is_finite()) => wrong("rate", "a positive number"),
            _ if !(0.0..1.0).contains(&self.dropout) => wrong("dropout", "a number from 0 to below 1"),
            _ if self.n_threads == 0 => wrong("n_threads", "at least 1"),
            _ => Ok(()),
        }
    }
}

/// What a training reports to its progress callback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The texts were checked and split.
    Started {
        /// Pairs of neighbouring rows to learn from.
        n_pairs: usize,
        /// Pairs of the held-out texts.
        n_held_out: usize,
    },
    /// A batch was learned.
    Batch {
        /// The share of all steps that are done.
        done: f64,
        /// The mean loss of the batch.
        loss: f64,
    },
    /// An epoch ended. The callback also gets the best network so far.
    Epoch {
        /// Its number, from 1 on.
        epoch: usize,
        /// The mean loss of its batches.
        loss: f64,
        /// The accuracy on the held-out texts, with the cut head.
        held_out: Accuracy,
        /// Whether this is the best network so far.
        is_best: bool,
    },
}
