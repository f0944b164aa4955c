//! Identifies the vocabulary that the token ids of a file belong to. Models with the same tokens, such as siblings of
//! different sizes, share their files.
//!
//! The identity does not cover how text is split: two models that split text differently but number the same tokens can
//! read each other's matrices.

use std::hash::Hasher as _;

use twox_hash::XxHash3_64;

use crate::gguf::Gguf;

/// The identity of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// [`vocabulary_hash`] of its tokens.
    pub hash: u64,
    /// Number of tokens.
    pub n_tokens: u32,
}

impl Vocabulary {
    /// The vocabulary of a model file; `None` if it has none. Reads the header, not the weights.
    #[must_use]
    pub fn of(gguf: &Gguf) -> Option<Vocabulary> {
        let tokens = gguf.get_array("tokenizer.ggml.tokens")?;
        let n_tokens = u32::try_from(tokens.len()).ok().filter(|&n| n > 0)?;
        Some(Vocabulary { hash: vocabulary_hash(tokens.strings()), n_tokens })
    }
}

/// XXH3-64 (seed 0) over all tokens in id order: for each, the length in bytes as a little-endian `u32`, then the bytes
/// as spelled in the model file. Files are keyed by this hash, so it must never change.
#[must_use]
pub fn vocabulary_hash<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = XxHash3_64::with_seed(0);
    for piece in pieces {
        hasher.write(&(piece.len() as u32).to_le_bytes());
        hasher.write(piece);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(pieces: &[&str]) -> u64 {
        vocabulary_hash(pieces.iter().map(|piece| piece.as_bytes()))
    }

    #[test]
    fn the_hash_is_the_documented_one() {
        assert_eq!(hash(&[]), 0x2d06_8005_38d3_94c2, "XXH3-64 of nothing");
        assert_eq!(hash(&["ab", "c"]), XxHash3_64::oneshot(b"\x02\0\0\0ab\x01\0\0\0c"));
    }

    #[test]
    fn borders_order_and_length_matter() {
        let hashes = [&["ab", "c"][..], &["a", "bc"], &["c", "ab"], &["ab", "c", ""], &["ab"]].map(hash);
        assert!((0..hashes.len()).all(|i| !hashes[..i].contains(&hashes[i])), "{hashes:x?}");
    }
}
