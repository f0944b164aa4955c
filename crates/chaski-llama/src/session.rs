//! One llama.cpp context as a [`Target`]: a token tree is decoded as a batch with one sequence per leaf.
//!
//! All sequences in use share the committed text (the trunk). Each node is decoded once, under the ids of all leaves
//! below it, so it attends to exactly its own path. After a verify the rejected tails are removed, and only the
//! accepted tokens are copied to the sequences that left the path. The trunk is copied once to each sequence, when a
//! tree first needs that sequence.
//!
//! Recurrent and hybrid models take chains only. Their state moves forward and cannot be cut, so a second sequence takes
//! the state before a chain as a checkpoint. llama.cpp copies a shared state when one of its sequences moves on. The
//! state then has another place, so the batch needs a new graph; the checkpoint costs no more. If a token is rejected,
//! the trunk goes back to the checkpoint, and the next batch decodes the accepted tokens again ([`Target::n_lost`]).
//! Where llama.cpp keeps a snapshot of the state after each token of a chain ([`Model::n_snapshots`]), a rejected tail
//! is cut off, and no token is lost; chains are short enough there to cut off all but the root. Some models take no
//! checkpoint ([`Model::can_checkpoint`]) and are decoded plainly.

use std::num::NonZeroU32;
use std::ops::ControlFlow;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use crate::hidden::StateCell;
use crate::hidden_states;
use crate::logs;
use crate::model::Model;
use crate::target::{Progress, Rows, Target, TargetError, TreeLimits, check_path};
use crate::token::Token;
use crate::tree::{MAX_LEAVES, MAX_NODES, NodeId, TokenTree};
use crate::tune::{CacheType, Settings};

mod state;

pub use crate::tune::{FlashAttention, KvType};

/// Tokens per prefill batch. Interrupts are checked between batches, so Ctrl-C waits for at most one.
pub(super) const PREFILL_CHUNK: usize = 256;

/// Tokens that [`Session::fill`] decodes; it copies the others.
const FILL_CHUNK: usize = 64;

/// The sequence that holds every committed token.
const TRUNK: i32 = 0;

/// In recurrent models, the sequence that holds an earlier state of the trunk. It is in no cell of a KV cache.
const CHECKPOINT: i32 = 1;

/// Sequences of a recurrent model with a checkpoint.
const N_STATES: usize = 2;

/// llama.cpp pads a context to a multiple of this. Asking for a multiple keeps the size shown equal to the size used.
pub(super) const N_CTX_STEP: usize = 256;

/// Settings of a context. The cost curve depends on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Positions for the prompt, the output and the widest tree.
    pub n_ctx: usize,
    /// Threads for a batch of one row.
    pub n_threads: usize,
    /// Threads for a batch of several rows.
    pub n_threads_batch: usize,
    /// Whether flash attention is used.
    pub flash_attention: FlashAttention,
    /// Data types of keys and values in the cache.
    pub kv_type: KvType,
}

impl SessionConfig {
    /// Settings for a context of `n_ctx` positions.
    #[must_use]
    pub fn new(n_ctx: usize, settings: &Settings) -> SessionConfig {
        let Settings { flash_attention, n_threads, n_threads_batch, kv_type } = *settings;
        SessionConfig { n_ctx, n_threads, n_threads_batch, flash_attention, kv_type }
    }
}

fn cache_type(cache_type: CacheType) -> KvCacheType {
    match cache_type {
        CacheType::F32 => KvCacheType::F32,
        CacheType::F16 => KvCacheType::F16,
        CacheType::Bf16 => KvCacheType::BF16,
        CacheType::Q8_0 => KvCacheType::Q8_0,
        CacheType::Q5_1 => KvCacheType::Q5_1,
        CacheType::Q5_0 => KvCacheType::Q5_0,
        CacheType::Q4_1 => KvCacheType::Q4_1,
        CacheType::Q4_0 => KvCacheType::Q4_0,
        CacheType::Iq4Nl => KvCacheType::IQ4_NL,
    }
}

