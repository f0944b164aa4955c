//! The generation loop for one text: draft, verify, accept, keep, learn. An empty draft makes a step plain decoding;
//! there is no other loop.

use std::ops::ControlFlow;

use crate::accept::{Sampler, walk};
use crate::cost::Clock;
use crate::draft::{Draft, Drafter, Verified};
use crate::schedule::{Schedule, StepRecord};
use crate::stats::Stats;
use crate::target::{Progress, Target, TargetError, TreeLimits};
use crate::token::Token;
use crate::tree::NodeId;

/// The parts of a generation, borrowed while it runs.
pub struct Generation<'a> {
    /// The model.
    pub target: &'a mut dyn Target,
    /// Proposes token trees.
    pub drafter: &'a mut dyn Drafter,
    /// Decides how much of a draft is verified.
    pub schedule: &'a mut Schedule,
    /// Chooses tokens from the target's logits.
    pub sampler: &'a mut dyn Sampler,
    /// Times the steps.
    pub clock: &'a dyn Clock,
    /// Watches the steps.
    pub observer: &'a mut dyn Observer,
}

/// Watches a generation without changing it: for traces and explanations.
pub trait Observer {
    /// Called after each step is accepted, while the target still has its logits.
    fn step(&mut self, _step: &Step<'_>) {}
}

/// Does nothing.
impl Observer for () {}

/// `None` does nothing.
impl<T: Observer> Observer for Option<T> {
    fn step(&mut self, step: &Step<'_>) {
        if let Some(observer) = self {
            observer.step(step);
        }
    }
}

/// Calls both observers.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn step(&mut self, step: &Step<'_>) {
        self.0.step(step);
        self.1.step(step);
    }
}

/// What happened in one step.
pub struct Step<'a> {
    /// The text, including the tokens this step emitted.
    pub context: &'a [Token],
    /// Where the emitted tokens begin in `context`.
    pub from: usize,
    /// The whole draft, before the schedule cut it.
    pub draft: &'a Draft,
    /// Rows that the batch had beside the tree's; see [`StepRecord::n_redone`].
    pub n_redone: usize,
    /// The accepted nodes, the root first.
    pub path: &'a [NodeId],
    /// The verified tree with its logits.
    pub verified: Verified<'a>,
    /// The schedule that chose its size.
    pub schedule: &'a Schedule,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The emitted tokens.
    pub tokens: Vec<Token>,
    /// True if `emit` ended it, false if a limit did.
    pub stopped: bool,
    /// Counts and times.
    pub stats: Stats,
}

/// Limits on the length of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Emit at most this many tokens.
    pub max_tokens: usize,
    /// Size of the context, for prompt and output together.
    pub n_ctx: usize,
}

