//! Ctrl-C and SIGTERM: the first one ends the command cleanly in every phase, the second one at once.
//!
//! llama.cpp's log (`-v`) and the command's output show the phase. On a busy machine a signal can arrive in a later
//! phase than intended; the assertions hold there too.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::harness::{PROMPT, Ran, Running, Workplace, real_model, wait_until};

/// Logged when the file's metadata is read and its weights are not.
const LOADING: &str = "llama_model_loader: loaded meta data";

/// Logged when a context is ready; the prompt is next.
const CONTEXT_MADE: &str = "compute buffer size";

/// Arguments for a text of the tiny model that only a signal ends.
const ENDLESS: [&str; 9] = ["-n", "50000", "-c", "60000", "--temp", "0", "--drafter", "none", "-v"];

/// The same for the real model, within its trained length.
const ENDLESS_REAL: [&str; 9] = ["-n", "50000", "-c", "8192", "--temp", "0", "--drafter", "none", "-v"];

/// Repetitions in the tiny model's long prompt.
const TINY_REPEATS: usize = 3000;

fn endless(model: &str) -> &'static [&'static str] {
    if model == "model.gguf" { &ENDLESS } else { &ENDLESS_REAL }
}

/// Writes a prompt of more than half the context; decoding it takes seconds on any machine.
fn write_long_prompt(place: &Workplace, model: &str) {
    place.write("long.txt", "the rain in the station ".repeat(if model == "model.gguf" { TINY_REPEATS } else { 1000 }));
}

/// Checks that the run was interrupted before any text.
fn ended_without_text(ran: &Ran) {
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{}", tail(ran));
    assert!(ran.stderr.ends_with("error: interrupted\n"), "{}", tail(ran));
}

/// The end of stderr: llama.cpp's log is long.
fn tail(ran: &Ran) -> String {
    let lines: Vec<&str> = ran.stderr.lines().collect();
    format!(
        "code {:?}, stdout {:?}, stderr:\n{}",
        ran.code,
        ran.stdout,
        lines[lines.len().saturating_sub(8)..].join("\n")
    )
}

/// Whether one text is the beginning of the other.
fn agree(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[test]
fn while_the_model_loads() {
    let mut models = vec!["model.gguf".to_owned()];
    models.extend(real_model("while_the_model_loads").map(|path| path.display().to_string()));
    let place = Workplace::new();
    for model in models {
        write_long_prompt(&place, &model);
        for signal in ["INT", "TERM"] {
            let arguments = ["-m", &model, "-f", "long.txt"];
            let running = Running::start(&mut place.run_command(&[&arguments[..], endless(&model)].concat()));
            running.wait_for_stderr(LOADING);
            running.signal(signal);
            ended_without_text(&running.finish());
        }
    }
}

#[test]
fn while_the_prompt_is_read() {
    let mut models = vec!["model.gguf".to_owned()];
    models.extend(real_model("while_the_prompt_is_read").map(|path| path.display().to_string()));
    let place = Workplace::new();
    for model in models {
        write_long_prompt(&place, &model);
        let arguments = ["-m", &model, "-f", "long.txt", "--jsonl"];
        let running = Running::start(&mut place.run_command(&[&arguments[..], endless(&model)].concat()));
        running.wait_for_stdout("\"processed\":256,");
        running.signal("INT");
        let ran = running.finish();
        assert!(ran.code == Some(130) && ran.stderr.ends_with("error: interrupted\n"), "{}", tail(&ran));
        // In the middle of the prompt, before any text.
        let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
        let [processed, total] = ["processed", "total"].map(|name| last["prompt_progress"][name].as_u64().unwrap());
        assert!((256..total).contains(&processed), "{model}: {last}");
    }
}

#[test]
fn while_the_machine_is_measured() {
    let Some(model) = real_model("while_the_machine_is_measured") else {
        return;
    };
    let place = Workplace::new();
    let model = model.to_str().unwrap();
    let mut command = place.command(&["run", "-m", model, "-p", PROMPT, "--curve-budget", "20000", "-v"]);
    let running = Running::start(&mut command);
    running.wait_for_stderr(CONTEXT_MADE);
    // Measuring is not over by then.
    thread::sleep(Duration::from_millis(30));
    running.signal("TERM");
    ended_without_text(&running.finish());
}

#[test]
fn while_text_is_generated() {
    let place = Workplace::new();
    let text = place.run(&["-p", PROMPT, "--temp", "0", "-n", "1000", "--drafter", "none"]).stdout;
    for (signal, drafter) in [("INT", "none"), ("TERM", "auto"), ("INT", "aded")] {
        let arguments = ["-p", PROMPT, "-n", "50000", "-c", "60000", "--temp", "0", "--drafter", drafter];
        let running = Running::start(&mut place.run_command(&arguments));
        running.wait_for_text();
        running.signal(signal);
        let ran = running.finish();
        assert_eq!(ran.code, Some(130), "{}", tail(&ran));
        assert!(!ran.stdout.is_empty() && agree(&ran.stdout, &text), "{signal}, {drafter}: {}", tail(&ran));
        assert!(ran.stderr.contains(" tokens in ") && !ran.stderr.contains("error"), "{}", tail(&ran));
    }
}

#[test]
fn while_a_real_model_generates() {
    let Some(model) = real_model("while_a_real_model_generates") else {
        return;
    };
    let place = Workplace::new();
    let arguments = ["-m", model.to_str().unwrap(), "-p", "Tell a long story.", "-n", "400", "--ignore-eos"];
    let running = Running::start(&mut place.run_command(&arguments));
    running.wait_for_text();
    running.signal("INT");
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", tail(&ran));
    assert!(!ran.stdout.is_empty() && ran.stderr.contains(" tokens in "), "{}", tail(&ran));
}

#[test]
fn json_is_whole_after_a_signal() {
    let place = Workplace::new();
    let arguments = ["-p", PROMPT, "--json", "-q", "--explain"];
    let running = Running::start(&mut place.run_command(&[&arguments[..], &ENDLESS].concat()));
    // There is text, but --explain shows it only at the end.
    running.wait_for_stderr("step at ");
    running.signal("INT");
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", tail(&ran));
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["stop_type"], "interrupted");
    assert!(!answer["text"].as_str().unwrap().is_empty(), "{answer}");
}

