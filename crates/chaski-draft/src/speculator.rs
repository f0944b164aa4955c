//! The whole crate behind one type: texts of one target, drafted and verified.

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

/// Generates texts with a target, drafting what pays.
///
/// The texts are those of plain decoding with the same sampler: no probability of a drafter enters. What one text teaches about the
/// drafter's sources and about the cost of batches is used for the next.
pub struct Speculator<T> {
    target: T,
    drafter: Auto,
    schedule: Schedule,
    clock: Box<dyn Clock>,
}

impl<T: Target> Speculator<T> {
    /// `curve` says what a batch of n rows costs; times in steps correct it. An empty one (`CostCurve::default()`) never drafts. `clock`
    /// gives the time since any moment, for instance `move || start.elapsed()`.
    pub fn new(target: T, curve: CostCurve, clock: impl Clock + 'static) -> Speculator<T> {
        Speculator { target, drafter: Auto::default(), schedule: Schedule::cost_aware(curve), clock: Box::new(clock) }
    }

    /// Drafts from a matrix of tri-grams as well, made beforehand.
    #[must_use]
    pub fn with_base(self, base: Arc<dyn Base>) -> Speculator<T> {
        Speculator { drafter: Auto::new(Auto::sources(Some(base)), None), ..self }
    }

    /// Continues `prompt`. Each token is given to `emit` as it is accepted; `Break` makes it the last.
    ///
    /// # Errors
    /// What the target or the sampler fails with. Tokens given to `emit` before are valid text.
    pub fn generate(
        &mut self,
        prompt: &[Token],
        length: Length,
        sampler: &mut dyn Sampler,
        emit: &mut dyn FnMut(Token) -> ControlFlow<()>,
    ) -> Result<Generated, TargetError> {
        let mut progress = |_, _| ControlFlow::Continue(());
        let prefilled = Generation::prefill(&mut self.target, self.clock.as_ref(), prompt, &mut progress)?;
        // A new answer, a new loss budget.
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

    /// The target, for instance to ask what its cache holds.
    pub fn target(&mut self) -> &mut T {
        &mut self.target
    }

    /// The cost curve as the steps have corrected it, to store it for the next time.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        self.schedule.curve()
    }
}
