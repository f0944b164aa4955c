//! Identifies the weights that a state was computed with.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use twox_hash::XxHash3_64;

/// Number of blocks to hash in each file, spread evenly.
const N_BLOCKS: u64 = 64;
const BLOCK_BYTES: usize = 4096;

/// A fingerprint of the weights in these files: lengths, modification times, and a hash of blocks spread over each
/// file. Two trainings of one model have the same header and length, so a hash of the start could not tell them apart;
/// a hash of everything would take as long as loading.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(paths: &[PathBuf]) -> io::Result<String> {
    let mut seen = Vec::new();
    for path in paths {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let n_bytes = metadata.len();
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        seen.extend(n_bytes.to_le_bytes());
        seen.extend(written.as_nanos().to_le_bytes());
        let last = n_bytes.saturating_sub(BLOCK_BYTES as u64);
        for index in 0..N_BLOCKS {
            let at = (u128::from(last) * u128::from(index) / u128::from(N_BLOCKS - 1)) as u64;
            file.seek(SeekFrom::Start(at))?;
            let mut block = Vec::with_capacity(BLOCK_BYTES);
            (&mut file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
            seen.extend(block);
        }
    }
    Ok(format!("{:016x}", XxHash3_64::oneshot(&seen)))
}

/// All files of a model: `first`, or all shards if it is the first of several.
#[must_use]
pub fn files(first: &Path) -> Vec<PathBuf> {
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
    fn models_that_differ_in_their_weights_alone_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let print = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
            fingerprint(std::slice::from_ref(&path)).unwrap()
        };
        let mut bytes = vec![0; 1 << 20];
        let first = print(&bytes);
        assert_eq!(print(&bytes), first);
        bytes[1 << 19..][..1 << 16].fill(1);
        assert_ne!(print(&bytes), first);
        File::options().write(true).open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        assert_ne!(fingerprint(std::slice::from_ref(&path)).unwrap(), first, "written again");
        assert_ne!(print(&[]), print(&[0]));
    }

    #[test]
    fn shards_are_found_by_their_names() {
        assert_eq!(files(Path::new("a/m.gguf")), [Path::new("a/m.gguf")]);
        let shards = ["a/m-00001-of-00003.gguf", "a/m-00002-of-00003.gguf", "a/m-00003-of-00003.gguf"];
        assert_eq!(files(Path::new(shards[0])), shards.map(PathBuf::from));
        assert_eq!(files(Path::new("m-00001-of-many.gguf")), [Path::new("m-00001-of-many.gguf")]);
    }
}
