//! Shares prefixes between texts: a prefix is decoded once, and later texts copy its part of the cache.
//!
//! A text looks at all lanes, also at free ones: a lane keeps its cache until another text needs it. If an earlier text
//! is still reading the common prefix, the later text waits for it.

use crate::token::Token;

/// Fewest tokens worth copying. A copy takes some milliseconds whatever its length; fewer tokens are decoded again.
const LEAST_SHARED: usize = 32;

/// A lane as a possible source of a shared prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    /// The lane's text.
    pub(super) text: &'a [Token],
    /// How many tokens of it are cached.
    pub(super) n_past: usize,
    /// If its text is still reading the prompt: the text's rank among all texts.
    pub(super) reading: Option<u64>,
}

/// Where a text gets its prefix from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SharedPrefix {
    /// Nowhere: it decodes its prompt itself.
    Own,
    /// Copy from this lane (first) this many tokens (second).
    Copied(usize, usize),
    /// Wait: another text is reading it now.
    Awaited,
}

/// The number of equal tokens at the start of two texts.
pub(super) fn n_common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The best shared prefix for the text of rank `order`. `wanted` is its prompt without the last token, of which its own
/// lane already holds the first `n_past` tokens.
pub(super) fn shared_prefix<'a>(
    wanted: &[Token],
    n_past: usize,
    order: u64,
    others: impl Iterator<Item = (usize, Held<'a>)>,
) -> SharedPrefix {
    let offers = others.map(|(lane_id, held)| {
        let n_same = n_common(held.text, wanted);
        let n_ready = n_same.min(held.n_past);
        let is_coming = held.reading.is_some_and(|other| other < order);
        (if is_coming { n_same } else { n_ready }, n_ready, lane_id)
    });
    match offers.max_by_key(|&(n_promised, n_ready, lane_id)| (n_promised, n_ready, std::cmp::Reverse(lane_id))) {
        Some((n_promised, ..)) if n_promised < n_past + LEAST_SHARED => SharedPrefix::Own,
        Some((n_promised, n_ready, lane_id)) if n_ready == n_promised => SharedPrefix::Copied(lane_id, n_ready),
        Some(_) => SharedPrefix::Awaited,
        None => SharedPrefix::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n_shared: usize, own: i32) -> Vec<Token> {
        (0..100).map(|i| Token(if i < n_shared { 1 } else { own })).collect()
    }

    fn of(wanted: &[Token], n_past: usize, held: &[(&[Token], usize, Option<u64>)]) -> SharedPrefix {
        let held = held.iter().map(|&(text, n_past, reading)| Held { text, n_past, reading });
        shared_prefix(wanted, n_past, 5, held.enumerate())
    }

    #[test]
    fn the_longest_beginning_is_copied_or_awaited() {
        let (mine, long, short) = (text(80, 2), text(80, 3), text(50, 4));
        assert_eq!(of(&mine, 0, &[]), SharedPrefix::Own);
        assert_eq!(of(&mine, 0, &[(&short, 100, None), (&long, 100, None)]), SharedPrefix::Copied(1, 80));
        assert_eq!(of(&mine, 0, &[(&short, 100, None), (&long, 60, None)]), SharedPrefix::Copied(1, 60));
        assert_eq!(of(&mine, 0, &[(&short, 100, None), (&long, 60, Some(4))]), SharedPrefix::Awaited);
        assert_eq!(of(&mine, 0, &[(&long, 90, Some(4))]), SharedPrefix::Copied(0, 80), "it has read that far");
        assert_eq!(of(&mine, 0, &[(&long, 0, Some(6))]), SharedPrefix::Own, "who came later waits, not who came first");
        assert_eq!(of(&mine, 49, &[(&long, 100, None)]), SharedPrefix::Own, "hardly more than it has");
    }
}
