//! The loop: draft, verify, accept, keep, learn. An empty tree makes it plain decoding; there is no other loop.

use std::ops::ControlFlow;

use crate::accept::{Sampler, walk};
use crate::cost::Clock;
use crate::draft::{Draft, Drafter, Verified};
use crate::schedule::{Schedule, StepRecord};
use crate::stats::Stats;
use crate::target::{Progress, Target, TargetError, TreeLimits};
use crate::token::Token;
use crate::tree::NodeId;

/// Everything a generation needs, borrowed for its length.
pub struct Generation<'a> {
    /// The model.
    pub target: &'a mut dyn Target,
    /// What proposes.
    pub drafter: &'a mut dyn Drafter,
    /// How much of a proposal is verified.
    pub schedule: &'a mut Schedule,
    /// What chooses among the target's logits.
    pub sampler: &'a mut dyn Sampler,
    /// What times the steps.
    pub clock: &'a dyn Clock,
    /// Who looks on.
    pub observer: &'a mut dyn Observer,
}

/// Looks on, and changes nothing: for records and explanations.
pub trait Observer {
    /// A step was verified and accepted; the target still has its logits.
    fn step(&mut self, _step: &Step<'_>) {}
}

/// Nobody looks on.
impl Observer for () {}

/// Perhaps somebody looks on.
impl<T: Observer> Observer for Option<T> {
    fn step(&mut self, step: &Step<'_>) {
        if let Some(observer) = self {
            observer.step(step);
        }
    }
}

/// Two look on.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn step(&mut self, step: &Step<'_>) {
        self.0.step(step);
        self.1.step(step);
    }
}

/// What happened in one step.
pub struct Step<'a> {
    /// The text up to and with what the step emitted.
    pub context: &'a [Token],
    /// Where in `context` the emitted tokens begin.
    pub from: usize,
    /// What the drafter proposed, all of it.
    pub draft: &'a Draft,
    /// The nodes that were verified and accepted, the root first.
    pub path: &'a [NodeId],
    /// The tree that was verified, with its logits.
    pub verified: Verified<'a>,
    /// Why it had this size.
    pub schedule: &'a Schedule,
}

/// A generation that ran to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// What was emitted.
    pub tokens: Vec<Token>,
    /// True when `emit` ended it, false when a limit did.
    pub stopped: bool,
    /// Counts and times.
    pub stats: Stats,
}

/// How long a text may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Most tokens emitted.
    pub max_tokens: usize,
    /// Positions of the context: prompt and output together.
    pub n_ctx: usize,
}

impl Generation<'_> {
    /// Prefills all of `prompt` but its last token, which is the root of the first step. Returns how many tokens the
    /// cache held already and the time taken in milliseconds.
    ///
    /// # Errors
    /// What the target fails with; a break of `progress` is [`TargetError::Interrupted`].
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

    /// Continues `prompt`, which must be prefilled. Each token is given to `emit` as it is accepted; `Break` makes it
    /// the last.
    ///
    /// # Errors
    /// What the target or the sampler fails with. Tokens given to `emit` before are valid text.
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

    /// One verify and what comes of it. Tells whether `emit` ended the text.
    fn step(
        &mut self,
        context: &mut Vec<Token>,
        n_left: usize,
        stats: &mut Stats,
        emit: &mut dyn FnMut(Token) -> ControlFlow<()>,
    ) -> Result<bool, TargetError> {
        let n_past = self.target.n_past();
        let start = self.clock.now();
        let limits = self.schedule.limits(self.target.limits(), n_past);
        // The last token to emit is a bonus; what is deeper could not be emitted, nor always has a position.
        let max_depth = limits.max_depth.min(n_left - 1);
        let limits = if max_depth == 0 { TreeLimits::PLAIN } else { TreeLimits { max_depth, ..limits } };
        let draft = self.drafter.draft(context, limits);
        let mut tree = draft.tree.clone();
        tree.truncate(self.schedule.choose(&draft, n_past));
        let mut draft_ms = self.ms_since(start);

        let start = self.clock.now();
        self.target.verify(&tree)?;
        // Engines may answer before the work is done; reading a result waits for it.
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
        // Before the rest is dropped: the target's logits are gone then.
        let verified = Verified { tree: &tree, target: &*self.target };
        self.drafter.learn(context, from, verified);
        draft_ms += self.ms_since(start);
        let schedule = &*self.schedule;
        self.observer.step(&Step { context, from, draft: &draft, path: &accepted, verified, schedule });

        let start = self.clock.now();
        // The last token emitted is the next root, undecoded, also where the text broke off on an accepted node.
        self.target.keep(&accepted[..accepted.len().min(n_emitted)])?;
        verify_ms += self.ms_since(start);

        let record = StepRecord { n_past, n_rows: tree.len(), n_emitted, draft_ms, verify_ms };
        self.schedule.record(&record);
        stats.add(&record, accepted.len() - 1, self.schedule.curve().plain_ms(n_past));
        Ok(stopped)
    }

    fn ms_since(&self, start: std::time::Duration) -> f64 {
        (self.clock.now() - start).as_secs_f64() * 1e3
    }
}

/// What a prefill did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prefilled {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Of these, found in the cache.
    pub n_cached: usize,
    /// Time taken.
    pub prompt_ms: f64,
}
