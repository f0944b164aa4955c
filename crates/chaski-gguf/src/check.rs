//! Checks a model's metadata for defects on which llama.cpp aborts, or which it does not check. The rules follow
//! `llama_model_base::load_hparams` and `llama_vocab::impl::load` of llama-cpp-sys-2 0.1.161.

mod shards;
mod tokenizer;

use std::path::PathBuf;

use super::error::{Defect, GgufError, excerpt};
use super::value::{Array, Value, ValueType};
use super::{Gguf, architectures};

/// llama.cpp's LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS.
pub(super) const MAX_BLOCKS: u32 = 512;
const MAX_EXPERTS: u64 = 1024;

/// The files of a checked model, with totals over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// the shards in order; one path for most models
    pub paths: Vec<PathBuf>,
    /// the number of tensors in all shards
    pub n_tensors: u64,
    /// the bytes of all tensors, without padding
    pub tensor_bytes: u64,
    /// the number of elements in all tensors: the model's parameters
    pub n_elements: u64,
}

pub(super) fn check(gguf: &Gguf) -> Result<ModelFiles, GgufError> {
    let invalid = |defect| GgufError::Invalid { path: gguf.path.clone(), defect };
    // Check this first: only the first shard has the metadata of the model.
    let n_shards = shards::shard_count(gguf).map_err(invalid)?;
    check_architecture(gguf).map_err(invalid)?;
    check_experts(gguf).map_err(invalid)?;
    tokenizer::check_tokenizer(gguf).map_err(invalid)?;
    tokenizer::check_template(gguf).map_err(invalid)?;
    if n_shards > 1 {
        return shards::check_shards(gguf, n_shards);
    }
    if gguf.tensors().is_empty() {
        return Err(invalid(Defect::NoTensors));
    }
    Ok(ModelFiles {
        paths: vec![gguf.path.clone()],
        n_tensors: gguf.tensors().len() as u64,
        tensor_bytes: gguf.tensor_bytes(),
        n_elements: gguf.n_elements(),
    })
}

fn check_architecture(gguf: &Gguf) -> Result<(), Defect> {
    string(gguf, "general.name")?;
    let key = "general.architecture";
    let name = string(gguf, key)?.ok_or(Defect::MissingKey { key: key.to_owned() })?;
    if name == b"clip" {
        return Err(Defect::Projector);
    }
    let found = excerpt(name);
    if architectures::WITHOUT_TEXT.contains(&found.as_str()) {
        return Err(Defect::NotGenerative { found });
    }
    if !architectures::KNOWN.contains(&found.as_str()) {
        return Err(Defect::Architecture { found });
    }
    let is_recurrent = architectures::RECURRENT.contains(&found.as_str());

    let n_blocks = required(gguf, "block_count")?;
    range(gguf, "block_count", n_blocks, 1, MAX_BLOCKS.into())?;
    for suffix in ["context_length", "embedding_length"] {
        range(gguf, suffix, required(gguf, suffix)?, 1, u32::MAX.into())?;
    }
    if let Some(n) = optional(gguf, "nextn_predict_layers")? {
        range(gguf, "nextn_predict_layers", n, 0, n_blocks)?;
    }
    for suffix in ["attention.head_count", "attention.head_count_kv"] {
        let heads = per_layer(gguf, suffix, n_blocks)?;
        match heads {
            // Recurrent models have no attention and state 0; hybrid models state 0 for blocks without attention.
            _ if is_recurrent => {}
            Some(most) => range(gguf, suffix, most, 1, u32::MAX.into())?,
            None if suffix == "attention.head_count" => {
                return Err(Defect::MissingKey { key: arch_key(gguf, suffix) });
            }
            None => {}
        }
    }
    for suffix in ["layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"] {
        let key = arch_key(gguf, &format!("attention.{suffix}"));
        match gguf.get(&key) {
            Some(Value::F32(found)) if !(found.is_finite() && found >= 0.0) => {
                return Err(Defect::Epsilon { key, found: found.to_string() });
            }
            _ => {}
        }
    }
    let key = arch_key(gguf, "rope.scaling.type");
    match string(gguf, &key)? {
        None | Some(b"none" | b"linear" | b"yarn" | b"longrope") => Ok(()),
        Some(other) => Err(Defect::RopeScaling { found: excerpt(other) }),
    }
}