impl Generation<'_> {
    /// Decodes all of `prompt` but its last token, which becomes the root of the first step.
    ///
    /// # Errors
    /// Errors of the target; [`TargetError::Interrupted`] if `progress` breaks.
    pub fn prefill(
        target: &mut dyn Target,
        clock: &dyn Clock,
        prompt: &[Token],
        progress: &mut Progress<'_>,
    ) -> Result<Prefilled, TargetError> {
        let start = clock.now();
        let mut n_cached = None;
        let mut count = |done, total| {
            n_cached.get_or_insert(done);
            progress(done, total)
        };
        let Some((_root, before)) = prompt.split_last() else {
            return Err(TargetError::Engine("an empty prompt has nothing to continue".into()));
        };
        target.sync(before, &mut count)?;
        let prompt_ms = (clock.now() - start).as_secs_f64() * 1e3;
        Ok(Prefilled { n_prompt: prompt.len(), n_cached: n_cached.unwrap_or(0), prompt_ms })
    }

    /// Continues `prompt`, which must be prefilled. Passes each token to `emit` as it is accepted; `Break` makes it the
    /// last.
    ///
    /// # Errors
    /// Errors of the target or the sampler. Tokens already passed to `emit` are valid text.
    pub fn run(
        &mut self,
        prompt: &[Token],
        prefilled: Prefilled,
        length: Length,
        emit: &mut dyn FnMut(Token) -> ControlFlow<()>,
    ) -> Result<Generated, TargetError> {
        let Prefilled { n_prompt, n_cached, prompt_ms } = prefilled;
        let mut stats = Stats { n_prompt, n_cached, prompt_ms, ..Stats::default() };
        let mut context = prompt.to_vec();
        let start = self.clock.now();
        self.drafter.begin(prompt);
        stats.draft_ms = self.ms_since(start);
        let most = length.max_tokens.min(length.n_ctx.saturating_sub(prompt.len()));
        let mut stopped = false;
        while !stopped && context.len() - prompt.len() < most {
            let n_left = most - (context.len() - prompt.len());
            stopped = self.step(&mut context, n_left, &mut stats, emit)?;
        }
        stats.predicted_ms = self.ms_since(start);
        Ok(Generated { tokens: context.split_off(prompt.len()), stopped, stats })
    }

    /// Runs one step. Returns whether `emit` ended the text.
    fn step(
        &mut self,
        context: &mut Vec<Token>,
        n_left: usize,
        stats: &mut Stats,
        emit: &mut dyn FnMut(Token) -> ControlFlow<()>,
    ) -> Result<bool, TargetError> {
        let (n_past, n_redone) = (self.target.n_past(), self.target.n_lost());
        let start = self.clock.now();
        let limits = self.schedule.limits(self.target.limits(), n_past);
        // The last token of a step is the bonus, so deeper nodes could never be emitted and might not fit the context.
        let max_depth = limits.max_depth.min(n_left - 1);
        let limits = if max_depth == 0 { TreeLimits::PLAIN } else { TreeLimits { max_depth, ..limits } };
        let draft = self.drafter.draft(context, limits);
        let mut tree = draft.tree.clone();
        tree.truncate(self.schedule.choose(&draft, n_past, n_redone));
        let mut draft_ms = self.ms_since(start);

        let start = self.clock.now();
        self.target.verify(&tree)?;
        // Some engines return before the work is done; reading a result waits for it.
        let _ = self.target.logits(NodeId::ROOT);
        let mut verify_ms = self.ms_since(start);

        let from = context.len();
        let mut stopped = false;
        let accepted = walk(&tree, &*self.target, self.sampler, |token| {
            context.push(token);
            stopped = emit(token).is_break();
            if stopped || context.len() - from == n_left { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let n_emitted = context.len() - from;

        let start = self.clock.now();
        // Learn before `keep`, which drops the logits.
        let verified = Verified { tree: &tree, target: &*self.target };
        self.drafter.learn(context, from, verified);
        draft_ms += self.ms_since(start);
        let schedule = &*self.schedule;
        self.observer.step(&Step { context, from, draft: &draft, n_redone, path: &accepted, verified, schedule });

        let start = self.clock.now();
        // The last emitted token is the next root and stays undecoded, even if the text ended on an accepted node.
        self.target.keep(&accepted[..accepted.len().min(n_emitted)])?;
        verify_ms += self.ms_since(start);

        let (n_rows, asked) = (tree.len(), draft.asked);
        let record = StepRecord { n_past, n_rows, n_redone, n_emitted, asked, draft_ms, verify_ms };
        self.schedule.record(&record);
        stats.add(&record, accepted.len() - 1, self.schedule.curve().plain_ms(n_past));
        Ok(stopped)
    }

    fn ms_since(&self, start: std::time::Duration) -> f64 {
        (self.clock.now() - start).as_secs_f64() * 1e3
    }
}

/// Counts and time of a prefill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefilled {
    /// Prompt tokens.
    pub n_prompt: usize,
    /// Prompt tokens found in the cache.
    pub n_cached: usize,
    /// Time taken in milliseconds.
    pub prompt_ms: f64,
}
