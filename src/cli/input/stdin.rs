//! Reads stdin without hanging on one that nobody writes to.
//!
//! Pipes and files are always read to the end: the user connected them, and the program before a pipe may be slow. A
//! socket or device may be inherited from a service and never write anything. If there is another prompt, chaski waits
//! for such a stdin only for some seconds.

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

/// How long stdin may be silent before the user gets a notice, or a doubtful stdin is skipped.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Terminal,
    /// A pipe or a file.
    Connected,
    /// A socket or a device, `/dev/null` among them.
    Doubtful,
}

/// The kind of this process's stdin.
#[derive(Clone, Copy, Debug)]
pub struct Stdin {
    kind: Kind,
    /// Whether the parent process reads it too, as a shell's `while read` loop does.
    is_shared: bool,
}

/// A stdin that was skipped because it was silent.
#[derive(Clone, Debug, Default)]
pub struct LateStdin(Arc<AtomicBool>);

impl LateStdin {
    /// Prints a notice if data arrived since then.
    pub fn tell(&self) {
        if self.0.load(Ordering::Relaxed) {
            stderr_line(
                "notice: data came on stdin too late and is not part of the prompt; hint: use -f - to wait \
                         for stdin",
            );
        }
    }
}

/// Result of reading stdin beside another prompt.
#[derive(Debug)]
pub enum Taken {
    /// Everything.
    Text(String),
    /// Nothing arrived in time.
    Nothing(LateStdin),
}

impl Stdin {
    /// Inspects the stdin of this process. Call it before the sandbox, which hides the open files of other processes.
    #[must_use]
    pub fn now() -> Stdin {
        Stdin { kind: kind(), is_shared: shared::is_partly_read() || shared::is_inherited() }
    }

    /// Whether stdin is a terminal.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.kind == Kind::Terminal
    }

    /// Reads it to the end. Without it there is no prompt.
    ///
    /// # Errors
    /// If it cannot be read, is too long, or is not UTF-8.
    pub fn read(self) -> Result<String, Failure> {
        let hint = (!self.is_terminal()).then_some("");
        read_to_end(hint)
    }

    /// Reads it if there is another prompt.
    ///
    /// # Errors
    /// If it cannot be read, is too long, or is not UTF-8.
    pub fn read_beside(self) -> Result<Taken, Failure> {
        match self.kind {
            Kind::Terminal => Ok(Taken::Nothing(LateStdin::default())),
            Kind::Connected => read_to_end(Some("; hint: use --no-stdin if there is nothing to read")).map(Taken::Text),
            Kind::Doubtful => read_unless_silent(),
        }
    }

    /// Prints a notice about a text that was read beside another prompt.
    pub fn tell(self, text: &str, is_quiet: bool) {
        if text.trim().is_empty() {
            // A device such as /dev/null is meant to be empty.
            if self.kind == Kind::Connected {
                stderr_line("notice: stdin was empty; hint: use --no-stdin if there is nothing to read");
            }
            return;
        }
        // In a loop it is probably a mistake. Otherwise it counts as statistics, which `-q` hides.
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

/// Reads stdin to the end. After some silence, tells a user at a terminal that it waits, and adds `hint`; with `None`
/// it says nothing.
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
    // The thread ends at once, or has printed its notice.
    let _ = teller.map(thread::JoinHandle::join);
    text
}

/// Reads stdin unless it stays silent: a service's stdin may be open and never write, and must not block a run that has
/// a prompt.
fn read_unless_silent() -> Result<Taken, Failure> {
    let (first, first_byte) = mpsc::channel();
    let (rest, all) = mpsc::channel();
    let late = LateStdin::default();
    let spoke = late.clone();
    // The thread stays blocked if stdin stays silent; it holds no resources.
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
        // The receiver is gone if the data came too late.
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

/// Detects a stdin that is shared with another process.
#[cfg(unix)]
mod shared {
    use std::fs;
    use std::io;
    use std::path::PathBuf;

    use rustix::fs::{FileType, fstat, tell};

    /// Whether stdin is a file whose beginning was already read.
    pub(super) fn is_partly_read() -> bool {
        let is_file =
            fstat(io::stdin()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        is_file && tell(io::stdin()).is_ok_and(|at| at > 0)
    }

    /// Whether stdin is a pipe or socket that is also the parent's stdin. Known only on Linux.
    pub(super) fn is_inherited() -> bool {
        let stdin = |pid: &str| fs::read_link(format!("/proc/{pid}/fd/0")).ok();
        let is_stream =
            |link: &PathBuf| link.to_str().is_some_and(|link| link.starts_with("pipe:") || link.starts_with("socket:"));
        let Some(ours) = stdin("self").filter(is_stream) else { return false };
        let parent = parent_of("self").and_then(|parent| match crate::cli::supervisor::is_worker() {
            // The watching process is chaski too.
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
