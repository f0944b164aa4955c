//! Ctrl-C and SIGTERM: the first one asks for a clean end, the second ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

use crate::cli::failure::{ExitCode, Failure};

/// A flag that becomes true on the first signal.
///
/// # Errors
/// When the handler cannot be installed.
pub fn flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let install = || -> io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag raised by the first. It ends the process without its
            // exit handlers, which would meet llama.cpp's threads at work.
            register_conditional_shutdown(signal, i32::from(ExitCode::Interrupted as u8), flag.clone())?;
            register(signal, flag.clone())?;
        }
        Ok(())
    };
    install().map_err(|error| Failure::new(format!("cannot handle Ctrl-C: {error}")))?;
    Ok(flag)
}
