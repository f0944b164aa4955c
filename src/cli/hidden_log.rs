//! `--hidden-learn`: records answers with their hidden states for `chaski drafter refine`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use half::f16;

use crate::cli::args::{DraftingArgs, EngineArgs};
use crate::cli::engine::{hidden_path, model_id};
use crate::cli::failure::Failure;
use crate::cli::output::stderr_line;
use crate::engine::Details;
use crate::gguf::{Gguf, ModelId};
use crate::llama::engine::EngineConfig;
use crate::store::align_log::{AlignLog, LogKey, LoggedToken, Piece};

/// Most tokens of a log: 300 MB for a model of 1.5 billion weights.
const MOST_TOKENS: u64 = 100_000;

/// Tokens of a frame of the log.
const N_AT_ONCE: usize = 64;

/// The log of a drafter on hidden states, open for appending.
#[derive(Debug)]
pub struct HiddenLog {
    log: AlignLog,
    path: PathBuf,
}

impl HiddenLog {
    /// Opens the log if the flags ask for it. It stays writable in the sandbox.
    ///
    /// # Errors
    /// If it cannot be written, or another process is writing to it.
    pub fn open(
        engine: &EngineArgs,
        args: &DraftingArgs,
        config: &EngineConfig,
        gguf: &Gguf,
    ) -> Result<Option<HiddenLog>, Failure> {
        if !args.hidden_learn {
            return Ok(None);
        }
        let path = hidden_path(args.hidden.as_deref(), gguf).filter(|_| config.drafters.hidden.is_some());
        let Some(path) = path else {
            stderr_line("notice: --hidden-learn has no effect: no drafter on hidden states is used");
            return Ok(None);
        };
        let path = log_path(&path);
        let log = AlignLog::open(&path, &key(model_id(&engine.model)))?;
        if log.n_tokens() >= MOST_TOKENS {
            let path = path.display();
            stderr_line(&format!("notice: {path} is full; hint: chaski drafter refine trains on it and empties it"));
        }
        Ok(Some(HiddenLog { log, path }))
    }

    /// Records an answer. What does not fit, or cannot be written, is left out with a notice: the answer is there already.
    pub fn keep(&mut self, details: &Details) {
        let n_left = MOST_TOKENS.saturating_sub(self.log.n_tokens()) as usize;
        let text = self.log.next_text();
        for emitted in details.states[..details.states.len().min(n_left)].chunks(N_AT_ONCE) {
            let said = emitted.iter().map(|emitted| LoggedToken {
                token: emitted.token,
                top: emitted.top.clone(),
                state: emitted.state.iter().copied().map(f16::from_f32).collect(),
            });
            // The prompt is nobody's business here.
            let piece = Piece { text, before: Vec::new(), said: said.collect() };
            if let Err(error) = self.log.append(&piece) {
                return stderr_line(&format!("notice: {}: the answer is not recorded: {error}", self.path.display()));
            }
        }
    }
}

/// The log of a drafter.
#[must_use]
pub fn log_path(hidden: &Path) -> PathBuf {
    let mut name = OsString::from(hidden);
    name.push(".log");
    PathBuf::from(name)
}

/// What all answers of a log share: their model. Prompts and settings may differ.
fn key(model: ModelId) -> LogKey {
    LogKey { model, prompts: "of the user".to_owned(), settings: String::new() }
}
