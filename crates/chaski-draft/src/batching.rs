//! Decodes many texts side by side: one batch holds rows of all of them, so the weights are read once for all.
//!
//! Each text has a lane, which is one timeline of the target. The tokens of a text that its lane has not decoded are
//! pending: first a prompt, later one token, the root of the next step. So reading prompts and generating are the same
//! operation, and one batch can do both. Each step decodes a run of pending tokens for every text ([`schedule`] decides
//! how many). If a run reaches the end of its text, its logits give the next token. A draft, if any, follows the root
//! as a chain.
//!
//! A text that ends leaves its lane at once. A new text that starts like another one copies the shared prefix
//! (`shared_prefixes`). Where texts come from, and where their tokens go, is up to the caller.

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
    /// The caller's id for it.
    pub id: u64,
    /// The prompt: at least one token, and fewer than a lane has positions.
    pub prompt: Vec<Token>,
    /// Emit at most this many tokens, but at least one.
    pub max_tokens: usize,
    /// Chooses the tokens.
    pub sampler: Box<dyn Sampler>,
    /// Restricts its drafts to the output format.
    pub filter: Option<Box<dyn DraftFilter>>,
}

/// An emitted token.
#[derive(Clone, Copy, Debug)]
pub struct EmittedToken<'a> {
    /// The id of its text.
    pub id: u64,
    /// The token.
    pub token: Token,
    /// The logits it was chosen from.
    pub logits: &'a [f32],
    /// The hidden state that gave these logits, if the target keeps them.
    pub state: Option<&'a [f32]>,
}

/// A text that has ended and left its lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The caller's id for it.
    pub id: u64,
    /// Why it ended.
    pub end: End,
    /// Prompt tokens that were already in the cache.
    pub n_cached: usize,
    /// Drafted tokens that were verified.
    pub n_drafted: usize,
    /// Drafted tokens that were accepted.
    pub n_accepted: usize,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The listener stopped it.
    Broken,
    /// It reached `max_tokens`.
    Limit,
    /// Its lane is full.
    Full,
    /// No token could be chosen.
    Failed(TargetError),
}

/// Called with each emitted token; `Break` makes it the text's last.
pub type Listener<'a> = dyn FnMut(EmittedToken<'_>) -> ControlFlow<()> + 'a;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Prompt tokens decoded; shared ones are not counted.
    pub n_prompt: u64,
    /// Tokens emitted.
    pub n_predicted: u64,
    /// Verifies of single texts: one for each text that emitted tokens in a step.
    pub n_steps: u64,
}

/// Decodes several texts at once, one per lane.
pub struct Batcher<S> {
    target: S,
    lanes: Vec<Lane>,
    schedule: BatchSchedule,
    drafting: Option<Drafting>,
    n_admitted: u64,
    counts: Counts,
}

/// A lane and its text.
#[derive(Default)]
struct Lane {
    /// The text so far. In a free lane: the tokens its cache still holds.
    text: Vec<Token>,
    work: Option<Work>,
}

struct Work {
    id: u64,
    /// Rank by time of admission, among all texts ever admitted.
    order: u64,
    n_prompt: usize,
    n_cached: usize,
    /// Tokens that may still be emitted.
    n_left: usize,
    /// How the text ends when `n_left` reaches 0.
    limit: End,
    sampler: Box<dyn Sampler>,
    n_drafted: usize,
    n_accepted: usize,
}

impl<S: BatchTarget> Batcher<S> {
    /// A batcher without texts.
    #[must_use]
    pub fn new(target: S, schedule: BatchSchedule) -> Batcher<S> {
        let lanes = (0..target.n_lanes()).map(|_| Lane::default()).collect();
        Batcher { target, lanes, schedule, drafting: None, n_admitted: 0, counts: Counts::default() }
    }

    /// The same batcher with drafts where they pay.
    #[must_use]
    pub fn with_drafting(self, drafting: Drafting) -> Batcher<S> {
        Batcher { drafting: Some(drafting), ..self }
    }

    /// Positions in each lane.
    #[must_use]
    pub fn n_positions(&self) -> usize {
        self.target.n_ctx()
    }

    /// The schedule, which decides how many rows each text gets.
    #[must_use]
    pub fn schedule(&self) -> &BatchSchedule {
        &self.schedule
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of texts being decoded.
    #[must_use]
    pub fn n_working(&self) -> usize {
        self.lanes.iter().filter(|lane| lane.work.is_some()).count()
    }

    /// Whether a lane is free.
    #[must_use]
    pub fn has_lane(&self) -> bool {
        self.lanes.iter().any(|lane| lane.work.is_none())
    }

    /// Decodes one batch: every text reads part of its prompt or emits at least one token, unless it waits for a shared
    /// prefix. Returns the texts that ended.
    ///
    /// # Errors
    /// If decoding fails; no text has changed then.
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

    /// The mean number of cached positions over the texts being decoded.
    fn mean_past(&self) -> usize {
        let working = || (0..self.lanes.len()).filter(|&lane_id| self.lanes[lane_id].work.is_some());
        working().map(|lane_id| self.target.n_past(lane_id)).sum::<usize>() / working().count().max(1)
    }

    /// Drafts for every root, if any draft could pay.
    fn draft(&mut self, wishes: &mut [Wish], n_past: usize) -> Vec<Option<Draft>> {
        let n_roots = wishes.iter().filter(|wish| wish.n_pending > 0).count();
        let mut drafts = vec![None; wishes.len()];
        let Some(drafting) = self.drafting.as_mut().filter(|_| self.schedule.can_draft(n_roots, n_past)) else {
            return drafts;
        };
        for (lane_id, wish) in wishes.iter_mut().enumerate().filter(|(_, wish)| wish.n_pending == 1) {
            let lane = &self.lanes[lane_id];
            // The last token of a step is the bonus, so deeper nodes could never be emitted and might not fit the lane.
            let n_left = lane.work.as_ref().map_or(0, |work| work.n_left);
            let max_depth = MAX_CHAIN.min(n_left.saturating_sub(1));
            let draft = drafting.draft(lane_id, &lane.text, max_depth);
            wish.p = draft.p[1..].to_vec();
            drafts[lane_id] = Some(draft);
        }
        drafts
    }

    /// The next `n_rows` tokens of a lane: pending ones, then drafted ones.
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

    /// Emits tokens from the logits that begin at row `first`. With `taught`, also teaches the drafter, timed by that
    /// stopwatch. Returns the text if it ended.
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
            let row = first + lane.text.len() - from;
            let (logits, state) = (self.target.logits(row), self.target.state(row));
            lane.text.push(token);
            work.n_left -= 1;
            let flow = listener(EmittedToken { id: work.id, token, logits, state });
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
        // The last emitted token is the next root and stays undecoded, even if the text ended on an accepted token.
        let n_kept = lane.text.len() - 1;
        self.target.cut(run.lane_id, n_kept);
        end.and_then(|end| self.leave(run.lane_id, end))
    }
}

/// The logits of a chain: consecutive rows.
struct ChainRows<'a, S> {
    target: &'a S,
    first: usize,
}

impl<S: BatchTarget> Rows for ChainRows<'_, S> {
    fn logits(&self, node: NodeId) -> &[f32] {
        self.target.logits(self.first + node.index())
    }
}

/// Adds up the time that parts of a step take.
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
