//! What a worker has read before: states of prompts, found on disk and kept there.
//!
//! Everything here is expendable. What goes wrong is told, and the prompt is read as if there were no disk.

use std::path::{Path, PathBuf};

use crate::gguf::{ModelId, written_ns};
use crate::llama::model::{Model, ModelConfig};
use crate::llama::session::{PREFILL_CHUNK, Session};
use crate::llama::system_info;
use crate::llama::worker::{Job, Notice};
use crate::llama::{exact, kernels};
use crate::store::prompt_cache::choice::{Fit, is_worth_keeping, n_usable};
use crate::store::prompt_cache::file::{OpenState, State, StateError, known_seal, seal, write};
use crate::store::prompt_cache::format::Seal;
use crate::token::Token;
use crate::tune::Settings;

/// States of one model.
pub(super) struct States {
    /// The file of the secret that they are sealed with; `None`: there are no states.
    secret: Option<PathBuf>,
    /// Which model it is, once that is needed.
    model: Option<String>,
}

impl States {
    /// `secret`: the file of the secret that states are sealed with. Without one there are no states.
    pub(super) fn new(secret: Option<PathBuf>) -> States {
        States { secret, model: None }
    }

    /// Before a job. Where it is the first that has to do with states and the model's file cannot be read, there are none.
    pub(super) fn prepare(&mut self, model: &ModelConfig, job: &Job) -> Result<(), Notice> {
        let is_needed = job.prompt_cache.is_some() || job.state_file.is_some();
        if self.model.is_some() || self.secret.is_none() || !is_needed {
            return Ok(());
        }
        let key = model_key(model).map_err(Notice::StateUnusable).inspect_err(|_| self.secret = None);
        self.model = Some(key?);
        Ok(())
    }

    /// Makes `session` hold as much of `prefix` as any state on disk does. Tells what was in the way.
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
        if let Some(path) = context.job.state_file.as_deref().filter(|_| n_have < prefix.len()) {
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
        if let Some(cache) = &context.job.prompt_cache {
            let found = cache.find(&key, prefix, n_have, fit, &seal);
            errors.extend(found.errors);
            best = found.state.or(best);
        }
        let refused = best.and_then(|(head, bytes)| session.restore(&head.tokens, &bytes).err());
        errors.into_iter().map(Notice::StateUnusable).chain(refused.map(Notice::StateRefused)).collect()
    }

    /// Keeps the prompt that `session` holds, if that is worth it: `n_new` of its tokens took `new_ms` to compute.
    pub(super) fn keep(
        &self,
        session: &mut Session<'_>,
        context: &Context<'_>,
        n_new: usize,
        new_ms: f64,
    ) -> Result<(), Notice> {
        let (Some(secret), Some(model), Some(cache)) = (&self.secret, &self.model, &context.job.prompt_cache) else {
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
        let kept = seal(secret).and_then(|seal| cache.keep(&state, session.can_truncate(), &seal));
        kept.map_err(Notice::PromptNotKept)
    }

    /// Keeps all that `session` holds in the job's own file; what is there stays where it holds nothing.
    pub(super) fn keep_own(&self, session: &mut Session<'_>, context: &Context<'_>) -> Result<(), Notice> {
        let (Some(secret), Some(model), Some(path)) = (&self.secret, &self.model, &context.job.state_file) else {
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

/// What a model's states depend on, besides settings.
pub(in crate::llama) fn model_key(model: &ModelConfig) -> Result<String, StateError> {
    // llama.cpp believes a state, so the files' times count as well as their contents.
    let weights = |path: &Path| {
        let id = ModelId::of(path).and_then(|id| Ok(format!("{} {}", id.hash(), written_ns(path)?)));
        id.map_err(|error| StateError::Io { path: path.to_owned(), error })
    };
    let mut key = format!("{} ngl={:?}", weights(&model.path)?, model.n_gpu_layers);
    if let Some(lora) = &model.lora {
        key += &format!(" lora={} x{}", weights(&lora.path)?, lora.scale);
    }
    Ok(key)
}

/// Everything that a state's numbers or their layout depend on, with a model's key. Threads and drafts are not among it.
pub(in crate::llama) fn state_key(model_key: &str, model: &Model, settings: &Settings, n_ctx: usize) -> String {
    let Settings { flash_attention, kv_type, .. } = settings;
    let ggml = system_info().ggml_version;
    let kernels = kernels::in_use().ok().flatten().unwrap_or("ggml");
    // Some models turn positions otherwise in a context that is longer than what they were first trained on.
    let is_stretched = model.n_ctx_unstretched().is_some_and(|n| n_ctx > n);
    format!(
        "{model_key} {kv_type:?} {flash_attention:?} ggml {ggml} kernels {kernels}{} chunks of {PREFILL_CHUNK}{}",
        exact::state_key(),
        if is_stretched { " stretched" } else { "" }
    )
}

/// A job's own state, if it is of this key.
fn own(path: &Path, key: &str, seal: &Seal) -> Result<Option<OpenState>, StateError> {
    Ok(OpenState::open(path, seal)?.filter(|state| state.head.key == key))
}

/// What a state is of, besides the model's file.
pub(super) struct Context<'a> {
    pub(super) job: &'a Job,
    pub(super) model: &'a Model,
    pub(super) settings: Settings,
    /// Positions it was made with.
    pub(super) n_ctx: usize,
}

impl Context<'_> {
    fn key(&self, model: &str) -> String {
        state_key(model, self.model, &self.settings, self.n_ctx)
    }
}
