//! Engine crashes: a message appears, and no data is lost. Also checks the sandbox.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::harness::{CHASKI, PROMPT, Ran, Running, Workplace, finish, skip, wait_until};
use super::support::gguf_writer::Meta;
use super::support::tiny::{TinyOptions, tiny_writer};

/// Arguments for a text that only a signal ends.
const ENDLESS: [&str; 10] = ["-p", PROMPT, "-n", "50000", "-c", "60000", "--temp", "0", "--drafter", "none"];

fn signal(pid: u32, name: &str) {
    let kill = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(kill.unwrap().success());
}

#[track_caller]
fn failed(ran: &Ran, error: &str, hint: &str) {
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:#?}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{ran:#?}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{ran:#?}");
}

/// A file that fails only in llama.cpp: this architecture needs values as long as keys.
fn asserting_model() -> Vec<u8> {
    let mut writer = tiny_writer(&TinyOptions::default());
    writer.set("llama.attention.value_length", Meta::U32(8));
    for tensor in writer.tensors.iter_mut().filter(|tensor| tensor.name.ends_with(b"attn_v.weight")) {
        tensor.dims[1] /= 2;
        tensor.data.truncate(tensor.data.len() / 2);
    }
    writer.finish()
}

#[test]
fn a_failed_assertion_of_llama_cpp_is_told() {
    let place = Workplace::with_model(&asserting_model());
    let ran = place.run(&["-p", PROMPT]);
    failed(&ran, "the engine stopped: GGML_ASSERT(", "see llama.cpp's log with -v");
    assert!(ran.stderr.contains(" in ") && ran.stderr.contains(".cpp:") && ran.stdout.is_empty(), "{ran:#?}");
}

#[test]
fn waiting_threads_soon_sleep_unless_the_user_says_otherwise() {
    let place = Workplace::new();
    let chosen = [(None, "GOMP_SPINCOUNT=1000"), (Some(("GOMP_SPINCOUNT", "7")), "GOMP_SPINCOUNT=7")];
    for (variable, expected) in chosen.into_iter().chain([(Some(("OMP_WAIT_POLICY", "active")), "")]) {
        let mut command = place.run_command(&ENDLESS);
        command.env_remove("GOMP_SPINCOUNT").env_remove("OMP_WAIT_POLICY").envs(variable);
        let running = Running::start(&mut command);
        running.wait_for_text();
        let environment = fs::read(format!("/proc/{}/environ", running.worker())).unwrap();
        let spins = environment.split(|&byte| byte == 0).find(|entry| entry.starts_with(b"GOMP_SPINCOUNT="));
        assert_eq!(String::from_utf8_lossy(spins.unwrap_or_default()), expected, "{variable:?}");
        running.signal("INT");
        assert_eq!(running.finish().code, Some(130));
    }
}

#[test]
fn a_crash_is_told_and_what_was_written_stays() {
    let place = Workplace::new();
    let tells =
        [("ABRT", "the engine stopped: abort"), ("FPE", "the engine stopped: arithmetic"), ("KILL", "was killed")];
    for (name, message) in tells {
        let running = Running::start(&mut place.run_command(&ENDLESS));
        running.wait_for_text();
        signal(running.worker(), name);
        let ran = running.finish();
        failed(&ran, message, "");
        assert!(!ran.stdout.is_empty(), "{ran:#?}");
    }
}

#[test]
fn a_model_cut_off_while_it_is_in_use_is_told() {
    let place = Workplace::new();
    let running = Running::start(&mut place.run_command(&ENDLESS));
    running.wait_for_text();
    fs::File::options().write(true).open(place.path("model.gguf")).unwrap().set_len(4096).unwrap();
    failed(
        &running.finish(),
        "bus error, probably because the model file was truncated",
        "do not change the model file",
    );
}

