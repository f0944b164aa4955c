//! Identifies a model by its contents, for everything that is saved for one model: learned state, cost curves, prompts,
//! batch jobs.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// Blocks hashed in each file, spread evenly.
const N_BLOCKS: u64 = 64;
const BLOCK_BYTES: usize = 4096;

/// A model: equal for equal contents, whatever the file is called and wherever it lies.
///
/// It is written as `NAME HASH`, so that files and messages stay readable.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ModelId {
    name: String,
    hash: String,
}

impl ModelId {
    /// The model in a file, or in its shards if it is the first of several. The hash covers the length of each file and
    /// blocks from all over it: two trainings of one model have the same header and the same length, and a hash of every
    /// byte would take as long as loading the model.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn of(path: &Path) -> io::Result<ModelId> {
        let mut seen = Vec::new();
        for path in files(path) {
            let mut file = File::open(path)?;
            let n_bytes = file.metadata()?.len();
            seen.extend(n_bytes.to_le_bytes());
            let last = n_bytes.saturating_sub(BLOCK_BYTES as u64);
            for index in 0..N_BLOCKS {
                let at = (u128::from(last) * u128::from(index) / u128::from(N_BLOCKS - 1)) as u64;
                file.seek(SeekFrom::Start(at))?;
                (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut seen)?;
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelId { name, hash: format!("{:016x}", XxHash3_64::oneshot(&seen)) })
    }

    /// The name of the file it was read from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 16 hexadecimal digits that stand for its contents. The algorithm is part of the format of saved files.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl PartialEq for ModelId {
    fn eq(&self, other: &ModelId) -> bool {
        self.hash == other.hash
    }
}

impl Eq for ModelId {}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.hash)
    }
}

impl From<String> for ModelId {
    fn from(text: String) -> ModelId {
        let (name, hash) = text.rsplit_once(' ').unwrap_or(("", &text));
        ModelId { name: name.to_owned(), hash: hash.to_owned() }
    }
}

impl From<ModelId> for String {
    fn from(id: ModelId) -> String {
        id.to_string()
    }
}

/// When the files of a model were written, in nanoseconds since 1970. Two models can differ in a block that [`ModelId::of`]
/// does not read; what is believed without a check of its own must know this as well.
///
/// # Errors
/// When a file cannot be read.
pub fn written_ns(path: &Path) -> io::Result<u128> {
    let times = files(path).into_iter().map(|path| {
        let modified = std::fs::metadata(path)?.modified()?;
        Ok(modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos())
    });
    times.sum()
}

/// All files of a model: the one given, or its shards if it is the first of several.
#[must_use]
pub(super) fn files(first: &Path) -> Vec<PathBuf> {
    let name = first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".gguf").and_then(|name| name.split_once("-00001-of-"));
    match stem.and_then(|(stem, n)| Some((stem, n, n.parse::<u32>().ok().filter(|_| n.len() == 5)?))) {
        Some((stem, n, n_files)) => {
            (1..=n_files).map(|no| first.with_file_name(format!("{stem}-{no:05}-of-{n}.gguf"))).collect()
        }
        None => vec![first.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_model_is_its_contents_and_not_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let id = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            ModelId::of(&path).unwrap()
        };
        let mut bytes = vec![0; 1 << 20];
        let first = id("a.gguf", &bytes);
        assert_eq!(id("b.gguf", &bytes), first);
        bytes[1 << 19..][..1 << 16].fill(1);
        assert_ne!(id("a.gguf", &bytes), first, "the same header and length, other weights");
        assert_ne!(id("a.gguf", &[]), id("a.gguf", &[0]));
        assert!(ModelId::of(&folder.path().join("missing")).is_err());
    }

    /// Saved files name models by this hash: another algorithm would orphan them all.
    #[test]
    fn the_hash_stays_the_same_between_releases() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my model.gguf");
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        fs::write(&path, bytes).unwrap();
        let id = ModelId::of(&path).unwrap();
        assert_eq!(id.to_string(), "my model.gguf 68e6e0150cf4b046");
        let json = serde_json::to_string(&id).unwrap();
        let again: ModelId = serde_json::from_str(&json).unwrap();
        assert_eq!((again.name(), again.hash()), (id.name(), id.hash()));
    }

    #[test]
    fn a_file_written_again_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_modified(UNIX_EPOCH).unwrap();
        assert_eq!(written_ns(file.path()).unwrap(), 0);
        file.as_file().set_modified(std::time::SystemTime::now()).unwrap();
        assert_ne!(written_ns(file.path()).unwrap(), 0);
    }

    #[test]
    fn shards_are_found_by_their_names() {
        assert_eq!(files(Path::new("a/m.gguf")), [Path::new("a/m.gguf")]);
        let shards = ["a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf"];
        assert_eq!(files(Path::new(shards[0])), shards.map(PathBuf::from));
        assert_eq!(files(Path::new("m-00001-of-many.gguf")), [Path::new("m-00001-of-many.gguf")]);
    }
}