/// A context and the tokens in its cache.
pub struct Session<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    limits: TreeLimits,
    /// False for recurrent models: their state only goes back to the checkpoint.
    can_roll_back: bool,
    /// Whether there is a sequence for [`CHECKPOINT`].
    has_checkpoint: bool,
    /// Whether some layers have a sliding attention window.
    has_window: bool,
    /// A rollback must keep at least this many tokens: a restored state lacks the windows before them.
    n_fixed: usize,
    /// Whether cached tokens can be shifted to other positions.
    can_shift: bool,
    n_vocab: usize,
    /// Tokens in the cache, the same in every sequence in use.
    committed: Vec<Token>,
    /// Sequences in use: 0 .. n_seqs.
    n_seqs: usize,
    /// How many of the last committed tokens are not in the cache: they were taken back with a rejected draft.
    n_lost: usize,
    /// How many tokens are in the state of [`CHECKPOINT`].
    checkpoint: Option<usize>,
    /// Most tokens that can be cut off the last batch of a recurrent model, if one remains.
    n_snapshots: usize,
    /// Whether the state is a snapshot of the last batch. Until the next batch it can be neither cut nor shared.
    is_snapshot: bool,
    verified: Option<Verified>,
    /// Receives the hidden state behind each new root.
    last_state: Option<StateCell>,
    /// Whether the next batch gives hidden states.
    gives_states: bool,
}

struct Verified {
    tree: TokenTree,
    /// For each node, the sequences that contain it.
    seqs: Vec<Vec<i32>>,
    /// Rows of the batch before those of the tree.
    n_redone: usize,
}

/// Parameters common to all our contexts.
pub(super) fn context_params(config: &SessionConfig, n_batch: usize, n_seqs: usize) -> LlamaContextParams {
    let n_threads = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let n_batch = u32::try_from(n_batch).expect("some hundreds");
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(u32::try_from(config.n_ctx.next_multiple_of(N_CTX_STEP)).unwrap_or(u32::MAX)))
        .with_n_batch(n_batch)
        .with_n_ubatch(n_batch)
        .with_n_seq_max(u32::try_from(n_seqs).expect("at most 256"))
        .with_n_threads(n_threads(config.n_threads))
        .with_n_threads_batch(n_threads(config.n_threads_batch))
        .with_flash_attention_policy(match config.flash_attention {
            FlashAttention::Auto => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
            FlashAttention::On => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            FlashAttention::Off => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        })
        .with_type_k(cache_type(config.kv_type.k))
        .with_type_v(cache_type(config.kv_type.v))
        // Else a model made for embeddings gives one state for all rows.
        .with_pooling_type(LlamaPoolingType::None)
        .with_no_perf(true)
}

pub(super) fn engine_error(what: &str, error: &dyn std::fmt::Display) -> TargetError {
    match logs::take_error() {
        Some(reason) => TargetError::Engine(format!("{what}: {error} ({reason})")),
        None => TargetError::Engine(format!("{what}: {error}")),
    }
}

/// The error of a context that cannot be created.
pub(super) fn context_error(what: &str, error: &dyn std::fmt::Display) -> TargetError {
    match engine_error(what, error) {
        // llama.cpp names the types in its log only: "K cache type q8_0 with block size 32 does not divide ...".
        TargetError::Engine(message) if message.contains("does not divide") => TargetError::CacheType(message),
        TargetError::Engine(message) => TargetError::Context(message),
        other => other,
    }
}

pub(super) fn position(n: usize) -> u32 {
    u32::try_from(n).expect("positions are below n_ctx, which is an u32")
}

