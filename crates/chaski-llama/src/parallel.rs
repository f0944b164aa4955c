//! One llama.cpp context as a [`BatchTarget`]: each lane is a sequence with its own cells ("streams" in llama.cpp). A
//! row attends only to the cells of its own text; in a unified cache it would scan those of all texts.
//!
//! The price is how llama.cpp splits a batch: each part has equally many rows of each of some *neighbouring* sequences.
//! A lane left out cuts the batch in two, and the extra rows of a lane that has more than its neighbours form parts of
//! their own. [`crate::batching::schedule`] takes that into account.

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::batching::target::{BatchTarget, Run};
use crate::hidden_states;
use crate::logs;
use crate::model::Model;
use crate::sequence;
use crate::session::{N_CTX_STEP, SessionConfig, context_error, context_params, engine_error, position};
use crate::target::TargetError;
use crate::token::Token;

/// Most lanes of a context: llama.cpp's limit on sequences.
pub const MAX_LANES: usize = 256;

/// The sequence id of a lane.
fn id(lane_id: usize) -> i32 {
    i32::try_from(lane_id).expect("at most 256")
}

/// A context with several lanes.
pub struct Parallel<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    n_vocab: usize,
    /// Positions per lane.
    n_ctx: usize,
    /// Tokens in the cache, per lane.
    n_past: Vec<usize>,
    /// False for recurrent models: their state cannot be rolled back.
    can_copy: bool,
    /// For each row of the last batch, whether it has logits.
    has_logits: Vec<bool>,
    /// Most rows in a batch: llama.cpp aborts on more.
    max_rows: usize,
    /// Whether rows with logits have hidden states too.
    has_states: bool,
}

impl<'m> Parallel<'m> {
    /// Creates a context with `n_lanes` lanes of `config.n_ctx` positions each, for batches of at most `max_rows` rows.
    ///
    /// # Errors
    /// If llama.cpp cannot allocate it.
    ///
    /// # Panics
    /// If `n_lanes` is 0 or more than [`MAX_LANES`].
    pub fn new(
        model: &'m Model,
        config: &SessionConfig,
        n_lanes: usize,
        max_rows: usize,
    ) -> Result<Parallel<'m>, TargetError> {
        assert!((1..=MAX_LANES).contains(&n_lanes), "{n_lanes} lanes");
        let n_ctx = config.n_ctx.next_multiple_of(N_CTX_STEP);
        let max_rows = max_rows.max(n_lanes);
        let all = SessionConfig { n_ctx: n_ctx.saturating_mul(n_lanes), ..*config };
        let params = context_params(&all, max_rows, n_lanes)
            .with_kv_unified(false)
            // A window-sized cache drops positions that a text with a shared prefix still needs.
            .with_swa_full(true);
        let what = || format!("cannot create a context for {n_lanes} lanes of {n_ctx} tokens");
        let context = model.inner.new_context(&model.backend, params);
        let mut context = context.map_err(|error| context_error(&what(), &error))?;
        model.adapt(&mut context)?;
        Ok(Parallel {
            context,
            // One sequence per token: `LlamaBatch::add` does not check bounds.
            batch: LlamaBatch::new(max_rows, 1),
            n_vocab: model.n_vocab(),
            n_ctx,
            n_past: vec![0; n_lanes],
            can_copy: !model.is_recurrent(),
            has_logits: Vec::new(),
            max_rows,
            has_states: false,
        })
    }

    /// The same context of `model`, with hidden states. It then computes logits for all rows of a prompt, which takes time.
    ///
    /// # Errors
    /// If the model gives none, or they cannot be turned on.
    pub fn with_states(mut self, model: &Model) -> Result<Parallel<'m>, TargetError> {
        hidden_states::check(model)?;
        hidden_states::set(&mut self.context, true)?;
        self.has_states = true;
        Ok(self)
    }

    fn add(&mut self, lane_id: usize, token: Token, at: usize, wants_logits: bool) -> Result<(), TargetError> {
        if token.0 < 0 || token.index() >= self.n_vocab {
            return Err(TargetError::UnknownToken { token, n_vocab: self.n_vocab });
        }
        let at = i32::try_from(at).expect("below n_ctx");
        let added = self.batch.add(LlamaToken(token.0), at, &[id(lane_id)], wants_logits);
        added.map_err(|error| engine_error("cannot build the batch", &error))
    }

    /// Length of [`Parallel::state`] in bytes.
    #[must_use]
    pub fn n_state_bytes(&self, lane_id: usize) -> usize {
        sequence::n_bytes(&self.context, id(lane_id))
    }

    /// The state of a lane, for [`Parallel::restore`] in a context with as many lanes.
    ///
    /// # Errors
    /// If llama.cpp writes fewer bytes than it announced.
    pub fn state(&self, lane_id: usize) -> Result<Vec<u8>, TargetError> {
        sequence::read(&self.context, id(lane_id))
    }

    /// Replaces the content of a lane by a state of `n_tokens` tokens, with the same contract as
    /// [`Session::restore`](crate::session::Session::restore). After an error the lane is empty.
    ///
    /// # Errors
    /// If llama.cpp refuses the state: it does not fit, or belongs to another model.
    pub fn restore(&mut self, lane_id: usize, n_tokens: usize, state: &[u8]) -> Result<(), TargetError> {
        self.cut(lane_id, 0);
        if n_tokens > self.n_ctx {
            return Err(TargetError::ContextFull { needed: n_tokens, n_ctx: self.n_ctx });
        }
        let written = sequence::write(&mut self.context, id(lane_id), state, n_tokens);
        match written {
            Ok(()) => self.n_past[lane_id] = n_tokens,
            Err(_) => self.remove_after(lane_id, 0),
        }
        written
    }

    /// Removes a lane's positions from `from` on. A recurrent state cannot be cut, so it is removed entirely.
    fn remove_after(&mut self, lane_id: usize, from: usize) {
        let mut remove =
            |from: usize| self.context.clear_kv_cache_seq(Some(position(lane_id)), Some(position(from)), None);
        if !matches!(remove(from), Ok(true)) {
            let _ = remove(0);
            self.n_past[lane_id] = 0;
        }
    }

    fn fill_batch(&mut self, runs: &[Run]) -> Result<(), TargetError> {
        self.batch.clear();
        self.has_logits.clear();
        for Run { lane_id, tokens, n_logits } in runs {
            let (n_past, n_ctx) = (self.n_past[*lane_id], self.n_ctx);
            if n_past + tokens.len() > n_ctx {
                return Err(TargetError::ContextFull { needed: n_past + tokens.len(), n_ctx });
            }
            for (at, &token) in tokens.iter().enumerate() {
                let wants_logits = at + n_logits >= tokens.len();
                self.add(*lane_id, token, n_past + at, wants_logits)?;
                self.has_logits.push(wants_logits);
            }
        }
        Ok(())
    }
}

