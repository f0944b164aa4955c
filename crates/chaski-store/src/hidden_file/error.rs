//! Errors of these files, each with its hint.

use std::io;
use std::path::{Path, PathBuf};

use crate::hidden_file::VERSION;

/// Why a file of a hidden-state drafter cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum HiddenFileError {
    /// The file system returned an error.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// A folder, pipe or device.
    #[error("{}: expected a regular file", path.display())]
    NotAFile { path: PathBuf },
    /// Some other kind of file.
    #[error("{}: not a hidden-state drafter", path.display())]
    NotAHiddenFile { path: PathBuf },
    /// Shorter than its header says, as after an interrupted copy.
    #[error("{}: the file is cut off: expected {expected} bytes, found {found}", path.display())]
    CutShort { path: PathBuf, expected: u64, found: u64 },
    /// A checksum is wrong, or the content contradicts itself.
    #[error("{}: damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    /// Written in another format version.
    #[error("{}: written by another version of chaski (format {found}, this version reads {VERSION})", path.display())]
    Newer { path: PathBuf, found: u32 },
    /// Trained for another model.
    #[error("{}: trained for another model ({found}); expected {expected}", path.display())]
    ForeignModel { path: PathBuf, expected: String, found: String },
    /// The content does not fit the format.
    #[error("{}: cannot write the file: {what}", path.display())]
    Unwritable { path: PathBuf, what: String },
}

impl HiddenFileError {
    /// What the user can do; `None` if the message says it all.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Some("check the path"),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space, or write to another disk")
            }
            Self::Io { .. } | Self::Unwritable { .. } => None,
            Self::NotAFile { .. } | Self::NotAHiddenFile { .. } | Self::ForeignModel { .. } => {
                Some("train one for this model with chaski drafter align")
            }
            Self::CutShort { .. } | Self::Damaged { .. } => {
                Some("copy the file again, or delete it and train another one")
            }
            Self::Newer { .. } => Some("update chaski, or train the file again with this one"),
        }
    }

    /// Adds the file's path to an IO error.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> HiddenFileError {
        move |source| HiddenFileError::Io { path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> HiddenFileError {
        HiddenFileError::Damaged { path: path.to_owned(), what: what.into() }
    }
}
