//! Captures llama.cpp's log: its errors go into our error messages, the rest is shown only on request.

use std::ffi::{CStr, c_char, c_void};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::text::sanitize_for_terminal;

/// The first error logged since the last [`take_error`]. llama.cpp gives its reasons only in the log, and logs the
/// consequences after the cause.
static ERROR: Mutex<Option<String>> = Mutex::new(None);
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Redirects llama.cpp's log to this module. `verbose` copies it to stderr.
#[expect(unsafe_code, reason = "the safe bindings log to stderr or nowhere; neither keeps errors")]
pub fn capture(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    // SAFETY: the callback is a plain function without state, valid for the life of the process.
    unsafe {
        llama_cpp_sys_2::llama_log_set(Some(on_log), std::ptr::null_mut());
        llama_cpp_sys_2::ggml_log_set(Some(on_log), std::ptr::null_mut());
    }
}

/// The first error logged since the last call.
#[must_use]
pub fn take_error() -> Option<String> {
    ERROR.lock().ok()?.take()
}

#[expect(unsafe_code, reason = "the signature of llama.cpp's callback")]
unsafe extern "C" fn on_log(level: llama_cpp_sys_2::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives until the callback returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if VERBOSE.load(Ordering::Relaxed) {
        // The log quotes metadata of the file, so it is sanitized. A closed stderr must not unwind into C++.
        let _ = std::io::stderr().write_all(sanitize_for_terminal(&text).as_bytes());
    }
    if level == llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR
        && let Ok(mut error) = ERROR.lock()
    {
        error.get_or_insert_with(|| text.trim().to_owned());
    }
}
