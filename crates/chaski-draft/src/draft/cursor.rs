//! The cursor source: follows a place in the context that is being copied, and keeps it across an edit.
//!
//! The longest match finds the place. Where a copy is edited, the match ends, and finding the right place again among
//! similar ones takes several tokens. So the cursor keeps the lost place. Until it locks again, it offers three
//! guesses: the token at the lost place (something was inserted), the token as many places later as were emitted since
//! (substituted), and the token at the nearby place that agrees best with the last tokens (inserted, substituted or
//! deleted).

use crate::draft::ngram_index::{NgramIndex, n_agreeing};
use crate::draft::{Candidate, Source, Tail};
use crate::token::Token;

/// Matching tokens needed to start a copy.
const SHORTEST_COPY: usize = 5;

/// Places compared to start a copy, latest first.
const MAX_PLACES: usize = 8;

/// Give up a lost copy after this many tokens.
const PATIENCE: usize = 24;

/// Places on each side of the lost one where the copy may continue.
const REACH: usize = 24;

/// Matching tokens needed to lock a lost copy again.
const LOCKING: usize = 2;

/// Most matching tokens counted while lost.
const MOST_AGREEING: usize = 4;

/// Lower bounds of the bins by tokens copied since the last edit.
const RUNS: [usize; 6] = [0, 3, 5, 9, 17, 33];

/// Lower bounds of the bins by tokens since the copy was lost.
const LOST: [usize; 4] = [1, 2, 4, 8];

/// Bins per `LOST` bound: the best nearby place by matching tokens, the lost place, and the place beyond it.
const N_GUESSES: usize = MOST_AGREEING + 2;

/// A source that follows one copy.
#[derive(Clone, Debug)]
pub struct Cursor {
    text: Vec<Token>,
    places: NgramIndex,
    copy: Option<Copying>,
}

/// A copy under way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Copying {
    /// Index of the next expected token. While the copy is lost, the index where it was lost.
    place: usize,
    /// Tokens copied since the copy was found, or found again.
    run: usize,
    /// Tokens since the copy was lost; 0 while it is followed.
    n_lost: usize,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { text: Vec::new(), places: NgramIndex::new(SHORTEST_COPY), copy: None }
    }
}

impl Cursor {
    /// The state of `copy` after `token`, which follows `before`; `None` if it is given up.
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

    /// The place near a lost copy that agrees with the most of the last tokens (`before`, then `token`), and their
    /// number. On a tie the nearest place wins, then the later one.
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

    /// The longest match at the end of `tail`, if it is long enough to start a copy.
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
        // Do not leave a copy that continues for another one.
        if self.copy.is_none_or(|copy| copy.n_lost > 0) {
            self.copy = self.find(&self.text).or(self.copy);
        }
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        // Move the cursor along the drafted tokens first.
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
