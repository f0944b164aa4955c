//! Folders of the user, as in the XDG base directory specification: settings, cache, data and state.
//!
//! A service often has no home folder (`HOME=/dev/null`, or no HOME). Then a folder is `None`, and the caller continues
//! without it or reports it.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::cli::output::stderr_line;

/// Prints a notice if there is no cache folder.
pub fn warn_if_nothing_is_saved() {
    if cache().is_none() {
        let value = |name| std::env::var_os(name).unwrap_or_default();
        // XDG_CACHE_HOME overrides the home folder.
        let name = if value("XDG_CACHE_HOME").is_empty() { "HOME" } else { "XDG_CACHE_HOME" };
        let value = value(name);
        stderr_line(&format!(
            "notice: {name} is not a folder ({}), so nothing is saved for the next run; hint: set HOME, or \
             XDG_CACHE_HOME and XDG_DATA_HOME",
            if value.is_empty() { "not set".into() } else { value.display().to_string() }
        ));
    }
}

/// Folder that contains `chaski/config.toml`.
#[must_use]
pub fn config() -> Option<PathBuf> {
    usable(strategy()?.config_dir())
}

/// Folder for files that can be regenerated.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    usable(strategy()?.cache_dir().join("chaski"))
}

/// Folder of the shaders that a GPU's driver compiled.
#[must_use]
pub fn shaders() -> Option<PathBuf> {
    Some(cache()?.join("shaders"))
}

/// Folder for files that cannot be regenerated.
#[must_use]
pub fn data() -> Option<PathBuf> {
    usable(strategy()?.data_dir().join("chaski"))
}

/// Folder for the history of earlier runs.
#[must_use]
pub fn state() -> Option<PathBuf> {
    let strategy = strategy()?;
    usable(strategy.state_dir().unwrap_or_else(|| strategy.data_dir()).join("chaski"))
}

/// Of saved chats.
#[must_use]
pub fn sessions() -> Option<PathBuf> {
    Some(data()?.join("sessions"))
}

fn strategy() -> Option<impl BaseStrategy> {
    etcetera::choose_base_strategy().ok()
}

fn usable(folder: PathBuf) -> Option<PathBuf> {
    can_be(&folder).then_some(folder)
}

/// Whether a folder exists or can be created: no file is in its way. A relative path would be another folder in each
/// run.
fn can_be(folder: &Path) -> bool {
    folder.is_absolute() && folder.ancestors().find(|path| path.exists()).is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_13_11_a_folder_is_not_below_a_file() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(can_be(place.path()) && can_be(&place.path().join("new/chaski")));
        for wrong in [&file, &file.join(".cache/chaski"), Path::new("relative/.cache"), Path::new("")] {
            assert!(!can_be(wrong), "{}", wrong.display());
        }
    }
}
