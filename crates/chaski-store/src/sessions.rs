//! Saved chats on disk: one JSON file each, with a lock for its writer.
//!
//! A saved chat is its user's text, so only its own continuation may replace it. A file that cannot be understood stays
//! unchanged, a new chat never takes the name of an old one, and only one process at a time may write. Next to
//! `NAME.json` are `NAME.lock` and the expendable `NAME.state`, the model's state, which this module does not read.

use std::fs::{self, File};
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::chat::session::{self, Session, SessionFileError};
use crate::lock::Locked;
use crate::private::{self, Durability};

/// Maximum file size in bytes.
const MAX_BYTES: u64 = 256 << 20;

const EXTENSION: &str = ".json";

/// The model's state after a chat.
const STATE_EXTENSION: &str = ".state";

/// Why a session cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not a valid name.
    #[error("{0}")]
    Name(String),
    /// The file or the folder cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Not a session, or of another version.
    #[error("{}: {error}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: SessionFileError,
    },
    /// Longer than a session can be.
    #[error("{}: a saved chat can have at most {} MiB", .0.display(), MAX_BYTES >> 20)]
    TooLong(PathBuf),
    /// Another process holds the lock.
    #[error("the chat {0} is open in another terminal or process")]
    Busy(String),
    /// The name is taken.
    #[error("there is already a saved chat {0}")]
    Exists(String),
    /// No session has this name.
    #[error("there is no saved chat {0}")]
    Missing(String),
}

impl SessionError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SessionError::Format { error: SessionFileError::Version(_), .. } => {
                Some("chaski does not change it; use another name")
            }
            SessionError::Format { .. } | SessionError::TooLong(_) => {
                Some("chaski does not change it; repair or move the file, or use another name")
            }
            SessionError::Busy(_) => Some("leave it there first, or use another name"),
            SessionError::Exists(_) => Some("use another name, or switch to it with /load"),
            SessionError::Missing(_) => Some("/list shows the saved chats; /save NAME saves this one"),
            SessionError::Name(_) | SessionError::Io { .. } => None,
        }
    }
}

/// A session in a list.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Number of turns; `None` if the file cannot be parsed.
    pub n_turns: Option<usize>,
    /// When it was written, if the file system reports it.
    pub written: Option<SystemTime>,
    /// Its size on disk, with the model's state if one was saved.
    pub n_bytes: u64,
}

/// The folder of sessions.
#[derive(Clone, Debug)]
pub struct Sessions {
    folder: PathBuf,
}

impl Sessions {
    /// The sessions in `folder`, which is created when needed.
    #[must_use]
    pub fn new(folder: PathBuf) -> Sessions {
        Sessions { folder }
    }

    /// Locks the name for this process, and reads its session if one is saved.
    ///
    /// # Errors
    /// When the name is invalid, another process holds it, or the saved session cannot be used.
    pub fn open(&self, name: &str) -> Result<(Place, Option<Session>), SessionError> {
        session::check_name(name).map_err(SessionError::Name)?;
        private::make_folder(&self.folder).map_err(|error| io_error(&self.folder, error))?;
        let path = |end: &str| self.folder.join(format!("{name}{end}"));
        let lock_path = path(".lock");
        let lock = private::lock(&lock_path, Duration::ZERO).map_err(|error| io_error(&lock_path, error))?;
        let lock = lock.ok_or_else(|| SessionError::Busy(name.to_owned()))?;
        let place =
            Place { name: name.to_owned(), path: path(EXTENSION), state_path: path(STATE_EXTENSION), _lock: lock };
        let session = read(&place.path)?;
        Ok((place, session))
    }

    /// Locks a name that has no saved session.
    ///
    /// # Errors
    /// As [`Sessions::open`], and when a session exists.
    pub fn create(&self, name: &str) -> Result<Place, SessionError> {
        match self.open(name)? {
            (place, None) => Ok(place),
            (place, Some(_)) => Err(SessionError::Exists(place.name)),
        }
    }

    /// Locks a name and reads its session.
    ///
    /// # Errors
    /// As [`Sessions::open`], and when no session exists.
    pub fn resume(&self, name: &str) -> Result<(Place, Session), SessionError> {
        match self.open(name)? {
            (place, Some(session)) => Ok((place, session)),
            (place, None) => Err(SessionError::Missing(place.name)),
        }
    }

