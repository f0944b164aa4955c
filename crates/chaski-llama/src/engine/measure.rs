//! Measures an engine of one text for `chaski bench`: the times of batches, prefill and decoding, and whether wide batches choose
//! the same tokens as plain decoding. Nothing is saved or learned.

use std::ops::ControlFlow;

use crate::chat::template::Segment;
use crate::cost::{Clock, time_of};
use crate::engine::Message;
use crate::engine::forced::{self, Forced, Shape};
use crate::engine::one_text::OneTextPolicy;
use crate::generate::Length;
use crate::target::{Progress, Target, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};
use chaski_core::engine::RequestError;

/// A measurement on a text.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The text. It is repeated as often as needed, except for [`What::Forced`].
    pub text: Vec<Segment>,
    /// What to measure.
    pub what: What,
}

/// Kinds of measurements.
#[derive(Clone, Debug)]
pub enum What {
    /// Time of a batch of each width on top of `depth` positions.
    Batches {
        /// Positions in the cache.
        depth: usize,
        /// Rows of each batch.
        widths: Vec<usize>,
        /// Samples per width.
        n_repeats: usize,
    },
    /// Time of a prefill.
    Prefill {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// Number of samples.
        n_repeats: usize,
    },
    /// Time of decoding one token after another from an empty context, without sampling.
    Decode {
        /// Tokens to decode.
        n_tokens: usize,
        /// Number of samples.
        n_repeats: usize,
    },
    /// Whether batches of these shapes choose the same tokens as plain greedy decoding.
    Forced {
        /// Most tokens to decode.
        max_tokens: usize,
        /// Shapes of the batches.
        shapes: Vec<Shape>,
        /// Size of the context in positions; `None`: as many as needed.
        n_ctx: Option<usize>,
    },
}

/// Result of a measurement.
#[derive(Clone, Debug)]
pub enum Measured {
    /// Milliseconds of every sample, per width; one list if there are no widths.
    Times(Vec<Vec<f64>>),
    /// Differences from plain decoding, per shape.
    Forced(Forced),
}

impl OneTextPolicy<'_> {
    /// Measures in the current session, or in a new one if it is too short.
    pub(super) fn measurement(&mut self, job: &Measurement) -> Result<Measured, RequestError> {
        let text = self.parts.model.tokenize(&job.text);
        let n_ctx = self.positions(&job.what, text.len())?;
        let mut session = self.session(Length { max_tokens: 0, n_ctx }, n_ctx)?;
        let (model, outbox, settings) = (self.parts.model, self.parts.outbox, self.settings);
        let mut progress = |done, total| {
            outbox.send(Message::Steps(done, total));
            outbox.go_on()
        };
        let measured = match &job.what {
            What::Forced { max_tokens, shapes, .. } => {
                let most = (*max_tokens).min(n_ctx - text.len());
                forced::compare(&mut session, &text, most, shapes, (model, &settings), &mut progress)
                    .map(Measured::Forced)
            }
            what => {
                let mut stopwatch = Stopwatch { target: &mut session, clock: &self.clock, text: &text };
                stopwatch.times(what, &mut progress).map(Measured::Times)
            }
        };
        // After an interrupt too: the next job reuses the decoded tokens.
        self.session = Some(session);
        Ok(measured?)
    }

    /// Positions that a measurement needs.
    fn positions(&self, what: &What, n_prompt: usize) -> Result<usize, RequestError> {
        if n_prompt == 0 {
            return Err(RequestError::EmptyPrompt);
        }
        let n_ctx_train = self.parts.model.n_ctx_train();
        let n_ctx = match what {
            What::Batches { depth, widths, .. } => depth + widths.iter().max().unwrap_or(&1),
            What::Prefill { n_tokens, .. } | What::Decode { n_tokens, .. } => *n_tokens,
            What::Forced { max_tokens, n_ctx, .. } => n_ctx.unwrap_or((n_prompt + max_tokens).min(n_ctx_train)),
        };
        let is_given = matches!(what, What::Forced { n_ctx: Some(_), .. });
        if n_ctx > n_ctx_train && !is_given {
            return Err(RequestError::ContextTooLong { n_ctx, n_ctx_train });
        }
        if matches!(what, What::Forced { .. }) && n_prompt >= n_ctx {
            return Err(RequestError::PromptTooLong { n_prompt, n_ctx, n_ctx_train });
        }
        Ok(n_ctx)
    }
}

/// Measures times on a target.
struct Stopwatch<'a> {
    target: &'a mut dyn Target,
    clock: &'a dyn Clock,
    /// Tokens to decode, repeated as needed; not empty.
    text: &'a [Token],
}

