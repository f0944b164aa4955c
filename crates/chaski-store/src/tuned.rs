//! Stores the settings chosen by `chaski tune`, one file per model and machine.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::curves::CurveKey;
use crate::tune::{BySpan, Settings};
use crate::{named, private, write};

/// How the names of tuned settings begin.
pub const KIND: &str = "tuned";

#[derive(Serialize, Deserialize)]
struct TunedFile {
    key: CurveKey,
    measured_unix_s: u64,
    settings: BySpan<Settings>,
}

/// The settings stored for `key`, whose own settings are those that tuning does not change. `None` if there are none,
/// or the file is unreadable or unsound.
#[must_use]
pub fn load(folder: &Path, key: &CurveKey) -> Option<BySpan<Settings>> {
    let file: TunedFile = serde_json::from_slice(&fs::read(key.path(folder, KIND)).ok()?).ok()?;
    let BySpan { short, long } = file.settings;
    (file.key == *key && short.is_sound() && long.is_sound()).then_some(file.settings)
}

/// Stores `settings` for `key`.
///
/// # Errors
/// When the folder cannot be created or written to: the path and the reason.
pub fn save(folder: &Path, key: &CurveKey, settings: BySpan<Settings>, measured_unix_s: u64) -> io::Result<()> {
    write(&key.path(folder, KIND), &TunedFile { key: key.clone(), measured_unix_s, settings })
}

/// Deletes the settings stored for `key`. Returns whether there were any.
///
/// # Errors
/// When the file cannot be deleted: the path and the reason.
pub fn forget(folder: &Path, key: &CurveKey) -> io::Result<bool> {
    let path = key.path(folder, KIND);
    private::remove(&path).map_err(|error| named(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::{FlashAttention, KvType};

    const SETTINGS: Settings =
        Settings { flash_attention: FlashAttention::Off, n_threads: 2, n_threads_batch: 3, kv_type: KvType::F16 };

    fn key(model: &str) -> CurveKey {
        CurveKey { model: model.to_owned().into(), settings: "ngl".into(), machine: "x".into() }
    }

    #[test]
    fn settings_come_back_until_they_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made/on/demand");
        assert!(!forget(&folder, &key("a")).unwrap());
        let settings = BySpan { short: SETTINGS, long: Settings { n_threads: 1, ..SETTINGS } };
        save(&folder, &key("a"), settings, 1000).unwrap();
        assert_eq!(load(&folder, &key("a")), Some(settings));
        assert_eq!(load(&folder, &key("b")), None);
        fs::rename(key("a").path(&folder, KIND), key("b").path(&folder, KIND)).unwrap();
        assert_eq!(load(&folder, &key("b")), None, "a file of another key under this name");
        assert!(forget(&folder, &key("b")).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &key("a"), BySpan { short: SETTINGS, long: SETTINGS }, 1000).unwrap();
        let path = key("a").path(folder.path(), KIND);
        let good = fs::read_to_string(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(load(folder.path(), &key("a")), None, "cut at {length}");
        }
        for (from, to) in
            [(r#""threads":2"#, r#""threads":0"#), (r#""cache_type_v":"f16""#, r#""cache_type_v":"q8_0""#)]
        {
            fs::write(&path, good.replace(from, to)).unwrap();
            assert_eq!(load(folder.path(), &key("a")), None, "{to}");
        }
    }
}
