//! Restores prompt states from disk and stores them, so that a worker need not decode a prompt twice.
//!
//! This cache is optional: an error becomes a notice, and the prompt is decoded as usual.

use std::path::{Path, PathBuf};

use crate::engine::Notice;
use crate::gguf::{ModelId, written_ns};
use crate::model::{Model, ModelConfig};
use crate::session::{PREFILL_CHUNK, Session};
use crate::store::prompt_cache::PromptCache;
use crate::store::prompt_cache::choice::{Fit, is_worth_keeping, n_usable};
use crate::store::prompt_cache::file::{OpenState, State, StateError, known_seal, seal, write};
use crate::store::prompt_cache::format::Seal;
use crate::token::Token;
use crate::tune::Settings;
use crate::{exact, kernels};
use crate::{gpus, system_info};
use chaski_core::engine::Alone;

/// The states of one model.
pub(super) struct States {
    /// File of the secret that seals states; `None`: no states.
    secret: Option<PathBuf>,
    /// Key of the model; computed when first needed.
    model: Option<String>,
}

impl States {
    /// Uses the secret in the file `secret`; `None` turns states off.
    pub(super) fn new(secret: Option<PathBuf>) -> States {
        States { secret, model: None }
    }

    /// Computes the model's key before the first job that needs it. If the model's file cannot be read, states are
    /// turned off.
    pub(super) fn prepare(&mut self, model: &ModelConfig, alone: &Alone) -> Result<(), Notice> {
        let is_needed = alone.prompt_cache.is_some() || alone.state_file.is_some();
        if self.model.is_some() || self.secret.is_none() || !is_needed {
            return Ok(());
        }
        let key = model_key(model).map_err(Notice::StateUnusable).inspect_err(|_| self.secret = None);
        self.model = Some(key?);
        Ok(())
    }

    /// Restores the state on disk that covers most of `prefix`, if it covers more than `session`. Returns the problems.
    pub(super) fn recall(&self, session: &mut Session<'_>, context: &Context<'_>, prefix: &[Token]) -> Vec<Notice> {
        let (Some(secret), Some(model)) = (&self.secret, &self.model) else { return Vec::new() };
        let seal = match known_seal(secret) {
            Ok(Some(seal)) => seal,
            Ok(None) => return Vec::new(),
            Err(error) => return vec![Notice::StateUnusable(error)],
        };
        let key = context.key(model);
        let fit = Fit { n_ctx: session.n_ctx(), can_truncate: session.can_truncate() };
        let mut n_have = session.n_reusable(prefix);
        let (mut best, mut errors) = (None, Vec::new());
        if let Some(path) = context.alone.state_file.as_deref().filter(|_| n_have < prefix.len()) {
            match own(path, &key, &seal).map(|own| own.map(|state| (n_usable(&state.head.tokens, prefix, fit), state)))
            {
                Ok(Some((n, state))) if n > n_have => {
                    best = state.load(&seal).map_err(|error| errors.push(error)).ok();
                    n_have = if best.is_some() { n } else { n_have };
                }
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(cache) = &context.alone.prompt_cache {
            let found = PromptCache(cache).find(&key, prefix, n_have, fit, &seal);
            errors.extend(found.errors);
            best = found.state.or(best);
        }
        let refused = best.and_then(|(head, bytes)| session.restore(&head.tokens, &bytes).err());
        errors.into_iter().map(Notice::StateUnusable).chain(refused.map(Notice::StateRefused)).collect()
    }

    /// Stores the prompt in `session` if that pays off; computing `n_new` of its tokens took `new_ms`.
    pub(super) fn keep(
        &self,
        session: &mut Session<'_>,
        context: &Context<'_>,
        n_new: usize,
        new_ms: f64,
    ) -> Result<(), Notice> {
        let (Some(secret), Some(model), Some(cache)) = (&self.secret, &self.model, &context.alone.prompt_cache) else {
            return Ok(());
        };
        let us_per_token = (new_ms * 1e3 / n_new.max(1) as f64) as u32;
        let (n_tokens, n_bytes) = (session.committed().len(), session.n_state_bytes() as u64);
        if !is_worth_keeping(n_tokens, n_new, us_per_token, n_bytes) {
            return Ok(());
        }
        let bytes = session.state().map_err(Notice::StateRefused)?;
        let key = context.key(model);
        let state = State { key: &key, tokens: session.committed(), us_per_token, bytes: &bytes };
        let kept = seal(secret).and_then(|seal| PromptCache(cache).keep(&state, session.can_truncate(), &seal));
        kept.map_err(Notice::PromptNotKept)
    }

    /// Saves all of `session` in the job's own file. An empty session does not overwrite it.
    pub(super) fn keep_own(&self, session: &mut Session<'_>, context: &Context<'_>) -> Result<(), Notice> {
        let (Some(secret), Some(model), Some(path)) = (&self.secret, &self.model, &context.alone.state_file) else {
            return Ok(());
        };
        if session.committed().is_empty() {
            return Ok(());
        }
        let bytes = session.state().map_err(Notice::StateRefused)?;
        let key = context.key(model);
        let state = State { key: &key, tokens: session.committed(), us_per_token: 0, bytes: &bytes };
        seal(secret).and_then(|seal| write(path, &state, &seal)).map_err(Notice::PromptNotKept)
    }
}

/// The part of a state's key that depends on the model, its adapter, the GPU layers and the GPU.
pub(super) fn model_key(model: &ModelConfig) -> Result<String, StateError> {
    // llama.cpp believes a state, so the files' times count as well as their contents.
    let weights = |path: &Path| {
        let id = ModelId::of(path).and_then(|id| Ok(format!("{} {}", id.hash(), written_ns(path)?)));
        id.map_err(|error| StateError::Io { path: path.to_owned(), error })
    };
    let mut key = format!("{} ngl={:?}", weights(&model.path)?, model.n_gpu_layers);
    for gpu in gpus(model.n_gpu_layers) {
        key += &format!(" on {gpu}");
    }
    if let Some(lora) = &model.lora {
        key += &format!(" lora={} x{}", weights(&lora.path)?, lora.scale);
    }
    Ok(key)
}

/// The key of a state: everything that its numbers or their layout depend on. Threads and drafts do not affect it.
pub(super) fn state_key(model_key: &str, model: &Model, settings: &Settings, n_ctx: usize) -> String {
    let Settings { flash_attention, kv_type, .. } = settings;
    let ggml = system_info().ggml_version;
    let kernels = kernels::in_use().ok().flatten().unwrap_or("ggml");
    // Some models scale positions differently in a context longer than their original training length.
    let is_stretched = model.n_ctx_unstretched().is_some_and(|n| n_ctx > n);
    format!(
        "{model_key} {kv_type:?} {flash_attention:?} ggml {ggml} kernels {kernels}{} chunks of {PREFILL_CHUNK}{}",
        exact::state_key(),
        if is_stretched { " stretched" } else { "" }
    )
}

/// A job's own state, if it has this key.
fn own(path: &Path, key: &str, seal: &Seal) -> Result<Option<OpenState>, StateError> {
    Ok(OpenState::open(path, seal)?.filter(|state| state.head.key == key))
}

/// What the key of a state depends on, besides the model's file.
pub(super) struct Context<'a> {
    pub(super) alone: &'a Alone,
    pub(super) model: &'a Model,
    pub(super) settings: Settings,
    /// Size of the context in positions.
    pub(super) n_ctx: usize,
}

impl Context<'_> {
    fn key(&self, model: &str) -> String {
        state_key(model, self.model, &self.settings, self.n_ctx)
    }
}
