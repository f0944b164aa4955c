//! The texts of `drafter build`: lists the files and reads them.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::cli::drafter::pieces::{PieceError, each_piece, json_texts};
use crate::cli::failure::Failure;
use crate::encoding::Utf8;

/// A zero byte in the first N bytes marks a binary file, as in git and grep.
const N_SNIFFED: u64 = 8000;

/// Size limit of a line of JSON, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Limits on folder depth and number of files; exceeding them suggests a mistake, such as `/`.
const MAX_DEPTH: usize = 64;
const MAX_FILES: usize = 1_000_000;

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextFile {
    /// `-` is stdin.
    pub(super) path: PathBuf,
    pub(super) n_bytes: u64,
    /// Named by the user, not found in a folder: failing to read it is an error.
    pub(super) is_named: bool,
}

/// Receives the texts.
pub(super) trait Taker {
    /// Takes the next piece of text; `is_new` starts another text.
    fn take(&mut self, piece: &str, is_new: bool) -> Result<(), Failure>;

    /// Reports that this many bytes were read.
    fn advance(&mut self, n_bytes: u64);
}

/// All files; those of a folder are sorted by name.
pub(super) fn list(texts: &[PathBuf]) -> Result<Vec<TextFile>, Failure> {
    let mut files = Vec::new();
    for path in texts {
        if path == Path::new("-") {
            files.push(TextFile { path: path.clone(), n_bytes: 0, is_named: true });
            continue;
        }
        let metadata = fs::metadata(path)
            .map_err(|error| Failure::io(path, &error).with_hint("give a file, a folder, or - for stdin"))?;
        if metadata.is_dir() {
            walk(path, 0, &mut files)?;
        } else {
            files.push(TextFile { path: path.clone(), n_bytes: metadata.len(), is_named: true });
        }
    }
    Ok(files)
}

/// Does not follow symbolic links: they may form a cycle or leave the folder.
fn walk(folder: &Path, depth: usize, files: &mut Vec<TextFile>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io(folder, &error);
    let mut entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, files)?;
        } else if kind.is_file() {
            let n_bytes = entry.metadata().map_err(failed)?.len();
            files.push(TextFile { path: entry.path(), n_bytes, is_named: false });
        }
        if files.len() > MAX_FILES {
            return Err(Failure::new(format!("{}: more than {MAX_FILES} files", folder.display())));
        }
    }
    Ok(())
}

/// Reads a file. If a file found in a folder fails, returns the failure and skips the rest of that file.
pub(super) fn read(file: &TextFile, taker: &mut impl Taker) -> Result<Option<Failure>, Failure> {
    let read = if file.path == Path::new("-") {
        read_text(&file.path, Utf8::new(io::stdin().lock()), taker)
    } else {
        read_file(&file.path, taker)
    };
    match read {
        Ok(()) => Ok(None),
        Err(Unread::Source(failure)) if !file.is_named => Ok(Some(failure)),
        Err(Unread::Source(failure) | Unread::Taker(failure)) => Err(failure),
    }
}

/// Which side failed.
enum Unread {
    Source(Failure),
    Taker(Failure),
}

fn read_file(path: &Path, taker: &mut impl Taker) -> Result<(), Unread> {
    let failed = |error: io::Error| Unread::Source(Failure::io(path, &error));
    let mut file = Utf8::new(File::open(path).map_err(failed)?);
    let mut start = Vec::new();
    file.by_ref().take(N_SNIFFED).read_to_end(&mut start).map_err(failed)?;
    if start.contains(&0) {
        let failure = Failure::new(format!("{}: a binary file", path.display()));
        return Err(Unread::Source(failure.with_hint("give UTF-8 text files")));
    }
    let source = start.chain(file);
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        read_json_lines(path, BufReader::new(source), taker)
    } else {
        read_text(path, source, taker)
    }
}

fn read_text(path: &Path, source: impl Read, taker: &mut impl Taker) -> Result<(), Unread> {
    let mut is_new = true;
    let read = each_piece(source, |piece| {
        taker.take(piece, std::mem::take(&mut is_new))?;
        taker.advance(piece.len() as u64);
        Ok(())
    });
    read.map_err(|error| match error {
        PieceError::Taker(failure) => Unread::Taker(failure),
        PieceError::Io(error) => Unread::Source(Failure::io(path, &error)),
        PieceError::NotText(at) => Unread::Source(
            Failure::new(format!("{}: not UTF-8 at byte {at}", path.display()))
                .with_hint("convert it, as in: iconv -f latin1 -t utf-8"),
        ),
    })
}

fn read_json_lines(path: &Path, mut source: impl io::BufRead, taker: &mut impl Taker) -> Result<(), Unread> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        let wrong = |what: String| {
            let failure = Failure::new(format!("{}:{number}: {what}", path.display()));
            Unread::Source(
                failure.with_hint(r#"each line must be {"text": "..."} or {"prompt": "...", "response": "..."}"#),
            )
        };
        line.clear();
        let n = source
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(|error| wrong(error.to_string()))?;
        match n as u64 {
            0 => return Ok(()),
            MAX_LINE_BYTES if line.last() != Some(&b'\n') => {
                return Err(wrong(format!("a line of more than {} MiB", MAX_LINE_BYTES >> 20)));
            }
            _ => {}
        }
        if !line.trim_ascii().is_empty() {
            for text in json_texts(&line).map_err(wrong)? {
                let mut is_new = true;
                let taken = each_piece(text.as_bytes(), |piece| taker.take(piece, std::mem::take(&mut is_new)));
                // Strings in memory cannot fail to read and are UTF-8, so only the taker can fail.
                if let Err(PieceError::Taker(failure)) = taken {
                    return Err(Unread::Taker(failure));
                }
            }
        }
        taker.advance(n as u64);
    }
    Ok(())
}
