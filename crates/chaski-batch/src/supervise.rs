//! Runs a batch in a child process. If the engine crashes the child, a new child resumes the job, finds the line that
//! causes the crash, and skips it.
//!
//! Only a crash leads to a restart. A process killed from outside is not restarted, because someone meant to stop it.
//! The journal records which lines were at work; [`crate::journal`] finds the one to blame.

use std::io::{self, Read as _};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the child is polled.
const TICK: Duration = Duration::from_millis(20);

/// Crashes after which a run is given up. A line that crashes the engine causes two.
const MAX_CRASHES: u32 = 100;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A child ended without a crash, with this status.
    Ended(ExitStatus),
    /// A child crashed while no line was at work, or after an interrupt.
    Crashed(ExitStatus),
}

/// Runs children until one ends without a crash. `spawn` gets whether the previous child crashed. It must pipe the
/// child's stdin, because closing that pipe tells the child to stop (see [`stop_with_parent`]). `n_at_work` returns the
/// number of lines that a crash interrupted.
///
/// # Errors
/// When a child cannot be started or watched, or after too many crashes.
pub fn supervise(
    mut spawn: impl FnMut(bool) -> io::Result<Child>,
    interrupt: &AtomicBool,
    mut n_at_work: impl FnMut() -> usize,
    mut notice: impl FnMut(&str),
) -> io::Result<Fate> {
    let mut after_crash = false;
    for _ in 0..MAX_CRASHES {
        let status = wait(spawn(after_crash)?, interrupt)?;
        let Some(name) = crash(status) else { return Ok(Fate::Ended(status)) };
        let n_at_work = n_at_work();
        if n_at_work == 0 || interrupt.load(Ordering::Relaxed) {
            return Ok(Fate::Crashed(status));
        }
        let lines = if n_at_work == 1 { "1 line".to_owned() } else { format!("{n_at_work} lines") };
        notice(&format!("the engine crashed ({name}) while {lines} ran; it starts again, and runs each of them alone"));
        after_crash = true;
    }
    Err(io::Error::other(format!("the engine crashed {MAX_CRASHES} times")))
}

fn wait(mut child: Child, interrupt: &AtomicBool) -> io::Result<ExitStatus> {
    let mut lifeline = child.stdin.take();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt.load(Ordering::Relaxed) {
            drop(lifeline.take());
        }
        thread::sleep(TICK);
    }
}

/// The name of the fault if a process crashed; `None` if it ended or was killed from outside.
#[cfg(unix)]
#[must_use]
pub fn crash(status: ExitStatus) -> Option<&'static str> {
    use std::os::unix::process::ExitStatusExt as _;
    // These numbers are the same on all Unix systems, except SIGBUS.
    match status.signal()? {
        4 => Some("illegal instruction"),
        5 => Some("trap"),
        6 => Some("abort"),
        8 => Some("arithmetic"),
        11 => Some("segmentation fault"),
        7 if cfg!(target_os = "linux") => Some("bus error"),
        10 if cfg!(not(target_os = "linux")) => Some("bus error"),
        _ => None,
    }
}

/// The name of the fault if a process crashed: exception codes have the two top bits set.
#[cfg(not(unix))]
#[must_use]
pub fn crash(status: ExitStatus) -> Option<&'static str> {
    (status.code()? as u32 >= 0xC000_0000).then_some("exception")
}

/// In a child: sets `interrupt` when the parent closes the child's stdin or ends.
///
/// # Errors
/// When the thread cannot be started.
pub fn stop_with_parent(interrupt: Arc<AtomicBool>) -> io::Result<()> {
    let listen = move || {
        let _ = io::stdin().read(&mut [0]);
        interrupt.store(true, Ordering::Relaxed);
    };
    thread::Builder::new().name("batch-parent".to_owned()).spawn(listen).map(drop)
}
