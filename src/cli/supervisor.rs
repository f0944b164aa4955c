//! Runs the engine in a second process, so that a crash ends in a message instead of a core dump. The first process
//! watches the second and keeps the terminal.
//!
//! The worker inherits stdin, stdout and stderr, so no data passes through the watcher. The watcher restarts nothing:
//! only a batch can ([`crate::batch::supervise`]), because it knows what was being done.
//!
//! Signals: a terminal sends Ctrl-C to both processes, `kill` sends to the watcher. So only the watcher listens, and
//! forwards signals under other names. Ctrl-Z stops both. On Windows everything runs in one process.

#[cfg(not(unix))]
mod elsewhere;
#[cfg(unix)]
mod unix;

use crate::text::sanitize_for_terminal;

/// Size limit of the engine's last message, in bytes; ggml's are not longer.
const MAX_WORDS_BYTES: usize = 2048;

#[cfg(not(unix))]
pub use elsewhere::{begin_work, contained, is_worker, spawn};
#[cfg(unix)]
pub use unix::{begin_work, contained, is_worker, spawn};

/// The last message of a process that crashed.
#[derive(Debug, Default)]
pub struct CrashMessage {
    #[cfg(unix)]
    heard: Option<std::io::PipeReader>,
}

impl CrashMessage {
    /// The message on one line; `None` if there is none. Call it after the process ended.
    #[must_use]
    pub fn take(&mut self) -> Option<String> {
        #[cfg(unix)]
        {
            let mut bytes = vec![0; MAX_WORDS_BYTES];
            // The pipe does not block, and the message is written in one piece.
            let n = std::io::Read::read(self.heard.as_mut()?, &mut bytes).ok()?;
            in_words(&String::from_utf8_lossy(&bytes[..n]))
        }
        #[cfg(not(unix))]
        None
    }
}

/// Rewrites ggml's `DIR/FILE:LINE: WHAT`, and a C++ library's report of an exception.
fn in_words(said: &str) -> Option<String> {
    let said = sanitize_for_terminal(said);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next()?;
    if let Some(thrown) = first.strip_prefix("terminate called after throwing an instance of ") {
        let what = lines.next().and_then(|line| line.strip_prefix("what():")).map(|what| format!(": {}", what.trim()));
        return Some(format!("uncaught {}{}", thrown.trim_matches('\''), what.unwrap_or_default()));
    }
    let mut parts = first.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(line), Some(what)) if line.parse::<u32>().is_ok() => {
            let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
            Some(format!("{} in {name}:{line}", what.trim()))
        }
        _ => Some(first.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_fits_a_line() {
        let assert = "/home/a/llama.cpp/src/models/llama.cpp:102: GGML_ASSERT(n_embd_head == n_rot) failed";
        assert_eq!(in_words(assert).unwrap(), "GGML_ASSERT(n_embd_head == n_rot) failed in llama.cpp:102");
        let thrown = "terminate called after throwing an instance of 'std::out_of_range'\n  what():  map::at\n";
        assert_eq!(in_words(thrown).unwrap(), "uncaught std::out_of_range: map::at");
        assert_eq!(
            in_words("terminate called without an active exception\n").unwrap(),
            "terminate called without an active exception"
        );
        assert_eq!(in_words("a: \x1b]52;c;eA==\x07b").unwrap(), "a: ]52;c;eA==b");
        assert_eq!(in_words("\n"), None);
    }
}
