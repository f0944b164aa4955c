//! The file operations of the ledger, as a trait, so that tests can make each of them fail.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::lock::{LockKind, Locked, lock};

/// How long to wait for a lock: a process that only checks whether a file is in use locks it for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file open for reading and seeking.
pub trait Readable: Read + Seek + Send {}

impl<T: Read + Seek + Send> Readable for T {}

/// A file open for appending.
pub trait Appended: Send {
    /// Appends bytes. After an error, some of them may have been written.
    ///
    /// # Errors
    /// When the bytes cannot be written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// When the length cannot be read.
    fn n_bytes(&self) -> io::Result<u64>;

    /// Truncates the file to this length.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    fn cut(&mut self, n_bytes: u64) -> io::Result<()>;

    /// Waits until all appended bytes are on disk. After an error, the bytes appended since the last success may be
    /// lost, and a second call may wrongly succeed.
    ///
    /// # Errors
    /// When syncing fails.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens a file for appending, and creates it if it does not exist.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>>;

    /// Like [`Disk::append`], with an exclusive lock until the file is dropped. `None` if another process holds a lock.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>>;

    /// Takes a shared lock on a file, until the returned value is dropped. `None` if a process holds the exclusive
    /// lock.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn hold(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>>;

    /// Opens a file for reading; `None` if it does not exist.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn read(&self, path: &Path) -> io::Result<Option<Box<dyn Readable>>>;

    /// Renames `from` to `to`, replacing it, and syncs the folder.
    ///
    /// # Errors
    /// When renaming or syncing fails.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Deletes a file if it exists.
    ///
    /// # Errors
    /// When it exists and cannot be deleted.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates an empty file. `None` if it exists already: of all processes that try, at most one gets the file.
    ///
    /// # Errors
    /// When it cannot be created.
    fn create_new(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>>;

    /// Creates a file with this content in one step. False if it exists already: of all processes that try, at most one
    /// succeeds, and no process sees the file without its content. Where the file system has no hard links, a process
    /// that is killed within this call may leave a part of the content.
    ///
    /// # Errors
    /// When it cannot be created.
    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<bool>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>> {
        Ok(Box::new(open(path)?))
    }

    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        let locked = lock(path, LockKind::Exclusive, PATIENCE, || open(path))?;
        Ok(locked.map(|file| Box::new(file) as Box<dyn Appended>))
    }

    fn hold(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        let locked = lock(path, LockKind::Shared, Duration::ZERO, || File::open(path))?;
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

    fn create_new(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        match File::options().read(true).write(true).create_new(true).open(path) {
            Ok(file) => {
                sync_folder(path)?;
                Ok(Some(Box::new(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:016x}", random()));
        let aside = Path::new(&name);
        let mut file = File::options().write(true).create_new(true).open(aside)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        let linked = written.map(|()| fs::hard_link(aside, path));
        self.remove(aside)?;
        match linked? {
            Ok(()) => sync_folder(path).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // Perhaps a file system without hard links. If it is something else, creating the file fails as well.
            Err(_) => {
                let Some(mut file) = self.create_new(path)? else { return Ok(false) };
                let written = file.append(bytes).and_then(|()| file.sync());
                if written.is_err() {
                    self.remove(path)?;
                }
                written.map(|()| true)
            }
        }
    }
}

/// A random number, from the standard library's random keys for hash maps.
pub(crate) fn random() -> u64 {
    use std::hash::BuildHasher as _;
    std::collections::hash_map::RandomState::new().hash_one(std::process::id())
}

/// Whether a process holds the exclusive lock on a file; `None` if the file does not exist.
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

/// Opens a file at its end, and creates it if it does not exist.
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

/// A new file name survives a power cut only after its folder is synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
pub(crate) mod shared;

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

    #[test]
    fn one_of_many_creates_a_file_and_all_see_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let (claim, plan) = (folder.path().join("claim"), folder.path().join("plan"));
        let n_first = thread::scope(|scope| {
            let tries = (0..8).map(|n| {
                let (claim, plan) = (&claim, &plan);
                scope.spawn(move || {
                    let is_first = Files.create_new(claim).unwrap().is_some();
                    let is_published = Files.publish(plan, format!("by {n}").as_bytes()).unwrap();
                    let content = fs::read_to_string(plan).unwrap();
                    assert!(content.starts_with("by ") && (!is_published || content == format!("by {n}")));
                    (u32::from(is_first), u32::from(is_published))
                })
            });
            let tries: Vec<_> = tries.collect();
            tries.into_iter().map(|one| one.join().unwrap()).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        });
        assert_eq!(n_first, (1, 1));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left behind");
    }

    /// A process that checks a job's status must not keep a starting batch from its lock.
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
