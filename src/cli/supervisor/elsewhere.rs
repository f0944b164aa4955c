//! One process, where there are no signals.

use std::io;
use std::process::{Child, Command};

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::supervisor::CrashMessage;

/// Does the work in this process.
///
/// # Errors
/// Those of the work.
pub fn contained(
    _hint: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    work()
}

/// Starts a process.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<(Child, CrashMessage)> {
    Ok((command.spawn()?, CrashMessage::default()))
}

/// Nothing is to be done.
pub fn begin_work() {}

/// Signals are passed on to nobody.
#[must_use]
pub fn is_worker() -> bool {
    false
}
