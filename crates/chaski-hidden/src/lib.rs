//! Trains a small network that predicts a language model's next hidden state.
//!
//! The network reads the target's state after the final norm and the embedding of the token that was taken from it. It
//! predicts the next state, and the rows of the output matrix (the *head*) turn that into candidates for the next token.
//! It learns from texts that the target wrote ([`Text`]): [`train`] gives the network, the tokens of the cut head and the
//! cut head in two small factors ([`ShortHead`]). [`refine`] trains a network further on more texts.
//!
//! The modules are listed in the order in which the data passes through them. The crate uses no files, clocks, global
//! state or engine. A time limit is the caller's: its progress callback can end the training.

#![forbid(unsafe_code)]

mod text;

mod error;
mod settings;

mod matrix;
mod parallel;
mod random;

mod pairs;
mod tokens;

mod batch;
mod net;
mod ridge;

mod adam;
mod loss;

mod accuracy;
mod short_head;

mod train;

#[cfg(test)]
mod world;

pub use accuracy::{Accuracy, Candidates, N_SCORED, accuracy};
pub use error::TrainError;
pub use net::Net;
pub use pairs::is_held_out;
pub use settings::{Event, Loss, Settings};
pub use short_head::ShortHead;
pub use text::{Matrices, Said, Text};
pub use train::{Progress, Refined, Trained, refine, train};
