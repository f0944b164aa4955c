//! `--hidden-learn`: records answers with their hidden states for `chaski drafter refine`.

use std::path::{Path, PathBuf};

use half::f16;

use crate::cli::align::log_path;
use crate::cli::args::{DraftingArgs, EngineArgs};
use crate::cli::engine::{hidden_path, model_id};
use crate::cli::failure::Failure;
use crate::cli::output::stderr_line;
use crate::engine::Details;
use crate::gguf::Gguf;
use crate::llama::engine::EngineConfig;
use crate::store::align_log::{AlignLog, LogError, LogKey, LoggedToken, Piece};

/// Maximum tokens in a log: 300 MB for a model of 1.5 billion weights.
const MOST_TOKENS: u64 = 100_000;

/// Maximum tokens of an answer. Their states are in memory until the answer ends: 50 MB for a model of 1.5 billion weights.
const MOST_OF_ANSWER: usize = 8192;

/// Tokens of a frame of the log.
const N_AT_ONCE: usize = 64;

/// The log of a drafter on hidden states, open for appending. No other process can write to it.
#[derive(Debug)]
pub struct HiddenLog {
    log: AlignLog,
    path: PathBuf,
    /// Whether recording has ended. The notice is printed once.
    is_over: bool,
}

impl HiddenLog {
    /// Opens the log if the flags ask for it. It stays writable in the sandbox. Where nothing can be recorded, prints a notice and
    /// returns `None`: the answers do not depend on it.
    #[must_use]
    pub fn open(engine: &EngineArgs, args: &DraftingArgs, config: &EngineConfig, gguf: &Gguf) -> Option<HiddenLog> {
        if !args.hidden_learn {
            return None;
        }
        let opened = match (hidden_path(args.hidden.as_deref(), gguf), &config.drafters.hidden) {
            _ if config.drafters.learned.is_none() => Err("has no effect: learning is off".to_owned()),
            (Some(path), Some(_)) => open(&path, &engine.model).map_err(|error| {
                let hint = error.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                format!("has no effect: {}{hint}", error.message())
            }),
            _ => Err("has no effect: no --hidden file is in use".to_owned()),
        };
        opened.map_err(|why| stderr_line(&format!("notice: --hidden-learn {why}"))).ok().map(|(log, path)| {
            let mut log = HiddenLog { log, path, is_over: false };
            if log.n_wanted() == 0 {
                log.tell_full();
            }
            log
        })
    }

    /// How many tokens of the next answer are recorded.
    #[must_use]
    pub fn n_wanted(&self) -> usize {
        (MOST_TOKENS.saturating_sub(self.log.n_tokens()) as usize).min(MOST_OF_ANSWER)
    }

    /// Records an answer. Prints a notice if the log is full or cannot be written.
    pub fn keep(&mut self, details: &Details) {
        if self.is_over {
            return;
        }
        if details.states.is_empty() && !details.tokens.is_empty() {
            return self.end("--hidden-learn has no effect: the model gave no hidden states");
        }
        let text = self.log.next_text();
        for emitted in details.states.chunks(N_AT_ONCE) {
            let said = emitted.iter().map(|emitted| LoggedToken {
                token: emitted.token,
                top: emitted.top.clone(),
                state: emitted.state.iter().copied().map(f16::from_f32).collect(),
            });
            // Training further does not need the prompt.
            let piece = Piece { text, before: Vec::new(), said: said.collect() };
            if let Err(error) = self.log.append(&piece) {
                return self.end(&format!("{error}: answers are no longer recorded"));
            }
        }
        if self.n_wanted() == 0 {
            self.tell_full();
        }
    }

    fn tell_full(&mut self) {
        let path = self.path.display().to_string();
        self.end(&format!(
            "{path} is full: answers are no longer recorded; hint: run chaski drafter refine, or delete the file"
        ));
    }

    fn end(&mut self, why: &str) {
        self.is_over = true;
        stderr_line(&format!("notice: {why}"));
    }
}

/// Opens the log of the drafter `hidden` for appending, or creates it.
///
/// # Errors
/// If it cannot be written, is of another model, or another process is writing to it.
pub fn open(hidden: &Path, model: &Path) -> Result<(AlignLog, PathBuf), Failure> {
    let path = log_path(hidden);
    // Prompts and settings may differ from answer to answer.
    let key = LogKey { model: model_id(model), prompts: "of the user".to_owned(), settings: String::new() };
    match AlignLog::open(&path, &key) {
        Ok(log) => Ok((log, path)),
        Err(error) => {
            let hint = match error {
                LogError::Busy(_) => "end the other chaski first",
                _ => "delete the file, or move it",
            };
            Err(Failure::new(error.to_string()).with_hint(hint))
        }
    }
}
