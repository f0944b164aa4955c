//! Builds the prompt: stdin, then the file of `-f`, then the text of `-p`.

pub mod stdin;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::cli::failure::Failure;
use crate::cli::input::stdin::{LateStdin, Stdin, Taken};
use crate::encoding::{self, TextError};

/// Size limit of a prompt, in bytes; no context is that long.
pub const MAX_BYTES: u64 = 64 << 20;

/// Sources of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `-f`; `-` is stdin.
    pub file: Option<&'a Path>,
    /// `-p`.
    pub text: Option<&'a str>,
    /// The stdin; `None` leaves it unread.
    pub stdin: Option<Stdin>,
    /// Whether to print warnings only.
    pub is_quiet: bool,
}

/// Reads the prompt. The returned [`LateStdin`] tells whether a silent stdin wrote something later.
///
/// # Errors
/// If the prompt is empty, or a part of it cannot be read or is not UTF-8.
pub fn read_prompt(sources: Sources<'_>) -> Result<(String, LateStdin), Failure> {
    let Sources { file, text, stdin, is_quiet } = sources;
    let wants_stdin = file == Some(Path::new("-"));
    let has_other = text.is_some() || file.is_some() && !wants_stdin;
    if wants_stdin && stdin.is_none() {
        return Err(Failure::usage("--no-stdin and -f - cannot be used together")
            .with_hint("-f - reads stdin, --no-stdin does not: give one of them"));
    }
    let mut late = LateStdin::default();
    let piped = match stdin {
        Some(stdin) if wants_stdin => Some(stdin.read()?),
        Some(stdin) if !stdin.is_terminal() && !has_other => Some(stdin.read()?),
        Some(stdin) if !stdin.is_terminal() => match stdin.read_beside()? {
            Taken::Text(text) => {
                stdin.tell(&text, is_quiet);
                Some(text)
            }
            Taken::Nothing(silent) => {
                late = silent;
                None
            }
        },
        _ => None,
    };
    let filed = match file {
        Some(path) if !wants_stdin => {
            let file = File::open(path).map_err(|error| {
                Failure::io(path, &error).with_hint("to read a file, use -f FILE; for the prompt itself, use -p TEXT")
            })?;
            Some(read_all(file, &path.display().to_string())?)
        }
        _ => None,
    };
    let parts: Vec<&str> = [piped.as_deref(), filed.as_deref(), text].into_iter().flatten().collect();
    let prompt = join(&parts).ok_or_else(|| {
        Failure::usage("the prompt is empty").with_hint("give one with -p TEXT, with -f FILE, or through a pipe")
    })?;
    Ok((prompt, late))
}

/// Joins the non-blank parts with empty lines; `None` if there are none. A single part stays unchanged.
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

/// Reads a whole source; `name` names it in errors.
///
/// # Errors
/// If it cannot be read, is too long, or is not UTF-8.
pub fn read_all(source: impl Read, name: &str) -> Result<String, Failure> {
    read_text(source, name, MAX_BYTES, "a prompt")
}

/// Reads a whole text file of at most `n_max` bytes; `what` names its content in errors.
///
/// # Errors
/// If it cannot be read, is too long, or is not UTF-8.
pub fn read_file(path: &Path, n_max: u64, what: &str) -> Result<String, Failure> {
    let file = File::open(path).map_err(|error| Failure::io(path, &error))?;
    read_text(file, &path.display().to_string(), n_max, what)
}

fn read_text(source: impl Read, name: &str, n_max: u64, what: &str) -> Result<String, Failure> {
    encoding::read_text(source, n_max).map_err(|error| match TextError::of(&error) {
        Some(TextError::TooLong { .. }) => {
            let size = if n_max < 1 << 20 { format!("{} KiB", n_max >> 10) } else { format!("{} MiB", n_max >> 20) };
            Failure::new(format!("{name}: {what} has at most {size}"))
        }
        _ => Failure::io(Path::new(name), &error),
    })
}

/// Removes the byte-order mark that `"$(cat FILE)"` puts before an argument, or after the `=` of a long flag.
#[must_use]
pub fn without_mark(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    match text.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => format!("{flag}={}", encoding::without_mark(value)).into(),
        _ => encoding::without_mark(text).into(),
    }
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
    fn issue_13_5_arguments_lose_their_mark() {
        for (given, expected) in [
            ("\u{feff}Say hi.", "Say hi."),
            ("--json-schema=\u{feff}{}", "--json-schema={}"),
            ("--a=b=\u{feff}c", "--a=b=\u{feff}c"),
            ("a=\u{feff}c", "a=\u{feff}c"),
            ("-p", "-p"),
            ("\u{feff}", ""),
        ] {
            assert_eq!(without_mark(given.into()), *expected);
        }
    }

    #[test]
    fn a_prompt_must_be_text() {
        assert_eq!(read_all(&b"a\0b"[..], "x").unwrap(), "a\0b");
        let failure = read_all(&b"ab\xff"[..], "notes.txt").unwrap_err().to_string();
        assert!(failure.contains("notes.txt: not UTF-8 at byte 2") && failure.contains("hint:"), "{failure}");
    }
}
