//! Private files and locks: folders of mode 0700 and files of mode 0600 where modes exist. A file is written to a
//! temporary name and renamed, so its path always has a complete file.
//!
//! A symbolic link at a file's path is replaced, never followed. Every change to the disk goes through one function, so
//! that tests can make each of them fail (`faults`). The journal of a batch is append-only and has its own layer for
//! that (`disk` of chaski-batch).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::lock::{self, LockKind, Locked};

/// Prefix of temporary file names.
pub(super) const WRITING: &str = ".writing-";

/// How much care a file needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// It can be recreated. After a power failure it may be cut off, which its checksum or format detects.
    Expendable,
    /// It is the only copy. It is flushed to the disk before it replaces the old file.
    Unique,
}

/// Creates a folder and its missing parents.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    change(|| builder.create(folder))
}

/// Replaces the file at `path` by one with the given parts, and creates its folder if necessary. After an error the
/// file is either the old one or the new one.
pub(super) fn replace(path: &Path, parts: &[&[u8]], durability: Durability) -> io::Result<()> {
    let file = write_aside(path, parts)?;
    if durability == Durability::Unique {
        change(|| file.as_file().sync_all())?;
    }
    change(|| file.persist(path).map_err(|error| error.error))?;
    match durability {
        // The new name is durable only once the folder is flushed.
        Durability::Unique if cfg!(unix) => change(|| File::open(folder_of(path))?.sync_all()),
        _ => Ok(()),
    }
}

/// Deletes a file. Returns whether it existed.
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
    // A new file (O_EXCL), on Unix with mode 0600.
    let mut file = change(|| tempfile::Builder::new().prefix(WRITING).tempfile_in(folder))?;
    for part in parts {
        change(|| file.write_all(part))?;
    }
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes a lock, held until it is dropped; `None` if another process holds it for longer than `patience`. The lock file
/// stays, since others may be waiting for it.
pub(super) fn lock(path: &Path, patience: Duration) -> io::Result<Option<Locked>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    }
    lock::lock(path, LockKind::Exclusive, patience, || change(|| options.open(path)))
}

/// The only function that changes the disk.
fn change<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    faults::meet()?;
    call()
}

#[cfg(test)]
pub(super) mod faults {
    //! Simulates a disk on which all changes fail after some point, per thread.

    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Runs `act` on a disk that allows `n_changes`. Also returns whether it tried more.
    pub(crate) fn after<T>(n_changes: u64, act: impl FnOnce() -> T) -> (T, bool) {
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
