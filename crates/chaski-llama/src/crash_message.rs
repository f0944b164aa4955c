//! Captures the message of llama.cpp before it aborts the process: a failed GGML_ASSERT or an uncaught C++ exception.
//!
//! This does not prevent the crash. It sends the message to the parent process (`cli::supervisor` of the binary) instead of
//! stderr, without a backtrace or a debugger.

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

static LISTENER: OnceLock<File> = OnceLock::new();
static DEFAULT: OnceLock<Option<TerminateHandler>> = OnceLock::new();

type TerminateHandler = extern "C" fn();

#[expect(unsafe_code, reason = "std::set_terminate, which has the same name in libstdc++ and libc++")]
unsafe extern "C" {
    #[link_name = "_ZSt13set_terminatePFvvE"]
    fn set_terminate(handler: Option<TerminateHandler>) -> Option<TerminateHandler>;
}

/// Sends crash messages to `listener` from now on. Only the first call has an effect.
#[expect(unsafe_code, reason = "the safe bindings offer neither")]
pub fn send_to(listener: File) {
    if LISTENER.set(listener).is_err() {
        return;
    }
    // SAFETY: both take a plain function without state, valid for the life of the process, that never unwinds.
    unsafe {
        llama_cpp_sys_2::ggml_set_abort_callback(Some(on_abort));
        let _ = DEFAULT.set(set_terminate(Some(on_terminate)));
    }
}

/// ggml aborts after this returns.
#[expect(unsafe_code, reason = "the signature of ggml's callback")]
unsafe extern "C" fn on_abort(message: *const c_char) {
    let Some(mut listener) = LISTENER.get().filter(|_| !message.is_null()) else { return };
    // SAFETY: ggml passes a NUL-terminated buffer on its stack.
    let _ = listener.write_all(unsafe { CStr::from_ptr(message) }.to_bytes());
}

/// The library's default handler prints the exception to stderr and aborts, so stderr is redirected first.
extern "C" fn on_terminate() {
    if let Some(listener) = LISTENER.get() {
        let _ = rustix::stdio::dup2_stderr(listener);
    }
    if let Some(Some(default)) = DEFAULT.get() {
        default();
    }
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    const CHILD: &str = "CHASKI_TEST_LAST_WORDS";

    #[expect(unsafe_code, reason = "what the test is about")]
    unsafe extern "C" {
        #[link_name = "_ZSt9terminatev"]
        fn terminate() -> !;
    }

    #[test]
    #[ignore = "a process for the other test"]
    #[expect(unsafe_code, reason = "what the test is about")]
    fn child() {
        let Ok(how) = std::env::var(CHILD) else { return };
        send_to(File::options().write(true).open("/dev/stdout").unwrap());
        // SAFETY: the first gets strings that match its format, the second takes no arguments; both end the process.
        unsafe {
            match how.as_str() {
                "assert" => llama_cpp_sys_2::ggml_abort(
                    c"a/b.cpp".as_ptr(),
                    7,
                    c"GGML_ASSERT(%s) failed".as_ptr(),
                    c"x".as_ptr(),
                ),
                _ => terminate(),
            }
        }
    }

    #[test]
    fn they_are_heard_and_stderr_is_not_bothered() {
        for (how, words) in [("assert", "a/b.cpp:7: GGML_ASSERT(x) failed"), ("terminate", "terminat")] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--ignored", "--exact", "crash_message::tests::child", "--nocapture"]);
            child.env(CHILD, how).env("GGML_NO_BACKTRACE", "1").stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = child.spawn().unwrap();
            let (mut stdout, mut stderr) = (String::new(), String::new());
            child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            assert_eq!(child.wait().unwrap().code(), None);
            assert!(stdout.contains(words) && stderr.is_empty(), "{how}: {stdout:?} {stderr:?}");
        }
    }
}