#[test]
fn nobody_works_for_a_process_that_is_gone() {
    let place = Workplace::new();
    let running = Running::start(&mut place.run_command(&ENDLESS));
    running.wait_for_text();
    let worker = PathBuf::from(format!("/proc/{}", running.worker()));
    running.signal("KILL");
    running.finish();
    let is_dead = || fs::read_to_string(worker.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until("the end of the work", is_dead);
}

#[test]
fn a_chat_goes_on_after_a_crash() {
    let place = Workplace::new();
    let chat = || place.command(&["chat", "peru", "-s", "7", "-n", "8", "--curve-budget", "0"]);
    let mut running = Running::start(chat().stdin(Stdio::piped()));
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"the rain\n").unwrap();
    let session = place.path("home/.local/share/chaski/sessions/peru.json");
    let n_turns = || fs::read_to_string(&session).map_or(0, |text| text.matches("\"user\"").count());
    wait_until("a turn that is kept", || n_turns() > 0);
    signal(running.worker(), "ABRT");
    let ran = running.finish();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(
        ran.stderr
            .contains("error: the engine stopped: abort\nhint: to continue after the last answer: chaski chat peru"),
        "{ran:#?}"
    );
    drop(stdin);
    let mut again = Running::start(chat().stdin(Stdio::piped()));
    again.child.stdin.take().unwrap().write_all(b"in the station\n").unwrap();
    again.finish().succeeds();
    assert_eq!(n_turns(), 2);
}

/// Number of seccomp filters of a thread beyond those of this process, which a container may have.
fn n_filters(pid: u32, thread: &str) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statuses = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let status = statuses.into_iter().find(|status| status.starts_with(&format!("Name:\t{thread}\n")))?;
    let count = |status: &str| -> u32 {
        let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:\t"));
        filters.expect("kernels with Landlock tell").trim().parse().unwrap()
    };
    Some(count(&status) - count(&fs::read_to_string("/proc/self/status").unwrap()))
}

#[test]
fn the_engine_is_in_a_sandbox() {
    let place = Workplace::new();
    let ran = place.run(&["-p", PROMPT, "-v", "-n", "4"]);
    if ran.stderr.contains("the sandbox is incomplete") {
        return skip("the_engine_is_in_a_sandbox", "this kernel has none");
    }
    for (flags, n) in [(&[][..], 1), (&["--no-sandbox"], 0)] {
        let running = Running::start(&mut place.run_command(&[&ENDLESS[..], flags].concat()));
        running.wait_for_text();
        let worker = running.worker();
        assert_eq!(["chaski", "engine"].map(|thread| n_filters(worker, thread).unwrap()), [n; 2]);
        running.signal("INT");
        assert_eq!(running.finish().code, Some(130));
    }
    // A chat confines only the engine: the editor of /edit stays free.
    let mut command = place.command(&["chat", "-n", "4", "--curve-budget", "0"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.child.stdin.as_mut().unwrap().write_all(b"the rain\n").unwrap();
    running.wait_for_text();
    let worker = running.worker();
    assert_eq!(n_filters(worker, "chaski"), Some(0));
    assert_eq!(n_filters(worker, "engine"), Some(1));
    drop(running.child.stdin.take());
    running.finish().succeeds();
}

/// In a build for a GPU, the driver keeps its shaders where the sandbox allows it; a folder that the user names is used.
#[test]
fn compiled_shaders_have_a_folder() {
    const NAMES: [&str; 2] = ["MESA_SHADER_CACHE_DIR", "__GL_SHADER_DISK_CACHE_PATH"];
    let place = Workplace::new();
    let named = place.path("shaders");
    let mut command = place.run_command(&ENDLESS);
    let running = Running::start(command.env(NAMES[0], &named).env_remove(NAMES[1]));
    running.wait_for_text();
    let environment = fs::read(format!("/proc/{}/environ", running.worker())).unwrap();
    let value = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('=').map(PathBuf::from))
    };
    let own = cfg!(any(feature = "vulkan", feature = "cuda")).then(|| place.path("cache/chaski/shaders"));
    assert_eq!(NAMES.map(value), [Some(named), own]);
    running.signal("INT");
    assert_eq!(running.finish().code, Some(130));
}

