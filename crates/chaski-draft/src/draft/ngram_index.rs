//! An index that finds where the last few tokens of a text occurred before.
//!
//! As in LZ77, a hash of the tokens leads to the latest place after them, and each place to the previous one with the
//! same hash. Callers compare the tokens themselves, so a collision only costs time.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use crate::token::Token;

/// An index of one text that grows at its end.
#[derive(Clone, Debug)]
pub struct NgramIndex {
    /// How many tokens are hashed.
    n_hashed: usize,
    /// Hash of the tokens before a place -> the latest such place.
    latest: FxHashMap<u64, u32>,
    /// Place -> the previous place with the same hash.
    earlier: Vec<u32>,
}

const NO_PLACE: u32 = u32::MAX;

fn hash_of(tail: &[Token]) -> u64 {
    let mut hasher = FxHasher::default();
    tail.iter().for_each(|token| hasher.write_i32(token.0));
    hasher.finish()
}

impl NgramIndex {
    /// An empty index over n-grams of `n_hashed` tokens.
    #[must_use]
    pub fn new(n_hashed: usize) -> NgramIndex {
        NgramIndex { n_hashed, latest: FxHashMap::default(), earlier: Vec::new() }
    }

    /// Indexes the new end of the text, which is now `text`.
    pub fn extend(&mut self, text: &[Token]) {
        for at in self.earlier.len()..=text.len() {
            let before = at.checked_sub(self.n_hashed).and_then(|start| {
                let place = u32::try_from(at).expect("a context has less than 2^32 tokens");
                self.latest.insert(hash_of(&text[start..at]), place)
            });
            self.earlier.push(before.unwrap_or(NO_PLACE));
        }
    }

    /// The places after the n-gram that ends `tail` (and after any with the same hash), latest first. A place is the
    /// position after the n-gram.
    pub fn after(&self, tail: &[Token]) -> impl Iterator<Item = usize> + '_ {
        let start = tail.len().checked_sub(self.n_hashed);
        let latest = start.and_then(|start| self.latest.get(&hash_of(&tail[start..])).copied());
        let is_place = |place: &u32| *place != NO_PLACE;
        std::iter::successors(latest, move |&place| Some(self.earlier[place as usize]).filter(is_place))
            .map(|place| place as usize)
    }
}

/// The number of equal tokens, backwards from the ends of `text` and `tail`, up to `most`.
#[must_use]
pub fn n_agreeing(text: &[Token], tail: &[Token], most: usize) -> usize {
    text.iter().rev().zip(tail.iter().rev()).take(most).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_every_place(ids in prop::collection::vec(0i32..4, 0..80), n_hashed in 1usize..5) {
            let text: Vec<Token> = ids.into_iter().map(Token).collect();
            let mut places = NgramIndex::new(n_hashed);
            (0..=text.len()).for_each(|end| places.extend(&text[..end]));
            for end in 0..=text.len() {
                let tail = &text[..end];
                let agree = |&at: &usize| n_agreeing(&text[..at], tail, n_hashed) == n_hashed;
                let found: Vec<usize> = places.after(tail).filter(agree).collect();
                let naive: Vec<usize> = (0..=text.len()).rev().filter(agree).collect();
                prop_assert_eq!(found, if end < n_hashed { Vec::new() } else { naive });
            }
        }
    }
}
