//! The cursor source: a place in the context that is being copied, found by the longest match, kept across an edit.
//!
//! Where a copy is changed the match ends, and it would take some tokens to find the place again among all that look
//! alike. The cursor remembers it. After a token that differs it offers the token at its place
//! (something was inserted), the ones beyond (substituted), and what follows the nearest place that agrees with the
//! last tokens (inserted, substituted or deleted), until it locks again.

use crate::draft::ngram_index::{NgramIndex, n_agreeing};
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Tokens that must agree to begin a copy.
const SHORTEST_COPY: usize = 5;

/// NgramIndex compared to begin a copy, latest first.
const MAX_PLACES: usize = 8;

/// Tokens after which a lost copy is given up.
const PATIENCE: usize = 24;

/// NgramIndex on both sides of the lost one that may continue the copy.
const REACH: usize = 24;

/// Agreeing tokens that lock a lost copy again.
const LOCKING: usize = 2;

/// Most agreeing tokens counted while lost.
const MOST_AGREEING: usize = 4;

/// Copied tokens since the last edit that begin a new kind of evidence.
const RUNS: [usize; 6] = [0, 3, 5, 9, 17, 33];

/// Tokens since the copy was lost that begin a new kind of evidence.
const LOST: [usize; 4] = [1, 2, 4, 8];

/// What is offered while lost: the nearest agreeing place by agreeing tokens, the place itself, the place beyond.
const N_GUESSES: usize = MOST_AGREEING + 2;

/// Follows one copy.
#[derive(Clone, Debug)]
pub struct Cursor {
    text: Vec<Token>,
    places: NgramIndex,
    copy: Option<Copying>,
}

/// A copy under way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Copying {
    /// The token of the text that is expected next, or was when the copy was lost.
    place: usize,
    /// Tokens copied since it was found or found again.
    run: usize,
    /// Tokens since it was lost; 0 while it goes on.
    n_lost: usize,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { text: Vec::new(), places: NgramIndex::new(SHORTEST_COPY), copy: None }
    }
}

impl Cursor {
    /// The copy after `token`, which follows `before`.
    fn advance(&self, copy: Copying, before: &[Token], token: Token) -> Option<Copying> {
        if copy.n_lost == 0 && self.text.get(copy.place) == Some(&token) {
            return Some(Copying { place: copy.place + 1, run: copy.run + 1, n_lost: 0 });
        }
        let lost = Copying { n_lost: copy.n_lost + 1, ..copy };
        match self.nearest(lost, before, Some(token)) {
            Some((place, agreeing)) if agreeing >= LOCKING => Some(Copying { place, run: agreeing, n_lost: 0 }),
            _ => Some(lost).filter(|lost| lost.n_lost <= PATIENCE),
        }
    }

    /// The place near a lost one that agrees with most of the last tokens (`before`, then `token`), and with how many; of
    /// equals the nearest, and the later one.
    fn nearest(&self, lost: Copying, before: &[Token], token: Option<Token>) -> Option<(usize, usize)> {
        let agreeing = |place: usize| match token {
            Some(token) if self.text[place - 1] != token => 0,
            Some(_) => 1 + n_agreeing(&self.text[..place - 1], before, MOST_AGREEING - 1),
            None => n_agreeing(&self.text[..place], before, MOST_AGREEING),
        };
        let (first, last) = (lost.place.saturating_sub(REACH).max(1), (lost.place + REACH).min(self.text.len() - 1));
        let all = (first..=last).map(|place| (place, agreeing(place))).filter(|(_, agreeing)| *agreeing > 0);
        all.max_by_key(|&(place, agreeing)| (agreeing, std::cmp::Reverse(place.abs_diff(lost.place)), place))
    }

    /// The place of a copy that has just become visible.
    fn find(&self, tail: &[Token]) -> Option<Copying> {
        let lengths = self.places.after(tail).take(MAX_PLACES).map(|at| (n_agreeing(&self.text[..at], tail, 32), at));
        let longest = lengths.filter(|&(length, at)| length >= SHORTEST_COPY && at < self.text.len()).max();
        longest.map(|(length, place)| Copying { place, run: length, n_lost: 0 })
    }
}

fn bin_of(bounds: &[usize], n: usize) -> usize {
    bounds.iter().rposition(|&least| n >= least).unwrap_or(0)
}

impl Source for Cursor {
    fn name(&self) -> &'static str {
        "cursor"
    }

    fn n_bins(&self) -> usize {
        RUNS.len() + LOST.len() * N_GUESSES
    }

    fn begin(&mut self) {
        *self = Cursor::default();
    }

    fn beside(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Cursor::default()))
    }

    fn learn(&mut self, text: &[Token], token: Token) {
        let known = self.text.len();
        self.text.extend_from_slice(&text[known..]);
        self.copy = self.copy.and_then(|copy| self.advance(copy, text, token));
        self.text.push(token);
        self.places.extend(&self.text);
        // A copy that goes on is not left for another one.
        if self.copy.is_none_or(|copy| copy.n_lost > 0) {
            self.copy = self.find(&self.text).or(self.copy);
        }
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        // Where the drafted tokens would bring it.
        let n_said = tail.tokens.len() - tail.n_drafted;
        let mut copy = self.copy;
        for at in n_said..tail.tokens.len() {
            copy = copy.and_then(|copy| self.advance(copy, &tail.tokens[..at], tail.tokens[at]));
        }
        let Some(copy) = copy else { return };
        let mut offer = |place: usize, bin: usize| {
            if let Some(&token) = self.text.get(place)
                && candidates.iter().all(|known| known.token != token)
            {
                candidates.push(Candidate { token, bin });
            }
        };
        if copy.n_lost == 0 {
            return offer(copy.place, bin_of(&RUNS, copy.run));
        }
        let first = RUNS.len() + bin_of(&LOST, copy.n_lost) * N_GUESSES;
        if let Some((place, agreeing)) = self.nearest(copy, tail.tokens, None) {
            offer(place, first + agreeing - 1);
        }
        offer(copy.place, first + MOST_AGREEING);
        offer(copy.place + copy.n_lost, first + MOST_AGREEING + 1);
    }
}
