//! Splits a long text where that does not change its tokens, for SentencePiece vocabularies.
//!
//! llama.cpp's time to tokenize a text grows quadratically with two counts: characters missing from the vocabulary
//! (each moves all tokens so far), and special tokens in the text (each recounts those before it; Gemma has a newline
//! among them). In pieces of a few KiB neither matters.
//!
//! A token of several characters is merged from neighbours, and special tokens are searched in the text. So no token
//! crosses a *seam*: a place between two characters that are adjacent in no token. Some vocabularies put a space in
//! front of every text. A piece then gets one too, whose tokens are removed again; there a place is no seam if the
//! space could be correct or could merge with what follows.
//!
//! This module only compares characters; the caller has the tokenizer.

use std::collections::HashSet;

/// The space, as it is spelled in tokens.
const SPACE: char = '\u{2581}';

/// A character that is in no vocabulary: a Unicode noncharacter.
pub(super) const STRANGE: char = '\u{10FFFF}';

/// A token's text and kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling<'a> {
    pub(super) text: &'a str,
    /// Whether it is searched in the text before merging starts.
    pub(super) is_special: bool,
    /// Whether it removes white space beside it.
    pub(super) strips: bool,
}

/// The split points of a vocabulary.
#[derive(Debug)]
pub(super) struct SplitPoints {
    /// Pairs of characters that are adjacent in a token.
    // The standard hasher, because a model file from a stranger determines the keys.
    pairs: HashSet<(char, char)>,
    /// First and last characters of special tokens.
    edges: HashSet<char>,
    /// Whether any special token removes white space.
    strips: bool,
    /// Tokens of the space in front of a text; 0 if the vocabulary adds none.
    n_prefix: usize,
}

impl SplitPoints {
    /// From the tokens of a vocabulary and `n_strange`, the number of tokens of [`STRANGE`]. `None` if a token contains
    /// [`STRANGE`] or the vocabulary does not spell it as bytes.
    pub(super) fn new<'a>(spellings: impl Iterator<Item = Spelling<'a>>, n_strange: usize) -> Option<SplitPoints> {
        let n_prefix = n_strange.checked_sub(STRANGE.len_utf8())?;
        let mut split_points = SplitPoints { pairs: HashSet::new(), edges: HashSet::new(), strips: false, n_prefix };
        for Spelling { text, is_special, strips } in spellings {
            let characters = || text.chars().map(written);
            if characters().any(|c| c == STRANGE) {
                return None;
            }
            split_points.pairs.extend(characters().zip(characters().skip(1)));
            if is_special {
                split_points.edges.extend(characters().next().into_iter().chain(characters().next_back()));
            }
            split_points.strips |= strips;
        }
        Some(split_points)
    }

    /// Tokenizes a text in pieces. Each piece ends at the first seam after `n_bytes`.
    pub(super) fn tokenize<'a, T>(
        &self,
        text: &'a str,
        n_bytes: usize,
        mut tokenize: impl FnMut(&'a str) -> Vec<T>,
    ) -> Vec<T> {
        let mut tokens = Vec::new();
        for (n, piece) in self.pieces(text, n_bytes).into_iter().enumerate() {
            let n_too_many = if n == 0 { 0 } else { self.n_prefix };
            tokens.extend(tokenize(piece).into_iter().skip(n_too_many));
        }
        tokens
    }

    fn pieces<'a>(&self, text: &'a str, n_bytes: usize) -> Vec<&'a str> {
        let (mut pieces, mut start, mut before) = (Vec::new(), 0, None);
        for (at, after) in text.char_indices() {
            if at - start >= n_bytes && before.is_some_and(|before| self.is_seam(before, after)) {
                pieces.push(&text[start..at]);
                start = at;
            }
            before = Some(after);
        }
        pieces.push(&text[start..]);
        pieces
    }

    fn is_seam(&self, before: char, after: char) -> bool {
        // White space that a special token removes must stay in one piece with it.
        if self.strips && (is_white(before) || is_white(after)) {
            return false;
        }
        let (before, after) = (written(before), written(after));
        if self.pairs.contains(&(before, after)) {
            return false;
        }
        // After a special token the added space is correct, before one there is none, and it may merge with the next
        // character.
        let is_clear =
            || !self.edges.contains(&before) && !self.edges.contains(&after) && !self.pairs.contains(&(SPACE, after));
        self.n_prefix == 0 || is_clear()
    }
}

/// The character as it is spelled in tokens.
fn written(c: char) -> char {
    if c == ' ' { SPACE } else { c }
}

/// C's `isspace`.
fn is_white(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

#[cfg(test)]
mod tests;
