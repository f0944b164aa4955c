//! Folders of this user: where settings are read from, and where chaski keeps what the next run can use (the XDG base
//! directories, below the home folder where those are not set).
//!
//! A service often has none: `HOME=/dev/null`, or no HOME at all. Such a folder is `None`, and whoever wanted it goes on
//! without, or says so.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::cli::output::stderr_line;

/// Told once in a run that would keep something.
pub fn tell_if_nothing_is_kept() {
    if cache().is_none() {
        let value = |name| std::env::var_os(name).unwrap_or_default();
        // The folder that is given wins over the home folder.
        let name = if value("XDG_CACHE_HOME").is_empty() { "HOME" } else { "XDG_CACHE_HOME" };
        let value = value(name);
        stderr_line(&format!(
            "notice: {name} is not a folder ({}), so nothing is saved for the next run; hint: set HOME, or \
             XDG_CACHE_HOME and XDG_DATA_HOME",
            if value.is_empty() { "not set".into() } else { value.display().to_string() }
        ));
    }
}

/// Of settings, below which `chaski/config.toml` lies.
#[must_use]
pub fn config() -> Option<PathBuf> {
    usable(strategy()?.config_dir())
}

/// Of what can be made again.
#[must_use]
pub fn cache() -> Option<PathBuf> {
    usable(strategy()?.cache_dir().join("chaski"))
}

/// Of what cannot.
#[must_use]
pub fn data() -> Option<PathBuf> {
    usable(strategy()?.data_dir().join("chaski"))
}

/// Of what happened in earlier runs.
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

/// Whether a folder is there, or could be made: nothing on its way is a file. A path that depends on the working folder
/// would be another one in each run.
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
