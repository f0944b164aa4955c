//! Decides which state to use, to store and to evict: arithmetic only, no files.

use crate::token::Token;

/// Fewer tokens than this are computed again: it takes no time.
pub const MIN_TOKENS: usize = 64;

/// A state is stored only if at least 1 / this of its tokens are new. So a growing text writes at most this many times
/// the size of its final state.
const MIN_NEW_PART: usize = 8;

/// Computing must take at least this many times as long as loading: loading also checks and copies, and the disk may be
/// busy.
const MIN_GAIN: u64 = 4;

/// Assumed rate of loading in bytes per microsecond: a SATA SSD.
const LOAD_BYTES_PER_US: u64 = 500;

/// The properties of a state that are known before loading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The tokens of the state.
    pub tokens: &'a [Token],
    /// Microseconds per token that computing the state took.
    pub us_per_token: u32,
    /// Bytes to load.
    pub n_bytes: u64,
}

/// What a context can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Positions of the context.
    pub n_ctx: usize,
    /// Whether a prefix of a state can be used. False for recurrent models and those with sliding windows.
    pub can_truncate: bool,
}

/// Length of the common prefix of two texts, in tokens.
#[must_use]
pub fn n_common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many tokens of `prefix` a state of `tokens` saves.
#[must_use]
pub fn n_usable(tokens: &[Token], prefix: &[Token], fit: Fit) -> usize {
    let n = n_common(tokens, prefix);
    let is_whole = n == tokens.len();
    if tokens.len() > fit.n_ctx || !(fit.can_truncate || is_whole) { 0 } else { n }
}

/// Whether loading `n_bytes` is clearly faster than computing the `n_tokens` that it saves.
#[must_use]
pub fn is_worth_loading(n_tokens: usize, us_per_token: u32, n_bytes: u64) -> bool {
    let computing_us = (n_tokens as u64).saturating_mul(u64::from(us_per_token));
    n_tokens >= MIN_TOKENS && computing_us >= MIN_GAIN.saturating_mul(n_bytes / LOAD_BYTES_PER_US)
}

/// Whether to store the state of a text of `n_tokens`, of which `n_new` had to be computed.
#[must_use]
pub fn is_worth_keeping(n_tokens: usize, n_new: usize, us_per_token: u32, n_bytes: u64) -> bool {
    n_new >= n_tokens / MIN_NEW_PART && n_new >= MIN_TOKENS && is_worth_loading(n_tokens, us_per_token, n_bytes)
}

/// The index of the candidate that saves most of `prefix`, of which the context already holds `n_have` tokens; the
/// smallest of equal ones. `None` if no candidate is worth loading.
#[must_use]
pub fn best(candidates: &[Candidate<'_>], prefix: &[Token], n_have: usize, fit: Fit) -> Option<usize> {
    let saves = |candidate: &Candidate<'_>| n_usable(candidate.tokens, prefix, fit);
    let is_worth = |candidate: &Candidate<'_>| {
        let n_gained = saves(candidate).saturating_sub(n_have);
        is_worth_loading(n_gained, candidate.us_per_token, candidate.n_bytes)
    };
    let worth = candidates.iter().enumerate().filter(|(_, candidate)| is_worth(candidate));
    let (index, _) = worth.max_by_key(|(_, candidate)| (saves(candidate), std::cmp::Reverse(candidate.n_bytes)))?;
    Some(index)
}

/// Whether a state of `tokens` makes a state of `older` superfluous.
#[must_use]
pub fn replaces(tokens: &[Token], older: &[Token], can_truncate: bool) -> bool {
    tokens.starts_with(older) && (can_truncate || tokens.len() == older.len())
}

