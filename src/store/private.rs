//! Files for their owner's eyes: folders of mode 0700 and files of mode 0600 where modes exist, written aside and renamed,
//! so that what stands there is always whole; and locks between processes.
//!
//! A link that somebody put in a file's place is replaced, never followed. Each change of the disk goes through one function,
//! so that tests can make any of them fail ([`faults`]). The journal of a batch, which grows, has a seam of its own
//! ([`crate::batch::disk`]).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::lock::{self, Beside, Locked};

/// How names of files begin that are being written.
pub(super) const WRITING: &str = ".writing-";

/// What a file is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It can be made again: after a power cut it may be cut off, which its checksum or form tells.
    Expendable,
    /// It is the only copy: it is on the disk before it takes the place of the old one.
    Unique,
}

/// Makes a folder and those above it, as far as they are missing.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    change(|| builder.create(folder))
}

/// Puts a file of these parts in the place of what is at `path`, and makes the folder if it is missing. After an error what was
/// there is there, or what should be.
pub(super) fn replace(path: &Path, parts: &[&[u8]], worth: Worth) -> io::Result<()> {
    let file = write_aside(path, parts)?;
    if worth == Worth::Unique {
        change(|| file.as_file().sync_all())?;
    }
    change(|| file.persist(path).map_err(|error| error.error))?;
    match worth {
        // The new name is safe only when its folder is.
        Worth::Unique if cfg!(unix) => change(|| File::open(folder_of(path))?.sync_all()),
        _ => Ok(()),
    }
}

/// Removes a file. Tells whether there was one.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    match change(|| fs::remove_file(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_aside(path: &Path, parts: &[&[u8]]) -> io::Result<tempfile::NamedTempFile> {
    let folder = folder_of(path);
    make_folder(folder)?;
    // It is new (O_EXCL) and, on Unix, of mode 0600.
    let mut file = change(|| tempfile::Builder::new().prefix(WRITING).tempfile_in(folder))?;
    for part in parts {
        change(|| file.write_all(part))?;
    }
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Holds a lock until it is dropped; `None` where another process holds it for longer than `patience`. The file stays, as
/// others may be waiting for it.
pub(super) fn lock(path: &Path, patience: Duration) -> io::Result<Option<Locked>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    lock::lock(path, Beside::Nobody, patience, || change(|| options.open(path)))
}

/// The one way to the disk for what changes it.
fn change<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    faults::meet()?;
    call()
}

#[cfg(test)]
pub(super) mod faults {
    //! A disk of which, from some change on, none succeeds; for each thread its own.

    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Does something on a disk that takes so many changes. Tells also whether more were tried.
    pub(in crate::store) fn after<T>(n_changes: u64, act: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(Some(n_changes));
        let done = act();
        (done, LEFT.take() == Some(u64::MAX))
    }

    pub(super) fn meet() -> io::Result<()> {
        let left = LEFT.get();
        LEFT.set(left.map(|left| if left == 0 { u64::MAX } else { left - u64::from(left != u64::MAX) }));
        match left {
            Some(0 | u64::MAX) => Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