fn check_experts(gguf: &Gguf) -> Result<(), Defect> {
    let n_blocks = required(gguf, "block_count")?;
    let mut total = optional(gguf, "expert_count")?.unwrap_or(0);
    let mut used = per_layer(gguf, "expert_used_count", n_blocks)?.unwrap_or(0);
    // An exception that llama.cpp makes: dense models of this family carry the keys of the MoE models.
    if matches!(gguf.architecture(), Some("hunyuan_vl" | "hunyuan-dense")) && total <= 1 {
        (total, used) = (0, 0);
    }
    if total > 0 {
        range(gguf, "expert_count", total, 1, MAX_EXPERTS)?;
    }
    if used > total || (total > 0 && used == 0) {
        return Err(Defect::ExpertsUsed { used, total });
    }
    let groups = optional(gguf, "expert_group_count")?.unwrap_or(0);
    let groups_used = optional(gguf, "expert_group_used_count")?.unwrap_or(0);
    let fits = match (total, groups) {
        (0, _) => groups == 0,
        (_, 0 | 1) => groups < total,
        _ => groups < total && total.is_multiple_of(groups) && (1..groups).contains(&groups_used),
    };
    if !fits {
        return Err(Defect::ExpertGroups { groups, used: groups_used, total });
    }
    Ok(())
}

// llama.cpp requires the exact type of each key, so a wrong type is a defect even if the number fits.

fn wrong_type(key: &str, expected: &'static str, found: &Value<'_>) -> Defect {
    Defect::WrongType { key: key.to_owned(), expected, found: found.value_type().name().to_owned() }
}

fn string<'a>(gguf: &'a Gguf, key: &str) -> Result<Option<&'a [u8]>, Defect> {
    match gguf.get(key) {
        None => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(key, "string", &other)),
    }
}

fn u32_at(gguf: &Gguf, key: &str) -> Result<Option<u64>, Defect> {
    match gguf.get(key) {
        None => Ok(None),
        Some(Value::U32(n)) => Ok(Some(n.into())),
        Some(other) => Err(wrong_type(key, "u32", &other)),
    }
}

fn u16_at(gguf: &Gguf, key: &str) -> Result<Option<u64>, Defect> {
    match gguf.get(key) {
        None => Ok(None),
        Some(Value::U16(n)) => Ok(Some(n.into())),
        Some(other) => Err(wrong_type(key, "u16", &other)),
    }
}

fn array<'a>(
    gguf: &'a Gguf,
    key: &str,
    elements: &[ValueType],
    expected: &'static str,
) -> Result<Option<Array<'a>>, Defect> {
    match gguf.get(key) {
        None => Ok(None),
        Some(Value::Array(array)) if elements.contains(&array.element_type()) => Ok(Some(array)),
        Some(Value::Array(array)) => {
            let found = format!("an array of {}", array.element_type().name());
            Err(Defect::WrongType { key: key.to_owned(), expected, found })
        }
        Some(other) => Err(wrong_type(key, expected, &other)),
    }
}

fn arch_key(gguf: &Gguf, suffix: &str) -> String {
    format!("{}.{suffix}", gguf.architecture().unwrap_or_default())
}

fn optional(gguf: &Gguf, suffix: &str) -> Result<Option<u64>, Defect> {
    u32_at(gguf, &arch_key(gguf, suffix))
}

fn required(gguf: &Gguf, suffix: &str) -> Result<u64, Defect> {
    optional(gguf, suffix)?.ok_or_else(|| Defect::MissingKey { key: arch_key(gguf, suffix) })
}

/// The maximum of an array with one element per block, or the single number for all blocks.
fn per_layer(gguf: &Gguf, suffix: &str, n_blocks: u64) -> Result<Option<u64>, Defect> {
    let key = arch_key(gguf, suffix);
    if !matches!(gguf.get(&key), Some(Value::Array(_))) {
        return u32_at(gguf, &key);
    }
    let types = [ValueType::U32, ValueType::I32];
    let Some(values) = array(gguf, &key, &types, "u32 or an array of u32")? else {
        return Ok(None);
    };
    if values.len() as u64 != n_blocks {
        return Err(Defect::PerLayerLength { key, expected: n_blocks, found: values.len() as u64 });
    }
    // llama.cpp reads a negative element as unsigned, that is, as a huge number.
    let unsigned = |v: Value<'_>| match v {
        Value::I32(n) => u64::from(n as u32),
        other => other.as_u64().unwrap_or(0),
    };
    Ok(values.iter().map(unsigned).max())
}

fn range(gguf: &Gguf, suffix: &str, found: u64, least: u64, most: u64) -> Result<(), Defect> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let expected = if most == u64::from(u32::MAX) { format!("at least {least}") } else { format!("{least} to {most}") };
    Err(Defect::OutOfRange { key: arch_key(gguf, suffix), expected, found })
}
