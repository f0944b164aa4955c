//! Checks the vocabulary and the chat template.

use std::collections::HashSet;

use super::super::Gguf;
use super::super::error::{Defect, excerpt};
use super::super::value::{Array, Value, ValueType};
use super::{array, string, u32_at, wrong_type};

const MAX_VOCAB: u64 = 1 << 21;
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

const KINDS: &str = "llama, gpt2, gemma4, bert, t5, rwkv, plamo2, hybriddna, whitespace";

/// Ids that llama.cpp uses if the file names none.
#[derive(Clone, Copy)]
struct Defaults {
    bos: Option<u64>,
    eos: Option<u64>,
}

pub(super) fn check_tokenizer(gguf: &Gguf) -> Result<(), Defect> {
    let (model, defaults) = check_kind(gguf)?;
    let key = "tokenizer.ggml.tokens";
    let tokens = array(gguf, key, &[ValueType::Str], "an array of strings")?;
    let tokens = tokens.ok_or(Defect::MissingKey { key: key.to_owned() })?;
    let n_vocab = tokens.len() as u64;
    if !(1..=MAX_VOCAB).contains(&n_vocab) {
        return Err(Defect::VocabularySize { limit: MAX_VOCAB, found: n_vocab });
    }
    let texts = unique_texts(tokens)?;
    if model == b"llama" {
        check_bytes(&texts)?;
    }
    check_lengths(gguf, n_vocab)?;
    check_specials(gguf, model, defaults, n_vocab)
}

/// The kind of tokenizer, with its default ids.
fn check_kind(gguf: &Gguf) -> Result<(&[u8], Defaults), Defect> {
    let expected = KINDS;
    let model = string(gguf, "tokenizer.ggml.model")?;
    let model = model.ok_or_else(|| Defect::NoTokenizer { expected, found: "nothing".to_owned() })?;
    let (bos, eos) = match model {
        b"none" | b"no_vocab" => return Err(Defect::NoTokenizer { expected, found: excerpt(model) }),
        b"llama" | b"plamo2" => (Some(1), Some(2)),
        b"bert" => (Some(101), None),
        b"t5" => (None, Some(1)),
        // llama.cpp has defaults here too: id 11 for both, whatever token that is. That is silently wrong, so treat it
        // as no default.
        b"gpt2" | b"hybriddna" | b"whitespace" | b"gemma4" | b"rwkv" => (None, None),
        other => return Err(Defect::Tokenizer { expected, found: excerpt(other) }),
    };
    Ok((model, Defaults { bos, eos }))
}

/// Checks the arrays with one element per token.
fn check_lengths(gguf: &Gguf, n_vocab: u64) -> Result<(), Defect> {
    let scores = array(gguf, "tokenizer.ggml.scores", &[ValueType::F32, ValueType::I32], "an array of f32 or i32")?;
    let types = array(gguf, "tokenizer.ggml.token_type", &[ValueType::I32], "an array of i32")?;
    for (key, per_token) in [("tokenizer.ggml.scores", scores), ("tokenizer.ggml.token_type", types)] {
        // llama.cpp ignores elements beyond the vocabulary.
        match per_token.map(|a| a.len() as u64) {
            Some(found) if found < n_vocab => return Err(Defect::PerTokenLength { key, expected: n_vocab, found }),
            _ => {}
        }
    }
    Ok(())
}

/// Checks the ids of special tokens, and that the tokens which the tokenizer adds exist.
fn check_specials(gguf: &Gguf, model: &[u8], defaults: Defaults, n_vocab: u64) -> Result<(), Defect> {
    // Padding and the like are not checked: published files often name an id just past the vocabulary there, and
    // llama.cpp falls back to its default.
    let special = ["bos", "eos", "eot", "eom", "unknown"];
    let keys = special.map(|which| (which, format!("tokenizer.ggml.{which}_token_id")));
    let mut ids = [None; 5];
    for (slot, (which, key)) in ids.iter_mut().zip(&keys) {
        *slot = u32_at(gguf, key)?;
        if let Some(found) = slot.filter(|id| *id >= n_vocab) {
            return Err(Defect::SpecialToken { which, n_vocab, found });
        }
    }
    // The RWKV tokenizer ignores these switches.
    if model == b"rwkv" {
        return Ok(());
    }
    for (which, key, id, default_id, by_default) in [
        ("bos", "tokenizer.ggml.add_bos_token", ids[0], defaults.bos, matches!(model, b"llama" | b"bert")),
        ("eos", "tokenizer.ggml.add_eos_token", ids[1], defaults.eos, model == b"t5"),
    ] {
        let adds = match gguf.get(key) {
            None => by_default,
            Some(Value::Bool(adds)) => adds,
            Some(other) => return Err(wrong_type(key, "bool", &other)),
        };
        if adds && id.is_none() && default_id.is_none_or(|id| id >= n_vocab) {
            return Err(Defect::NoSpecialToken { which });
        }
    }
    Ok(())
}

/// The texts of all tokens as llama.cpp sees them: up to the first zero byte. Empty texts are left out, as llama.cpp
/// renames those tokens.
fn unique_texts(tokens: Array<'_>) -> Result<HashSet<&[u8]>, Defect> {
    // Use the standard hasher: the strings come from a stranger, who could make a faster one collide.
    let mut seen = HashSet::with_capacity(tokens.len());
    for (id, token) in tokens.strings().enumerate() {
        let text = token.split(|byte| *byte == 0).next().unwrap_or_default();
        if !text.is_empty() && !seen.insert(text) {
            return Err(Defect::DuplicateToken { token: excerpt(text), id });
        }
    }
    Ok(seen)
}

/// SentencePiece falls back to byte tokens for text that no token covers. If a byte is missing too, llama.cpp throws an
/// exception that ends the process, on a newline at the latest.
fn check_bytes(texts: &HashSet<&[u8]>) -> Result<(), Defect> {
    let is_missing =
        |byte: &u8| !texts.contains(format!("<0x{byte:02X}>").as_bytes()) && !texts.contains([*byte].as_slice());
    match (0..=u8::MAX).find(is_missing) {
        Some(byte) => Err(Defect::MissingByte { byte }),
        None => Ok(()),
    }
}

pub(super) fn check_template(gguf: &Gguf) -> Result<(), Defect> {
    let Some(template) = string(gguf, "tokenizer.chat_template")? else {
        return Ok(());
    };
    if template.len() as u64 > MAX_TEMPLATE_BYTES {
        return Err(Defect::TemplateTooLong { limit: MAX_TEMPLATE_BYTES, found: template.len() as u64 });
    }
    match std::str::from_utf8(template) {
        Ok(_) => Ok(()),
        Err(_) => Err(Defect::TemplateEncoding),
    }
}
