//! A model's vocabulary without its weights, to convert between text and tokens.
//!
//! It is a separate type because creating a context of a model without weights aborts the process.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;

use crate::logs;
use crate::model::{LoadError, Model};
use crate::thread::STACK_BYTES;
use crate::token::Token;

/// A vocabulary and its tokenizer.
#[derive(Debug)]
pub struct Tokenizer(Model);

impl Tokenizer {
    /// Loads the vocabulary of a file that passed `gguf::Gguf::check`.
    ///
    /// # Errors
    /// If llama.cpp refuses the file.
    pub fn load(path: &Path) -> Result<Tokenizer, LoadError> {
        let refused = |reason: String| LoadError::Refused { path: path.to_owned(), reason };
        let _ = crate::kernels::in_use();
        let backend = LlamaBackend::init().map_err(|error| refused(error.to_string()))?;
        let params = LlamaModelParams::default().with_vocab_only(true);
        // An error logged earlier does not belong to this file.
        let _ = logs::take_error();
        match LlamaModel::load_from_file(&backend, path, &params) {
            Ok(inner) => Ok(Tokenizer(Model::new(Arc::new(backend), inner))),
            Err(error) => Err(refused(logs::take_error().unwrap_or_else(|| error.to_string()))),
        }
    }

    /// Tokenizes a text. Adds no BOS token and parses no special tokens.
    ///
    /// Some tokenizers recurse over long unbroken runs: call this within [`on_large_stack`].
    #[must_use]
    pub fn tokenize(&self, text: &str) -> Vec<Token> {
        self.0.tokenize_bytes(text.as_bytes())
    }

    /// The text of `tokens`. Invalid UTF-8 is replaced.
    #[must_use]
    pub fn text(&self, tokens: &[Token]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.0.bytes(token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Runs `work` on a thread with a stack that is large enough for every tokenizer.
///
/// # Errors
/// If the thread cannot be started.
pub fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
