//! Many texts decoded side by side: one batch holds rows of all of them, so that the weights are read once for all.
//!
//! A text has a place, which is one timeline of the target. What it has beyond what the timeline holds is pending: a
//! prompt to read, and in the end one token, the root of the next step. So reading and writing are the same thing, and
//! one batch does both: each step decodes a run of pending tokens for every text ([`schedule`] says how many), and
//! where a run reaches the end of its text, the target's logits give the next token. A text that ends leaves its place
//! at once, and one that begins like another takes a copy of that beginning (`sharing`). After a root there can be
//! drafted tokens, a chain of them; without any it is plain decoding.
//!
//! What a text means is the business of whoever listens, and so is where it comes from.

pub mod drafting;
pub mod schedule;
pub mod size;
pub mod slots;

mod seating;
mod sharing;

use std::ops::ControlFlow;
use std::time::Duration;

use crate::accept::{Sampler, walk};
use crate::cost::Clock;
use crate::crowd::drafting::Drafting;
use crate::crowd::schedule::{CrowdSchedule, MAX_CHAIN, StepRecord, Wish};
use crate::crowd::slots::{Run, Slots};
use crate::draft::{Draft, Form, Verified};
use crate::target::{Rows, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// A text to continue.
pub struct Text {
    /// The caller's name for it.
    pub id: u64,
    /// What comes before: at least one token, and fewer than a place has positions.
    pub prompt: Vec<Token>,
    /// Most tokens to emit; at least one is.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: Box<dyn Sampler>,
    /// What its drafts are held to.
    pub form: Option<Box<dyn Form>>,
}

/// A token of a text.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The text's.
    pub id: u64,
    /// The token.
    pub token: Token,
    /// What it was chosen from.
    pub logits: &'a [f32],
}

/// A text that has left its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The text's.
    pub id: u64,
    /// Why.
    pub end: End,
    /// Tokens of the prompt that another text had read.
    pub n_cached: usize,
    /// Tokens drafted, and of these accepted.
    pub n_drafted: usize,
    /// See `n_drafted`.
    pub n_accepted: usize,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The listener broke it off.
    Broken,
    /// `max_tokens` were emitted.
    Limit,
    /// Its place is full.
    Full,
    /// No token could be chosen.
    Failed(TargetError),
}

/// Told each token as it is emitted; `Break` makes it the text's last.
pub type Listener<'a> = dyn FnMut(Said<'_>) -> ControlFlow<()> + 'a;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompt tokens read; what was shared is not counted.
    pub n_prompt: u64,
    /// Tokens emitted.
    pub n_predicted: u64,
    /// Steps of single texts: over all steps, the texts that emitted something.
    pub n_steps: u64,
}

/// All texts at work, and their places.
pub struct Crowd<S> {
    slots: S,
    places: Vec<Place>,
    schedule: CrowdSchedule,
    drafting: Option<Drafting>,
    n_admitted: u64,
    counts: Counts,
}

/// A slot and what its timeline holds.
#[derive(Default)]
struct Place {
    /// The text so far. Where nobody works on it any more, what the slot holds of it.
    text: Vec<Token>,
    work: Option<Work>,
}

struct Work {
    id: u64,
    /// Number among all texts ever admitted.
    order: u64,
    n_prompt: usize,
    n_cached: usize,
    /// Tokens that may still come.
    n_left: usize,
    /// Why no more than that.
    limit: End,
    sampler: Box<dyn Sampler>,
    n_drafted: usize,
    n_accepted: usize,
}

impl<S: Slots> Crowd<S> {
    /// No text yet.
    #[must_use]
    pub fn new(slots: S, schedule: CrowdSchedule) -> Crowd<S> {
        let places = (0..slots.n_slots()).map(|_| Place::default()).collect();
        Crowd { slots, places, schedule, drafting: None, n_admitted: 0, counts: Counts::default() }
    }

