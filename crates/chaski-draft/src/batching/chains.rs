//! Drafts for many texts: each has its own context, and all of them teach one drafter.
//!
//! A copy is specific to one text, so sources such as the cursor exist once per lane ([`Source::beside`]). The other
//! sources and the mixer are shared, because the lines of one job resemble each other. Drafts are chains, because a
//! lane is one sequence of the target.

use std::cell::RefCell;
use std::rc::Rc;

use crate::draft::auto::{Auto, Timeline};
use crate::draft::table::Successor;
use crate::draft::{Candidate, Draft, DraftFilter, Drafter as _, Source, Tail, Verified};
use crate::target::TreeLimits;
use crate::token::Token;

/// Stop a chain when its probability falls below this: no batch of several texts pays for less.
const LEAST_P: f32 = 0.3;

/// A source shared by several texts.
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

/// What the drafter knows about a lane's text.
struct Drafted {
    timeline: Timeline,
    /// How many tokens of the text its sources have learned.
    n_known: usize,
}

impl Drafting {
    /// A drafter for `n_lanes` texts that starts with the knowledge of `auto`.
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

    /// Restricts the drafts of this lane to `filter` until its text ends.
    pub(super) fn set_filter(&mut self, lane: usize, filter: Box<dyn DraftFilter>) {
        self.lanes[lane].timeline.set_filter(filter);
    }

    /// A chain of at most `max_depth` tokens that may follow `text` in this lane.
    pub(super) fn draft(&mut self, lane: usize, text: &[Token], max_depth: usize) -> Draft {
        self.lanes[lane].catch_up(text);
        let limits =
            TreeLimits { max_nodes: 1 + max_depth, max_leaves: 1, max_depth, least_p: LEAST_P, ..TreeLimits::TREE };
        self.with(lane, |auto| auto.draft(text, limits))
    }

    /// Learns from a step of this lane: it verified `verified` and emitted `text[from..]`.
    pub(super) fn learn(&mut self, lane: usize, text: &[Token], from: usize, verified: Verified<'_>) {
        self.with(lane, |auto| auto.learn(text, from, verified));
        self.lanes[lane].n_known = text.len();
    }

    /// Ends the text of this lane. First learns the tokens emitted without drafts, which help the other texts.
    pub(super) fn end(&mut self, lane: usize, text: &[Token]) {
        let lane = &mut self.lanes[lane];
        lane.catch_up(text);
        lane.timeline.begin();
        lane.n_known = 0;
    }

    /// Moves a text from lane `from` to lane `to`, whose own text has ended.
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
    /// Learns the tokens that were emitted without drafts.
    fn catch_up(&mut self, text: &[Token]) {
        for at in self.n_known..text.len() {
            self.timeline.learn(&text[..at], text[at]);
        }
        self.n_known = text.len();
    }
}
