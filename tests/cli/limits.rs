//! System limits on a process, and users without a home folder: the command continues, or names the limit.

#![cfg(unix)]

use std::path::Path;
use std::process::Command;

use super::harness::{PROMPT, Ran, Workplace, finish};

/// The command, started by a shell after `setup`.
fn after(setup: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{setup}; exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap()).stdin(std::process::Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

fn without_home(place: &Workplace, home: &Path, arguments: &[&str]) -> Ran {
    let mut command = place.command(&[arguments, &["-s", "7"]].concat());
    for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    let input = place.write("input.txt", PROMPT);
    finish(command.env("HOME", home).stdin(std::fs::File::open(input).unwrap()))
}

#[test]
fn issue_13_11_a_home_that_is_no_folder_is_no_home() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    let file = place.write("file", "");
    for home in [Path::new("/dev/null"), &file, &file.join("below"), Path::new("relative")] {
        let run = without_home(&place, home, &["run", "-q", "--curve-budget", "20"]);
        run.succeeds().notices("so nothing is saved for the next run");
        assert_eq!((&run.stdout, run.stderr.lines().count()), (&text, 1), "{run:#?}");
        let chat = without_home(&place, home, &["chat", "--curve-budget", "20"]);
        assert_eq!(chat.succeeds().stdout, format!("{text}\n"));
        without_home(&place, home, &["chat", "name"]).fails(1, &["there is no folder for"]).hints("XDG_DATA_HOME");
        let batch = ["batch", "-i", "input.txt", "-o", "-", "--text", "-q"];
        without_home(&place, home, &batch).succeeds();
        assert!(!place.path("relative").exists(), "no folder is made where the command happens to be started");
    }
    let mut show = place.command(&["config", "show"]);
    finish(show.env("HOME", "/dev/null").env_remove("XDG_CONFIG_HOME")).succeeds();
}

#[test]
fn issue_13_11_a_file_that_becomes_too_large_is_like_a_full_disk() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT, "--no-learn"]);
    // The curve is measured, so there is one to save.
    let limited = |command: &Command| finish(&mut after("ulimit -f 0", command));
    let run = limited(place.run_command(&["-p", PROMPT, "-s", "7", "-q"]).env("XDG_CACHE_HOME", place.path("other")));
    assert_eq!((run.code, &run.stdout), (Some(0), &text), "{run:#?}");
    run.notices("File too large");
    let chat = place.command(&["chat", "name", "--curve-budget", "20", "-s", "7"]);
    let mut chat = after("ulimit -f 0", &chat);
    let input = std::fs::File::open(place.write("input.txt", PROMPT)).unwrap();
    let chat = finish(chat.stdin(input));
    assert_eq!(chat.code, Some(1), "{chat:#?}");
    assert!(chat.stderr.contains("sessions/name.json: File too large"), "{chat:#?}");
    let batch = place.command(&["batch", "-i", "input.txt", "-o", "out.jsonl"]);
    limited(&batch).fails(1, &["out.jsonl", "file too large"]);
    let mut to_file = after("ulimit -f 0", &place.run_command(&["-p", PROMPT]));
    let running =
        super::harness::Running::start_into(&mut to_file, std::fs::File::create(place.path("out.txt")).unwrap());
    running.finish().fails(1, &["cannot write to stdout: file too large"]);
}

#[test]
#[cfg(target_os = "linux")]
fn issue_13_11_a_limit_on_the_address_space_is_named() {
    let place = Workplace::new();
    for kib in [60_000, 100_000, 200_000] {
        let ran = finish(&mut after(&format!("ulimit -v {kib}"), &place.run_command(&["-p", PROMPT, "-c", "60000"])));
        ran.fails(5, &[]).hints("ulimit -v unlimited");
    }
}
