//! `--lora`: checks a LoRA adapter before llama.cpp loads it.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::args::EngineArgs;
use crate::cli::engine::model_id;
use crate::cli::failure::{ExitCode, Failure};
use crate::gguf::{Gguf, Value};
use crate::llama::model::Lora;

/// `FILE[=SCALE]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraArg(pub Lora);

impl FromStr for LoraArg {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraArg, String> {
        let whole = || (PathBuf::from(text), 1.0);
        let scaled = |(path, scale): (&str, &str)| Some((PathBuf::from(path), scale.parse().ok()?));
        let (path, scale): (PathBuf, f32) = text.rsplit_once('=').and_then(scaled).unwrap_or_else(whole);
        if scale.is_finite() {
            Ok(LoraArg(Lora { path, scale }))
        } else {
            Err("the scale must be a number, as in style.gguf=0.5".to_owned())
        }
    }
}

/// The adapter, if the flag is given. Checks that it is for the model's architecture; llama.cpp compares the tensors.
///
/// # Errors
/// If the file is not a usable adapter for this model.
pub fn lora(args: &EngineArgs) -> Result<Option<Lora>, Failure> {
    let Some(LoraArg(lora)) = &args.lora else { return Ok(None) };
    let place = lora.path.display();
    if !lora.path.exists() {
        return Err(Failure::new(format!("{place}: no such adapter file")).with_code(ExitCode::ModelNotFound));
    }
    let adapter = Gguf::open(&lora.path)?;
    if adapter.get_str("general.type") != Some("adapter") || adapter.get_str("adapter.type") != Some("lora") {
        return Err(Failure::new(format!("{place}: not a LoRA adapter"))
            .with_hint("convert one with llama.cpp's convert_lora_to_gguf.py"));
    }
    // llama.cpp aborts the process if this value has another type.
    if !matches!(adapter.get("adapter.lora.alpha"), Some(Value::F32(_))) {
        return Err(Failure::new(format!("{place}: adapter.lora.alpha is not a 32-bit float")));
    }
    // Problems of the model file itself are reported elsewhere.
    if let Ok(model) = Gguf::open(&args.model)
        && model.architecture() != adapter.architecture()
    {
        let name = |gguf: &Gguf| gguf.architecture().unwrap_or("none").to_owned();
        return Err(Failure::new(format!(
            "{place}: the adapter is for the architecture {:?}, but the model has {:?}",
            name(&adapter),
            name(&model)
        )));
    }
    Ok(Some(lora.clone()))
}

/// Identifies the adapter and its scale. It is part of every key of stored KV cache state or answers.
#[must_use]
pub fn lora_key(args: &EngineArgs) -> String {
    match &args.lora {
        None => "none".to_owned(),
        Some(LoraArg(lora)) => format!("{} x{}", model_id(&lora.path), lora.scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_may_follow_the_file() {
        let parse = |text: &str| text.parse::<LoraArg>().map(|LoraArg(lora)| (lora.path, lora.scale));
        assert_eq!(parse("a.gguf"), Ok((PathBuf::from("a.gguf"), 1.0)));
        assert_eq!(parse("a=b.gguf=-0.5"), Ok((PathBuf::from("a=b.gguf"), -0.5)));
        assert_eq!(parse("a=b.gguf"), Ok((PathBuf::from("a=b.gguf"), 1.0)));
        assert!(parse("a.gguf=inf").is_err());
    }
}
