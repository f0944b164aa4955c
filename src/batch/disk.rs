//! The seam to the file system: what the ledger does with files, and nothing else, so that a test can make any of it fail.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::lock::{Beside, Locked, lock};

/// How long a file is waited for that another process has: one that looks whether somebody has it, has it for a moment itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file that is read from anywhere.
pub trait Readable: Read + Seek + Send {}

impl<T: Read + Seek + Send> Readable for T {}

/// A file that grows at its end.
pub trait Appended: Send {
    /// Adds bytes. After an error, part of them may be there.
    ///
    /// # Errors
    /// When they cannot be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Its length.
    ///
    /// # Errors
    /// When that cannot be told.
    fn n_bytes(&self) -> io::Result<u64>;

    /// Shortens it to this length.
    ///
    /// # Errors
    /// When it cannot be changed.
    fn cut(&mut self, n_bytes: u64) -> io::Result<()>;

    /// Waits until everything appended is on the disk. After an error nothing is known of what was appended since the
    /// last success: trying again would be told that all is well.
    ///
    /// # Errors
    /// When it is not.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file, which is made where there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>>;

    /// The same, and keeps all others from doing so, until it is dropped; `None` while another has it.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>>;

    /// Keeps all from having this file alone, until what is returned is dropped; `None` while one has it.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn hold(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>>;

    /// Opens a file for reading; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn read(&self, path: &Path) -> io::Result<Option<Box<dyn Readable>>>;

    /// Has `from` take the place of `to`, for good: the folder is synced.
    ///
    /// # Errors
    /// When it cannot.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file if it is there.
    ///
    /// # Errors
    /// When it is there and stays.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>> {
        Ok(Box::new(open(path)?))
    }

    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        let locked = lock(path, Beside::Nobody, PATIENCE, || open(path))?;
        Ok(locked.map(|file| Box::new(file) as Box<dyn Appended>))
    }

    fn hold(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        let locked = lock(path, Beside::Alike, Duration::ZERO, || File::open(path))?;
        Ok(locked.map(|file| Box::new(file) as Box<dyn Send>))
    }

    fn read(&self, path: &Path) -> io::Result<Option<Box<dyn Readable>>> {
        match File::open(path) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_folder(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether some process has this file alone; `None` where there is no such file.
///
/// # Errors
/// When it cannot be opened.
pub fn is_in_use(path: &Path) -> io::Result<Option<bool>> {
    match Files.hold(path) {
        Ok(held) => Ok(Some(held.is_none())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file at its end, and makes it where there is none.
fn open(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    file.seek(SeekFrom::End(0))?;
    if is_new {
        sync_folder(path)?;
    }
    Ok(file)
}

impl Appended for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
        self.set_len(n_bytes)?;
        self.seek(SeekFrom::Start(n_bytes)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Appended for Locked {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).append(bytes)
    }

    fn n_bytes(&self) -> io::Result<u64> {
        (**self).n_bytes()
    }

    fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
        (**self).cut(n_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }
}

/// A new name is safe only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
pub(in crate::batch) mod faulty;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn files_grow_shrink_and_are_had_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert_eq!(is_in_use(&path).unwrap(), None);
        let mut file = Files.append_alone(&path).unwrap().unwrap();
        file.append(b"hello").unwrap();
        file.cut(2).unwrap();
        file.append(b"!").unwrap();
        file.sync().unwrap();
        assert_eq!((file.n_bytes().unwrap(), fs::read(&path).unwrap()), (3, b"he!".to_vec()));
        assert!(Files.append_alone(&path).unwrap().is_none() && Files.hold(&path).unwrap().is_none());
        assert_eq!(is_in_use(&path).unwrap(), Some(true));
        drop(file);
        assert_eq!(is_in_use(&path).unwrap(), Some(false));
        assert!(Files.append_alone(&path).unwrap().is_some());
        let other = folder.path().join("b");
        Files.replace(&path, &other).unwrap();
        assert!(Files.read(&path).unwrap().is_none() && Files.read(&other).unwrap().is_some());
        Files.remove(&path).unwrap();
        Files.remove(&other).unwrap();
        assert!(!other.exists());
    }
    /// As when one process is asked how a job is getting on, and another one begins to work at it.
    #[test]
    fn who_looks_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "").unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(is_in_use(&path).unwrap().is_some());
                }
            });
            let n_had = (0..100).filter(|_| Files.append_alone(&path).unwrap().is_some()).count();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(n_had, 100);
        });
    }
}
