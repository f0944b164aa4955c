//! Checks models in several files, named `NAME-00001-of-0000N.gguf`: all must exist and belong together.

use std::collections::HashSet;
use std::path::Path;

use super::super::Gguf;
use super::super::error::{Defect, GgufError};
use super::{ModelFiles, u16_at};

/// The number of files of the model.
pub(super) fn shard_count(gguf: &Gguf) -> Result<u64, Defect> {
    let count = u16_at(gguf, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(1);
    }
    match u16_at(gguf, "split.no")? {
        Some(0) => Ok(count),
        Some(index) => Err(Defect::NotFirstShard { found: index + 1, count }),
        None => Err(Defect::MissingKey { key: "split.no".to_owned() }),
    }
}

pub(super) fn check_shards(first: &Gguf, count: u64) -> Result<ModelFiles, GgufError> {
    let invalid = |path: &Path, defect| GgufError::Invalid { path: path.to_owned(), defect };
    let suffix = |index: u64| format!("-{:05}-of-{count:05}.gguf", index + 1);
    let name = first.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(prefix) = name.strip_suffix(&suffix(0)) else {
        return Err(invalid(&first.path, Defect::ShardName { count, expected: suffix(0) }));
    };
    let mut files = ModelFiles { paths: Vec::new(), n_tensors: 0, tensor_bytes: 0, n_elements: 0 };
    let mut names = HashSet::new();
    for index in 0..count {
        let path = first.path.with_file_name(format!("{prefix}{}", suffix(index)));
        let opened;
        let shard = if index == 0 {
            first
        } else {
            if !path.exists() {
                let file = format!("{prefix}{}", suffix(index));
                return Err(invalid(&first.path, Defect::MissingShard { index: index + 1, count, file }));
            }
            opened = Gguf::open(&path)?;
            &opened
        };
        let (no, n) = u16_at(shard, "split.no")
            .and_then(|no| Ok((no, u16_at(shard, "split.count")?)))
            .map_err(|defect| invalid(&path, defect))?;
        if (no, n) != (Some(index), Some(count)) {
            let text = |v: Option<u64>, plus: u64| v.map_or("none".to_owned(), |v| (v + plus).to_string());
            let found = format!("{} of {}", text(no, 1), text(n, 0));
            let defect = Defect::ShardNumber { expected: index + 1, expected_count: count, found };
            return Err(invalid(&path, defect));
        }
        for tensor in shard.tensors() {
            if !names.insert(tensor.name.clone()) {
                return Err(invalid(&path, Defect::DuplicateTensor { name: tensor.name.clone() }));
            }
        }
        files.n_tensors += shard.tensors().len() as u64;
        files.tensor_bytes = files.tensor_bytes.saturating_add(shard.tensor_bytes());
        files.n_elements = files.n_elements.saturating_add(shard.n_elements());
        files.paths.push(path);
    }
    let key = "split.tensors.count";
    match first.get_u64(key) {
        Some(expected) if expected == files.n_tensors => Ok(files),
        Some(expected) => Err(invalid(&first.path, Defect::ShardTensors { expected, found: files.n_tensors })),
        None => Err(invalid(&first.path, Defect::MissingKey { key: key.to_owned() })),
    }
}
