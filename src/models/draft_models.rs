//! Finds the models on this machine that could draft for another one.

use std::fs;

use crate::gguf::Gguf;
use crate::models::describe::{Listed, describe};
use crate::models::search::Found;

/// A draft model is worth trying if the target is this many times as large: its price goes with the bytes it reads.
const LEAST_RATIO: u64 = 3;

/// Whether `draft` could draft for `target`: it has the same vocabulary, it can go back to an earlier token, and it is
/// small enough to be worth trying. False for files that cannot be run.
#[must_use]
pub fn could_draft(draft: &Gguf, target: &Gguf) -> bool {
    is_small(bytes(draft), target) && !draft.is_recurrent() && draft.first_different_token(target).is_none()
}

/// The models among `found` that could draft for `target`. Opens only files that are small enough.
#[must_use]
pub fn draft_models_for(target: &Gguf, found: Vec<Found>) -> Vec<Listed> {
    let is_candidate =
        |found: &Found| fs::metadata(&found.path).is_ok_and(|metadata| is_small(Some(metadata.len()), target));
    let listed = found.into_iter().filter(is_candidate).map(describe);
    listed.filter(|listed| listed.gguf.as_ref().is_some_and(|draft| could_draft(draft, target))).collect()
}

fn is_small(n_bytes: Option<u64>, target: &Gguf) -> bool {
    let ratio = n_bytes.and_then(|n_bytes| bytes(target)?.checked_div(n_bytes));
    target.takes_drafts() && ratio.is_some_and(|ratio| ratio >= LEAST_RATIO)
}

/// Bytes of all tensors.
fn bytes(gguf: &Gguf) -> Option<u64> {
    Some(gguf.check().ok()?.tensor_bytes)
}
