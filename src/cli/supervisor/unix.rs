//! Two processes, where there are signals.

use std::env;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpgrp, getppid, kill_process};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag::register;
use signal_hook::iterator::Signals;

use crate::batch::supervise::crash;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::interrupt;
use crate::cli::output::{expect_text_of_others, stderr_line};
use crate::cli::supervisor::CrashMessage;
use crate::llama::crash_message;

/// In a worker's environment: the process that watches it, and the descriptor of the pipe for last words. What a worker
/// starts inherits it too, and is none: it has another parent.
const WORKER: &str = "CHASKI_WORKER";

static IS_CONTAINED: OnceLock<()> = OnceLock::new();

/// Does the work in a process of its own, and tells how that ended. `hint` is for a crash.
///
/// # Errors
/// Those of the work, and a crash.
pub fn contained(
    hint: impl FnOnce() -> String,
    work: impl FnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    if watcher().is_some() {
        begin_work();
        IS_CONTAINED.get_or_init(|| ());
        end_with_parent().map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        return work();
    }
    let terminal = Terminal::now();
    let (status, words) = match watch() {
        Ok(ended) => ended,
        Err(error) => {
            // What would pass signals on took them from the system.
            interrupt::end_at_once()?;
            stderr_line(&format!("notice: the engine runs in this process, because no other can be started: {error}"));
            return work();
        }
    };
    let status = status.map_err(|error| Failure::new(format!("cannot find out how the engine ended: {error}")))?;
    if let Some(code) = status.code() {
        return Ok(ExitCode::from_number(code));
    }
    terminal.restore();
    // A terminal is on a new line by now.
    if !isatty(io::stderr()) {
        expect_text_of_others();
    }
    Err(failure(status, words, hint))
}

/// Whether signals come from the process that watches this one.
#[must_use]
pub fn is_worker() -> bool {
    IS_CONTAINED.get().is_some()
}

/// In a worker: last words go to whoever watches.
pub fn begin_work() {
    let listener = watcher().and_then(|fd| File::options().write(true).open(format!("/dev/fd/{fd}")).ok());
    if let Some(listener) = listener {
        crash_message::send_to(listener);
    }
}

/// Starts a worker.
///
/// # Errors
/// When it cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<(Child, CrashMessage)> {
    hear_of_children()?;
    let (heard, said) = io::pipe()?;
    fcntl_setfd(&said, FdFlags::empty())?;
    fcntl_setfl(&heard, OFlags::NONBLOCK)?;
    command.env(WORKER, format!("{}:{}", std::process::id(), said.as_raw_fd()));
    // A backtrace is printed, or made by a debugger that ggml starts.
    command.env("GGML_NO_BACKTRACE", "1");
    Ok((command.spawn()?, CrashMessage { heard: Some(heard) }))
}

/// Whoever started this process may have it ignore the ends of children; then nobody could tell how they ended. A handler
/// that does nothing undoes that; once, as each stays.
fn hear_of_children() -> io::Result<()> {
    static IS_HEARD: OnceLock<()> = OnceLock::new();
    if IS_HEARD.get().is_none() {
        register(SIGCHLD, Arc::default())?;
        IS_HEARD.get_or_init(|| ());
    }
    Ok(())
}

/// The descriptor for last words, if the parent of this process watches it.
fn watcher() -> Option<i32> {
    let value = env::var(WORKER).ok()?;
    let (parent, fd) = value.split_once(':')?;
    let is_parent = Some(getppid()?.as_raw_nonzero().get()) == parent.parse::<i32>().ok();
    fd.parse().ok().filter(|_| is_parent)
}

/// How the worker ended; the outer error says that none was started.
fn watch() -> io::Result<(io::Result<ExitStatus>, CrashMessage)> {
    let program = env::current_exe()?;
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(interrupt::hangup()))?;
    let handle = signals.handle();
    let (tell, worker) = mpsc::sync_channel(1);
    let pass_on = move || {
        // Nobody tells where no worker could be started.
        let Ok(worker) = worker.recv() else { return };
        let mut is_ending = false;
        for signal in signals.forever() {
            // A closed terminal says so more than once, and is not impatient.
            if signal == SIGHUP && is_ending {
                continue;
            }
            is_ending |= signal != SIGINT;
            // It may have ended by itself.
            let _ = kill_process(worker, if signal == SIGINT { Signal::USR1 } else { Signal::USR2 });
        }
    };
    // Before the worker: should this fail, the work is done in this process, and must not have begun in another.
    thread::Builder::new().name("signals".to_owned()).spawn(pass_on)?;
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().unwrap_or_else(|| "chaski".into())).args(arguments);
    let (mut child, words) = spawn(&mut command)?;
    // The thread waits for it.
    let _ = tell.send(Pid::from_child(&child));
    let status = child.wait();
    handle.close();
    Ok((status, words))
}

fn failure(status: ExitStatus, mut words: CrashMessage, hint: impl FnOnce() -> String) -> Failure {
    let signal = status.signal().unwrap_or_default();
    match crash(status) {
        Some("bus error") => {
            Failure::new("the engine stopped: bus error, probably because the model file was truncated while in use")
                .with_hint("do not change the model file while it is in use; if you did not, check the disk")
        }
        Some(name) => {
            let words = words.take().unwrap_or_else(|| name.to_owned());
            Failure::new(format!("the engine stopped: {words}")).with_hint(hint())
        }
        // What is passed on comes before the engine listens, too.
        None if [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2].contains(&signal) => Failure::interrupted(),
        None if signal == SIGKILL => Failure::new("the engine was killed")
            .with_hint("probably memory ran out: use a smaller -c, or a smaller model"),
        None => Failure::new(format!("the engine was stopped by signal {signal}")),
    }
}

/// Whoever kills the watching process ends the working one.
#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before.
    if watcher().is_none() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    let look = || {
        while watcher().is_some() {
            thread::sleep(std::time::Duration::from_millis(500));
        }
        signal_hook::low_level::exit(i32::from(ExitCode::Error as u8));
    };
    thread::Builder::new().name("parent".to_owned()).spawn(look).map(drop)
}

/// A terminal as it was.
struct Terminal(Option<Termios>);

impl Terminal {
    fn now() -> Terminal {
        Terminal(tcgetattr(io::stdin()).ok())
    }

    /// Undoes what an editor or a progress bar did, so that a message can be read.
    fn restore(&self) {
        if let Some(state) = &self.0
            // From the background this would stop the process.
            && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
        {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, state);
        }
        if isatty(io::stderr()) {
            // Plain style, cursor shown, pastes as keys, a new line.
            let _ = io::stderr().write_all(b"\x1b[0m\x1b[?25h\x1b[?2004l\n");
        }
    }
}
