//! The context source: where the longest suffix of the text occurred before, in the prompt or in the output, and what
//! followed. Copying, editing and quoting make long matches, and long matches make long chains.
//!
//! Places are compared token by token. The number of places visited has a limit, so the time does not grow with the
//! context.

use crate::draft::places::{Places, n_agreeing};
use crate::draft::{Candidate, Source, TAIL_LEN, Tail};
use crate::token::Token;

/// Tokens hashed to find places: many first, since a frequent pair of tokens has more places than are visited.
const N_HASHED: [usize; 2] = [6, 2];

/// Places visited for one proposal and hash, latest first.
const MAX_PLACES: usize = 16;

/// Match lengths that begin a new kind of evidence.
const LENGTHS: [usize; 8] = [2, 3, 4, 5, 7, 10, 16, 24];

/// How the matches stand to a token.
const N_STANDINGS: usize = 4;

/// One text and its places.
#[derive(Clone, Debug)]
pub struct Context {
    text: Vec<Token>,
    places: [Places; 2],
}

impl Default for Context {
    fn default() -> Context {
        Context { text: Vec::new(), places: N_HASHED.map(Places::new) }
    }
}

#[derive(Clone, Copy)]
struct Match {
    token: Token,
    length: usize,
    n_places: usize,
}

impl Context {
    /// The tokens that followed `tail` before, each with its longest match; the longest and latest first.
    fn matches(&self, tail: &[Token]) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        let [long, short] = N_HASHED;
        for (places, lengths) in self.places.iter().zip([long..=TAIL_LEN, short..=long - 1]) {
            for at in places.after(tail).take(MAX_PLACES) {
                let length = n_agreeing(&self.text[..at], tail, TAIL_LEN);
                // The last place of the text has no successor yet.
                let Some(&token) = self.text.get(at).filter(|_| lengths.contains(&length)) else { continue };
                match matches.iter_mut().find(|known| known.token == token) {
                    Some(known) => {
                        known.length = known.length.max(length);
                        known.n_places += 1;
                    }
                    None => matches.push(Match { token, length, n_places: 1 }),
                }
            }
        }
        // Stable: among equals the latest place stays first.
        matches.sort_by_key(|found| std::cmp::Reverse(found.length));
        matches
    }
}

/// 0: alone and seen once; 1: alone and seen again; 2: the longest of several; 3: one of the others.
fn standing(rank: usize, found: Match, n_matches: usize) -> usize {
    match (rank, n_matches) {
        (0, 1) if found.n_places == 1 => 0,
        (0, 1) => 1,
        (0, _) => 2,
        _ => 3,
    }
}

impl Source for Context {
    fn name(&self) -> &'static str {
        "context"
    }

    fn n_bins(&self) -> usize {
        LENGTHS.len() * N_STANDINGS
    }

    fn begin(&mut self) {
        *self = Context::default();
    }

    fn beside(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Context::default()))
    }

    fn learn(&mut self, text: &[Token], token: Token) {
        // `text` is this source's own text, or all of it at once after `begin`.
        let known = self.text.len();
        self.text.extend_from_slice(&text[known..]);
        self.text.push(token);
        self.places.iter_mut().for_each(|places| places.extend(&self.text));
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        let matches = self.matches(tail.tokens);
        for (rank, &found) in matches.iter().enumerate() {
            let length_bin = LENGTHS.iter().rposition(|&shortest| found.length >= shortest).unwrap_or(0);
            let bin = length_bin * N_STANDINGS + standing(rank, found, matches.len());
            candidates.push(Candidate { token: found.token, bin });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &[Token]) -> Context {
        let mut source = Context::default();
        for at in 0..text.len() {
            source.learn(&text[..at], text[at]);
        }
        source
    }

    fn propose(source: &Context, tail: &[Token]) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        source.propose(Tail { tokens: tail, n_drafted: 0 }, &mut candidates);
        candidates
    }

    /// The naive twin: compare every place.
    fn naive_longest(text: &[Token], tail: &[Token]) -> Option<usize> {
        let lengths = (0..text.len()).map(|at| n_agreeing(&text[..at], tail, TAIL_LEN));
        lengths.filter(|&length| length >= N_HASHED[1]).max()
    }

    proptest! {
        // Few enough places that the walk's limit is never met.
        #[test]
        fn finds_the_longest_match(ids in prop::collection::vec(0i32..6, 0..MAX_PLACES + 2)) {
            let text: Vec<Token> = ids.into_iter().map(Token).collect();
            let source = source(&text);
            for at in 0..=text.len() {
                let found = source.matches(&text[..at]);
                prop_assert_eq!(found.first().map(|found| found.length), naive_longest(&text, &text[..at]));
            }
        }
    }

    #[test]
    fn a_long_copy_is_followed_to_its_end() {
        let text: Vec<Token> = (0..40).chain(0..20).map(Token).collect();
        let candidates = propose(&source(&text), &text[text.len() - TAIL_LEN..]);
        assert_eq!(candidates, [Candidate { token: Token(20), bin: 6 * N_STANDINGS }]);
    }

    #[test]
    fn a_long_match_is_found_behind_many_short_ones() {
        let copied: Vec<Token> = (10..20).chain([1, 2]).chain(30..40).map(Token).collect();
        let many = (0..200).flat_map(|i| [100 + i, 1, 2]).map(Token);
        let text: Vec<Token> = copied.iter().copied().chain(many).chain(copied[..12].iter().copied()).collect();
        assert_eq!(propose(&source(&text), &text[text.len() - TAIL_LEN..])[0].token, Token(30));
    }

    #[test]
    fn a_million_equal_places_cost_no_more_than_a_few() {
        let mut source = source(&[Token(1); 2]);
        source.learn(&[Token(1); 100_000], Token(1));
        assert_eq!(propose(&source, &[Token(1); TAIL_LEN]).len(), 1);
    }
}
