//! A hidden-state drafter: a small network predicts the target's next hidden state from the last one and the newest token.
//!
//! - `rows`: rows of ggml's types, decoded and quantized
//! - `matrices`: the target's embedding and output matrix
//! - `ggml`: objects of ggml, freed when they are dropped
//! - `net`: computes the network
//! - `draft_model`: the network as a source with a price
//!
//! `chaski_store::hidden_file` has the formulas and the format of the file.

mod draft_model;
mod error;
mod ggml;
mod matrices;
mod net;
mod rows;
#[cfg(test)]
mod testing;

use std::cell::RefCell;
use std::rc::Rc;

pub use draft_model::{HiddenDraftModel, MOST_CONFIDENCE};
pub use error::HiddenError;
pub use matrices::TargetMatrices;
pub use net::{HiddenNet, MAX_ROWS, Step};
pub use rows::{dequantize, quantize};

/// The target's hidden state at its last committed row: after the final norm, where the output matrix takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastState {
    /// Committed tokens up to that row. The row is at position `n_past - 1`, and its logits gave token `n_past` of the
    /// text.
    pub n_past: usize,
    /// The state; empty if it is not known.
    pub state: Vec<f32>,
}

/// A [`LastState`] that the session writes and the drafter reads.
pub type StateCell = Rc<RefCell<LastState>>;
