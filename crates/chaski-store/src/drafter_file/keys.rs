//! Maps contexts to evenly spread keys, so that the position of a row in a file can be computed instead of searched
//! for. The estimate is right to within a few rows, whatever the size of the file.
//!
//! Contexts are numbered (none, then one token, then two), and a bijection on as many bits as the numbers need shuffles
//! them. Without it the keys of frequent tokens would be close together and those of rare tokens far apart.

use crate::drafter_file::row::Context;
use crate::token::Token;

/// 2^64 over the golden ratio. It is odd, so the multiplication can be undone.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The inverse of `MULTIPLIER` modulo 2^64.
const INVERSE: u64 = 0xf1de_83e1_9937_733d;

/// The keys of all contexts of a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpace {
    n_vocab: u64,
    n_bits: u32,
}

impl KeySpace {
    /// For a vocabulary of `n_tokens`, at most 2^21. Keys have at most 43 bits.
    #[must_use]
    pub fn new(n_tokens: u32) -> KeySpace {
        let n_vocab = u64::from(n_tokens);
        let greatest = n_vocab + n_vocab * n_vocab;
        KeySpace { n_vocab, n_bits: u64::BITS - greatest.leading_zeros() }
    }

    /// An upper bound of the keys, exclusive.
    #[must_use]
    pub fn end(&self) -> u64 {
        1 << self.n_bits
    }

    /// The key of up to two tokens; the empty context has key 0. `None` for more tokens, or a token outside the
    /// vocabulary.
    #[must_use]
    pub fn key(&self, context: &[Token]) -> Option<u64> {
        let id = |token: Token| u64::try_from(token.0).ok().filter(|&id| id < self.n_vocab);
        let number = match *context {
            [] => 0,
            [last] => 1 + id(last)?,
            [before, last] => 1 + self.n_vocab + id(before)? * self.n_vocab + id(last)?,
            _ => return None,
        };
        Some(self.fold(self.fold(number).wrapping_mul(MULTIPLIER)))
    }

    /// The context of a key; `None` if no context has it.
    #[must_use]
    pub fn context(&self, key: u64) -> Option<Context> {
        if key >= self.end() {
            return None;
        }
        let number = self.fold(self.fold(key).wrapping_mul(INVERSE));
        let token = |id: u64| i32::try_from(id).ok().map(Token);
        let Some(one) = number.checked_sub(1) else { return Some(Context::EMPTY) };
        let Some(two) = one.checked_sub(self.n_vocab) else { return Context::new(&[token(one)?]) };
        let (before, last) = (two / self.n_vocab, two % self.n_vocab);
        if before < self.n_vocab { Context::new(&[token(before)?, token(last)?]) } else { None }
    }

    /// Masks `number` to the bits of a key and XORs its upper half into the lower. It is its own inverse.
    fn fold(&self, number: u64) -> u64 {
        let number = number & (self.end() - 1);
        number ^ (number >> self.n_bits.div_ceil(2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_context_has_a_key_of_its_own() {
        for n_tokens in [1, 2, 3, 7, 30] {
            let keys = KeySpace::new(n_tokens);
            let ids: Vec<Token> = (0..n_tokens as i32).map(Token).collect();
            let ones = ids.iter().map(|&a| vec![a]);
            let twos = ids.iter().flat_map(|&a| ids.iter().map(move |&b| vec![a, b]));
            let all: Vec<Vec<Token>> = [vec![]].into_iter().chain(ones).chain(twos).collect();
            let mut found: Vec<u64> = all.iter().map(|tokens| keys.key(tokens).unwrap()).collect();
            for (tokens, &key) in all.iter().zip(&found) {
                assert_eq!(keys.context(key), Context::new(tokens), "{n_tokens} {tokens:?}");
            }
            assert_eq!(found[0], 0);
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), all.len());
            assert!(found.iter().all(|&key| key < keys.end()));
            assert_eq!((0..keys.end() + 99).filter(|&key| keys.context(key).is_some()).count(), all.len());
        }
    }

    proptest! {
        #[test]
        fn keys_lead_back(n_tokens in 1_u32..=1 << 21, before: u32, last: u32, any: u64) {
            let keys = KeySpace::new(n_tokens);
            let tokens = [before, last].map(|id| Token((id % n_tokens) as i32));
            let key = keys.key(&tokens).unwrap();
            prop_assert!(key < keys.end() && keys.end() <= 1 << 43);
            prop_assert_eq!(keys.context(key), Context::new(&tokens));
            if let Some(context) = keys.context(any) {
                prop_assert_eq!(keys.key(context.tokens()), Some(any));
            }
        }
    }

    #[test]
    fn keys_of_frequent_tokens_are_spread() {
        let keys = KeySpace::new(150_000);
        let mut counts = [0; 16];
        for (before, last) in (0..100).flat_map(|a| (0..100).map(move |b| (a, b))) {
            let key = keys.key(&[Token(before), Token(last)]).unwrap();
            counts[(key * 16 / keys.end()) as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (400..850).contains(&n)), "{counts:?}");
    }

    #[test]
    fn what_is_not_of_the_vocabulary_has_no_key() {
        let keys = KeySpace::new(3);
        for context in [&[3][..], &[-1], &[-1, 0], &[0, 3], &[i32::MIN], &[0, 0, 0]] {
            let context: Vec<Token> = context.iter().copied().map(Token).collect();
            assert_eq!(keys.key(&context), None, "{context:?}");
        }
    }
}
