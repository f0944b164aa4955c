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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The cursor's rules written down again, without an index: it compares the whole text at every step.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Naive {
        place: usize,
        run: usize,
        n_lost: usize,
    }

    fn agreement(text: &[Token], place: usize, tail: &[Token], most: usize) -> usize {
        (1..=most.min(place).min(tail.len())).take_while(|&n| text[place - n] == tail[tail.len() - n]).count()
    }

    /// The best place near a lost one: most agreement, then nearest, then latest.
    fn best_nearby(text: &[Token], lost: usize, tail: &[Token]) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for place in 1..text.len() {
            let n = agreement(text, place, tail, MOST_AGREEING);
            if place.abs_diff(lost) > REACH || n == 0 {
                continue;
            }
            let is_better =
                best.is_none_or(|(other, most)| n > most || n == most && place.abs_diff(lost) <= other.abs_diff(lost));
            if is_better {
                best = Some((place, n));
            }
        }
        best
    }

    fn follow(text: &[Token], copy: Naive, tail: &[Token]) -> Option<Naive> {
        let token = tail[tail.len() - 1];
        if copy.n_lost == 0 && copy.place < text.len() && text[copy.place] == token {
            return Some(Naive { place: copy.place + 1, run: copy.run + 1, n_lost: 0 });
        }
        let n_lost = copy.n_lost + 1;
        match best_nearby(text, copy.place, tail) {
            Some((place, n)) if n >= LOCKING => Some(Naive { place, run: n, n_lost: 0 }),
            _ if n_lost > PATIENCE => None,
            _ => Some(Naive { n_lost, ..copy }),
        }
    }

    /// The longest match of at least `SHORTEST_COPY` tokens among the latest places; on a tie the latest.
    fn start(text: &[Token]) -> Option<Naive> {
        let ends: Vec<usize> =
            (0..=text.len()).rev().filter(|&at| agreement(text, at, text, SHORTEST_COPY) == SHORTEST_COPY).collect();
        let mut best: Option<(usize, usize)> = None;
        for &at in ends.iter().take(MAX_PLACES).filter(|&&at| at < text.len()) {
            let n = agreement(text, at, text, 32);
            if best.is_none_or(|(most, _)| n > most) {
                best = Some((n, at));
            }
        }
        best.map(|(n, at)| Naive { place: at, run: n, n_lost: 0 })
    }

    fn guesses(text: &[Token], copy: Option<Naive>, tail: &[Token], n_drafted: usize) -> Vec<Candidate> {
        let mut copy = copy;
        for end in tail.len() - n_drafted + 1..=tail.len() {
            copy = copy.and_then(|copy| follow(text, copy, &tail[..end]));
        }
        let Some(copy) = copy else { return Vec::new() };
        let bin = |bounds: &[usize], n: usize| bounds.iter().filter(|&&least| least <= n).count().saturating_sub(1);
        let places = if copy.n_lost == 0 {
            vec![(copy.place, bin(&RUNS, copy.run))]
        } else {
            let first = RUNS.len() + bin(&LOST, copy.n_lost) * N_GUESSES;
            let near = best_nearby(text, copy.place, tail).map(|(place, n)| (place, first + n - 1));
            let others = [(copy.place, first + MOST_AGREEING), (copy.place + copy.n_lost, first + MOST_AGREEING + 1)];
            near.into_iter().chain(others).collect()
        };
        let mut found: Vec<Candidate> = Vec::new();
        for (place, bin) in places.into_iter().filter(|(place, _)| *place < text.len()) {
            if found.iter().all(|known| known.token != text[place]) {
                found.push(Candidate { token: text[place], bin });
            }
        }
        found
    }

    /// A passage, copies of it with edits, and noise between them.
    fn texts() -> impl Strategy<Value = Vec<i32>> {
        let edit = prop_oneof![4 => Just(0usize), 1 => 1..4usize];
        let edited = |passage: Vec<i32>, edits: Vec<usize>| {
            let mut copy = Vec::new();
            for (at, &id) in passage.iter().enumerate() {
                match edits[at % edits.len()] {
                    1 => copy.push(id + 50),
                    2 => copy.extend([id, 99]),
                    3 => {}
                    _ => copy.push(id),
                }
            }
            copy
        };
        (
            prop::collection::vec(0..30i32, 8..40),
            prop::collection::vec(edit, 1..40),
            prop::collection::vec(0..30i32, 0..9),
        )
            .prop_map(move |(passage, edits, noise)| {
                [passage.clone(), noise, edited(passage.clone(), edits), passage].concat()
            })
    }

    proptest! {
        #[test]
        fn it_follows_copies_as_its_naive_twin_does(ids in texts(), drafted in prop::collection::vec(0..30i32, 0..6)) {
            let text: Vec<Token> = ids.into_iter().map(Token).collect();
            let mut cursor = Cursor::default();
            let mut naive: Option<Naive> = None;
            for end in 0..text.len() {
                cursor.learn(&text[..end], text[end]);
                naive = naive.and_then(|copy| follow(&text[..end], copy, &text[..=end]));
                if naive.is_none_or(|copy| copy.n_lost > 0) {
                    naive = start(&text[..=end]).or(naive);
                }
                let copy = cursor.copy.map(|Copying { place, run, n_lost }| Naive { place, run, n_lost });
                prop_assert_eq!(copy, naive, "after {} tokens", end + 1);
                let committed = &text[(end + 1).saturating_sub(crate::draft::TAIL_LEN)..=end];
                let tail: Vec<Token> = committed.iter().copied().chain(drafted.iter().map(|&id| Token(id))).collect();
                let mut found = Vec::new();
                cursor.propose(Tail { tokens: &tail, n_drafted: drafted.len() }, &mut found);
                prop_assert_eq!(found, guesses(&text[..=end], naive, &tail, drafted.len()));
            }
        }
    }

    #[test]
    fn a_substituted_token_does_not_lose_the_copy() {
        let passage: Vec<Token> = (0..20).map(Token).collect();
        let mut text = [passage.clone(), passage[..10].to_vec()].concat();
        let mut cursor = Cursor::default();
        (0..text.len()).for_each(|end| cursor.learn(&text[..end], text[end]));
        let propose = |cursor: &Cursor, text: &[Token]| {
            let mut candidates = Vec::new();
            cursor.propose(Tail { tokens: text, n_drafted: 0 }, &mut candidates);
            candidates.iter().map(|candidate| candidate.token).collect::<Vec<_>>()
        };
        assert_eq!(propose(&cursor, &text), [Token(10)]);
        cursor.learn(&text.clone(), Token(99));
        text.push(Token(99));
        assert!(propose(&cursor, &text).contains(&Token(11)), "the token after the substituted one");
        cursor.learn(&text.clone(), Token(11));
        text.push(Token(11));
        assert!(propose(&cursor, &text).contains(&Token(12)));
    }
}
