//! Drafts for many texts: each has its own context, and all teach one drafter.
//!
//! What a text copies is its own business, so `context` and `cursor` are kept per place. What follows what, what the
//! target held likely, and what evidence is worth is shared: lines of one job repeat each other. Drafts are chains,
//! because a place is one sequence of the target.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::draft::auto::{Auto, Timeline};
use crate::draft::base::{Base, BaseSource};
use crate::draft::context::Context;
use crate::draft::cursor::Cursor;
use crate::draft::logits::Logits;
use crate::draft::memory::Memory;
use crate::draft::table::Successor;
use crate::draft::{Candidate, Draft, Drafter as _, Source, Tail, Verified};
use crate::target::TreeLimits;
use crate::token::Token;

/// A chain goes no further than its probability: no batch of several texts pays for less.
const LEAST_P: f32 = 0.3;

/// A source that several drafters share.
struct Shared<S>(Rc<RefCell<S>>);

impl<S: Source> Source for Shared<S> {
    fn name(&self) -> &'static str {
        self.0.borrow().name()
    }

    fn n_bins(&self) -> usize {
        self.0.borrow().n_bins()
    }

    fn learn(&mut self, text: &[Token], token: Token) {
        self.0.borrow_mut().learn(text, token);
    }

    fn harvest(&mut self, tail: &[Token], top: &[Successor]) {
        self.0.borrow_mut().harvest(tail, top);
    }

    fn propose(&self, tail: Tail<'_>, candidates: &mut Vec<Candidate>) {
        self.0.borrow().propose(tail, candidates);
    }
}

/// The drafter of a crowd.
pub struct Drafting {
    auto: Auto,
    places: Vec<Drafted>,
}

/// What is known of a place's text.
struct Drafted {
    timeline: Timeline,
    /// Tokens of the text that its sources know.
    n_known: usize,
}

impl Drafting {
    /// Drafts for `n_places` texts, beginning with what is remembered, and with `base` if there is one.
    #[must_use]
    pub fn new(n_places: usize, memory: &Memory, base: Option<&Arc<dyn Base>>) -> Drafting {
        let trigram = Rc::new(RefCell::new(memory.trigram.clone()));
        let logits = Rc::new(RefCell::new(Logits::default()));
        let sources = || {
            let mut sources: Vec<Box<dyn Source>> = vec![
                Box::new(Cursor::default()),
                Box::new(Context::default()),
                Box::new(Shared(trigram.clone())),
                Box::new(Shared(logits.clone())),
            ];
            sources.extend(base.map(|base| -> Box<dyn Source> { Box::new(BaseSource::new(base.clone())) }));
            sources
        };
        let place = |_| Drafted { timeline: Timeline::new(sources()), n_known: 0 };
        Drafting { auto: Auto::new(sources(), &memory.experience), places: (0..n_places).map(place).collect() }
    }

    /// A chain that may follow `text` in this place, `max_depth` tokens at most.
    pub(super) fn draft(&mut self, place: usize, text: &[Token], max_depth: usize) -> Draft {
        self.places[place].catch_up(text);
        let limits = TreeLimits { max_nodes: 1 + max_depth, max_leaves: 1, max_depth, least_p: LEAST_P };
        self.with(place, |auto| auto.draft(text, limits))
    }

    /// Takes in that `text[from..]` was emitted where the newest draft of this place was, by what `verified` says.
    pub(super) fn learn(&mut self, place: usize, text: &[Token], from: usize, verified: Verified<'_>) {
        self.with(place, |auto| auto.learn(text, from, verified));
        self.places[place].n_known = text.len();
    }

    /// The text of this place is over. What of it was not drafted teaches the others all the same.
    pub(super) fn end(&mut self, place: usize, text: &[Token]) {
        let place = &mut self.places[place];
        place.catch_up(text);
        place.timeline.begin();
        place.n_known = 0;
    }

    /// A text moves to another place, whose own is over.
    pub(super) fn swap(&mut self, from: usize, to: usize) {
        self.places.swap(from, to);
    }

    fn with<T>(&mut self, place: usize, work: impl FnOnce(&mut Auto) -> T) -> T {
        let timeline = &mut self.places[place].timeline;
        self.auto.exchange(timeline);
        let done = work(&mut self.auto);
        self.auto.exchange(timeline);
        done
    }
}

impl Drafted {
    /// Takes in what was emitted while nothing was drafted.
    fn catch_up(&mut self, text: &[Token]) {
        for at in self.n_known..text.len() {
            self.timeline.learn(&text[..at], text[at]);
        }
        self.n_known = text.len();
    }
}