#[test]
fn what_a_sandboxed_engine_keeps_is_kept() {
    let place = Workplace::new();
    let trace = place.path("deep.jsonl");
    let prompt = "the rain in the station ".repeat(40);
    for flags in [&[][..], &["--no-sandbox"]] {
        let arguments = [&["run", "-p", &prompt, "-s", "7", "-n", "40", "--trace", "deep.jsonl"], flags].concat();
        let ran = finish(&mut place.command(&arguments));
        ran.succeeds();
        assert!(!ran.stderr.contains("denied"), "{ran:#?}");
        assert!(fs::read_dir(place.path("cache/chaski/curves")).unwrap().count() > 0);
        assert!(fs::read_dir(place.path("home/.local/share/chaski/learned")).unwrap().count() > 0);
        fs::remove_file(&trace).unwrap();
        fs::remove_dir_all(place.path("cache")).unwrap();
        fs::remove_dir_all(place.path("home")).unwrap();
    }
}

#[test]
fn a_sandboxed_batch_puts_its_results_in_order() {
    let place = Workplace::new();
    place.write("prompts.jsonl", "{\"prompt\": \"the rain\"}\n{\"prompt\": 5}\n{\"prompt\": \"in the station\"}\n");
    for flags in [&["--ordered"][..], &["--ordered", "--retry-failed"]] {
        let arguments = [&["batch", "-i", "prompts.jsonl", "-o", "results.jsonl", "-n", "4", "-s", "7", "-v"], flags];
        let ran = finish(&mut place.command(&arguments.concat()));
        assert_eq!(ran.code, Some(3), "{ran:#?}");
        let results = fs::read_to_string(place.path("results.jsonl")).unwrap();
        let is_error = |line: &str| !line.contains("\"error\":null");
        assert_eq!(results.lines().map(is_error).collect::<Vec<_>>(), [false, true, false], "{results}");
    }
}

#[test]
fn ends_of_processes_that_are_ignored_are_told_all_the_same() {
    let place = Workplace::new();
    let expected = place.text_of(&["-p", PROMPT]);
    let arguments = ["-p", PROMPT, "-s", "7"];
    let ignoring = |arguments: &[&str]| {
        let inner = place.run_command(arguments);
        let mut command = Command::new("env");
        command.args(["--ignore-signal=CHLD", CHASKI]).args(inner.get_args()).stdin(Stdio::null());
        command.current_dir(inner.get_current_dir().unwrap());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    };
    if !Command::new("env").args(["--ignore-signal=CHLD", "true"]).status().is_ok_and(|status| status.success()) {
        return skip("ends_of_processes_that_are_ignored_are_told_all_the_same", "this env ignores no signals");
    }
    assert_eq!(finish(&mut ignoring(&arguments)).succeeds().stdout, expected);
    // The exit code is the worker's.
    finish(&mut ignoring(&[&arguments[..], &["-c", "4"]].concat())).fails(6, &["the context has 4"]);
}

/// A stack size that no thread can get, if it uses the standard library's default.
const NO_STACK: u64 = 1 << 62;

#[test]
fn without_a_thread_for_signals_the_work_is_done_in_one_process() {
    let place = Workplace::new();
    let mut command = place.run_command(&["-m", "no/such.gguf", "-p", PROMPT]);
    let ran = finish(command.env("RUST_MIN_STACK", NO_STACK.to_string()));
    // The error appears once.
    ran.fails(4, &["no/such.gguf: no such model file"]).notices("the engine runs in this process");
}

#[test]
fn signals_end_one_process_too() {
    let place = Workplace::new();
    for name in ["INT", "TERM"] {
        let mut command = place.run_command(&["-f", "-"]);
        let mut running = Running::start(command.env("RUST_MIN_STACK", NO_STACK.to_string()).stdin(Stdio::piped()));
        running.wait_for_stderr("the engine runs in this process");
        // It waits for a prompt.
        let stdin = running.child.stdin.take();
        running.signal(name);
        let ran = running.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{ran:#?}");
        drop(stdin);
    }
}
