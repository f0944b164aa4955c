//! Many texts decoded side by side: one batch holds rows of all of them, so that the weights are read once for all.
//!
//! A text has a lane, which is one timeline of the target. What it has beyond what the timeline holds is pending: a
//! prompt to read, and in the end one token, the root of the next step. So reading and writing are the same thing, and
//! one batch does both: each step decodes a run of pending tokens for every text ([`schedule`] says how many), and
//! where a run reaches the end of its text, the target's logits give the next token. A text that ends leaves its lane
//! at once, and one that begins like another takes a copy of that shared prefix (`shared_prefixes`). After a root there can be
//! drafted tokens, a chain of them; without any it is plain decoding.
//!
//! What a text means is the business of whoever listens, and so is where it comes from.

pub mod chains;
pub mod lane_count;
pub mod schedule;
pub mod target;

mod admission;
mod shared_prefixes;

use std::ops::ControlFlow;
use std::time::Duration;

use crate::accept::{Sampler, walk};
use crate::batching::chains::Drafting;
use crate::batching::schedule::{BatchSchedule, MAX_CHAIN, StepRecord, Wish};
use crate::batching::target::{BatchTarget, Run};
use crate::cost::Clock;
use crate::draft::{Draft, DraftFilter, Verified};
use crate::target::{Rows, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// A text to continue.
pub struct Text {
    /// The caller's name for it.
    pub id: u64,
    /// What comes before: at least one token, and fewer than a lane has positions.
    pub prompt: Vec<Token>,
    /// Most tokens to emit; at least one is.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: Box<dyn Sampler>,
    /// What its drafts are held to.
    pub form: Option<Box<dyn DraftFilter>>,
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

/// A text that has left its lane.
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
    /// Its lane is full.
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

/// All texts at work, and their lanes.
pub struct Batcher<S> {
    target: S,
    lanes: Vec<Lane>,
    schedule: BatchSchedule,
    drafting: Option<Drafting>,
    n_admitted: u64,
    counts: Counts,
}

/// A lane and what its timeline holds.
#[derive(Default)]
struct Lane {
    /// The text so far. Where nobody works on it any more, what the lane holds of it.
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

impl<S: BatchTarget> Batcher<S> {
    /// No text yet.
    #[must_use]
    pub fn new(target: S, schedule: BatchSchedule) -> Batcher<S> {
        let lanes = (0..target.n_lanes()).map(|_| Lane::default()).collect();
        Batcher { target, lanes, schedule, drafting: None, n_admitted: 0, counts: Counts::default() }
    }

    /// The same with drafts, where they pay.
    #[must_use]
    pub fn with_drafting(self, drafting: Drafting) -> Batcher<S> {
        Batcher { drafting: Some(drafting), ..self }
    }

    /// Positions of a lane.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.target.n_ctx()
    }

    /// What decides how many rows each text gets.
    #[must_use]
    pub fn schedule(&self) -> &BatchSchedule {
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
        self.lanes.iter().filter(|lane| lane.work.is_some()).count()
    }

    /// Whether a text can be admitted.
    #[must_use]
    pub fn has_lane(&self) -> bool {
        self.lanes.iter().any(|lane| lane.work.is_none())
    }

    /// One batch: every text reads some of its prompt, or emits at least one token. Returns those that ended.
    ///
    /// # Errors
    /// When decoding fails; all texts are as before then.
    pub fn step(&mut self, clock: &dyn Clock, listener: &mut Listener<'_>) -> Result<Vec<Ended>, TargetError> {
        self.close_ranks();
        let n_past = self.mean_past();
        let mut wishes: Vec<Wish> = (0..self.lanes.len()).map(|lane_id| self.wish(lane_id)).collect();
        let (mut drafting, mut decoding) = (Stopwatch::new(clock), Stopwatch::new(clock));
        let drafts = drafting.time(|| self.draft(&mut wishes, n_past));
        let rows = drafting.time(|| self.schedule.plan(&wishes, n_past));
        let has_drafts = drafts.iter().any(Option::is_some);
        let runs: Vec<Run> =
            (0..rows.len()).filter_map(|lane_id| self.run(lane_id, rows[lane_id], &drafts[lane_id])).collect();
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        decoding.time(|| self.target.decode(&runs))?;
        let n_before = self.counts.n_predicted;
        let mut ended = Vec::new();
        let mut first_row = 0;
        for run in &runs {
            let first_logits = first_row + run.tokens.len() - run.n_logits;
            if run.n_logits > 0 {
                let taught = drafts[run.lane_id].is_some().then_some(&mut drafting);
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
        let working = || (0..self.lanes.len()).filter(|&lane_id| self.lanes[lane_id].work.is_some());
        working().map(|lane_id| self.target.n_past(lane_id)).sum::<usize>() / working().count().max(1)
    }

    /// A draft for every root, where any could pay.
    fn draft(&mut self, wishes: &mut [Wish], n_past: usize) -> Vec<Option<Draft>> {
        let n_roots = wishes.iter().filter(|wish| wish.n_pending > 0).count();
        let mut drafts = vec![None; wishes.len()];
        let Some(drafting) = self.drafting.as_mut().filter(|_| self.schedule.can_draft(n_roots, n_past)) else {
            return drafts;
        };
        for (lane_id, wish) in wishes.iter_mut().enumerate().filter(|(_, wish)| wish.n_pending == 1) {
            let lane = &self.lanes[lane_id];
            // The last token to emit is a bonus; what is deeper could not be emitted, nor always has a position.
            let n_left = lane.work.as_ref().map_or(0, |work| work.n_left);
            let max_depth = MAX_CHAIN.min(n_left.saturating_sub(1));
            let draft = drafting.draft(lane_id, &lane.text, max_depth);
            wish.p = draft.p[1..].to_vec();
            drafts[lane_id] = Some(draft);
        }
        drafts
    }

    /// The next `n_rows` pending tokens of a lane, and drafted ones where they are more.
    fn run(&mut self, lane_id: usize, n_rows: usize, draft: &Option<Draft>) -> Option<Run> {
        let n_past = self.target.n_past(lane_id);
        let lane = &self.lanes[lane_id];
        let work = lane.work.as_ref().filter(|_| n_rows > 0)?;
        let n_pending = lane.text.len() - n_past;
        let mut tokens = lane.text[n_past..n_past + n_rows.min(n_pending)].to_vec();
        self.counts.n_prompt += work.n_prompt.saturating_sub(n_past).min(tokens.len()) as u64;
        if let Some(draft) = draft {
            tokens.extend(draft.tree.nodes().skip(1).take(n_rows - n_pending).map(|node| draft.tree.token(node)));
        }
        Some(Run { lane_id, tokens, n_logits: (n_rows + 1).saturating_sub(n_pending) })
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
        let lane = &mut self.lanes[run.lane_id];
        let work = lane.work.as_mut()?;
        let chain = &run.tokens[run.tokens.len() - run.n_logits..];
        let tree = TokenTree::chain(chain[0], &chain[1..]).expect("a chain is shorter than a tree may be");
        let rows = ChainRows { target: &self.target, first };
        let from = lane.text.len();
        let mut end = None;
        let walked = walk(&tree, &rows, work.sampler.as_mut(), |token| {
            let logits = self.target.logits(first + lane.text.len() - from);
            lane.text.push(token);
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
        self.counts.n_predicted += (lane.text.len() - from) as u64;
        work.n_drafted += tree.n_drafted();
        match walked {
            Ok(path) => work.n_accepted += path.len() - 1,
            Err(error) => end = Some(End::Failed(error)),
        }
        if let (Some(drafting), Some(stopwatch)) = (&mut self.drafting, taught) {
            let verified = Verified { tree: &tree, target: &rows };
            stopwatch.time(|| drafting.learn(run.lane_id, &lane.text, from, verified));
        }
        // The last token is the next root, undecoded, also where the text broke off on an accepted one.
        let n_kept = lane.text.len() - 1;
        self.target.cut(run.lane_id, n_kept);
        end.and_then(|end| self.leave(run.lane_id, end))
    }
}

/// The logits of a chain: one row after the other.
struct ChainRows<'a, S> {
    target: &'a S,
    first: usize,
}

impl<S: BatchTarget> Rows for ChainRows<'_, S> {
    fn logits(&self, node: NodeId) -> &[f32] {
        self.target.logits(self.first + node.index())
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
