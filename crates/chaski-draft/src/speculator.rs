//! A single type that runs the whole crate: generates texts with one target, drafter and schedule.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::accept::Sampler;
use crate::cost::{Clock, CostCurve};
use crate::draft::auto::Auto;
use crate::draft::base::Base;
use crate::generate::{Generated, Generation, Length};
use crate::schedule::Schedule;
use crate::target::{Target, TargetError};
use crate::token::Token;

/// Generates texts with a target, and drafts where it pays.
///
/// The texts are those of plain decoding with the same sampler. What the drafter and the cost curve learn from one text
/// is used for the next.
pub struct Speculator<T> {
    target: T,
    drafter: Auto,
    schedule: Schedule,
    clock: Box<dyn Clock>,
}

impl<T: Target> Speculator<T> {
    /// `curve` gives the cost of a batch of n rows; the steps refine it. An empty curve (`CostCurve::default()`) never
    /// drafts. `clock` returns the time since any fixed moment, for instance `move || start.elapsed()`.
    pub fn new(target: T, curve: CostCurve, clock: impl Clock + 'static) -> Speculator<T> {
        Speculator { target, drafter: Auto::default(), schedule: Schedule::cost_aware(curve), clock: Box::new(clock) }
    }

    /// Also drafts from a tri-gram matrix built beforehand.
    #[must_use]
    pub fn with_base(self, base: Arc<dyn Base>) -> Speculator<T> {
        Speculator { drafter: Auto::new(Auto::sources(Some(base)), None), ..self }
    }

    /// Continues `prompt`. Passes each token to `emit` as it is accepted; `Break` makes it the last.
    ///
    /// # Errors
    /// Errors of the target or the sampler. Tokens already passed to `emit` are valid text.
    pub fn generate(
        &mut self,
        prompt: &[Token],
        length: Length,
        sampler: &mut dyn Sampler,
        emit: &mut dyn FnMut(Token) -> ControlFlow<()>,
    ) -> Result<Generated, TargetError> {
        let mut progress = |_, _| ControlFlow::Continue(());
        let prefilled = Generation::prefill(&mut self.target, self.clock.as_ref(), prompt, &mut progress)?;
        // Each answer gets a new loss budget.
        self.schedule = Schedule::cost_aware(self.schedule.curve().clone());
        let mut generation = Generation {
            target: &mut self.target,
            drafter: &mut self.drafter,
            schedule: &mut self.schedule,
            sampler,
            clock: self.clock.as_ref(),
            observer: &mut (),
        };
        generation.run(prompt, prefilled, length, emit)
    }

    /// The target, for instance to inspect its cache.
    pub fn target(&mut self) -> &mut T {
        &mut self.target
    }

    /// The cost curve as refined by the steps, to be saved for the next run.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        self.schedule.curve()
    }
}
