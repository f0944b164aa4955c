//! SharedPrefixes that texts have in common are read once: whoever comes later takes a copy of the cache.
//!
//! A text looks at all lanes, also at those that nobody works in any more: a lane keeps what it holds until another
//! text needs it. Where a text that came earlier is still reading what both have in common, the later one waits for it.

use crate::token::Token;

/// A copy takes some milliseconds, whatever its length: fewer tokens than this are read again.
const LEAST_SHARED: usize = 32;

/// A lane, as one that looks for a shared prefix sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    /// The text in it.
    pub(super) text: &'a [Token],
    /// Tokens of it in the lane.
    pub(super) n_past: usize,
    /// Of a text that is still reading its prompt: its number among all texts.
    pub(super) reading: Option<u64>,
}

/// How a text comes to its shared prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SharedPrefix {
    /// It reads on by itself.
    Own,
    /// From that lane, so many tokens.
    Copied(usize, usize),
    /// Another text is reading it now.
    Awaited,
}

/// Tokens that two texts have in common at their shared prefix.
pub(super) fn n_common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The best shared prefix for number `order`, whose prompt without its last token is `wanted`, of which its own lane holds
/// the first `n_past` tokens.
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
