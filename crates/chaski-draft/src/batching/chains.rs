//! Drafts for many texts: each has its own context, and all teach one drafter.
//!
//! What a text copies is its own business, so sources of one text are kept per lane ([`Source::beside`]). What follows
//! what, what the target held likely, and what evidence is worth is shared: lines of one job repeat each other. Drafts
//! are chains, because a lane is one sequence of the target.

use std::cell::RefCell;
use std::rc::Rc;

use crate::draft::auto::{Auto, Timeline};
use crate::draft::table::Successor;
use crate::draft::{Candidate, Draft, DraftFilter, Drafter as _, Source, Tail, Verified};
use crate::target::TreeLimits;
use crate::token::Token;

/// A chain goes no further than its probability: no batch of several texts pays for less.
const LEAST_P: f32 = 0.3;

/// A source that several texts share.
#[derive(Clone)]
struct Shared(Rc<RefCell<Box<dyn Source>>>);

impl Source for Shared {
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

/// The drafter of a batcher.
pub struct Drafting {
    auto: Auto,
    lanes: Vec<Drafted>,
}

/// What is known of a lane's text.
struct Drafted {
    timeline: Timeline,
    /// Tokens of the text that its sources know.
    n_known: usize,
}

impl Drafting {
    /// Drafts for `n_lanes` texts by what `auto` knows.
    #[must_use]
    pub fn new(mut auto: Auto, n_lanes: usize) -> Drafting {
        let mut all = Timeline::default();
        auto.exchange(&mut all);
        let shared: Vec<Shared> =
            all.into_sources().into_iter().map(|source| Shared(Rc::new(RefCell::new(source)))).collect();
        let source = |shared: &Shared| -> Box<dyn Source> {
            let own = shared.0.borrow().beside();
            own.unwrap_or_else(|| Box::new(shared.clone()))
        };
        let lane = |_| Drafted { timeline: Timeline::new(shared.iter().map(source).collect()), n_known: 0 };
        Drafting { lanes: (0..n_lanes).map(lane).collect(), auto }
    }

    /// The text of this lane is held to `form` until it is over.
    pub(super) fn hold_to(&mut self, lane: usize, form: Box<dyn DraftFilter>) {
        self.lanes[lane].timeline.hold_to(form);
    }

    /// A chain that may follow `text` in this lane, `max_depth` tokens at most.
    pub(super) fn draft(&mut self, lane: usize, text: &[Token], max_depth: usize) -> Draft {
        self.lanes[lane].catch_up(text);
        let limits = TreeLimits { max_nodes: 1 + max_depth, max_leaves: 1, max_depth, least_p: LEAST_P };
        self.with(lane, |auto| auto.draft(text, limits))
    }

    /// Takes in that `text[from..]` was emitted where the newest draft of this lane was, by what `verified` says.
    pub(super) fn learn(&mut self, lane: usize, text: &[Token], from: usize, verified: Verified<'_>) {
        self.with(lane, |auto| auto.learn(text, from, verified));
        self.lanes[lane].n_known = text.len();
    }

    /// The text of this lane is over. What of it was not drafted teaches the others all the same.
    pub(super) fn end(&mut self, lane: usize, text: &[Token]) {
        let lane = &mut self.lanes[lane];
        lane.catch_up(text);
        lane.timeline.begin();
        lane.n_known = 0;
    }

    /// A text moves to another lane, whose own is over.
    pub(super) fn swap(&mut self, from: usize, to: usize) {
        self.lanes.swap(from, to);
    }

    fn with<T>(&mut self, lane: usize, work: impl FnOnce(&mut Auto) -> T) -> T {
        let timeline = &mut self.lanes[lane].timeline;
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
