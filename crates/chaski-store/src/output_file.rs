//! Files whose path the user chose, such as drafter files. They are written next to their path and renamed, so that the
//! complete file appears there or none at all, with the permissions of an ordinary new file.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// Starts a file that will be at `path`. Dropping it leaves nothing behind.
pub(crate) fn create(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".chaski-").tempfile_in(folder_of(path))
}

/// Flushes a complete file to the disk and renames it to `path`, replacing an older one.
pub(crate) fn finish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The new name is durable once the folder is flushed. Not every file system can do that; the file is complete
    // anyway.
    if let Ok(folder) = File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
