//! Stores measured cost curves, one file per model, settings and machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::cost::CostCurve;
use crate::gguf::ModelId;
use crate::{named, private, write};

/// Older curves are measured again: drivers, cooling and background load change.
const LONGEST_USE_S: u64 = 7 * 24 * 3600;

/// How the names of saved curves begin.
pub const KIND: &str = "curve";

/// The inputs that determine a curve, besides the context length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurveKey {
    /// The model.
    pub model: ModelId,
    /// Threads, attention, layers on the GPU.
    pub settings: String,
    /// Processor, compiled CPU features, engine version.
    pub machine: String,
}

#[derive(Serialize, Deserialize)]
struct CurveFile {
    key: CurveKey,
    measured_unix_s: u64,
    curve: CostCurve,
}

impl CurveKey {
    /// A key for the same model and machine with further settings.
    #[must_use]
    pub fn with_settings(&self, settings: &str) -> CurveKey {
        CurveKey { settings: format!("{settings} {}", self.settings), ..self.clone() }
    }

    /// The file in `folder` that stores data of this `kind` for this key.
    pub(super) fn path(&self, folder: &Path, kind: &str) -> PathBuf {
        let key = [self.model.hash(), &self.settings, &self.machine].join("\0");
        folder.join(format!("{kind}-{:016x}.json", XxHash3_64::oneshot(key.as_bytes())))
    }
}

/// The curve stored for `key`, and when it was measured. `None` if there is none, or it is unreadable, unsound or too
/// old.
#[must_use]
pub fn load(folder: &Path, key: &CurveKey, now_unix_s: u64) -> Option<(CostCurve, u64)> {
    let file: CurveFile = serde_json::from_slice(&fs::read(key.path(folder, KIND)).ok()?).ok()?;
    let is_fresh = now_unix_s.abs_diff(file.measured_unix_s) < LONGEST_USE_S;
    (file.key == *key && is_fresh && file.curve.is_sound()).then_some((file.curve, file.measured_unix_s))
}

/// Stores `curve` for `key`, unless the stored curve shows that it was measured on a busy machine. Concurrent writers
/// are safe; the last one wins.
///
/// # Errors
/// When the folder cannot be created or written to: the path and the reason.
pub fn save(folder: &Path, key: &CurveKey, curve: &CostCurve, measured_unix_s: u64) -> io::Result<()> {
    if load(folder, key, measured_unix_s).is_some_and(|(kept, _)| curve.is_of_a_busy_machine(&kept)) {
        return Ok(());
    }
    let file = CurveFile { key: key.clone(), measured_unix_s, curve: curve.clone() };
    write(&key.path(folder, KIND), &file)
}

/// The files of a kind in `folder`, with their sizes in bytes; none if there is no folder.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(folder: &Path, kind: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| named(folder, &error))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| named(folder, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A file can vanish while the folder is read: another process deletes it.
        if name.starts_with(&format!("{kind}-"))
            && name.ends_with(".json")
            && let Ok(metadata) = fs::metadata(&path)
        {
            files.push((path, metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// Deletes the files of a kind in `folder`, and returns how many there were.
///
/// # Errors
/// When one cannot be deleted.
pub fn delete_all(folder: &Path, kind: &str) -> io::Result<usize> {
    let mut n_deleted = 0;
    for (path, _) in files(folder, kind)? {
        n_deleted += usize::from(private::remove(&path).map_err(|error| named(&path, &error))?);
    }
    Ok(n_deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(settings: &str) -> CurveKey {
        CurveKey { model: "m".to_owned().into(), settings: settings.into(), machine: "x".into() }
    }

    fn curve() -> CostCurve {
        let mut curve = CostCurve::default();
        curve.observe(1, 0, 10.0);
        curve.observe(4, 3000, 17.5);
        curve
    }

    #[test]
    fn a_curve_comes_back_for_its_own_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made/on/demand");
        save(&folder, &key("a"), &curve(), 1000).unwrap();
        assert_eq!(load(&folder, &key("a"), 2000), Some((curve(), 1000)));
        assert_eq!(load(&folder, &key("a"), 1000 + LONGEST_USE_S), None, "too old");
        assert_eq!(load(&folder, &key("b"), 1000), None);
        fs::rename(key("a").path(&folder, KIND), key("b").path(&folder, KIND)).unwrap();
        assert_eq!(load(&folder, &key("b"), 1000), None, "a file of another key under this name");
    }

    #[test]
    fn what_a_busy_machine_took_is_not_kept_over_what_an_idle_one_took() {
        let folder = tempfile::tempdir().unwrap();
        let of = |ms| CostCurve::exact([(1, ms), (4, 2.0 * ms)]);
        save(folder.path(), &key("a"), &of(30.0), 1000).unwrap();
        save(folder.path(), &key("a"), &of(10.0), 1001).unwrap();
        save(folder.path(), &key("a"), &of(21.0), 1002).unwrap();
        assert_eq!(load(folder.path(), &key("a"), 1002), Some((of(10.0), 1001)));
        save(folder.path(), &key("a"), &of(19.0), 1003).unwrap();
        assert_eq!(load(folder.path(), &key("a"), 1003), Some((of(19.0), 1003)), "noise");
        let later = 1003 + LONGEST_USE_S;
        save(folder.path(), &key("a"), &of(90.0), later).unwrap();
        assert_eq!(load(folder.path(), &key("a"), later), Some((of(90.0), later)), "what is kept is too old to tell");
    }

    #[test]
    fn a_broken_file_is_no_curve() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &key("a"), &curve(), 1000).unwrap();
        let path = key("a").path(folder.path(), KIND);
        let good = fs::read(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(load(folder.path(), &key("a"), 1000), None, "cut at {length}");
        }
        let nonsense = String::from_utf8(good).unwrap().replace("10.0", "-1.0");
        fs::write(&path, nonsense).unwrap();
        assert_eq!(load(folder.path(), &key("a"), 1000), None);
    }

    #[test]
    fn files_of_one_kind_are_listed_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(files(&folder.path().join("missing"), KIND).unwrap(), []);
        ["a", "b"].iter().for_each(|of| save(folder.path(), &key(of), &curve(), 1000).unwrap());
        fs::write(folder.path().join("tuned-0.json"), "x").unwrap();
        let listed = files(folder.path(), KIND).unwrap();
        assert!(listed.len() == 2 && listed.iter().all(|(_, n_bytes)| *n_bytes > 10), "{listed:?}");
        assert_eq!(files(folder.path(), "tuned").unwrap(), [(folder.path().join("tuned-0.json"), 1)]);
        assert_eq!(delete_all(folder.path(), KIND).unwrap(), 2);
        assert_eq!((files(folder.path(), KIND).unwrap(), load(folder.path(), &key("a"), 1000)), (Vec::new(), None));
    }

    #[test]
    fn an_unwritable_folder_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = save(file.path(), &key("a"), &curve(), 1000).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
