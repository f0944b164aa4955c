//! Where a long text can be cut without changing its tokens, for vocabularies of the SentencePiece kind.
//!
//! llama.cpp's time for a text grows with the square of two things: characters that the vocabulary does not have (for each
//! of them all tokens so far are moved), and special tokens found in it (for each of them those before are counted); Gemma
//! takes a newline for one. In pieces of some KiB neither is noticed.
//!
//! A token of several characters is joined from its neighbours, and a special one is found in the text. So nothing reaches
//! across a place between two characters that stand side by side in no token: a seam. Where each text gets a space in front,
//! a piece gets one too, and it is taken away again; there a seam is also no place where it might be right, or not alone.
//!
//! Pure: it holds characters, and whoever calls it has the tokenizer.

use std::collections::HashSet;

/// The space, as tokens spell it.
const SPACE: char = '\u{2581}';

/// A character that is in no vocabulary: Unicode keeps it free.
pub(super) const STRANGE: char = '\u{10FFFF}';

/// What a token is spelled with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling<'a> {
    pub(super) text: &'a str,
    /// Whether it is found in a text before anything is joined.
    pub(super) is_special: bool,
    /// Whether it takes white space beside it.
    pub(super) strips: bool,
}

/// The split points of texts in a vocabulary.
#[derive(Debug)]
pub(super) struct SplitPoints {
    /// Characters that stand side by side in a token.
    // The standard hasher: a stranger chose them.
    pairs: HashSet<(char, char)>,
    /// What special tokens begin and end with.
    edges: HashSet<char>,
    /// Whether some of them take white space.
    strips: bool,
    /// Tokens of the space in front of a text; 0 where there is none.
    n_prefix: usize,
}

impl SplitPoints {
    /// Of a vocabulary with these tokens; `n_strange` is how many it takes for [`STRANGE`]. `None` where that tells
    /// nothing.
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

    /// The tokens of a text, by a tokenizer that is given pieces of it: each ends at the first seam after `n_bytes`.
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
        // What is taken away beside a special token must be in one piece with it.
        if self.strips && (is_white(before) || is_white(after)) {
            return false;
        }
        let (before, after) = (written(before), written(after));
        if self.pairs.contains(&(before, after)) {
            return false;
        }
        // After a special token the space in front is right, before one there is none, and it may be a part of a token.
        let is_clear =
            || !self.edges.contains(&before) && !self.edges.contains(&after) && !self.pairs.contains(&(SPACE, after));
        self.n_prefix == 0 || is_clear()
    }
}

/// As tokens spell it.
fn written(c: char) -> char {
    if c == ' ' { SPACE } else { c }
}

/// C's `isspace`.
fn is_white(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

#[cfg(test)]
mod tests;
