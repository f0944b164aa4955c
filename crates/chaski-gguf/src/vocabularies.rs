//! Compares the vocabularies of two models: one can draft for the other only if its token ids mean the same.

use super::error::excerpt;
use super::{Gguf, architectures};

/// llama.cpp's type of tokens that fill up a vocabulary and occur in no text.
const UNUSED: u64 = 5;

/// A token id that means different texts in two models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferentToken {
    /// The id.
    pub id: usize,
    /// Its text in the first model, shortened; `None` if the model has no such token. Untrusted.
    pub first: Option<String>,
    /// The same in the second model.
    pub second: Option<String>,
}

impl Gguf {
    /// The lowest token id that means different texts in this and the `other` model; `None` if the vocabularies agree.
    /// One of them may have unused tokens at its end: models of one family are padded to different lengths.
    ///
    /// Which tokens begin and end a text is not compared. The ids mean the same whatever their role, and a base model can
    /// draft for the model that was tuned from it.
    pub fn first_different_token(&self, other: &Gguf) -> Option<DifferentToken> {
        let n_common = self.n_vocab().unwrap_or(0).min(other.n_vocab().unwrap_or(0));
        let different = self.token_texts().zip(other.token_texts()).position(|(first, second)| first != second);
        let id = different.or_else(|| self.first_used(n_common)).or_else(|| other.first_used(n_common))?;
        let text = |gguf: &Gguf| gguf.token_texts().nth(id).map(excerpt);
        Some(DifferentToken { id, first: text(self), second: text(other) })
    }

    fn token_texts(&self) -> impl Iterator<Item = &[u8]> {
        self.get_array("tokenizer.ggml.tokens").into_iter().flat_map(|tokens| tokens.strings())
    }

    /// The first token from `id` on that a text may use. Without types, all may be used.
    fn first_used(&self, id: usize) -> Option<usize> {
        let types = self.get_array("tokenizer.ggml.token_type");
        let types: Vec<Option<u64>> =
            types.map_or_else(Vec::new, |types| types.iter().map(|code| code.as_u64()).collect());
        (id..self.n_vocab().unwrap_or(0)).find(|&id| types.get(id).copied().flatten() != Some(UNUSED))
    }

    /// Whether the model has a state that cannot go back to an earlier token: recurrent and hybrid models.
    pub fn is_recurrent(&self) -> bool {
        let is_in = |list: &[&str]| self.architecture().is_some_and(|name| list.contains(&name));
        is_in(architectures::RECURRENT) || is_in(architectures::HYBRID)
    }

    /// Whether rejected tokens can be taken back: from a cache, or by going back to a checkpoint of the state.
    pub fn takes_drafts(&self) -> bool {
        !self.is_recurrent() || self.architecture().is_some_and(architectures::can_checkpoint)
    }
}
