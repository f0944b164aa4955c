//! The look-ahead window: chooses the next request so that requests with a common prompt prefix follow each other and
//! the prefix is computed once.
//!
//! Requests are taken in the order of their prompts, upwards from the latest one, then from the start again: neighbours
//! in that order share the longest prefixes. No request waits forever. Pure: it holds keys, not requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Bytes compared at the start of a prompt.
pub const KEY_BYTES: usize = 32 << 10;

/// Most requests taken between a request's arrival and its turn.
pub const MAX_PASSED: u64 = 4096;

/// The waiting requests. It has no size limit; the caller bounds it.
#[derive(Debug)]
pub struct Window {
    /// Waiting requests, ordered by the start of their prompts.
    waiting: BTreeSet<(Rc<[u8]>, u64)>,
    /// Requests in order of arrival, each with `n_gone` at that time.
    arrivals: VecDeque<(u64, u64)>,
    keys: BTreeMap<u64, Rc<[u8]>>,
    latest: (Rc<[u8]>, u64),
    n_gone: u64,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            waiting: BTreeSet::new(),
            arrivals: VecDeque::new(),
            keys: BTreeMap::new(),
            latest: (Rc::from([]), 0),
            n_gone: 0,
        }
    }
}

impl Window {
    /// Adds a request with a unique id and its prompt.
    pub fn insert(&mut self, id: u64, prompt: &[u8]) {
        let key = Rc::<[u8]>::from(&prompt[..prompt.len().min(KEY_BYTES)]);
        self.arrivals.push_back((id, self.n_gone));
        self.keys.insert(id, key.clone());
        self.waiting.insert((key, id));
    }

    /// Removes and returns the next request.
    pub fn take(&mut self) -> Option<u64> {
        while self.arrivals.front().is_some_and(|(id, _)| !self.keys.contains_key(id)) {
            self.arrivals.pop_front();
        }
        let oldest = self.arrivals.front().filter(|(_, n_gone)| self.n_gone - n_gone >= MAX_PASSED);
        let next = match oldest {
            Some(&(id, _)) => (self.keys[&id].clone(), id),
            None => self.waiting.range(&self.latest..).next().or_else(|| self.waiting.first())?.clone(),
        };
        self.waiting.remove(&next);
        self.keys.remove(&next.1);
        self.n_gone += 1;
        let id = next.1;
        self.latest = next;
        Some(id)
    }

    /// Number of waiting requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no request is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn common_beginnings_follow_each_other() {
        let mut window = Window::default();
        for id in 0..30 {
            window.insert(id, format!("document {} question {id}", id % 3).as_bytes());
        }
        let order: Vec<u64> = std::iter::from_fn(|| window.take()).collect();
        let documents: Vec<u64> = order.iter().map(|id| id % 3).collect();
        assert_eq!(documents.iter().zip(&documents[1..]).filter(|(a, b)| a != b).count(), 2);
        // Among equal keys, the lowest id goes first.
        let long = vec![b'x'; KEY_BYTES];
        (0..5).for_each(|id| window.insert(id, &long));
        assert_eq!(std::iter::from_fn(|| window.take()).collect::<Vec<u64>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn none_is_passed_over_for_ever() {
        let mut window = Window::default();
        window.insert(0, b"z");
        assert_eq!(window.take(), Some(0));
        window.insert(1, b"a");
        let mut n_passed = 0;
        loop {
            window.insert(n_passed + 2, b"z");
            if window.take() == Some(1) {
                break;
            }
            n_passed += 1;
        }
        assert_eq!(n_passed, MAX_PASSED);
    }

    proptest! {
        #[test]
        fn each_goes_once(steps in prop::collection::vec((any::<bool>(), "[ab]{0,4}"), 0..200)) {
            let mut window = Window::default();
            let mut waiting = BTreeSet::new();
            for (id, (takes, prompt)) in (0..).zip(&steps) {
                if *takes {
                    let taken = window.take();
                    prop_assert_eq!(taken.is_none(), waiting.is_empty());
                    prop_assert!(taken.is_none_or(|id| waiting.remove(&id)));
                } else {
                    window.insert(id, prompt.as_bytes());
                    waiting.insert(id);
                }
                prop_assert_eq!((window.len(), window.is_empty()), (waiting.len(), waiting.is_empty()));
            }
            while let Some(id) = window.take() {
                prop_assert!(waiting.remove(&id));
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