    /// The same with drafts, where they pay.
    #[must_use]
    pub fn with_drafting(self, drafting: Drafting) -> Crowd<S> {
        Crowd { drafting: Some(drafting), ..self }
    }

    /// Positions of a place.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.slots.n_ctx()
    }

    /// What decides how many rows each text gets.
    #[must_use]
    pub fn schedule(&self) -> &CrowdSchedule {
        &self.schedule
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Texts at work.
    #[must_use]
    pub fn n_working(&self) -> usize {
        self.places.iter().filter(|place| place.work.is_some()).count()
    }

    /// Whether a text can be admitted.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.places.iter().any(|place| place.work.is_none())
    }

    /// One batch: every text reads some of its prompt, or emits at least one token. Returns those that ended.
    ///
    /// # Errors
    /// When decoding fails; all texts are as before then.
    pub fn step(&mut self, clock: &dyn Clock, listener: &mut Listener<'_>) -> Result<Vec<Ended>, TargetError> {
        self.close_ranks();
        let n_past = self.mean_past();
        let mut wishes: Vec<Wish> = (0..self.places.len()).map(|slot| self.wish(slot)).collect();
        let (mut drafting, mut decoding) = (Stopwatch::new(clock), Stopwatch::new(clock));
        let drafts = drafting.time(|| self.draft(&mut wishes, n_past));
        let rows = drafting.time(|| self.schedule.plan(&wishes, n_past));
        let has_drafts = drafts.iter().any(Option::is_some);
        let runs: Vec<Run> = (0..rows.len()).filter_map(|slot| self.run(slot, rows[slot], &drafts[slot])).collect();
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        decoding.time(|| self.slots.decode(&runs))?;
        let n_before = self.counts.n_predicted;
        let mut ended = Vec::new();
        let mut first_row = 0;
        for run in &runs {
            let first_logits = first_row + run.tokens.len() - run.n_logits;
            if run.n_logits > 0 {
                let taught = drafts[run.slot].is_some().then_some(&mut drafting);
                ended.extend(self.take(run, first_logits, taught, listener));
            }
            first_row += run.tokens.len();
        }
        let n_drafted = |(wish, &n_rows): (&Wish, &usize)| n_rows.saturating_sub(wish.n_pending);
        self.schedule.record(&StepRecord {
            rows: &rows,
            drafted: &wishes.iter().zip(&rows).map(n_drafted).collect::<Vec<_>>(),
            n_logits: runs.iter().map(|run| run.n_logits).sum(),
            n_past,
            n_emitted: (self.counts.n_predicted - n_before) as usize,
            draft_ms: if has_drafts { drafting.ms() } else { 0.0 },
            decode_ms: decoding.ms(),
        });
        Ok(ended)
    }

    /// Positions that a text at work has, on average.
    fn mean_past(&self) -> usize {
        let working = || (0..self.places.len()).filter(|&slot| self.places[slot].work.is_some());
        working().map(|slot| self.slots.n_past(slot)).sum::<usize>() / working().count().max(1)
    }

    /// A draft for every root, where any could pay.
    fn draft(&mut self, wishes: &mut [Wish], n_past: usize) -> Vec<Option<Draft>> {
        let n_roots = wishes.iter().filter(|wish| wish.n_pending > 0).count();
        let mut drafts = vec![None; wishes.len()];
        let Some(drafting) = self.drafting.as_mut().filter(|_| self.schedule.can_draft(n_roots, n_past)) else {
            return drafts;
        };
        for (slot, wish) in wishes.iter_mut().enumerate().filter(|(_, wish)| wish.n_pending == 1) {
            let place = &self.places[slot];
            // The last token to emit is a bonus; what is deeper could not be emitted, nor always has a position.
            let n_left = place.work.as_ref().map_or(0, |work| work.n_left);
            let max_depth = MAX_CHAIN.min(n_left.saturating_sub(1));
            let draft = drafting.draft(slot, &place.text, max_depth);
            wish.p = draft.p[1..].to_vec();
            drafts[slot] = Some(draft);
        }
        drafts
    }

    /// The next `n_rows` pending tokens of a slot, and drafted ones where they are more.
    fn run(&mut self, slot: usize, n_rows: usize, draft: &Option<Draft>) -> Option<Run> {
        let n_past = self.slots.n_past(slot);
        let place = &self.places[slot];
        let work = place.work.as_ref().filter(|_| n_rows > 0)?;
        let n_pending = place.text.len() - n_past;
        let mut tokens = place.text[n_past..n_past + n_rows.min(n_pending)].to_vec();
        self.counts.n_prompt += work.n_prompt.saturating_sub(n_past).min(tokens.len()) as u64;
        if let Some(draft) = draft {
            tokens.extend(draft.tree.nodes().skip(1).take(n_rows - n_pending).map(|node| draft.tree.token(node)));
        }
        Some(Run { slot, tokens, n_logits: (n_rows + 1).saturating_sub(n_pending) })
    }

    /// Emits what the logits from row `first` on give, and teaches the drafter where that is timed. Tells whether that
    /// was the end.
    fn take(
        &mut self,
        run: &Run,
        first: usize,
        taught: Option<&mut Stopwatch<'_>>,
        listener: &mut Listener<'_>,
    ) -> Option<Ended> {
        let place = &mut self.places[run.slot];
        let work = place.work.as_mut()?;
        let chain = &run.tokens[run.tokens.len() - run.n_logits..];
        let tree = TokenTree::chain(chain[0], &chain[1..]).expect("a chain is shorter than a tree may be");
        let rows = ChainRows { slots: &self.slots, first };
        let from = place.text.len();
        let mut end = None;
        let walked = walk(&tree, &rows, work.sampler.as_mut(), |token| {
            let logits = self.slots.logits(first + place.text.len() - from);
            place.text.push(token);
            work.n_left -= 1;
            let flow = listener(Said { id: work.id, token, logits });
            end = match work.n_left {
                _ if flow.is_break() => Some(End::Broken),
                0 => Some(work.limit.clone()),
                _ => None,
            };
            if end.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.counts.n_steps += 1;
        self.counts.n_predicted += (place.text.len() - from) as u64;
        work.n_drafted += tree.n_drafted();
        match walked {
            Ok(path) => work.n_accepted += path.len() - 1,
            Err(error) => end = Some(End::Failed(error)),
        }
        if let (Some(drafting), Some(stopwatch)) = (&mut self.drafting, taught) {
            let verified = Verified { tree: &tree, target: &rows };
            stopwatch.time(|| drafting.learn(run.slot, &place.text, from, verified));
        }
        // The last token is the next root, undecoded, also where the text broke off on an accepted one.
        let n_kept = place.text.len() - 1;
        self.slots.cut(run.slot, n_kept);
        end.and_then(|end| self.leave(run.slot, end))
    }
}

/// The logits of a chain: one row after the other.
struct ChainRows<'a, S> {
    slots: &'a S,
    first: usize,
}

impl<S: Slots> Rows for ChainRows<'_, S> {
    fn logits(&self, node: NodeId) -> &[f32] {
        self.slots.logits(self.first + node.index())
    }
}

/// Adds up what parts of a step take.
struct Stopwatch<'c> {
    clock: &'c dyn Clock,
    spent: Duration,
}

impl<'c> Stopwatch<'c> {
    fn new(clock: &'c dyn Clock) -> Stopwatch<'c> {
        Stopwatch { clock, spent: Duration::ZERO }
    }

    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = self.clock.now();
        let done = work();
        self.spent += self.clock.now().saturating_sub(start);
        done
    }

    fn ms(&self) -> f64 {
        self.spent.as_secs_f64() * 1e3
    }
}

#[cfg(test)]
mod tests;