impl<'m> Session<'m> {
    /// Creates a context.
    ///
    /// # Errors
    /// If llama.cpp cannot allocate it.
    pub fn new(model: &'m Model, config: &SessionConfig) -> Result<Session<'m>, TargetError> {
        let (n_snapshots, has_checkpoint) = (model.n_snapshots(), model.can_checkpoint());
        let (limits, n_seqs) = match model.is_recurrent() {
            true if has_checkpoint => (TreeLimits { max_leaves: 1, ..TreeLimits::TREE }, N_STATES),
            true => (TreeLimits::PLAIN, 1),
            false => (TreeLimits::TREE, MAX_LEAVES),
        };
        let params = context_params(config, PREFILL_CHUNK, n_seqs)
            .with_n_rs_seq(u32::try_from(n_snapshots).expect("at most 7"))
            // Without a unified cache llama.cpp rejects a tree with "no memory slot".
            .with_kv_unified(true)
            // With a window-sized cache the shared trunk never slides out, and the cache fills up.
            .with_swa_full(true);
        let context = model.inner.new_context(&model.backend, params);
        let what = || format!("cannot create a context of {} tokens", config.n_ctx);
        let mut context = context.map_err(|error| context_error(&what(), &error))?;
        model.adapt(&mut context)?;
        Ok(Session {
            context,
            // Room for every sequence at every token: `LlamaBatch::add` does not check bounds.
            batch: LlamaBatch::new(PREFILL_CHUNK.max(MAX_NODES), i32::try_from(MAX_LEAVES).expect("32")),
            limits,
            can_roll_back: !model.is_recurrent(),
            has_checkpoint,
            has_window: model.has_window(),
            n_fixed: 0,
            // llama.cpp's shift of quantized keys assumes a rotation that not every model has, and crashes without it.
            can_shift: model.can_shift() && !config.kv_type.k.is_quantized(),
            n_vocab: model.n_vocab(),
            committed: Vec::new(),
            n_seqs: 1,
            n_lost: 0,
            checkpoint: None,
            n_snapshots,
            is_snapshot: false,
            verified: None,
            last_state: None,
            gives_states: false,
        })
    }

    /// From now on, writes the hidden state behind each new root of this context of `model` to `cell`.
    ///
    /// # Errors
    /// If the model gives no hidden states beside logits, or they cannot be turned on.
    pub fn keep_states(&mut self, model: &Model, cell: StateCell) -> Result<(), TargetError> {
        hidden_states::check(model)?;
        self.give_states(true)?;
        self.last_state = Some(cell);
        Ok(())
    }

    fn give_states(&mut self, gives: bool) -> Result<(), TargetError> {
        if self.gives_states != gives {
            hidden_states::set(&mut self.context, gives)?;
            self.gives_states = gives;
        }
        Ok(())
    }

    /// Keeps the hidden state of a row of the last batch. Its token is the last one committed.
    fn keep_state(&mut self, row: usize) {
        let Some(cell) = &self.last_state else { return };
        let row = i32::try_from(row).expect("at most 64 rows");
        let mut last = cell.borrow_mut();
        last.state.clear();
        last.n_past = 0;
        if let Ok(state) = self.context.embeddings_ith(row) {
            last.state.extend_from_slice(state);
            last.n_past = self.committed.len();
        }
    }

    /// The hidden state belongs to another text from now on.
    fn forget_state(&mut self) {
        if let Some(cell) = &self.last_state {
            cell.borrow_mut().n_past = 0;
        }
    }

    /// Decodes a few rows and discards them, so that the audit in [`exact`](crate::exact) sees what this context
    /// computes.
    ///
    /// # Errors
    /// If llama.cpp cannot decode.
    pub(super) fn try_out(&mut self) -> Result<(), TargetError> {
        let token = Token(0);
        let mut tree = TokenTree::new(token);
        if self.limits.max_nodes > 1 {
            tree.push(NodeId::ROOT, token)?;
        }
        self.sync(&[token; 2], &mut |_, _| ControlFlow::Continue(()))?;
        let tried = self.verify(&tree);
        self.clear();
        tried
    }

    /// Whether a rejected token takes accepted ones with it: recurrent models without snapshots. See
    /// [`Target::n_lost`].
    #[must_use]
    pub fn loses_tokens(&self) -> bool {
        !self.can_roll_back && self.n_snapshots == 0
    }

    /// Positions of this context.
    #[must_use]
    pub fn n_ctx(&self) -> usize {
        self.context.n_ctx() as usize
    }

    /// Fills the context with `n` positions of `filler`, for measurements. Decodes only the first few and copies them
    /// for the others: a prefill is slow, and decode times depend on the number of positions, not on their content. The
    /// logits are meaningless afterwards, so do not generate text from here.
    ///
    /// # Errors
    /// As [`Target::sync`], which does all the work if the cache cannot be shifted.
    pub(super) fn fill(&mut self, n: usize, filler: Token, progress: &mut Progress<'_>) -> Result<(), TargetError> {
        let prefix = vec![filler; n];
        if self.n_seqs > 1 {
            // `copy_chunks` copies into sequence 0 only.
            self.clear();
        }
        self.sync(&prefix[..n.min(FILL_CHUNK)], progress)?;
        if n > FILL_CHUNK && self.can_shift {
            self.check_length(n)?;
            self.copy_chunks(n).inspect_err(|_| self.clear())?;
            self.committed.resize(n, filler);
        }
        self.sync(&prefix, progress)
    }

    /// Repeats the committed content up to position `n`. On an error the content of the cache is undefined.
    fn copy_chunks(&mut self, n: usize) -> Result<(), TargetError> {
        /// Any sequence but 0: it holds one copy at a time.
        const SCRATCH: usize = 1;
        let what = "cannot copy the cache's content";
        let chunk = self.committed.len();
        let state = self.context.state_seq_get(0, LlamaStateSeqFlags::empty());
        let state = state.map_err(|error| engine_error(what, &error))?;
        for at in (chunk..n).step_by(chunk) {
            let scratch = i32::try_from(SCRATCH).expect("1");
            self.context.state_seq_set(&state, scratch).map_err(|error| engine_error(what, &error))?;
            let distance = i32::try_from(at).expect("positions are below n_ctx, which llama.cpp keeps below 2^31");
            let moved = self.context.kv_cache_seq_add(scratch, None, None, distance);
            moved.map_err(|error| engine_error(what, &error))?;
            self.copy(scratch, 0, at, n.min(at + chunk))?;
            self.remove(Some(SCRATCH), 0, None)?;
        }
        Ok(())
    }

    /// Removes positions `from..to` of one sequence, or of all.
    fn remove(&mut self, seq: Option<usize>, from: usize, to: Option<usize>) -> Result<(), TargetError> {
        let removed = self.context.clear_kv_cache_seq(seq.map(position), Some(position(from)), to.map(position));
        match removed {
            Ok(true) => Ok(()),
            Ok(false) => Err(TargetError::Engine("llama.cpp cannot take back tokens of this model".into())),
            Err(error) => Err(engine_error("cannot remove tokens from the cache", &error)),
        }
    }

    fn copy(&mut self, source: i32, seq: usize, from: usize, to: usize) -> Result<(), TargetError> {
        let seq = i32::try_from(seq).expect("at most 32");
        let copied = self.context.kv_cache_seq_cp(source, seq, Some(position(from)), Some(position(to)));
        copied.map_err(|error| engine_error("cannot copy tokens in the cache", &error))
    }

    /// Copies the trunk to more sequences until there are enough for `n_leaves`.
    fn ensure_seqs(&mut self, n_leaves: usize) -> Result<(), TargetError> {
        if n_leaves > self.n_seqs {
            // Doubling, so that a tree that grows leaf by leaf does not copy the trunk for each leaf.
            let n_seqs = n_leaves.next_power_of_two().min(MAX_LEAVES);
            for seq in self.n_seqs..n_seqs {
                self.copy(0, seq, 0, self.committed.len())?;
            }
            self.n_seqs = n_seqs;
        }
        Ok(())
    }

    /// Makes the cache hold all of `text`, and returns the logits after its last token, which is always decoded. Calls
    /// `progress` as [`Target::sync`] does.
    ///
    /// # Errors
    /// As [`Target::sync`], and if `text` is empty.
    pub(super) fn read(&mut self, text: &[Token], progress: &mut Progress<'_>) -> Result<&[f32], TargetError> {
        let Some((_last, before)) = text.split_last() else {
            return Err(TargetError::Engine("an empty text has no logits".into()));
        };
        self.check_length(text.len())?;
        self.rewind(before)?;
        self.append(text, true, progress)?;
        Ok(self.context.get_logits_ith(self.batch.n_tokens() - 1))
    }

    fn check_length(&self, needed: usize) -> Result<(), TargetError> {
        let n_ctx = self.n_ctx();
        if needed > n_ctx { Err(TargetError::ContextFull { needed, n_ctx }) } else { Ok(()) }
    }

    /// Drops the committed tokens from the first that differs from `prefix` on.
    fn rewind(&mut self, prefix: &[Token]) -> Result<(), TargetError> {
        self.forget_state();
        // If it fails, nothing is reused.
        let _ = self.drop_pending();
        let n_reused = self.n_reusable(prefix);
        if n_reused == 0 {
            self.clear();
        } else if n_reused < self.committed.len() {
            self.remove(None, n_reused, None)?;
            self.committed.truncate(n_reused);
        }
        Ok(())
    }

    /// Decodes the tokens of `text` after those committed, in chunks. `wants_logits`: keep the logits after the last.
    fn append(&mut self, text: &[Token], wants_logits: bool, progress: &mut Progress<'_>) -> Result<(), TargetError> {
        let all_seqs: Vec<i32> = (0..).take(self.n_seqs).collect();
        self.committed.truncate(self.n_decoded());
        self.n_lost = 0;
        self.give_states(false)?;
        while self.committed.len() < text.len() {
            let done = self.committed.len();
            if progress(done, text.len()).is_break() {
                return Err(TargetError::Interrupted);
            }
            let end = text.len().min(done + PREFILL_CHUNK);
            self.batch.clear();
            for (at, &token) in text.iter().enumerate().take(end).skip(done) {
                self.add(token, at, &all_seqs, wants_logits && at + 1 == text.len())?;
            }
            self.decode()?;
            self.committed.extend_from_slice(&text[done..end]);
        }
        Ok(())
    }

    /// Empties the cache.
    fn clear(&mut self) {
        // Removing cells is faster than zeroing the whole cache. If no sequence is named, llama.cpp frees the cells of
        // recurrent states, but the sequences still refer to them.
        let removed = match (self.can_roll_back, self.has_checkpoint) {
            (true, _) => self.remove(None, 0, None),
            (false, true) => (0..N_STATES).try_for_each(|seq| self.remove(Some(seq), 0, None)),
            (false, false) => self.remove(Some(0), 0, None),
        };
        if removed.is_err() {
            self.context.clear_kv_cache();
        }
        self.committed.clear();
        self.n_fixed = 0;
        self.n_seqs = 1;
        self.n_lost = 0;
        self.checkpoint = None;
        self.is_snapshot = false;
        self.verified = None;
    }

    /// Removes the rows of a verify that was never committed: the next batch must follow the committed positions. After
    /// an error the cache is empty.
    fn drop_pending(&mut self) -> Result<(), TargetError> {
        match self.verified.take() {
            Some(_) => self.take_back().inspect_err(|_| self.clear()),
            None => Ok(()),
        }
    }

    /// The widest tree that can be verified. Beside lost tokens it is smaller, so that repeated rejections do not make
    /// batches ever wider. After a snapshot there is no checkpoint, so snapshots must be enough to go back to any node.
    fn most_nodes(&self) -> usize {
        if self.is_snapshot {
            return self.n_snapshots + 1;
        }
        self.limits.max_nodes.saturating_sub(self.n_lost).max(1)
    }

    /// Number of committed tokens in the cache.
    fn n_decoded(&self) -> usize {
        self.committed.len() - self.n_lost
    }

    /// Removes everything after the committed tokens in the cache.
    fn take_back(&mut self) -> Result<(), TargetError> {
        let n_decoded = self.n_decoded();
        if self.can_roll_back {
            return self.remove(None, n_decoded, None);
        }
        if self.checkpoint != Some(n_decoded) {
            return Err(TargetError::Engine("llama.cpp cannot take back tokens of this model".into()));
        }
        self.share_state(CHECKPOINT, TRUNK)?;
        // What is left is in the attention layers of a hybrid model.
        self.remove(Some(0), n_decoded, None)?;
        let last = self.context.kv_cache_seq_pos_max(TRUNK);
        match usize::try_from(last + 1) == Ok(n_decoded) {
            true => Ok(()),
            false => Err(TargetError::Engine(format!("went back to position {last} instead of {n_decoded} - 1"))),
        }
    }

    /// Keeps the first `n_kept` rows of the last batch's tree in a recurrent model. Returns how many tokens are lost.
    fn keep_in_chain(&mut self, n_kept: usize, n_rows: usize, n_redone: usize) -> Result<usize, TargetError> {
        if n_kept == n_rows {
            return Ok(0);
        }
        // llama.cpp writes a snapshot for each token of a batch, but none for the state before it.
        if n_kept > 0 && n_rows - n_kept <= self.n_snapshots {
            if self.remove(Some(0), self.n_decoded() + n_redone + n_kept, None).is_ok() {
                self.is_snapshot = true;
                return Ok(0);
            }
            // This context keeps none after all, and nothing was removed. The binding does not show how many it keeps.
            self.n_snapshots = 0;
        }
        self.take_back()?;
        Ok(n_redone + n_kept)
    }

    /// Makes the recurrent state of the trunk the checkpoint, unless there is none, or it is already, or it cannot be
    /// shared.
    fn take_checkpoint(&mut self) -> Result<(), TargetError> {
        if self.has_checkpoint && !self.is_snapshot && self.checkpoint != Some(self.n_decoded()) {
            self.share_state(TRUNK, CHECKPOINT)?;
            self.checkpoint = Some(self.n_decoded());
        }
        Ok(())
    }

    /// Makes `to` share the recurrent state of `from`. llama.cpp copies states regardless of the positions, and the cells
    /// of attention layers by position: an empty range leaves those alone.
    fn share_state(&mut self, from: i32, to: i32) -> Result<(), TargetError> {
        let shared = self.context.kv_cache_seq_cp(from, to, Some(0), Some(0));
        shared.map_err(|error| engine_error("cannot share a recurrent state", &error))
    }

    /// Decodes `self.batch`. After an error the cache is unchanged or empty.
    fn decode(&mut self) -> Result<(), TargetError> {
        // An error logged earlier does not belong to this call.
        let _ = logs::take_error();
        match self.context.decode(&mut self.batch) {
            Ok(()) => {
                self.is_snapshot = false;
                Ok(())
            }
            Err(error) => {
                let error = engine_error("decoding failed", &error);
                // Cells of the failed batch can stay in the cache, and a recurrent state may be half-way.
                if !self.can_roll_back || self.remove(None, self.committed.len(), None).is_err() {
                    self.clear();
                }
                Err(error)
            }
        }
    }

    fn add(&mut self, token: Token, at: usize, seqs: &[i32], wants_logits: bool) -> Result<(), TargetError> {
        if token.0 < 0 || token.index() >= self.n_vocab {
            return Err(TargetError::UnknownToken { token, n_vocab: self.n_vocab });
        }
        let at = i32::try_from(at).expect("positions are below n_ctx, which llama.cpp keeps below 2^31");
        let added = self.batch.add(LlamaToken(token.0), at, seqs, wants_logits);
        added.map_err(|error| engine_error("cannot build the batch", &error))
    }

    /// Makes every sequence hold `path` and removes the other nodes of the last verify.
    fn drop_rest(&mut self, tree: &TokenTree, seqs: &[Vec<i32>], path: &[NodeId]) -> Result<(), TargetError> {
        let base = self.committed.len();
        let end = base + path.len();
        if tree.len() > path.len() {
            self.remove(None, end, None)?;
        }
        if let Some(last) = path.last() {
            let on_path = &seqs[last.index()];
            for seq in (0..self.n_seqs).filter(|&seq| !on_path.contains(&i32::try_from(seq).expect("at most 32"))) {
                let id = i32::try_from(seq).expect("at most 32");
                let n_shared = path.iter().take_while(|node| seqs[node.index()].contains(&id)).count();
                self.remove(Some(seq), base + n_shared, Some(end))?;
                self.copy(on_path[0], seq, base + n_shared, end)?;
            }
        }
        Ok(())
    }
}

/// For each node, the sequences of the leaves below it. Spare sequences follow the first candidate, so that a chain is
/// in all sequences and nothing needs copying after it.
fn assign_seqs(tree: &TokenTree, n_seqs: usize) -> Vec<Vec<i32>> {
    let mut seqs = vec![Vec::new(); tree.len()];
    let leaves = tree.leaves();
    let first = std::iter::successors(Some(NodeId::ROOT), |&node| tree.children(node).next()).last();
    let spare = first.into_iter().cycle().take(n_seqs - leaves.len());
    for (seq, leaf) in (0..).zip(leaves.iter().copied().chain(spare)) {
        for node in std::iter::successors(Some(leaf), |&node| tree.parent(node)) {
            seqs[node.index()].push(seq);
        }
    }
    seqs
}

impl Session<'_> {
    /// The row of a verified node in the last batch.
    fn row(&self, node: NodeId) -> i32 {
        let verified = self.verified.as_ref().expect("logits are those of the last verify");
        assert!(node.index() < verified.tree.len(), "logits of a node that was verified");
        i32::try_from(verified.n_redone + node.index()).expect("at most 64 rows")
    }
}

