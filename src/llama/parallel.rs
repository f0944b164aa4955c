//! Many texts decoded side by side: one batch holds one row of each, so that the weights are read once for all.
//!
//! Sequences in, tokens and rows of logits out. A slot holds the timeline of one text, and only that: slots share
//! nothing, so each has its own cells ("streams" in llama.cpp) and a row attends to the cells of its own slot, where a
//! shared pool would make it scan all. Nothing is drafted here, and what a text is for is the caller's business:
//! [`worker`] runs requests through the slots.

pub mod worker;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::llama::logs;
use crate::llama::model::Model;
use crate::llama::session::{N_CTX_STEP, PREFILL_CHUNK, SessionConfig, context_params, engine_error, position};
use crate::target::{Progress, TargetError};
use crate::token::Token;

/// Slots a context can have: llama.cpp's bound on sequences.
pub const MAX_SLOTS: usize = 256;

/// A context of several timelines.
pub struct Parallel<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    n_vocab: usize,
    /// Positions of one slot.
    n_ctx: usize,
    /// Per slot, tokens in its cache.
    n_past: Vec<usize>,
    /// Rows of the last step.
    n_rows: usize,
}

impl<'m> Parallel<'m> {
    /// Makes a context of `n_slots` timelines of `config.n_ctx` positions each.
    ///
    /// # Errors
    /// When llama.cpp cannot allocate it.
    ///
    /// # Panics
    /// When there are no slots, or more than [`MAX_SLOTS`].
    pub fn new(model: &'m Model, config: &SessionConfig, n_slots: usize) -> Result<Parallel<'m>, TargetError> {
        assert!((1..=MAX_SLOTS).contains(&n_slots), "{n_slots} slots");
        let n_ctx = config.n_ctx.next_multiple_of(N_CTX_STEP);
        let n_batch = PREFILL_CHUNK.max(n_slots);
        let all = SessionConfig { n_ctx: n_ctx.saturating_mul(n_slots), ..*config };
        let params = context_params(&all, n_batch, n_slots).with_kv_unified(false);
        let what = || format!("cannot make a context of {n_slots} x {n_ctx} positions");
        let context = model.inner.new_context(&model.backend, params);
        let context = context.map_err(|error| engine_error(&what(), &error))?;
        Ok(Parallel {
            context,
            // One sequence per token: `LlamaBatch::add` does not check.
            batch: LlamaBatch::new(n_batch, 1),
            n_vocab: model.n_vocab(),
            n_ctx,
            n_past: vec![0; n_slots],
            n_rows: 0,
        })
    }

    /// Timelines.
    #[must_use]
    pub fn n_slots(&self) -> usize {
        self.n_past.len()
    }

    /// Positions of each.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Makes a slot hold `tokens` and nothing else. `progress` is asked before each chunk whether to go on.
    ///
    /// # Errors
    /// [`TargetError::Interrupted`] after a `Break`, or what failed; the slot is empty then.
    pub fn fill(&mut self, slot: usize, tokens: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
        self.empty(slot);
        if tokens.len() > self.n_ctx {
            return Err(TargetError::ContextFull { needed: tokens.len(), n_ctx: self.n_ctx });
        }
        let filled = self.fill_chunks(slot, tokens, progress);
        if filled.is_err() {
            self.empty(slot);
        }
        filled
    }

    fn fill_chunks(&mut self, slot: usize, tokens: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            if progress(self.n_past[slot], tokens.len()).is_break() {
                return Err(TargetError::Interrupted);
            }
            self.batch.clear();
            self.n_rows = 0;
            for (offset, &token) in chunk.iter().enumerate() {
                self.add(slot, token, self.n_past[slot] + offset, false)?;
            }
            self.decode()?;
            self.n_past[slot] += chunk.len();
        }
        Ok(())
    }

    /// Decodes one token in each of these slots, in one batch. Slots in ascending order without gaps are fastest:
    /// llama.cpp decodes each run of neighbours for itself.
    ///
    /// # Errors
    /// When a slot is full or llama.cpp fails; every slot is as before then.
    pub fn step(&mut self, rows: &[(usize, Token)]) -> Result<(), TargetError> {
        assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "one row for each slot, in order");
        self.batch.clear();
        self.n_rows = 0;
        for &(slot, token) in rows {
            let n_past = self.n_past[slot];
            if n_past == self.n_ctx {
                return Err(TargetError::ContextFull { needed: n_past + 1, n_ctx: self.n_ctx });
            }
            self.add(slot, token, n_past, true)?;
        }
        self.decode()?;
        rows.iter().for_each(|&(slot, _)| self.n_past[slot] += 1);
        self.n_rows = rows.len();
        Ok(())
    }

    /// The logits after the `row`-th token of the last step: one per token of the vocabulary.
    ///
    /// # Panics
    /// When the last step had no such row.
    #[must_use]
    pub fn logits(&self, row: usize) -> &[f32] {
        assert!(row < self.n_rows, "logits of a row of the last step");
        self.context.get_logits_ith(i32::try_from(row).expect("at most 256"))
    }

    /// Forgets what a slot holds.
    pub fn empty(&mut self, slot: usize) {
        self.n_past[slot] = 0;
        self.remove_after(slot, 0);
    }

    fn add(&mut self, slot: usize, token: Token, at: usize, wants_logits: bool) -> Result<(), TargetError> {
        if token.0 < 0 || token.index() >= self.n_vocab {
            return Err(TargetError::UnknownToken { token, n_vocab: self.n_vocab });
        }
        let (at, seq) = (i32::try_from(at).expect("below n_ctx"), i32::try_from(slot).expect("at most 256"));
        let added = self.batch.add(LlamaToken(token.0), at, &[seq], wants_logits);
        added.map_err(|error| engine_error("cannot build the batch", &error))
    }

    /// Decodes `self.batch`; on failure every slot is as before.
    fn decode(&mut self) -> Result<(), TargetError> {
        // An error logged before this call is not about this call.
        let _ = logs::take_error();
        self.context.decode(&mut self.batch).map_err(|error| {
            let error = engine_error("decoding failed", &error);
            // Cells of the failed batch can stay behind.
            (0..self.n_slots()).for_each(|slot| self.remove_after(slot, self.n_past[slot]));
            error
        })
    }

    /// Removes what stands in the cache from position `from` on. A state that cannot be cut back is forgotten.
    fn remove_after(&mut self, slot: usize, from: usize) {
        let mut remove =
            |from: usize| self.context.clear_kv_cache_seq(Some(position(slot)), Some(position(from)), None);
        if !matches!(remove(from), Ok(true)) {
            let _ = remove(0);
            self.n_past[slot] = 0;
        }
    }
}
