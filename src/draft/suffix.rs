//! The longest-suffix source: where the last tokens occurred before, in the prompt or in the output, and what followed.
//!
//! Copying, editing and quoting make long matches, and long matches make long chains. Occurrences are found as LZ77
//! finds them: a hash of the last two tokens leads to the latest place that ended like this, each place to the one
//! before. Matches are compared token by token, so a collision costs time and nothing else; the walk has a limit, so the
//! time does not grow with the context.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use crate::draft::mixer::Candidate;
use crate::draft::{Source, TAIL_LEN};
use crate::token::Token;

/// Tokens that must agree for a place to be a match.
const SHORTEST_MATCH: usize = 2;

/// Places visited for one proposal, latest first.
const MAX_PLACES: usize = 24;

/// Match lengths that begin a new bin.
const LENGTH_BINS: [usize; 8] = [2, 3, 4, 5, 7, 10, 16, 24];

/// How the matches stand to a token.
const N_STANDINGS: usize = 4;

/// How often candidates were right, by length and standing: pooled over the greedy answers of Qwen2.5-Coder-1.5B to the
/// shipped benchmark prompts, smoothed by eye where a cell has few.
const PRIORS: [[f32; N_STANDINGS]; LENGTH_BINS.len()] = [
    [0.50, 0.78, 0.18, 0.05],
    [0.63, 0.88, 0.20, 0.12],
    [0.68, 0.93, 0.55, 0.10],
    [0.76, 0.94, 0.52, 0.06],
    [0.86, 0.95, 0.55, 0.04],
    [0.92, 0.96, 0.78, 0.03],
    [0.96, 0.97, 0.92, 0.02],
    [0.98, 0.98, 0.97, 0.01],
];

/// Index of all places of one text.
#[derive(Clone, Debug, Default)]
pub struct Suffix {
    text: Vec<Token>,
    /// Hash of two tokens -> the latest position after them.
    latest: FxHashMap<u64, u32>,
    /// Position -> the one before with the same hash; `u32::MAX` where there is none.
    earlier: Vec<u32>,
}

const NO_PLACE: u32 = u32::MAX;

fn hash_of(tail: &[Token]) -> u64 {
    let mut hasher = FxHasher::default();
    tail.iter().for_each(|token| hasher.write_i32(token.0));
    hasher.finish()
}

#[derive(Clone, Copy)]
struct Match {
    token: Token,
    length: usize,
    n_places: usize,
}

impl Suffix {
    /// The tokens that followed `tail` before, each with its longest match; the longest and latest first.
    fn matches(&self, tail: &[Token]) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        let Some(start) = tail.len().checked_sub(SHORTEST_MATCH) else {
            return matches;
        };
        let mut place = self.latest.get(&hash_of(&tail[start..])).copied().unwrap_or(NO_PLACE);
        for _ in 0..MAX_PLACES {
            if place == NO_PLACE {
                break;
            }
            let at = place as usize;
            let backwards = self.text[..at].iter().rev().zip(tail.iter().rev());
            let length = backwards.take(TAIL_LEN).take_while(|(a, b)| a == b).count();
            // The last place of the text has no successor yet.
            if let (true, Some(&token)) = (length >= SHORTEST_MATCH, self.text.get(at)) {
                match matches.iter_mut().find(|known| known.token == token) {
                    Some(known) => {
                        known.length = known.length.max(length);
                        known.n_places += 1;
                    }
                    None => matches.push(Match { token, length, n_places: 1 }),
                }
            }
            place = self.earlier[at];
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

impl Source for Suffix {
    fn begin(&mut self) {
        *self = Suffix::default();
    }

    fn learn(&mut self, text: &[Token], token: Token) {
        // `text` is this source's own text, or all of it at once after `begin`.
        let known = self.text.len();
        self.text.extend_from_slice(&text[known..]);
        self.text.push(token);
        for at in self.earlier.len()..=self.text.len() {
            let before = at.checked_sub(SHORTEST_MATCH).and_then(|start| {
                let place = u32::try_from(at).expect("a context has less than 2^32 tokens");
                self.latest.insert(hash_of(&self.text[start..at]), place)
            });
            self.earlier.push(before.unwrap_or(NO_PLACE));
        }
    }

    fn propose(&self, tail: &[Token], candidates: &mut Vec<Candidate>) {
        let matches = self.matches(tail);
        for (rank, &found) in matches.iter().enumerate() {
            let length_bin = LENGTH_BINS.iter().rposition(|&shortest| found.length >= shortest).unwrap_or(0);
            let bin = length_bin * N_STANDINGS + standing(rank, found, matches.len());
            candidates.push(Candidate { token: found.token, bin });
        }
    }

    fn n_bins(&self) -> usize {
        LENGTH_BINS.len() * N_STANDINGS
    }

    fn prior(&self, bin: usize) -> f32 {
        PRIORS[bin / N_STANDINGS][bin % N_STANDINGS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(text: &[Token]) -> Suffix {
        let mut source = Suffix::default();
        for at in 0..text.len() {
            source.learn(&text[..at], text[at]);
        }
        source
    }

    /// The naive twin: compare every place.
    fn naive_longest(text: &[Token], tail: &[Token]) -> Option<usize> {
        let length_at = |at: usize| text[..at].iter().rev().zip(tail.iter().rev()).take_while(|(a, b)| a == b).count();
        (0..text.len())
            .map(length_at)
            .map(|length| length.min(TAIL_LEN))
            .filter(|&length| length >= SHORTEST_MATCH)
            .max()
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
        let source = source(&text);
        let mut candidates = Vec::new();
        source.propose(&text, &mut candidates);
        assert_eq!(candidates, [Candidate { token: Token(20), bin: 6 * N_STANDINGS }]);
    }

    #[test]
    fn a_million_equal_places_cost_no_more_than_a_few() {
        let mut source = source(&[Token(1); 2]);
        source.learn(&[Token(1); 100_000], Token(1));
        let mut candidates = Vec::new();
        source.propose(&[Token(1); TAIL_LEN], &mut candidates);
        assert_eq!(candidates.len(), 1);
        assert_eq!(source.earlier.len(), 100_002);
    }
}
