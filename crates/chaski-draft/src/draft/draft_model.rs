//! A small model of the target's vocabulary that predicts tokens at a price.

use crate::draft::table::Successor;
use crate::token::Token;

/// Predicts what follows a text. Each prediction takes time, so it is asked only where that pays.
pub trait DraftModel {
    /// The time in milliseconds that [`predict`](DraftModel::predict) is expected to take after `text` and `path`. It
    /// depends on how many of these tokens the model has not decoded yet.
    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64;

    /// The likeliest tokens after the committed `text` and the drafted `path`, likeliest first, with their
    /// probabilities at temperature 1 as weights. Empty if the model fails; it is then not asked again in this text.
    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor];
}