/// A full pipe: writing to it blocks.
#[cfg(target_os = "linux")]
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'.'; PIPE_BYTES]).unwrap();
    (reader, writer)
}

/// Capacity of a pipe on Linux.
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 1 << 16;

#[test]
#[cfg(target_os = "linux")]
fn while_the_reader_stalls() {
    let place = Workplace::new();
    let (mut reader, writer) = full_pipe();
    let arguments = ["-p", PROMPT];
    let mut running = Running::start_into(&mut place.run_command(&[&arguments[..], &ENDLESS].concat()), writer);
    running.wait_for_stderr(CONTEXT_MADE);
    running.wait_until_it_is_stuck();
    running.signal("INT");
    thread::sleep(Duration::from_millis(100));
    assert!(running.is_running(), "text is in the pipe's way");
    // The reader continues and receives all the text.
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", tail(&ran));
    assert!(text.len() > PIPE_BYTES && std::str::from_utf8(&text).is_ok());
}

#[test]
#[cfg(target_os = "linux")]
fn a_second_signal_ends_at_once() {
    let place = Workplace::new();
    let (_reader, writer) = full_pipe();
    let arguments = ["-p", PROMPT];
    let mut running = Running::start_into(&mut place.run_command(&[&arguments[..], &ENDLESS].concat()), writer);
    running.wait_for_stderr(CONTEXT_MADE);
    running.wait_until_it_is_stuck();
    running.signal("INT");
    thread::sleep(Duration::from_millis(100));
    assert!(running.is_running(), "text is in the pipe's way");
    // Signals that arrive faster than they are handled are merged by the system.
    wait_until("the end", || {
        running.signal("INT");
        thread::sleep(Duration::from_millis(100));
        !running.is_running()
    });
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", tail(&ran));
}

#[test]
fn a_second_signal_ends_a_decode_at_once() {
    let Some(model) = real_model("a_second_signal_ends_a_decode_at_once") else {
        return;
    };
    let place = Workplace::new();
    place.write("long.txt", "the rain in the station ".repeat(1000));
    for _ in 0..3 {
        let arguments = ["-m", model.to_str().unwrap(), "-f", "long.txt"];
        let running = Running::start(&mut place.run_command(&[&arguments[..], &ENDLESS_REAL].concat()));
        running.wait_for_stderr(CONTEXT_MADE);
        thread::sleep(Duration::from_millis(50));
        running.signal("INT");
        running.signal("INT");
        let ran = running.finish();
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{}", tail(&ran));
    }
}

