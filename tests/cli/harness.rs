//! Runs the command in its own folder, without the caller's environment variables that chaski reads.

use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::support::tiny;

pub(crate) const CHASKI: &str = env!("CARGO_BIN_EXE_chaski");

/// Words of the tiny vocabulary.
pub(crate) const PROMPT: &str = "the rain in the station";

/// Keeps all layers on the CPU: memory is checked only there, and these tests also run on GPU builds.
pub(crate) const ON_CPU: [&str; 2] = ["-ngl", "0"];

/// Longest wait for anything. Even on a busy machine, only a hanging command takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A home and a working folder, deleted after the test.
pub(crate) struct Workplace {
    folder: TempDir,
}

impl Workplace {
    /// A workplace with a tiny model in `model.gguf`.
    pub(crate) fn new() -> Workplace {
        Workplace::with_model(&tiny::tiny_llama(3))
    }

    pub(crate) fn with_model(bytes: &[u8]) -> Workplace {
        let workplace = Workplace { folder: TempDir::new().unwrap() };
        workplace.write("model.gguf", bytes);
        workplace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The command with an empty stdin, this folder's model, one thread, and 32 tokens to generate.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CHASKI);
        for (name, _) in std::env::vars_os() {
            let is_heard = ["LLAMA_", "XDG_", "HF_", "OLLAMA_", "CLICOLOR", "NO_COLOR"]
                .iter()
                .any(|start| name.to_str().is_some_and(|name| name.starts_with(start)));
            if is_heard {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            // Not the models of the checkout.
            .env("CHASKI_MODELS", self.path("models"))
            .env("LLAMA_ARG_MODEL", "model.gguf")
            .env("LLAMA_ARG_THREADS", "1")
            .env("LLAMA_ARG_N_PREDICT", "32")
            .stdin(Stdio::null());
        command
    }

    /// `chaski run` with a small curve budget.
    pub(crate) fn run_command(&self, arguments: &[&str]) -> Command {
        self.command(&[&["run", "--curve-budget", "20"], arguments].concat())
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finish(&mut self.run_command(arguments))
    }

    /// The object that `run --json` prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[&["--json"], arguments].concat()).json()
    }

    /// The text of `run`, drawn so that it depends on every earlier token.
    pub(crate) fn text_of(&self, arguments: &[&str]) -> String {
        let ran = self.run(&[&["-s", "7", "-q"], arguments].concat());
        ran.succeeds();
        ran.stdout
    }

    pub(crate) fn run_with_stdin(&self, arguments: &[&str], input: &str) -> Ran {
        let mut running = Running::start(self.run_command(arguments).stdin(Stdio::piped()));
        // A command that fails early closes its end of the pipe.
        let _ = running.child.stdin.take().unwrap().write_all(input.as_bytes());
        running.finish()
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Ran {
    Running::start(command).finish()
}

/// A running command; dropping it kills it.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Collector,
    stderr: Collector,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        Running::start_into(command, Stdio::piped())
    }

    /// Starts a command with its stdout redirected.
    pub(crate) fn start_into(command: &mut Command, stdout: impl Into<Stdio>) -> Running {
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        // This side must not keep the pipe open.
        command.stdout(Stdio::null());
        let stdout = child.stdout.take().map_or_else(Collector::default, Collector::start);
        let stderr = child.stderr.take().map_or_else(Collector::default, Collector::start);
        Running { child, stdout, stderr }
    }

    /// Waits until stderr contains `sign`.
    pub(crate) fn wait_for_stderr(&self, sign: &str) {
        wait_until(&format!("{sign:?} on stderr"), || self.stderr.text().contains(sign));
    }

    /// Waits until stdout contains `sign`.
    pub(crate) fn wait_for_stdout(&self, sign: &str) {
        wait_until(&format!("{sign:?} on stdout"), || self.stdout.text().contains(sign));
    }

    /// Waits for the first byte on stdout.
    pub(crate) fn wait_for_text(&self) {
        wait_until("text on stdout", || !self.stdout.text().is_empty());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal with the shell's `kill`, which exists everywhere.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Process id of the worker that this process watches.
    #[cfg(target_os = "linux")]
    pub(crate) fn worker(&self) -> u32 {
        let parent = self.child.id().to_string();
        let is_it = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // "PID (NAME) STATE PARENT ..."
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split(' ').nth(1) == Some(&parent))
        };
        let mut found = None;
        wait_until("a process that works", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            found = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it);
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until all of the worker's threads sleep: then it waits for something from outside.
    #[cfg(target_os = "linux")]
    pub(crate) fn wait_until_it_is_stuck(&self) {
        let tasks = format!("/proc/{}/task", self.worker());
        let sleeps = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
        };
        let mut n_times = 0;
        // Check repeatedly: threads are inspected in turn, and the last may have woken the first.
        wait_until("a process that is stuck", || {
            thread::sleep(Duration::from_millis(5));
            let are_asleep = fs::read_dir(&tasks).unwrap().all(|task| task.is_ok_and(sleeps));
            n_times = if are_asleep { n_times + 1 } else { 0 };
            n_times == 20
        });
    }

    pub(crate) fn finish(mut self) -> Ran {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the command hangs; stderr: {}", self.stderr.text());
            thread::sleep(Duration::from_millis(2));
        };
        Ran { code: status.code(), stdout: self.stdout.finish(), stderr: self.stderr.finish() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // This may fail: the command may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads a stream to its end on a thread, so that the pipe never fills.
#[derive(Default)]
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Collector {
    fn start(mut stream: impl Read + Send + 'static) -> Collector {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let all = bytes.clone();
        let read = move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                all.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        };
        Collector { bytes, thread: Some(thread::spawn(read)) }
    }

    /// The text read so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn finish(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        String::from_utf8(self.bytes.lock().unwrap().clone()).expect("valid UTF-8")
    }
}

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeds(&self) -> &Ran {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Checks the exit code, an empty stdout, and one `error:` line that contains all of `message`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, message: &[&str]) -> &Ran {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self:#?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:#?}");
        for part in message {
            assert!(errors[0].contains(part), "{part:?} is not in: {self:#?}");
        }
        self
    }

    /// Checks that the last line is a hint that contains `part`.
    #[track_caller]
    pub(crate) fn hints(&self, part: &str) -> &Ran {
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("hint: ") && last.contains(part), "{part:?} is not the hint of: {self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn notices(&self, part: &str) -> &Ran {
        let is_it = |line: &str| line.starts_with("notice: ") && line.contains(part);
        assert!(self.stderr.lines().any(is_it), "no notice of {part:?} in: {self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        self.succeeds();
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line: {self:#?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// A count of the `timings` object.
#[track_caller]
pub(crate) fn timing(answer: &Value, name: &str) -> u64 {
    answer["timings"][name].as_u64().unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// The real model, if `CHASKI_TEST_MODEL` names one.
pub(crate) fn real_model(test: &str) -> Option<PathBuf> {
    let model = std::env::var_os("CHASKI_TEST_MODEL").filter(|path| !path.is_empty());
    if model.is_none() {
        skip(test, "CHASKI_TEST_MODEL names no model");
    }
    model.map(|path| fs::canonicalize(Path::new(&path)).expect("CHASKI_TEST_MODEL names a file"))
}

pub(crate) fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}
