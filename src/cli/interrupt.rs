//! Handles Ctrl-C, SIGTERM and SIGHUP: the first signal asks for a clean end, the second ends the process.
//!
//! A closed terminal sends SIGHUP more than once (the shell forwards it), so SIGHUP never counts as the second signal.
//! Under nohup, SIGHUP stays ignored.

use std::io;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

use crate::cli::failure::{ExitCode, Failure};
#[cfg(unix)]
use crate::cli::supervisor;

/// True while a signal ends the process at once; see [`end_at_once`].
#[cfg(unix)]
static ENDS_AT_ONCE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes signals end the process until [`Signals`] exist. Without this, the system would ignore them after earlier
/// handlers were removed.
///
/// # Errors
/// If the handlers cannot be installed.
#[cfg(unix)]
pub fn end_at_once() -> Result<(), Failure> {
    let ends_at_once = ENDS_AT_ONCE.get_or_init(|| Arc::new(AtomicBool::new(true)));
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
        let code = i32::from(ExitCode::Interrupted as u8);
        register_conditional_shutdown(signal, code, ends_at_once.clone()).map_err(|error| unhandled(&error))?;
    }
    Ok(())
}

/// Makes a write fail when a file reaches its size limit (`ulimit -f`), as on a full disk. The default would end the
/// process.
///
/// # Errors
/// If the handler cannot be installed.
pub fn outlive_full_files() -> io::Result<()> {
    #[cfg(unix)]
    register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}

fn unhandled(error: &io::Error) -> Failure {
    Failure::new(format!("cannot handle Ctrl-C: {error}"))
}

/// A flag that becomes true on the first signal.
///
/// # Errors
/// If the handler cannot be installed.
pub fn flag() -> Result<Arc<AtomicBool>, Failure> {
    Ok(Signals::new()?.raised)
}

/// The signals that mean Ctrl-C and termination. A worker ignores the real ones and gets SIGUSR1 and SIGUSR2 from the
/// watching process instead.
fn heard() -> io::Result<[i32; 2]> {
    #[cfg(unix)]
    if supervisor::is_worker() {
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
            register(signal, Arc::default())?;
        }
        return Ok([signal_hook::consts::SIGUSR1, signal_hook::consts::SIGUSR2]);
    }
    Ok([SIGINT, SIGTERM])
}

/// SIGHUP, unless it is ignored, as under nohup.
#[cfg(unix)]
#[must_use]
pub fn hangup() -> Option<i32> {
    use signal_hook::consts::SIGHUP;
    // Bit 0 is signal 1. If the system does not report the mask: nohup leaves no terminal on stdout.
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
        Some(u64::from_str_radix(mask.trim(), 16).ok()? & 1 != 0)
    });
    let is_ignored = ignored.unwrap_or_else(|| !std::io::IsTerminal::is_terminal(&io::stdout()));
    (!is_ignored).then_some(SIGHUP)
}

/// Signals for a command that handles one task after another.
#[derive(Clone, Debug)]
pub struct Signals {
    /// Set by every signal: the current task should end.
    pub raised: Arc<AtomicBool>,
    /// Set by SIGTERM and SIGHUP: the command should end too.
    terminated: Arc<AtomicBool>,
    /// While true, a signal ends the process at once.
    is_idle: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// If they cannot be installed.
    pub fn new() -> Result<Signals, Failure> {
        let flag = || Arc::new(AtomicBool::new(false));
        let signals = Signals { raised: flag(), terminated: flag(), is_idle: flag() };
        let install = || -> io::Result<()> {
            let code = i32::from(ExitCode::Interrupted as u8);
            let [interrupt, terminate] = heard()?;
            for signal in [interrupt, terminate] {
                // Order matters: the second signal must find the flag that the first one set. It ends the process
                // without exit handlers, which would run while llama.cpp's threads are working.
                register_conditional_shutdown(signal, code, signals.raised.clone())?;
                register_conditional_shutdown(signal, code, signals.is_idle.clone())?;
                register(signal, signals.raised.clone())?;
            }
            register(terminate, signals.terminated.clone())?;
            #[cfg(unix)]
            if let Some(hangup) = hangup().filter(|_| !supervisor::is_worker()) {
                register_conditional_shutdown(hangup, code, signals.is_idle.clone())?;
                register(hangup, signals.raised.clone())?;
                register(hangup, signals.terminated.clone())?;
            }
            Ok(())
        };
        install().map_err(|error| unhandled(&error))?;
        #[cfg(unix)]
        if let Some(ends_at_once) = ENDS_AT_ONCE.get() {
            ends_at_once.store(false, Ordering::Relaxed);
        }
        Ok(signals)
    }

    /// Waits for input; a signal meanwhile ends the process, because nothing would be lost. Returns `None` if a signal
    /// arrived before and was not taken yet.
    pub fn idle<T>(&self, wait: impl FnOnce() -> T) -> Option<T> {
        // Order matters: set the flag before the check, or a signal between the two would be missed.
        self.is_idle.store(true, Ordering::SeqCst);
        let waited = (!self.raised.load(Ordering::SeqCst)).then(wait);
        self.is_idle.store(false, Ordering::SeqCst);
        waited
    }

    /// Whether a signal arrived since the last call. SIGTERM and SIGHUP stay set.
    pub fn take(&self) -> bool {
        let terminated = self.terminated.load(Ordering::Relaxed);
        self.raised.swap(terminated, Ordering::Relaxed) || terminated
    }

    /// Whether the command should end.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.terminated.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_asks_for_a_clean_end_once_there_are_signals() {
        end_at_once().unwrap();
        let signals = Signals::new().unwrap();
        // Before `Signals::new` this signal would end the process.
        signal_hook::low_level::raise(SIGINT).unwrap();
        assert_eq!(signals.idle(|| panic!("the signal is not waited for again")), None::<()>);
        assert!(signals.take() && !signals.is_terminated());
        assert_eq!(signals.idle(|| 7), Some(7));
    }
}
