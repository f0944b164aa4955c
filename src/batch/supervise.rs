//! A process that watches the one that works: should the engine take that down, the job goes on without the line that
//! did it.
//!
//! Only a crash is a reason to begin again. A process that is killed from outside stays dead: whoever did it meant it.
//! What was at work is known from the journal; who is to blame, [`crate::batch::journal`] finds out.

use std::io::{self, Read as _};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the child is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Crashes in one run; a line has two of them.
const MAX_CRASHES: u32 = 100;

/// How the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// By itself, with this status.
    Ended(ExitStatus),
    /// By crashes that no line can be blamed for, or too many of them.
    Crashed(ExitStatus),
}

/// Runs children until one ends by itself. `spawn` is told whether the one before crashed, and starts a child with a pipe as its
/// stdin, which is how it hears that it should stop (see [`stop_with_parent`]). `n_at_work` counts the lines that a crash
/// interrupted.
///
/// # Errors
/// When a child cannot be started or watched.
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

/// What took a process down, if it was itself.
#[cfg(unix)]
#[must_use]
pub fn crash(status: ExitStatus) -> Option<&'static str> {
    use std::os::unix::process::ExitStatusExt as _;
    // Numbers that all systems share, but for SIGBUS.
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

/// What took a process down, if it was itself: exceptions have the top bits set.
#[cfg(not(unix))]
#[must_use]
pub fn crash(status: ExitStatus) -> Option<&'static str> {
    (status.code()? as u32 >= 0xC000_0000).then_some("exception")
}

/// In a child: raises `interrupt` when the parent asks for it, or is gone.
///
/// # Errors
/// When no thread can be started.
pub fn stop_with_parent(interrupt: Arc<AtomicBool>) -> io::Result<()> {
    let listen = move || {
        let _ = io::stdin().read(&mut [0]);
        interrupt.store(true, Ordering::Relaxed);
    };
    thread::Builder::new().name("batch-parent".to_owned()).spawn(listen).map(drop)
}
