//! Spells text in the longest possible tokens, for when the model's tokenizer would insert a space before it.

use std::collections::HashMap;

use crate::token::Token;

/// Maximum piece in the table, in bytes; longer pieces are runs of spaces and the like.
const LONGEST: usize = 32;

/// The tokens of a vocabulary, by the bytes they spell.
pub(super) struct LongestTokens {
    /// If several tokens spell the same bytes, the last one wins. Byte tokens come first in vocabularies, and models
    /// use them only as a fallback.
    tokens: HashMap<Vec<u8>, Token>,
}

impl LongestTokens {
    /// For a vocabulary whose tokens spell `pieces`.
    pub(super) fn new(pieces: &[Vec<u8>]) -> LongestTokens {
        let tokens = (0..).map(Token).zip(pieces).filter(|(_, piece)| (1..=LONGEST).contains(&piece.len()));
        LongestTokens { tokens: tokens.map(|(token, piece)| (piece.clone(), token)).collect() }
    }

    /// Spells `bytes` greedily in the longest tokens. Stops at the first byte that no token spells.
    pub(super) fn spell(&self, mut bytes: &[u8]) -> Vec<Token> {
        let mut tokens = Vec::new();
        let longest = |bytes: &[u8]| {
            let lengths = (1..=bytes.len().min(LONGEST)).rev();
            lengths.into_iter().find_map(|n| self.tokens.get(&bytes[..n]).map(|&token| (token, n)))
        };
        while let Some((token, n)) = longest(bytes) {
            tokens.push(token);
            bytes = &bytes[n..];
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_spelled_in_the_longest_tokens_and_in_bytes_where_there_are_none() {
        let bytes = (0..=u8::MAX).filter(|&byte| byte != b'!').map(|byte| vec![byte]);
        let words = ["{", "{\"", "name", "names", "\":", " "].map(|word| word.as_bytes().to_vec());
        let longest_tokens = LongestTokens::new(&bytes.chain(words).chain([Vec::new()]).collect::<Vec<_>>());
        let spell = |text: &str| longest_tokens.spell(text.as_bytes()).iter().map(|token| token.0).collect::<Vec<_>>();
        assert_eq!(spell("{\"name\": {x"), [256, 257, 259, 260, 255, i32::from(b'x') - 1]);
        assert_eq!(spell("{!name"), [255], "nothing after what cannot be spelled");
        assert_eq!(spell(""), [0; 0]);
    }
}
