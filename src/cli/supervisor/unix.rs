//! The watcher and the worker, on systems with signals.

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
use crate::cli::sandbox;
use crate::cli::supervisor::CrashMessage;
use crate::llama::crash_message;

/// Environment variable of a worker: the watcher's process id, and the descriptor of the pipe for the last message.
/// Processes that a worker starts inherit it too, but have another parent.
const WORKER: &str = "CHASKI_WORKER";

/// How often an idle OpenMP thread looks for work before it sleeps, for libgomp. Its default, 300,000 times, takes
/// milliseconds: with another busy program on the CPUs, whole time slices pass in waiting, and 50 tokens per second
/// become 5. Alone on the machine, 1,000 are as fast as the default.
const SPINS: &str = "1000";

static IS_CONTAINED: OnceLock<()> = OnceLock::new();

/// Runs `work` in a worker process and returns its result. `hint` is for a crash.
///
/// # Errors
/// The failure of `work`, or a crash.
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
            // The failed forwarding may have replaced the default signal handlers.
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
    // On a terminal, [`Terminal::restore`] has started a new line.
    if !isatty(io::stderr()) {
        expect_text_of_others();
    }
    Err(failure(status, words, hint))
}

/// Whether this process gets its signals from a watcher.
#[must_use]
pub fn is_worker() -> bool {
    IS_CONTAINED.get().is_some()
}

/// In a worker: sends the last message before a crash to the watcher.
pub fn begin_work() {
    let listener = watcher().and_then(|fd| File::options().write(true).open(format!("/dev/fd/{fd}")).ok());
    if let Some(listener) = listener {
        crash_message::send_to(listener);
    }
}

/// Starts a worker.
///
/// # Errors
/// If it cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<(Child, CrashMessage)> {
    hear_of_children()?;
    let (heard, said) = io::pipe()?;
    fcntl_setfd(&said, FdFlags::empty())?;
    fcntl_setfl(&heard, OFlags::NONBLOCK)?;
    command.env(WORKER, format!("{}:{}", std::process::id(), said.as_raw_fd()));
    // ggml would print a backtrace, or start a debugger for it.
    command.env("GGML_NO_BACKTRACE", "1");
    // libgomp reads this when it is loaded, so this process cannot set it for itself.
    if ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"].iter().all(|name| env::var_os(name).is_none()) {
        command.env("GOMP_SPINCOUNT", SPINS);
    }
    sandbox::keep_shaders(command);
    Ok((command.spawn()?, CrashMessage { heard: Some(heard) }))
}

/// Undoes an inherited SIGCHLD that is ignored: nobody could tell how children ended. Handlers stay, so it runs once.
fn hear_of_children() -> io::Result<()> {
    static IS_HEARD: OnceLock<()> = OnceLock::new();
    if IS_HEARD.get().is_none() {
        register(SIGCHLD, Arc::default())?;
        IS_HEARD.get_or_init(|| ());
    }
    Ok(())
}

/// The descriptor for the last message, if this process's parent is the watcher.
fn watcher() -> Option<i32> {
    let value = env::var(WORKER).ok()?;
    let (parent, fd) = value.split_once(':')?;
    let is_parent = Some(getppid()?.as_raw_nonzero().get()) == parent.parse::<i32>().ok();
    fd.parse().ok().filter(|_| is_parent)
}

/// Runs the worker and returns how it ended. The outer error means that no worker was started.
fn watch() -> io::Result<(io::Result<ExitStatus>, CrashMessage)> {
    let program = env::current_exe()?;
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(interrupt::hangup()))?;
    let handle = signals.handle();
    let (tell, worker) = mpsc::sync_channel(1);
    let pass_on = move || {
        // No worker was started.
        let Ok(worker) = worker.recv() else { return };
        let mut is_ending = false;
        for signal in signals.forever() {
            // A closed terminal sends SIGHUP more than once; that is not a second request.
            if signal == SIGHUP && is_ending {
                continue;
            }
            is_ending |= signal != SIGINT;
            // The worker may have ended by itself.
            let _ = kill_process(worker, if signal == SIGINT { Signal::USR1 } else { Signal::USR2 });
        }
    };
    // Before the worker: if this fails, the work runs in this process and must not have begun in another.
    thread::Builder::new().name("signals".to_owned()).spawn(pass_on)?;
    let mut arguments = env::args_os();
    let mut command = Command::new(program);
    command.arg0(arguments.next().unwrap_or_else(|| "chaski".into())).args(arguments);
    let (mut child, words) = spawn(&mut command)?;
    // The thread waits for the process id.
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
        // A forwarded signal may arrive before the engine listens.
        None if [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2].contains(&signal) => Failure::interrupted(),
        None if signal == SIGKILL => Failure::new("the engine was killed")
            .with_hint("probably memory ran out: use a smaller -c, or a smaller model"),
        None => Failure::new(format!("the engine was stopped by signal {signal}")),
    }
}

/// Ends the worker if the watcher is killed.
#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The watcher may have died before this call.
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

/// Saved terminal settings.
struct Terminal(Option<Termios>);

impl Terminal {
    fn now() -> Terminal {
        Terminal(tcgetattr(io::stdin()).ok())
    }

    /// Undoes what an editor or progress bar changed, so that a message is readable.
    fn restore(&self) {
        if let Some(state) = &self.0
            // In the background, tcsetattr would stop the process.
            && tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
        {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, state);
        }
        if isatty(io::stderr()) {
            // Plain style, visible cursor, no bracketed paste, a new line.
            let _ = io::stderr().write_all(b"\x1b[0m\x1b[?25h\x1b[?2004l\n");
        }
    }
}