/// A chat in the middle of an endless answer; its stdin stays open.
#[cfg(unix)]
fn chat_at_work(place: &Workplace, name: &str) -> (Running, std::process::ChildStdin) {
    let mut command = place.command(&["chat", name, "--curve-budget", "20", "-s", "7", "-n", "50000", "-c", "60000"]);
    command.env("XDG_DATA_HOME", place.path("data")).stdin(std::process::Stdio::piped());
    let mut running = Running::start(&mut command);
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
    running.wait_for_text();
    (running, stdin)
}

/// The answers that a chat has saved.
#[cfg(unix)]
fn kept(place: &Workplace, name: &str) -> Vec<String> {
    let file = std::fs::read(place.path(&format!("data/chaski/sessions/{name}.json"))).unwrap();
    let session: Value = serde_json::from_slice(&file).unwrap();
    let messages = session["messages"].as_array().unwrap().iter();
    let answers = messages.filter(|message| message["role"] == "assistant");
    answers.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
#[cfg(unix)]
fn issue_13_10_a_signal_in_an_answer_keeps_the_turn() {
    end_at_a_hangup();
    let place = Workplace::new();
    // A closed terminal sends SIGHUP more than once.
    for (n, signals) in [&["INT"][..], &["TERM"], &["HUP"], &["HUP", "HUP", "HUP"], &["TERM", "HUP"]].iter().enumerate()
    {
        let name = format!("rain{n}");
        let (running, _stdin) = chat_at_work(&place, &name);
        for signal in *signals {
            running.signal(signal);
        }
        let ran = running.finish();
        assert_eq!(ran.code, Some(130), "{signals:?}: {}", tail(&ran));
        let [answer] = &kept(&place, &name)[..] else { panic!("{signals:?}: the turn is lost") };
        assert_eq!(answer.trim_end(), ran.stdout.trim_end(), "{signals:?}");
    }
}

#[test]
#[cfg(unix)]
fn issue_13_10_a_reader_that_goes_away_loses_no_turn() {
    let place = Workplace::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = place.command(&["chat", "rain", "--curve-budget", "20", "-s", "7", "-n", "50000", "-c", "60000"]);
    let input = place.write("input.txt", PROMPT);
    command.env("XDG_DATA_HOME", place.path("data")).stdin(std::fs::File::open(input).unwrap());
    let running = Running::start_into(&mut command, writer);
    let mut beginning = [0; 4];
    reader.read_exact(&mut beginning).unwrap();
    drop(reader);
    running.finish().succeeds();
    assert!(kept(&place, "rain")[0].as_bytes().starts_with(&beginning));
}

/// Makes child processes end at SIGHUP even if the tests run under `nohup`, which ignores it.
#[cfg_attr(target_os = "linux", expect(unsafe_code, reason = "no safe function restores a signal's action"))]
fn end_at_a_hangup() {
    #[cfg(target_os = "linux")]
    // SAFETY: the default action, which touches no state of this process.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
    }
}

#[test]
#[cfg(unix)]
fn issue_13_10_a_hangup_ends_an_answer_of_run_cleanly() {
    end_at_a_hangup();
    let place = Workplace::new();
    let arguments = ["-p", PROMPT, "-n", "50000", "-c", "60000", "--json"];
    let running = Running::start(&mut place.run_command(&[&arguments[..], &["--explain"]].concat()));
    running.wait_for_stderr("step at ");
    running.signal("HUP");
    let ran = running.finish();
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &answer["stop_type"]), (Some(130), &Value::from("interrupted")));
}

#[test]
#[cfg(unix)]
fn issue_13_10_under_nohup_a_hangup_is_nothing() {
    let place = Workplace::new();
    let usual = place.run_command(&["-p", PROMPT, "-n", "3000", "-c", "4000", "--ignore-eos"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(usual.get_program()).args(usual.get_args());
    command.current_dir(usual.get_current_dir().unwrap()).stdin(std::process::Stdio::null());
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let running = Running::start(&mut command);
    running.wait_for_text();
    running.signal("HUP");
    running.finish().succeeds();
}
