//! Runs the engine in this process, on systems without signals.

use std::io;
use std::process::{Child, Command};

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::supervisor::CrashMessage;

/// Runs `work` in this process.
///
/// # Errors
/// The failure of `work`.
pub fn contained(
    _hint: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    work()
}

/// Starts a process.
///
/// # Errors
/// If it cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<(Child, CrashMessage)> {
    Ok((command.spawn()?, CrashMessage::default()))
}

/// Does nothing.
pub fn begin_work() {}

/// Always false.
#[must_use]
pub fn is_worker() -> bool {
    false
}