impl Rows for Session<'_> {
    fn logits(&self, node: NodeId) -> &[f32] {
        self.context.get_logits_ith(self.row(node))
    }

    fn hidden_state(&self, node: NodeId) -> Option<&[f32]> {
        self.gives_states.then(|| self.context.embeddings_ith(self.row(node)).ok())?
    }
}

impl Target for Session<'_> {
    fn limits(&self) -> TreeLimits {
        let room = self.n_ctx().saturating_sub(self.committed.len()).max(1);
        // So that whatever is rejected can be cut off. Only measurements verify longer chains.
        let most = if self.n_snapshots > 0 { self.n_snapshots + 1 } else { MAX_NODES };
        TreeLimits { max_nodes: self.most_nodes().min(most).min(room), ..self.limits }
    }

    fn n_past(&self) -> usize {
        self.committed.len()
    }

    fn n_lost(&self) -> usize {
        self.n_lost
    }

    fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
        self.check_length(prefix.len())?;
        self.rewind(prefix)?;
        if self.is_snapshot && self.committed.len() == prefix.len() {
            // Nothing will be decoded, and a snapshot cannot be the checkpoint below. Written and read again, it is a
            // state like any other. If that fails, all of it is decoded.
            let settled = self.state().and_then(|state| self.restore(prefix, &state));
            if settled.is_err() {
                self.clear();
            }
        }
        self.append(prefix, false, progress)?;
        // For a first step that may be undone, as when batches are timed.
        self.take_checkpoint()?;
        let _ = progress(prefix.len(), prefix.len());
        Ok(())
    }

    fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
        tree.check()?;
        let (n_nodes, n_leaves) = (tree.len(), tree.n_leaves());
        let limits = TreeLimits { max_nodes: self.most_nodes(), ..self.limits };
        if n_nodes > limits.max_nodes || n_leaves > limits.max_leaves {
            return Err(TargetError::TooWide { n_nodes, n_leaves, limits });
        }
        self.drop_pending()?;
        self.check_length(self.committed.len() + n_nodes)?;
        self.ensure_seqs(n_leaves)?;
        if n_nodes > 1 {
            // Not before a plain step: changing places, the state would keep llama.cpp from reusing its graph.
            self.take_checkpoint()?;
        }
        self.give_states(self.last_state.is_some())?;
        let seqs = assign_seqs(tree, self.n_seqs);
        self.batch.clear();
        let (n_decoded, n_redone) = (self.n_decoded(), self.n_lost);
        for at in n_decoded..n_decoded + n_redone {
            self.add(self.committed[at], at, &[TRUNK], false)?;
        }
        for node in tree.nodes() {
            let at = self.committed.len() + tree.depth(node);
            self.add(tree.token(node), at, &seqs[node.index()], true)?;
        }
        self.decode()?;
        self.verified = Some(Verified { tree: tree.clone(), seqs, n_redone });
        Ok(())
    }

    fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
        let is_path = self.verified.as_ref().map(|verified| check_path(&verified.tree, path));
        if let Some(Err(error)) = is_path {
            let _ = self.drop_pending();
            return Err(error);
        }
        let Some(Verified { tree, seqs, n_redone }) = self.verified.take() else {
            return Err(TargetError::NotAPath);
        };
        let kept = match self.can_roll_back {
            true => self.drop_rest(&tree, &seqs, path).map(|()| 0),
            false => self.keep_in_chain(path.len(), tree.len(), n_redone),
        };
        if kept.is_err() {
            // The content of the cache is unknown now.
            self.clear();
        }
        self.n_lost = kept?;
        self.committed.extend(path.iter().map(|&node| tree.token(node)));
        match path.last() {
            Some(last) => self.keep_state(n_redone + last.index()),
            None => self.forget_state(),
        }
        Ok(())
    }
}
