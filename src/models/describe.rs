//! Describes a model file by the few properties that people choose a model by.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::gguf::{Gguf, GgufError};
use crate::models::search::Found;
use crate::text::sanitize_for_terminal;

/// The properties of a model with a valid header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// Architecture, such as `llama` or `qwen2`.
    pub architecture: String,
    /// Quantization, such as `Q4_K_M`.
    pub quantization: String,
    /// Number of elements in all tensors.
    pub n_parameters: u64,
    /// Context length it was trained on, in tokens.
    pub context_length: u32,
    /// Size of all its files in bytes.
    pub size_bytes: u64,
    /// Number of its files.
    pub n_files: usize,
}

/// A model in a list.
#[derive(Debug)]
pub struct Listed {
    /// Where it was found.
    pub found: Found,
    /// Its properties, or why it cannot be run.
    pub about: Result<About, String>,
    /// Its header, if it can be run.
    pub gguf: Option<Gguf>,
}

/// Reads the header of a model that was found.
#[must_use]
pub fn describe(found: Found) -> Listed {
    let described = match &found.fault {
        Some(fault) => Err(fault.clone()),
        None => Gguf::open(&found.path)
            .and_then(|gguf| about(&gguf).map(|about| (about, gguf)))
            .map_err(|error| reason(&error)),
    };
    match described {
        Ok((about, gguf)) => Listed { found, about: Ok(about), gguf: Some(gguf) },
        Err(fault) => Listed { found, about: Err(fault), gguf: None },
    }
}

/// The properties of a model, after all checks of its header.
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

/// The error without the path, sanitized for a terminal.
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