impl BatchTarget for Parallel<'_> {
    fn n_lanes(&self) -> usize {
        self.n_past.len()
    }

    fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    fn n_past(&self, lane_id: usize) -> usize {
        self.n_past[lane_id]
    }

    fn decode(&mut self, runs: &[Run]) -> Result<(), TargetError> {
        assert!(runs.is_sorted_by(|a, b| a.lane_id < b.lane_id), "one run for each lane, in order");
        let n_rows: usize = runs.iter().map(|run| run.tokens.len()).sum();
        assert!((1..=self.max_rows).contains(&n_rows), "{n_rows} rows");
        self.fill_batch(runs)?;
        // An error logged earlier does not belong to this call.
        let _ = logs::take_error();
        if let Err(error) = self.context.decode(&mut self.batch) {
            let error = engine_error("decoding failed", &error);
            self.has_logits.clear();
            // Cells of the failed batch can stay in the cache.
            (0..self.n_lanes()).for_each(|lane_id| self.remove_after(lane_id, self.n_past[lane_id]));
            return Err(error);
        }
        runs.iter().for_each(|run| self.n_past[run.lane_id] += run.tokens.len());
        if let Some(row) = self.has_logits.iter().rposition(|has_logits| *has_logits) {
            // A GPU may return before the work is done; reading a result waits for it.
            let _ = self.logits(row);
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        assert!(self.has_logits.get(row) == Some(&true), "logits of a row that was to give some");
        self.context.get_logits_ith(i32::try_from(row).expect("some hundreds"))
    }

    fn state(&self, row: usize) -> Option<&[f32]> {
        let row = self.has_states.then(|| i32::try_from(row).expect("some hundreds"))?;
        self.context.embeddings_ith(row).ok()
    }

    fn cut(&mut self, lane_id: usize, n: usize) {
        if n < self.n_past[lane_id] {
            self.n_past[lane_id] = n;
            self.remove_after(lane_id, n);
        }
    }
    fn can_copy(&self) -> bool {
        self.can_copy
    }

    fn copy(&mut self, from: usize, to: usize, n: usize) {
        assert!(self.can_copy && from != to && n <= self.n_past[from], "{n} tokens of lane {from} for lane {to}");
        self.cut(to, 0);
        // Between streams llama.cpp can only copy whole sequences, and does it before the next batch.
        if self.context.kv_cache_seq_cp(id(from), id(to), None, None).is_ok() {
            self.n_past[to] = n;
            self.remove_after(to, n);
        }
    }
}
