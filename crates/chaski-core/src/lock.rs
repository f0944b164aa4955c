//! File locks between processes.
//!
//! A lock belongs to an open file description, not to a path and not to one descriptor. Two consequences are handled
//! here:
//! - The previous holder may have replaced or removed the file. After locking, check that the locked file is still the
//!   one at the path.
//! - A process being spawned holds a copy of every descriptor until its program starts, so closing the file does not
//!   reliably release the lock. Unlock explicitly.

use std::fs::{self, File};
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A locked file; dropping it releases the lock.
#[derive(Debug)]
pub struct Locked(File);

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // If this fails, closing the file releases the lock.
        let _ = self.0.unlock();
    }
}

/// Who else may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Exclusive: an exclusive lock.
    Exclusive,
    /// Everybody who also asks for a shared lock.
    Shared,
}

/// Locks the file at `path`, opened by `open`; `None` if another process holds the lock for longer than `patience`.
///
/// # Errors
/// When the file cannot be opened, or the file system does not support locks.
pub fn lock(
    path: &Path,
    kind: LockKind,
    patience: Duration,
    mut open: impl FnMut() -> io::Result<File>,
) -> io::Result<Option<Locked>> {
    let start = Instant::now();
    loop {
        let file = open()?;
        let tried = match kind {
            LockKind::Exclusive => file.try_lock(),
            LockKind::Shared => file.try_lock_shared(),
        };
        match tried {
            Ok(()) => {
                let locked = Locked(file);
                if is_at(&locked, path) {
                    return Ok(Some(locked));
                }
            }
            Err(fs::TryLockError::WouldBlock) if start.elapsed() < patience => thread::sleep(PAUSE),
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(file.metadata()), identity(fs::metadata(path))), (Ok(a), Ok(b)) if a == b)
}

/// On other systems an open file cannot be replaced.
#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "").unwrap();
        (folder, path)
    }

    fn now(path: &Path, kind: LockKind) -> Option<Locked> {
        lock(path, kind, Duration::ZERO, || File::open(path)).unwrap()
    }

    #[test]
    fn one_at_a_time_or_many_alike() {
        let (_folder, path) = place();
        let first = now(&path, LockKind::Exclusive).unwrap();
        assert!(now(&path, LockKind::Exclusive).is_none() && now(&path, LockKind::Shared).is_none());
        drop(first);
        let alike = now(&path, LockKind::Shared).unwrap();
        assert!(now(&path, LockKind::Exclusive).is_none() && now(&path, LockKind::Shared).is_some());
        drop(alike);
        now(&path, LockKind::Exclusive).unwrap();
    }

    #[test]
    fn it_is_given_back_though_a_copy_of_the_descriptor_is_open() {
        let (_folder, path) = place();
        let first = now(&path, LockKind::Exclusive).unwrap();
        // A process that is being spawned holds such a copy.
        let _copy = first.try_clone().unwrap();
        drop(first);
        now(&path, LockKind::Exclusive).unwrap();
    }

    #[test]
    fn it_is_of_the_file_that_lies_there() {
        let (folder, path) = place();
        let mut n_opened = 0;
        let open = || {
            n_opened += 1;
            let file = File::open(&path);
            if n_opened == 1 {
                // Another process replaces the file between open and lock.
                fs::write(folder.path().join("new"), "").unwrap();
                fs::rename(folder.path().join("new"), &path).unwrap();
            }
            file
        };
        let locked = lock(&path, LockKind::Exclusive, Duration::ZERO, open).unwrap().unwrap();
        assert_eq!(locked.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
        assert!(now(&path, LockKind::Exclusive).is_none() && n_opened == 2);
    }

    #[test]
    fn who_waits_gets_it() {
        let (_folder, path) = place();
        let first = now(&path, LockKind::Exclusive).unwrap();
        let patience = Duration::from_secs(3600);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&path, LockKind::Exclusive, patience, || File::open(&path)).unwrap());
            drop(first);
            assert!(waiting.join().unwrap().is_some());
        });
    }
}
