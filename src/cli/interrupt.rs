//! Ctrl-C and SIGTERM: the first one asks for a clean end, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::failure::{ExitCode, Failure};

/// A flag that becomes true on the first signal.
///
/// # Errors
/// When the handler cannot be installed.
pub fn flag() -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    let on_signal = move || {
        if raised.swap(true, Ordering::Relaxed) {
            #[expect(clippy::exit, reason = "the user asked twice")]
            std::process::exit(i32::from(ExitCode::Interrupted as u8));
        }
    };
    ctrlc::set_handler(on_signal).map_err(|error| Failure::new(format!("cannot handle Ctrl-C: {error}")))?;
    Ok(flag)
}
