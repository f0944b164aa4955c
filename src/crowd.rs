//! Many texts decoded side by side: one batch holds rows of all of them, so that the weights are read once for all.
//!
//! A text has a place, which is one timeline of the target. What it has beyond what the timeline holds is pending: a
//! prompt to read, and in the end one token, the root of the next step. So reading and writing are the same thing, and
//! one batch does both: each step decodes a run of pending tokens for every text ([`schedule`] says how many), and
//! where a run reaches the end of its text, the target's logits give the next token. A text that ends leaves its place
//! at once, and one that begins like another takes a copy of that beginning ([`sharing`]).
//!
//! What a text means is the business of whoever listens, and so is where it comes from.

pub mod places;
pub mod schedule;
pub mod slots;

mod sharing;

use std::ops::ControlFlow;

use crate::accept::Sampler;
use crate::cost::Clock;
use crate::crowd::schedule::{CrowdSchedule, StepTime, Wish};
use crate::crowd::sharing::{Beginning, Held, beginning, n_common};
use crate::crowd::slots::{Run, Slots};
use crate::target::TargetError;
use crate::token::Token;

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
        Crowd { slots, places, schedule, n_admitted: 0, counts: Counts::default() }
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

    /// Gives a text the lowest free place.
    ///
    /// # Panics
    /// When no place is free, or the prompt is empty or does not fit.
    pub fn admit(&mut self, text: Text) {
        let Text { id, prompt, max_tokens, sampler } = text;
        let slot = self.places.iter().position(|place| place.work.is_none()).expect("a place is free");
        let n_ctx = self.slots.n_ctx();
        assert!((1..n_ctx).contains(&prompt.len()), "a prompt of {} tokens in {n_ctx} positions", prompt.len());
        let room = n_ctx - prompt.len();
        // What the slot holds may begin like this one; the last token is decoded in any case, for its logits.
        let n_kept = n_common(&self.places[slot].text, &prompt[..prompt.len() - 1]);
        self.slots.cut(slot, n_kept);
        self.places[slot] = Place {
            work: Some(Work {
                id,
                n_prompt: prompt.len(),
                order: self.n_admitted,
                n_cached: self.slots.n_past(slot),
                n_left: max_tokens.clamp(1, room),
                limit: if max_tokens <= room { End::Limit } else { End::Full },
                sampler,
                n_drafted: 0,
                n_accepted: 0,
            }),
            text: prompt,
        };
        self.n_admitted += 1;
    }

    /// One batch: every text reads some of its prompt, or emits at least one token. Returns those that ended.
    ///
    /// # Errors
    /// When decoding fails; all texts are as before then.
    pub fn step(&mut self, clock: &dyn Clock, listener: &mut Listener<'_>) -> Result<Vec<Ended>, TargetError> {
        self.close_ranks();
        let wishes: Vec<Wish> = (0..self.places.len()).map(|slot| self.wish(slot)).collect();
        let n_past = self.mean_past();
        let rows = self.schedule.plan(&wishes, n_past);
        let runs: Vec<Run> = (0..).zip(&rows).filter_map(|(slot, &n_rows)| self.run(slot, n_rows)).collect();
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let start = clock.now();
        self.slots.decode(&runs)?;
        let n_logits = runs.iter().map(|run| run.n_logits).sum();
        let ms = (clock.now() - start).as_secs_f64() * 1e3;
        self.schedule.record(&StepTime { rows: &rows, n_logits, n_past, ms });
        let mut ended = Vec::new();
        let mut first_row = 0;
        for run in &runs {
            if run.n_logits > 0 {
                let row = first_row + run.tokens.len() - run.n_logits;
                ended.extend(self.take(run.slot, row, listener));
            }
            first_row += run.tokens.len();
        }
        Ok(ended)
    }

    /// Positions that a text at work has, on average.
    fn mean_past(&self) -> usize {
        let working = || (0..self.places.len()).filter(|&slot| self.places[slot].work.is_some());
        working().map(|slot| self.slots.n_past(slot)).sum::<usize>() / working().count().max(1)
    }

    /// Moves texts down into free places: a gap cuts a batch in two, in every step.
    fn close_ranks(&mut self) {
        let is_free = |place: &Place| place.work.is_none();
        while let Some(free) = self.places.iter().position(is_free)
            && let Some(last) = self.places.iter().rposition(|place| !is_free(place))
            && free < last
        {
            let n_past = self.slots.n_past(last);
            self.slots.copy(last, free, n_past);
            if self.slots.n_past(free) < n_past {
                // Some states cannot be copied.
                self.places[free].text.clear();
                return;
            }
            self.places[free] = std::mem::take(&mut self.places[last]);
            self.places[last].text = self.places[free].text[..n_past].to_vec();
        }
    }

    /// What a slot could use in the next batch: what its text has and the slot does not hold.
    fn wish(&mut self, slot: usize) -> Wish {
        let place = &self.places[slot];
        let Some(work) = &place.work else { return Wish::default() };
        let n_past = self.slots.n_past(slot);
        if n_past + 1 < work.n_prompt {
            let others = (0..self.places.len()).filter(|&other| other != slot).map(|other| (other, self.held(other)));
            match beginning(&place.text[..work.n_prompt - 1], n_past, work.order, others) {
                Beginning::Own => {}
                Beginning::Awaited => return Wish::default(),
                Beginning::Copied(from, n) => self.share(from, slot, n),
            }
        }
        Wish { n_pending: self.places[slot].text.len() - self.slots.n_past(slot), p: Vec::new() }
    }

    fn held(&self, slot: usize) -> Held<'_> {
        let place = &self.places[slot];
        let n_past = self.slots.n_past(slot);
        let reading = place.work.as_ref().filter(|work| n_past + 1 < work.n_prompt);
        Held { text: &place.text, n_past, reading: reading.map(|work| work.order) }
    }

    fn share(&mut self, from: usize, to: usize, n: usize) {
        let n_before = self.slots.n_past(to);
        self.slots.copy(from, to, n);
        if let Some(work) = &mut self.places[to].work {
            work.n_cached += self.slots.n_past(to).saturating_sub(n_before);
        }
    }

    /// The next `n_rows` pending tokens of a slot.
    fn run(&mut self, slot: usize, n_rows: usize) -> Option<Run> {
        let n_past = self.slots.n_past(slot);
        let place = &self.places[slot];
        let tokens = place.text[n_past..n_past + n_rows].to_vec();
        let n_logits = usize::from(n_past + n_rows == place.text.len());
        if let Some(work) = &place.work {
            self.counts.n_prompt += work.n_prompt.saturating_sub(n_past).min(n_rows) as u64;
        }
        (n_rows > 0).then_some(Run { slot, tokens, n_logits })
    }

    /// Emits what the logits in `row` give. Tells whether that was the end.
    fn take(&mut self, slot: usize, row: usize, listener: &mut Listener<'_>) -> Option<Ended> {
        let place = &mut self.places[slot];
        let work = place.work.as_mut()?;
        self.counts.n_steps += 1;
        let logits = self.slots.logits(row);
        let end = match work.sampler.sample(logits) {
            Err(error) => Some(End::Failed(error)),
            Ok(token) => {
                place.text.push(token);
                work.n_left -= 1;
                self.counts.n_predicted += 1;
                let flow = listener(Said { id: work.id, token, logits });
                match work.n_left {
                    _ if flow.is_break() => Some(End::Broken),
                    0 => Some(work.limit.clone()),
                    _ => None,
                }
            }
        };
        end.and_then(|end| self.leave(slot, end))
    }

    /// Frees a place; its slot keeps what it holds until somebody needs it.
    fn leave(&mut self, slot: usize, end: End) -> Option<Ended> {
        let place = &mut self.places[slot];
        let Work { id, n_cached, n_drafted, n_accepted, .. } = place.work.take()?;
        place.text.truncate(self.slots.n_past(slot));
        Some(Ended { id, end, n_cached, n_drafted, n_accepted })
    }
}

#[cfg(test)]
mod tests;