    /// The names of all sessions, sorted; empty if there is no folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, SessionError> {
        let io = |error| io_error(&self.folder, error);
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(io)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(EXTENSION));
            names.extend(name.filter(|name| session::check_name(name).is_ok()).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Lists all sessions by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, SessionError> {
        let entry = |name: String| {
            let path = self.folder.join(format!("{name}{EXTENSION}"));
            let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
            let n_bytes = size(&path) + size(&self.folder.join(format!("{name}{STATE_EXTENSION}")));
            let written = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            let n_turns = read(&path).ok().flatten().map(|session| session.turns.len());
            Entry { name, n_turns, written, n_bytes }
        };
        Ok(self.names()?.into_iter().map(entry).collect())
    }
}

/// The locked files of one session. No other process writes to them until this is dropped.
#[derive(Debug)]
pub struct Place {
    name: String,
    path: PathBuf,
    state_path: PathBuf,
    _lock: Locked,
}

impl Place {
    /// The session's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path for the model's state.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        &self.state_path
    }

    /// Saves the session.
    ///
    /// # Errors
    /// When it cannot be written; the previously saved one stays.
    pub fn save(&self, session: &Session) -> Result<(), SessionError> {
        let text = session::to_json(session);
        private::replace(&self.path, &[text.as_bytes()], Durability::Unique)
            .map_err(|error| io_error(&self.path, error))
    }
}

/// Reads a session file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<Session>, SessionError> {
    let io = |error| io_error(path, error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io)?,
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(SessionError::TooLong(path.to_owned()));
    }
    session::from_json(&text).map(Some).map_err(|error| SessionError::Format { path: path.to_owned(), error })
}

fn io_error(path: &Path, error: io::Error) -> SessionError {
    SessionError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::chat::session::Turn;

    fn place() -> (TempDir, Sessions) {
        let folder = TempDir::new().unwrap();
        let sessions = Sessions::new(folder.path().join("new").join("sessions"));
        (folder, sessions)
    }

    fn session() -> Session {
        let turn = Turn { user: "a".to_owned(), assistant: "b".to_owned(), seed: 1 };
        Session { turns: vec![turn], ..Session::default() }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let (_folder, sessions) = place();
        assert!(sessions.names().unwrap().is_empty());
        let created = sessions.create("a.b").unwrap();
        created.save(&Session::default()).unwrap();
        created.save(&session()).unwrap();
        drop(created);
        let (resumed, read) = sessions.resume("a.b").unwrap();
        assert_eq!((resumed.name(), read), ("a.b", session()));
        assert!(resumed.state_path().ends_with("sessions/a.b.state"));
        let listed = sessions.list().unwrap();
        assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].n_turns), (1, "a.b", Some(1)));
    }

    #[test]
    fn one_chat_at_a_time() {
        let (_folder, sessions) = place();
        let first = sessions.create("a").unwrap();
        assert_eq!(sessions.open("a").unwrap_err().to_string(), "the chat a is open in another terminal or process");
        sessions.create("b").unwrap();
        drop(first);
        sessions.create("a").unwrap().save(&session()).unwrap();
        assert_eq!(sessions.create("a").unwrap_err().to_string(), "there is already a saved chat a");
        assert_eq!(sessions.resume("c").unwrap_err().to_string(), "there is no saved chat c");
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        let (_folder, sessions) = place();
        let created = sessions.create("a").unwrap();
        for text in ["", "{\"chaski_session\": 1}", "{\"chaski_session\": 9}"] {
            fs::write(&created.path, text).unwrap();
            let told = read(&created.path).unwrap_err();
            assert!(
                told.to_string().contains("a.json: ") && told.hint().unwrap().contains("chaski does not change it"),
                "{told}"
            );
            assert_eq!(fs::read_to_string(&created.path).unwrap(), text);
        }
        assert_eq!(sessions.list().unwrap()[0].n_turns, None);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let (folder, sessions) = place();
        for name in ["../a", "/tmp/a", "a/b", ".."] {
            assert!(matches!(sessions.open(name), Err(SessionError::Name(_))), "{name}");
        }
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_folder, sessions) = place();
        let created = sessions.create("a").unwrap();
        created.save(&session()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sessions.folder), mode(&created.path)), (0o700, 0o600));
        assert_eq!(mode(&sessions.folder.join("a.lock")), 0o600);
    }
}
