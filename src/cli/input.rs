//! The prompt: what comes in on stdin, then `-f`, then `-p`.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::cli::failure::Failure;
use crate::cli::output::stderr_line;

/// Longest prompt taken; no context is near it.
pub const MAX_BYTES: u64 = 64 << 20;

/// How long an open but silent stdin is waited for when there is a prompt without it.
const SILENCE: Duration = Duration::from_secs(3);

/// Reads the prompt.
///
/// # Errors
/// When there is none, or a part of it cannot be read or is not UTF-8.
pub fn read_prompt(file: Option<&Path>, text: Option<&str>) -> Result<String, Failure> {
    let wants_stdin = file == Some(Path::new("-"));
    let has_other = text.is_some() || file.is_some() && !wants_stdin;
    let piped = match () {
        () if wants_stdin => Some(read_all(io::stdin(), "stdin")?),
        () if io::stdin().is_terminal() => None,
        () if has_other => read_unless_silent()?,
        () => Some(read_all(io::stdin(), "stdin")?),
    };
    let filed = match file {
        Some(path) if !wants_stdin => {
            let file = File::open(path).map_err(|error| {
                Failure::io(path, &error).with_hint("-f takes a file with the prompt, -p the prompt itself")
            })?;
            Some(read_all(file, &path.display().to_string())?)
        }
        _ => None,
    };
    let parts: Vec<&str> = [piped.as_deref(), filed.as_deref(), text].into_iter().flatten().collect();
    join(&parts).ok_or_else(|| {
        Failure::usage("the prompt is empty").with_hint("give one with -p TEXT, -f FILE, or through a pipe")
    })
}

/// Parts that say something, apart by an empty line; `None` if there are none. One part alone stays as it is.
#[must_use]
pub fn join(parts: &[&str]) -> Option<String> {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.trim().is_empty()).collect();
    match parts.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        [before @ .., last] => {
            let mut joined: String = before.iter().flat_map(|part| [part.trim_end(), "\n\n"]).collect();
            joined.push_str(last);
            Some(joined)
        }
    }
}

/// Everything of a source, which `name` is told of in errors.
///
/// # Errors
/// When it fails, is too long, or not UTF-8.
pub fn read_all(source: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(Path::new(name), &error))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::new(format!("{name}: a prompt has at most {} MiB", MAX_BYTES >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(format!("{name}: not UTF-8 at byte {at}")).with_hint("convert it, as in: iconv -f latin1 -t utf-8")
    })
}

/// A script's stdin may be open and never say anything: with a prompt at hand that must not block.
fn read_unless_silent() -> Result<Option<String>, Failure> {
    if is_file(Path::new("/dev/stdin")) {
        return read_all(io::stdin(), "stdin").map(Some);
    }
    let (first, first_byte) = mpsc::channel();
    let (rest, all) = mpsc::channel();
    // Left behind blocked if stdin stays silent; it holds nothing.
    thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut byte = [0];
        let n = loop {
            match stdin.read(&mut byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.unwrap_or(0),
            }
        };
        let _ = first.send(());
        let _ = rest.send(read_all(byte[..n].chain(stdin), "stdin"));
    });
    if first_byte.recv_timeout(SILENCE).is_err() {
        stderr_line(
            "notice: stdin is open but silent, so it is not read; hint: -f - waits for it, </dev/null closes it",
        );
        return Ok(None);
    }
    all.recv().unwrap_or_else(|_| Ok(String::new())).map(Some)
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_joined_in_order() {
        assert_eq!(join(&[]), None);
        assert_eq!(join(&["  \n", ""]), None);
        assert_eq!(join(&["", " as it is \n"]).unwrap(), " as it is \n");
        assert_eq!(join(&["text\n", "\n", "question"]).unwrap(), "text\n\nquestion");
    }

    #[test]
    fn a_prompt_must_be_text() {
        assert_eq!(read_all(&b"a\0b"[..], "x").unwrap(), "a\0b");
        let failure = read_all(&b"ab\xff"[..], "notes.txt").unwrap_err().to_string();
        assert!(failure.contains("notes.txt: not UTF-8 at byte 2") && failure.contains("hint:"), "{failure}");
    }
}
