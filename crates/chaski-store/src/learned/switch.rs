//! Decides whether to learn: first the flag and environment variable of the run, then the user's setting for the model,
//! then the setting for all models. The default is on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LearnedError, LearnedKey, PATIENCE_OF_USERS, busy, lock, make_private_folder, replace};

/// Maximum size of the settings file in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The user's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// For all models; `None` means on.
    #[serde(default)]
    pub all: Option<bool>,
    /// For single models, by the stem of their file names.
    #[serde(default)]
    pub models: BTreeMap<String, bool>,
}

impl Switch {
    /// Whether learning is on for the model of `key`, with any draft model.
    #[must_use]
    pub fn is_on(&self, key: &LearnedKey) -> bool {
        self.models.get(&key.with_draft_model(None).stem()).copied().or(self.all).unwrap_or(true)
    }

    /// Sets one model, or all models; the latter removes the settings of single models.
    pub fn set(&mut self, key: Option<&LearnedKey>, is_on: bool) {
        match key {
            Some(key) => {
                self.models.insert(key.with_draft_model(None).stem(), is_on);
            }
            None => *self = Switch { all: Some(is_on), models: BTreeMap::new() },
        }
    }
}

/// Whether a run learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnPolicy {
    /// Load the learned state, and store what this run learns.
    On,
    /// Neither load nor store.
    Off,
}

/// The policy for a run with `key`. `variable` is the value of `CHASKI_LEARN`, and `no_learn` the run's flag; either
/// can turn learning off. If the settings cannot be read, learning is off: the user may have turned it off in them.
#[must_use]
pub fn policy(folder: &Path, key: &LearnedKey, variable: Option<&str>, no_learn: bool) -> LearnPolicy {
    match switch(folder) {
        Ok(switch) if !no_learn && !is_off(variable) && switch.is_on(key) => LearnPolicy::On,
        _ => LearnPolicy::Off,
    }
}

/// Whether the value of `CHASKI_LEARN` turns learning off. Unknown values do.
#[must_use]
pub fn is_off(variable: Option<&str>) -> bool {
    variable.is_some_and(|value| !matches!(value, "" | "on" | "1" | "true" | "yes"))
}

fn path(folder: &Path) -> PathBuf {
    folder.join("settings.json")
}

/// The user's settings; the default if there is no file.
///
/// # Errors
/// When the file cannot be read or is damaged.
pub fn switch(folder: &Path) -> Result<Switch, LearnedError> {
    let path = path(folder);
    let io = |error| LearnedError::Io { path: path.clone(), error };
    let bytes = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Switch::default()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(LearnedError::Damaged(path)),
        Ok(_) => fs::read(&path).map_err(io)?,
    };
    serde_json::from_slice(&bytes).map_err(|_| LearnedError::Damaged(path))
}

/// Turns learning on or off, for one model or for all.
///
/// # Errors
/// When the settings cannot be written, or another process holds the lock for too long.
pub fn set_switch(folder: &Path, key: Option<&LearnedKey>, is_on: bool) -> Result<(), LearnedError> {
    make_private_folder(folder)?;
    let path = path(folder);
    let lock = lock(&folder.join("settings.lock"), PATIENCE_OF_USERS)?;
    let _lock = lock.ok_or_else(|| busy(&path))?;
    let mut switch = match (switch(folder), key) {
        (Ok(switch), _) => switch,
        // A setting for all models replaces whatever the file contained.
        (Err(LearnedError::Damaged(_)), None) => Switch::default(),
        (Err(error), _) => return Err(error),
    };
    switch.set(key, is_on);
    let json = serde_json::to_vec_pretty(&switch).expect("names and booleans");
    replace(&path, &json)
}
