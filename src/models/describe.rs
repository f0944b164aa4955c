//! What a file says it is: the few numbers that people choose a model by.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::gguf::{Gguf, GgufError};
use crate::models::search::Found;
use crate::text::sanitize_for_terminal;

/// A model of which the header is sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// As `llama` or `qwen2`.
    pub architecture: String,
    /// As `Q4_K_M`.
    pub quantization: String,
    /// Numbers in all tensors.
    pub n_parameters: u64,
    /// Positions it was trained on.
    pub context_length: u32,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Files it consists of.
    pub n_files: usize,
}

/// A model in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Where it is.
    pub found: Found,
    /// What it is, or why it is nothing that can be run.
    pub about: Result<About, String>,
}

/// Looks into a file.
#[must_use]
pub fn describe(found: Found) -> Listed {
    let about = match &found.fault {
        Some(fault) => Err(fault.clone()),
        None => Gguf::open(&found.path).and_then(|gguf| about(&gguf)).map_err(|error| reason(&error)),
    };
    Listed { found, about }
}

/// What a model is whose header passes all checks.
///
/// # Errors
/// The first defect, in this file or another shard.
pub fn about(gguf: &Gguf) -> Result<About, GgufError> {
    let files = gguf.check()?;
    Ok(About {
        architecture: gguf.architecture().unwrap_or_default().to_owned(),
        quantization: gguf.quantization(),
        n_parameters: files.n_elements,
        context_length: gguf.context_length().unwrap_or(0),
        size_bytes: files.paths.iter().map(|path| file_bytes(path)).sum(),
        n_files: files.paths.len(),
    })
}

/// What is wrong, without the path, fit for a terminal.
fn reason(error: &GgufError) -> String {
    let text = match error {
        GgufError::Io { source, .. } => format!("cannot read it: {source}"),
        GgufError::Invalid { defect, .. } => defect.to_string(),
        other => other.to_string(),
    };
    sanitize_for_terminal(&text).into_owned()
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
