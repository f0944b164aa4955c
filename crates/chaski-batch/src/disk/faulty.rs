//! A disk that runs full: from one change on, all changes fail. A failing append writes half of its bytes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Appended, Disk, Files, Readable};

/// Files that fail after a number of changes.
pub(crate) struct Faulty {
    left: Arc<AtomicU64>,
}

impl Faulty {
    /// The first `n_changes` changes succeed.
    pub(crate) fn after(n_changes: u64) -> Faulty {
        Faulty { left: Arc::new(AtomicU64::new(n_changes)) }
    }
}

fn change(left: &AtomicU64) -> io::Result<()> {
    let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    counted.map(drop).map_err(|_| io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
}

struct FaultyFile {
    file: Box<dyn Appended>,
    left: Arc<AtomicU64>,
}

impl Appended for FaultyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = change(&self.left) {
            self.file.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.file.append(bytes)
    }

    fn n_bytes(&self) -> io::Result<u64> {
        self.file.n_bytes()
    }

    fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
        change(&self.left)?;
        self.file.cut(n_bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        change(&self.left)?;
        self.file.sync()
    }
}

impl Disk for Faulty {
    fn append(&self, path: &Path) -> io::Result<Box<dyn Appended>> {
        change(&self.left)?;
        Ok(Box::new(FaultyFile { file: Files.append(path)?, left: self.left.clone() }))
    }

    fn append_alone(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        change(&self.left)?;
        let file = Files.append_alone(path)?;
        Ok(file.map(|file| Box::new(FaultyFile { file, left: self.left.clone() }) as Box<dyn Appended>))
    }

    fn hold(&self, path: &Path) -> io::Result<Option<Box<dyn Send>>> {
        Files.hold(path)
    }

    fn read(&self, path: &Path) -> io::Result<Option<Box<dyn Readable>>> {
        Files.read(path)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        change(&self.left)?;
        Files.replace(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        change(&self.left)?;
        Files.remove(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Option<Box<dyn Appended>>> {
        change(&self.left)?;
        let file = Files.create_new(path)?;
        Ok(file.map(|file| Box::new(FaultyFile { file, left: self.left.clone() }) as Box<dyn Appended>))
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<bool> {
        change(&self.left)?;
        Files.publish(path, bytes)
    }
}
