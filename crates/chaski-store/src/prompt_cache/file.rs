//! Reads and writes state files. They are private and replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::private::{self, Durability};
use crate::prompt_cache::format::{Head, Seal};
use crate::token::Token;

/// How long to wait for another process that creates the secret: a moment, unless the disk is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a state cannot be used or stored. The caller reports it and continues without.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file or the folder cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Damaged, or not written by this user.
    #[error("{0}: damaged, or not written by chaski on this machine")]
    Damaged(PathBuf),
}

impl StateError {
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> StateError {
        move |error| StateError::Io { path: path.to_owned(), error }
    }
}

/// A state to write, with its description.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// Everything that determines the state's numbers, besides the tokens.
    pub key: &'a str,
    /// The tokens of the state.
    pub tokens: &'a [Token],
    /// Microseconds per token that computing the state took.
    pub us_per_token: u32,
    /// The state as llama.cpp serialized it.
    pub bytes: &'a [u8],
}

/// A file whose head has been checked.
#[derive(Debug)]
pub struct OpenState {
    path: PathBuf,
    file: File,
    /// The head of the file.
    pub head: Head,
    /// The length of the file.
    pub n_bytes: u64,
}

impl OpenState {
    /// Opens a file and reads its head; `None` if the file does not exist.
    ///
    /// # Errors
    /// When the file cannot be read, or its head was not sealed with `seal`.
    pub fn open(path: &Path, seal: &Seal) -> Result<Option<OpenState>, StateError> {
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(StateError::io(path))?,
        };
        let n_bytes = file.metadata().map_err(StateError::io(path))?.len();
        let head = Head::read(&mut io::BufReader::new(&mut file), seal).map_err(StateError::io(path))?;
        let head = head.filter(|head| head.n_state_bytes < n_bytes);
        let head = head.ok_or_else(|| StateError::Damaged(path.to_owned()))?;
        Ok(Some(OpenState { path: path.to_owned(), file, head, n_bytes }))
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the state, and marks the file as used.
    ///
    /// # Errors
    /// When the file cannot be read, or the state was not sealed with `seal`.
    pub fn load(mut self, seal: &Seal) -> Result<(Head, Vec<u8>), StateError> {
        let damaged = || StateError::Damaged(self.path.clone());
        let n = usize::try_from(self.head.n_state_bytes).map_err(|_| damaged())?;
        let mut bytes = vec![0; n];
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.n_bytes - self.head.n_state_bytes))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(StateError::io(&self.path))?;
        if seal.of(&bytes) != self.head.state_seal {
            return Err(damaged());
        }
        // Only the order of eviction depends on this.
        let _ = self.file.set_modified(SystemTime::now());
        Ok((self.head, bytes))
    }
}

/// Writes a state to a file that only this user can read.
///
/// # Errors
/// When the folder or the file cannot be written; the old file stays.
pub fn write(path: &Path, state: &State<'_>, seal: &Seal) -> Result<(), StateError> {
    let head = Head {
        key: state.key.to_owned(),
        tokens: state.tokens.to_vec(),
        us_per_token: state.us_per_token,
        n_state_bytes: state.bytes.len() as u64,
        state_seal: seal.of(state.bytes),
    };
    let too_long = || StateError::io(path)(io::Error::other("too many tokens for one state"));
    let head = head.to_bytes(seal).ok_or_else(too_long)?;
    private::replace(path, &[&head, state.bytes], Durability::Expendable).map_err(StateError::io(path))
}

/// This user's secret; `None` if none has been created yet, so no state can have been sealed.
///
/// # Errors
/// When it cannot be read.
pub fn known_seal(path: &Path) -> Result<Option<Seal>, StateError> {
    match fs::read(path) {
        // A secret cut by a power failure counts as missing: the states it sealed are lost.
        Ok(secret) => Ok(secret.try_into().ok().map(Seal::new)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io(path)(error)),
    }
}

/// This user's secret, created if it does not exist. If several processes need one, one creates it and all use it.
///
/// # Errors
/// When it can be neither read nor created.
pub fn seal(path: &Path) -> Result<Seal, StateError> {
    if let Some(seal) = known_seal(path)? {
        return Ok(seal);
    }
    let lock_path = path.with_extension("lock");
    path.parent().map_or(Ok(()), private::make_folder).map_err(StateError::io(path))?;
    let lock = private::lock(&lock_path, PATIENCE).map_err(StateError::io(&lock_path))?;
    let _lock = lock.ok_or_else(|| StateError::io(&lock_path)(io::ErrorKind::WouldBlock.into()))?;
    // Another process may have been faster.
    if let Some(seal) = known_seal(path)? {
        return Ok(seal);
    }
    let mut secret = [0; Seal::N_BYTES];
    getrandom::fill(&mut secret).map_err(|error| StateError::io(path)(io::Error::other(error.to_string())))?;
    private::replace(path, &[&secret], Durability::Expendable).map_err(StateError::io(path))?;
    Ok(Seal::new(secret))
}