/// The states to evict before adding `n_new_bytes`: least recently used first, until bytes and entries are within the
/// limits. `kept` are pairs of bytes and last use, in any unit.
#[must_use]
pub fn evicted(kept: &[(u64, u64)], n_new_bytes: u64, max_bytes: u64, max_entries: usize) -> Vec<usize> {
    let mut oldest_first: Vec<usize> = (0..kept.len()).collect();
    oldest_first.sort_by_key(|&index| (kept[index].1, index));
    let mut n_bytes = kept.iter().fold(n_new_bytes, |sum, (bytes, _)| sum.saturating_add(*bytes));
    let mut n_entries = kept.len() + 1;
    let goes = |&index: &usize| {
        let is_too_much = n_bytes > max_bytes || n_entries > max_entries;
        n_bytes -= if is_too_much { kept[index].0 } else { 0 };
        n_entries -= usize::from(is_too_much);
        is_too_much
    };
    oldest_first.into_iter().take_while(goes).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOW: u32 = 10_000;

    fn text(n: usize) -> Vec<Token> {
        (0..).map(Token).take(n).collect()
    }

    fn candidate(tokens: &[Token]) -> Candidate<'_> {
        Candidate { tokens, us_per_token: SLOW, n_bytes: 28_000 * tokens.len() as u64 }
    }

    #[test]
    fn what_loads_as_slowly_as_it_computes_is_neither_kept_nor_loaded() {
        let n_bytes = 1000 * 28_000;
        assert!(is_worth_keeping(1000, 1000, 11_000, n_bytes), "a laptop's CPU");
        assert!(!is_worth_keeping(1000, 1000, 100, n_bytes), "a GPU that reads 10 000 tokens a second");
        assert!(!is_worth_keeping(63, 63, SLOW, 0));
        assert!(!is_worth_keeping(1000, 100, SLOW, n_bytes), "nearly all of it is kept already");
        assert!(is_worth_keeping(1000, 130, SLOW, n_bytes));
        assert!(!is_worth_loading(usize::MAX, 0, u64::MAX) && is_worth_loading(usize::MAX, u32::MAX, u64::MAX));
    }

    #[test]
    fn a_part_of_a_state_can_be_used_unless_the_model_is_recurrent() {
        let (long, prefix) = (text(900), [text(500), vec![Token(-1); 20]].concat());
        let fit = Fit { n_ctx: 2000, can_truncate: true };
        assert_eq!(best(&[candidate(&long)], &prefix, 0, fit), Some(0));
        assert_eq!(n_usable(&long, &prefix, fit), 500);
        assert_eq!(best(&[candidate(&long)], &prefix, 0, Fit { can_truncate: false, ..fit }), None);
        assert_eq!(best(&[candidate(&long[..400])], &prefix, 0, Fit { can_truncate: false, ..fit }), Some(0));
        assert_eq!(best(&[candidate(&long)], &prefix, 0, Fit { n_ctx: 899, ..fit }), None, "it does not fit");
        assert_eq!(best(&[candidate(&long)], &prefix, 450, fit), None, "the context has nearly as much");
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let kept = [(10, 5), (20, 1), (30, 9)];
        assert_eq!(evicted(&kept, 40, 100, 9), Vec::<usize>::new());
        assert_eq!(evicted(&kept, 41, 100, 9), [1]);
        assert_eq!(evicted(&kept, 65, 100, 9), [1, 0]);
        assert_eq!(evicted(&kept, 1, 100, 2), [1, 0]);
        assert_eq!(evicted(&kept, u64::MAX, 100, 9), [1, 0, 2]);
    }

    proptest! {
        #[test]
        fn the_best_is_the_best_by_trying_all(
            texts in prop::collection::vec((prop::collection::vec(0..2, 0..200), 0..300usize), 0..6),
            own in prop::collection::vec(0..2, 0..200),
            n_have in 0..100usize,
            n_ctx in 100..600usize,
            can_truncate: bool,
        ) {
            // Texts with a common prefix that differ somewhere.
            let tokens = |start: usize, rest: &[i32]| -> Vec<Token> {
                text(start).into_iter().chain(rest.iter().copied().map(Token)).collect()
            };
            let texts: Vec<Vec<Token>> = texts.iter().map(|(rest, start)| tokens(*start, rest)).collect();
            let candidates: Vec<Candidate<'_>> = texts.iter().map(|text| candidate(text)).collect();
            let prefix = tokens(250, &own);
            let fit = Fit { n_ctx, can_truncate };
            // Reference implementation: for each length, longest first, is there a state usable up to it?
            let naive = (n_have + MIN_TOKENS..=prefix.len()).rev().find(|&n| {
                let fits = |text: &[Token]| {
                    text.len() <= n_ctx && text.len() >= n && text[..n] == prefix[..n]
                        && (can_truncate || text.len() == n)
                        && is_worth_loading(n - n_have, SLOW, 28_000 * text.len() as u64)
                };
                texts.iter().any(|text| fits(text))
            });
            let found = best(&candidates, &prefix, n_have, fit).map(|index| n_usable(&texts[index], &prefix, fit));
            prop_assert_eq!(found, naive);
        }

        #[test]
        fn eviction_keeps_the_limits_and_no_less_than_it_may(
            kept in prop::collection::vec((0..100u64, 0..50u64), 0..30),
            n_new in 0..100u64,
            max_bytes in 100..1000u64,
            max_entries in 1..20usize,
        ) {
            let gone = evicted(&kept, n_new, max_bytes, max_entries);
            let fits = |gone: &[usize]| {
                let left = kept.iter().enumerate().filter(|(index, _)| !gone.contains(index));
                let (n, bytes) = left.fold((1, n_new), |(n, sum), (_, (bytes, _))| (n + 1, sum + bytes));
                n <= max_entries && bytes <= max_bytes
            };
            prop_assert!(fits(&gone));
            if let Some((last, before)) = gone.split_last() {
                prop_assert!(!fits(before), "{last} could have stayed");
            }
            let newest_gone = gone.iter().map(|&index| kept[index].1).max();
            let oldest_left = (0..kept.len()).filter(|index| !gone.contains(index)).map(|index| kept[index].1).min();
            prop_assert!(newest_gone.zip(oldest_left).is_none_or(|(gone, left)| gone <= left));
        }
    }
}
