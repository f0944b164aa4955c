//! The cost curve of a worker: loads, completes and saves it, and limits trees to the available memory.

use crate::available::available;
use crate::generate::Length;
use crate::llama::session::{FlashAttention, Session};
use crate::llama::worker::job::{Event, Failure, Job, Notice};
use crate::llama::worker::{Engine, unix_s};
use crate::schedule::RowMemory;
use crate::store::curves;
use crate::target::Target as _;
use crate::token::Token;

/// For shorter answers, measuring the curve costs more than it saves.
const SHORT_ANSWER: usize = 32;

impl<'a> Engine<'a> {
    /// The most rows of a tree that fit into memory.
    pub(super) fn max_rows(&self, n_ctx: usize) -> usize {
        // Flash attention does not store the attention scores.
        let keeps_scores = self.settings.flash_attention == FlashAttention::Off;
        let n_heads = if keeps_scores { self.model.n_heads() } else { 0 };
        let row = RowMemory { n_vocab: self.model.n_vocab(), n_heads, n_ctx };
        row.max_rows(available().unwrap_or(u64::MAX))
    }

    /// Measures what the curve lacks, on top of the content of `session`.
    pub(super) fn measure(
        &mut self,
        job: &Job,
        session: &mut Session<'a>,
        prompt: &[Token],
        length: Length,
    ) -> Result<(), Failure> {
        let n_past = session.n_past();
        // Some models have no positions beyond the context.
        let max_rows = session.limits().max_nodes.min(length.n_ctx - n_past);
        let filler = *prompt.last().ok_or(Failure::EmptyPrompt)?;
        let is_short = job.max_tokens.is_some_and(|n| n < SHORT_ANSWER);
        if is_short || self.curve.is_complete(n_past, max_rows) {
            return Ok(());
        }
        self.outbox.send(Event::Measuring);
        let outbox = self.outbox;
        let mut go_on = || outbox.go_on();
        self.curve.measure(session, &self.clock, job.curve_budget, max_rows, filler, &mut go_on)?;
        self.measured_unix_s = unix_s();
        self.keep_curve();
        Ok(())
    }

    /// Loads the curve of the current settings.
    pub(super) fn load_curve(&mut self) {
        let kept = self
            .curves
            .as_ref()
            .and_then(|(folder, key)| curves::load(folder, &key.with_settings(&self.settings.to_string()), unix_s()));
        let (curve, measured_unix_s) = kept.unwrap_or_default();
        (self.curve, self.measured_unix_s) = (curve.aged(), measured_unix_s);
    }

    pub(super) fn keep_curve(&mut self) {
        let Some((folder, key)) = &self.curves else { return };
        let key = key.with_settings(&self.settings.to_string());
        if let Err(error) = curves::save(folder, &key, &self.curve, self.measured_unix_s) {
            self.outbox.send(Event::Notice(Notice::CurveNotKept(error)));
            // Report the failure once.
            self.curves = None;
        }
    }
}
