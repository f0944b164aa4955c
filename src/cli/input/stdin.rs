//! What stdin is, and how it is read.
//!
//! A pipe and a file are always read to their end: whoever connected them meant it, and a program before a pipe may take its time. A
//! socket or a device may have been inherited from a service that never says anything. Beside another prompt, such a stdin is
//! waited for a few seconds only.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::cli::failure::Failure;
use crate::cli::input::read_all;
use crate::cli::output::stderr_line;

/// How long stdin may be silent before the user is told, or before a doubtful one is left alone.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    /// A pipe or a file.
    Connected,
    /// A socket or a device, `/dev/null` among them.
    Doubtful,
}

/// What stdin is.
#[derive(Clone, Copy, Debug)]
pub struct Stdin {
    kind: Kind,
    /// Whether the process that started this one reads it as well, as a shell's `while read` loop does.
    is_shared: bool,
}

/// A stdin that was left alone because it said nothing.
#[derive(Clone, Debug, Default)]
pub struct LateStdin(Arc<AtomicBool>);

impl LateStdin {
    /// Tells the user if it said something since then.
    pub fn tell(&self) {
        if self.0.load(Ordering::Relaxed) {
            stderr_line(
                "notice: data came on stdin too late and is not part of the prompt; hint: use -f - to wait \
                         for stdin",
            );
        }
    }
}

/// What was read.
#[derive(Debug)]
pub enum Taken {
    /// All of it.
    Text(String),
    /// Nothing was said in time.
    Nothing(LateStdin),
}

impl Stdin {
    /// That of this process. It must not be confined yet: then it cannot see what other processes have open.
    #[must_use]
    pub fn now() -> Stdin {
        Stdin { kind: kind(), is_shared: shared::is_partly_read() || shared::is_inherited() }
    }

    /// Whether people type there.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Reads it to its end. There is no prompt without it.
    ///
    /// # Errors
    /// When it fails, is too long, or not UTF-8.
    pub fn read(self) -> Result<String, Failure> {
        let hint = (!self.is_terminal()).then_some("");
        read_to_end(hint)
    }

    /// Reads it, beside another prompt.
    ///
    /// # Errors
    /// When it fails, is too long, or not UTF-8.
    pub fn read_beside(self) -> Result<Taken, Failure> {
        match self.kind {
            Kind::Terminal => Ok(Taken::Nothing(LateStdin::default())),
            Kind::Connected => read_to_end(Some("; hint: use --no-stdin if there is nothing to read")).map(Taken::Text),
            Kind::Doubtful => read_unless_silent(),
        }
    }

    /// Tells what became of a text that was read beside another prompt.
    pub fn tell(self, text: &str, is_quiet: bool) {
        if text.trim().is_empty() {
            // Whoever gives a device, as /dev/null, means nothing to be there.
            if self.kind == Kind::Connected {
                stderr_line("notice: stdin was empty; hint: use --no-stdin if there is nothing to read");
            }
            return;
        }
        // In a loop it was hardly meant. Otherwise it is a part of the statistics.
        if self.is_shared || !is_quiet {
            let mut told = String::from("notice: stdin is part of the prompt: ");
            let _ = write!(told, "{}, {}", counted(text.lines().count(), "line"), counted(text.len(), "byte"));
            if self.is_shared {
                told.push_str("; hint: if this is a loop over lines, use --no-stdin, or the loop ends here");
            }
            stderr_line(&told);
        }
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Whoever sits at a terminal is told what is waited for; `hint` is for that, `None` tells nothing.
fn read_to_end(hint: Option<&'static str>) -> Result<String, Failure> {
    let (reading, end) = mpsc::channel::<()>();
    let tell = move || {
        if end.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
            stderr_line(&format!("notice: reading stdin until it ends{}", hint.unwrap_or_default()));
        }
    };
    let teller = (hint.is_some() && io::stderr().is_terminal()).then(|| thread::spawn(tell));
    let text = read_all(io::stdin(), "stdin");
    drop(reading);
    // It ends at once, or has told something.
    let _ = teller.map(thread::JoinHandle::join);
    text
}

/// A service's stdin may be open and never say anything: with a prompt at hand that must not block.
fn read_unless_silent() -> Result<Taken, Failure> {
    let (first, first_byte) = mpsc::channel();
    let (rest, all) = mpsc::channel();
    let late = LateStdin::default();
    let spoke = late.clone();
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
        spoke.0.store(n > 0, Ordering::Relaxed);
        // Nobody listens any more if it came too late.
        if first.send(()).is_ok() {
            let _ = rest.send(read_all(byte[..n].chain(stdin), "stdin"));
        }
    });
    if first_byte.recv_timeout(SILENCE).is_err() {
        stderr_line(
            "notice: nothing came on stdin, so it is ignored; hint: use -f - to wait for it, or --no-stdin to hide \
             this notice",
        );
        return Ok(Taken::Nothing(late));
    }
    all.recv().unwrap_or_else(|_| Ok(String::new())).map(Taken::Text)
}

#[cfg(unix)]
fn kind() -> Kind {
    use rustix::fs::{FileType, fstat};
    match fstat(io::stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        _ if io::stdin().is_terminal() => Kind::Terminal,
        Ok(FileType::Socket | FileType::CharacterDevice) => Kind::Doubtful,
        _ => Kind::Connected,
    }
}

#[cfg(not(unix))]
fn kind() -> Kind {
    if io::stdin().is_terminal() { Kind::Terminal } else { Kind::Connected }
}

/// Signs that stdin is somebody else's, too.
#[cfg(unix)]
mod shared {
    use std::fs;
    use std::io;
    use std::path::PathBuf;

    use rustix::fs::{FileType, fstat, tell};

    /// Whether it is a file of which somebody read the beginning.
    pub(super) fn is_partly_read() -> bool {
        let is_file =
            fstat(io::stdin()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        is_file && tell(io::stdin()).is_ok_and(|at| at > 0)
    }

    /// Whether it is a pipe or a socket that the parent has as its own stdin. Only Linux tells.
    pub(super) fn is_inherited() -> bool {
        let stdin = |pid: &str| fs::read_link(format!("/proc/{pid}/fd/0")).ok();
        let is_stream =
            |link: &PathBuf| link.to_str().is_some_and(|link| link.starts_with("pipe:") || link.starts_with("socket:"));
        let Some(ours) = stdin("self").filter(is_stream) else { return false };
        let parent = parent_of("self").and_then(|parent| match crate::cli::supervisor::is_worker() {
            // The process that watches this one is of the same program.
            true => parent_of(&parent),
            false => Some(parent),
        });
        parent.and_then(|parent| stdin(&parent)) == Some(ours)
    }

    fn parent_of(pid: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some(parent.trim().to_owned())
    }
}

#[cfg(not(unix))]
mod shared {
    pub(super) fn is_partly_read() -> bool {
        false
    }

    pub(super) fn is_inherited() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_words() {
        assert_eq!((counted(1, "line"), counted(20, "byte")), ("1 line".to_owned(), "20 bytes".to_owned()));
    }
}
