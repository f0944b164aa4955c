//! Caches on disk the prefix that the lines of a job share: restores it if a job stored it before, stores it after
//! reading it.
//!
//! The state has a key of its own, because llama.cpp writes the number of lanes into a state. The cache is optional: an
//! error becomes a notice, and the prefix is decoded as usual.

use std::path::Path;

use crate::batching::Batcher;
use crate::cost::CostCurve;
use crate::engine::states::{model_key, state_key};
use crate::engine::{EngineConfig, ManyTexts, Notice};
use crate::model::Model;
use crate::parallel::Parallel;
use crate::session::SessionConfig;
use crate::store::prompt_cache::PromptCache;
use crate::store::prompt_cache::choice::{Fit, MIN_TOKENS, is_worth_keeping, n_common};
use crate::store::prompt_cache::file::{State, known_seal, seal};
use crate::token::Token;
use chaski_core::engine::PromptCacheConfig;

/// The cache of shared prefixes, and the key of this context.
pub(super) struct SharedPrefixes<'a> {
    cache: &'a PromptCacheConfig,
    secret: &'a Path,
    key: String,
    /// Time to read one token, in microseconds.
    us_per_token: u32,
    /// The prefix shared by the first two lines; empty once it is stored or not worth storing.
    tokens: Vec<Token>,
    n_recalled: usize,
}

impl<'a> SharedPrefixes<'a> {
    /// Creates the cache for a context of `n_lanes` lanes; `None` if the cache is off or the model does not support it.
    ///
    /// # Errors
    /// If the model's file cannot be read.
    pub(super) fn new(
        config: &'a EngineConfig,
        options: &'a ManyTexts,
        model: &Model,
        context: &SessionConfig,
        n_lanes: usize,
        curve: &CostCurve,
    ) -> Result<Option<SharedPrefixes<'a>>, Notice> {
        let (Some(cache), Some(secret)) = (&options.prompt_cache, &config.secret) else { return Ok(None) };
        // llama.cpp saves only the last window of a sliding-window model.
        if model.is_recurrent() || model.has_window() {
            return Ok(None);
        }
        let settings = config.settings.at(context.n_ctx);
        let key = model_key(&config.model).map_err(Notice::StateUnusable)?;
        let key = format!("{} {n_lanes} lanes", state_key(&key, model, settings, context.n_ctx));
        let us = curve.at(0).into_iter().map(|(n_rows, ms)| ms * 1e3 / n_rows as f64).fold(f64::INFINITY, f64::min);
        Ok(Some(SharedPrefixes { cache, secret, key, us_per_token: us as u32, tokens: Vec::new(), n_recalled: 0 }))
    }

    /// Looks up the prefix that two prompts share. `batcher` must have no texts yet.
    pub(super) fn recall(&mut self, batcher: &mut Batcher<Parallel<'_>>, a: &[Token], b: &[Token]) -> Vec<Notice> {
        // The last token of a prompt is always decoded: its logits are needed.
        let n = n_common(a, b).min(a.len().min(b.len()).saturating_sub(1));
        if n < MIN_TOKENS {
            return Vec::new();
        }
        self.tokens = a[..n].to_vec();
        let seal = match known_seal(self.secret) {
            Ok(Some(seal)) => seal,
            Ok(None) => return Vec::new(),
            Err(error) => return vec![Notice::StateUnusable(error)],
        };
        let fit = Fit { n_ctx: batcher.n_positions(), can_truncate: true };
        let found = PromptCache(self.cache).find(&self.key, &self.tokens, 0, fit, &seal);
        let mut notices: Vec<Notice> = found.errors.into_iter().map(Notice::StateUnusable).collect();
        if let Some((head, bytes)) = found.state {
            let put = |target: &mut Parallel<'_>, lane_id| target.restore(lane_id, head.tokens.len(), &bytes);
            match batcher.admit_shared_prefix(&head.tokens, put) {
                Ok(()) => self.n_recalled = n_common(&head.tokens, &self.tokens),
                Err(error) => notices.push(Notice::StateRefused(error)),
            }
        }
        notices
    }

    /// Stores the prefix, once a text that starts with it has freed its lane.
    pub(super) fn keep(&mut self, batcher: &mut Batcher<Parallel<'_>>) -> Result<(), Notice> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        let Some((target, lane_id)) = batcher.only_shared_prefix(&self.tokens) else { return Ok(()) };
        let tokens = std::mem::take(&mut self.tokens);
        let (n, n_new, n_bytes) = (tokens.len(), tokens.len() - self.n_recalled, target.n_state_bytes(lane_id) as u64);
        if !is_worth_keeping(n, n_new, self.us_per_token, n_bytes) {
            return Ok(());
        }
        let bytes = target.state(lane_id).map_err(Notice::StateRefused)?;
        let state = State { key: &self.key, tokens: &tokens, us_per_token: self.us_per_token, bytes: &bytes };
        let kept = seal(self.secret).and_then(|seal| PromptCache(self.cache).keep(&state, true, &seal));
        kept.map_err(Notice::PromptNotKept)
    }
}