impl Stopwatch<'_> {
    fn times(&mut self, what: &What, progress: &mut Progress<'_>) -> Result<Vec<Vec<f64>>, TargetError> {
        match *what {
            What::Batches { depth, ref widths, n_repeats } => self.batches(depth, widths, n_repeats, progress),
            What::Prefill { n_tokens, n_repeats } => {
                self.repeat(n_repeats, &mut |this| this.prefill(n_tokens, progress))
            }
            What::Decode { n_tokens, n_repeats } => self.repeat(n_repeats, &mut |this| this.decode(n_tokens, progress)),
            What::Forced { .. } => Ok(Vec::new()),
        }
    }

    /// The first `n` tokens of the repeated text.
    fn tokens(&self, n: usize) -> Vec<Token> {
        self.text.iter().copied().cycle().take(n).collect()
    }

    /// Takes `n_repeats` samples after a warm-up that absorbs allocations and page faults.
    fn repeat(
        &mut self,
        n_repeats: usize,
        sample: &mut dyn FnMut(&mut Self) -> Result<f64, TargetError>,
    ) -> Result<Vec<Vec<f64>>, TargetError> {
        sample(self)?;
        let samples: Result<Vec<f64>, TargetError> = (0..n_repeats).map(|_| sample(self)).collect();
        Ok(vec![samples?])
    }

    /// Measures the widths in turn, so that a machine that slows down affects all of them.
    fn batches(
        &mut self,
        depth: usize,
        widths: &[usize],
        n_repeats: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Vec<f64>>, TargetError> {
        let context = self.tokens(depth);
        self.target.sync(&context, progress)?;
        let filler = self.text[0];
        for &width in widths {
            time_of(width, self.target, self.clock, filler)?;
        }
        let mut samples = vec![Vec::with_capacity(n_repeats); widths.len()];
        for pass in 0..n_repeats {
            for (number, &width) in widths.iter().enumerate() {
                go_on(progress, pass * widths.len() + number, n_repeats * widths.len())?;
                samples[number].push(time_of(width, self.target, self.clock, filler)?);
            }
        }
        Ok(samples)
    }

    fn prefill(&mut self, n_tokens: usize, progress: &mut Progress<'_>) -> Result<f64, TargetError> {
        let prompt = self.tokens(n_tokens);
        self.target.sync(&[], &mut |_, _| ControlFlow::Continue(()))?;
        let start = self.clock.now();
        self.target.sync(&prompt, progress)?;
        Ok((self.clock.now() - start).as_secs_f64() * 1e3)
    }

    fn decode(&mut self, n_tokens: usize, progress: &mut Progress<'_>) -> Result<f64, TargetError> {
        let tokens = self.tokens(n_tokens);
        self.target.sync(&[], &mut |_, _| ControlFlow::Continue(()))?;
        let start = self.clock.now();
        for (done, &token) in tokens.iter().enumerate() {
            go_on(progress, done, n_tokens)?;
            self.target.verify(&TokenTree::new(token))?;
            // A GPU may return before the work is done; reading a result waits for it.
            let _ = self.target.logits(NodeId::ROOT);
            self.target.keep(&[NodeId::ROOT])?;
        }
        Ok((self.clock.now() - start).as_secs_f64() * 1e3)
    }
}

/// Reports progress; fails if the caller wants to stop.
pub(super) fn go_on(progress: &mut Progress<'_>, done: usize, total: usize) -> Result<(), TargetError> {
    if progress(done, total).is_break() { Err(TargetError::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::target::Scripted;

    /// A clock that advances one millisecond per call.
    #[derive(Default)]
    struct Ticking(Cell<u64>);

    impl Clock for Ticking {
        fn now(&self) -> Duration {
            self.0.set(self.0.get() + 1);
            Duration::from_millis(self.0.get())
        }
    }

    fn times(what: &What, progress: &mut Progress<'_>) -> (Result<Vec<Vec<f64>>, TargetError>, usize) {
        let mut target = Scripted::new(8, 2, 1);
        let mut stopwatch =
            Stopwatch { target: &mut target, clock: &Ticking::default(), text: &[Token(1), Token(2), Token(3)] };
        let times = stopwatch.times(what, progress);
        (times, target.n_past())
    }

    #[test]
    fn every_sample_is_there_and_the_context_as_deep_as_asked() {
        let mut go_on = |_, _| ControlFlow::Continue(());
        let what = What::Batches { depth: 7, widths: vec![1, 4, 64], n_repeats: 2 };
        assert_eq!(times(&what, &mut go_on), (Ok(vec![vec![1.0; 2]; 3]), 7));
        let what = What::Prefill { n_tokens: 10, n_repeats: 3 };
        assert_eq!(times(&what, &mut go_on), (Ok(vec![vec![1.0; 3]]), 10));
        let what = What::Decode { n_tokens: 5, n_repeats: 1 };
        assert_eq!(times(&what, &mut go_on), (Ok(vec![vec![1.0]]), 5));
    }

    #[test]
    fn a_break_ends_it() {
        let what = What::Batches { depth: 0, widths: vec![1, 4], n_repeats: 2 };
        let mut n_left = 3;
        let mut progress = |_, _| {
            n_left -= 1;
            if n_left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(times(&what, &mut progress).0, Err(TargetError::Interrupted));
    }
}
