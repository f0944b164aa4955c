//! Help texts. To update the snapshots: `SNAPSHOTS=overwrite cargo test --test cli help`.

use snapbox::{assert_data_eq, file};

use super::harness::{Workplace, finish};

/// Height of a terminal window, in lines.
const MOST_LINES: usize = 48;

fn help(arguments: &[&str]) -> String {
    let ran = finish(Workplace::new().command(arguments).env("COLUMNS", "110"));
    ran.succeeds();
    assert_eq!(ran.stderr, "");
    ran.stdout
}

#[test]
fn short_help_fits_one_screen() {
    for command in [
        &["run"][..],
        &["chat"],
        &["batch"],
        &["models"],
        &["devices"],
        &["bench"],
        &["tune"],
        &["drafter"],
        &["drafter", "align"],
        &["drafter", "build"],
        &["drafter", "replay"],
        &["data"],
        &["data", "show"],
        &["data", "delete"],
        &["data", "learning"],
    ] {
        let ran = finish(Workplace::new().command(&[command, &["-h"]].concat()).env("COLUMNS", "100"));
        let n_lines = ran.succeeds().stdout.lines().count();
        assert!(n_lines <= MOST_LINES, "{command:?}: {n_lines} lines\n{}", ran.stdout);
    }
}

#[test]
fn help_of_the_command() {
    assert_data_eq!(help(&["--help"]), file!["../snapshots/help.txt"].raw());
}

#[test]
fn help_of_run() {
    assert_data_eq!(help(&["run", "--help"]), file!["../snapshots/run-help.txt"].raw());
}

#[test]
fn help_of_chat() {
    assert_data_eq!(help(&["chat", "--help"]), file!["../snapshots/chat-help.txt"].raw());
}

#[test]
fn help_of_bench() {
    assert_data_eq!(help(&["bench", "--help"]), file!["../snapshots/bench-help.txt"].raw());
}

#[test]
fn help_of_tune() {
    assert_data_eq!(help(&["tune", "--help"]), file!["../snapshots/tune-help.txt"].raw());
}

#[test]
fn help_of_models() {
    let of = |command: &str| help(&["models", command, "--help"]);
    let all = ["list", "show", "fit"].map(of).join("\n");
    assert_data_eq!(help(&["models", "--help"]) + "\n" + &all, file!["../snapshots/models-help.txt"].raw());
}

#[test]
fn help_of_drafter() {
    let of = |command: &str| help(&["drafter", command, "--help"]);
    let all = ["build", "inspect", "merge", "prune"].map(of).join("\n");
    assert_data_eq!(help(&["drafter", "--help"]) + "\n" + &all, file!["../snapshots/drafter-help.txt"].raw());
}

#[test]
fn help_of_align() {
    assert_data_eq!(help(&["drafter", "align", "--help"]), file!["../snapshots/drafter-align-help.txt"].raw());
}

#[test]
fn help_of_replay() {
    assert_data_eq!(help(&["drafter", "replay", "--help"]), file!["../snapshots/drafter-replay-help.txt"].raw());
}

#[test]
fn help_of_data() {
    let of = |command: &str| help(&["data", command, "--help"]);
    let all = ["show", "delete", "learning"].map(of).join("\n");
    assert_data_eq!(help(&["data", "--help"]) + "\n" + &all, file!["../snapshots/data-help.txt"].raw());
}

#[test]
fn old_names_work_and_are_hidden() {
    let all = help(&["--help"]);
    let is_listed = |name: &str| all.lines().any(|line| line.split_whitespace().next() == Some(name));
    assert!(is_listed("data") && is_listed("drafter"), "{all}");
    for name in ["align", "replay", "learn", "cache"] {
        assert!(!is_listed(name), "{name}: {all}");
    }
    // The flags are the same; the first lines name the command.
    let flags = |arguments: &[&str]| {
        let text = help(&[arguments, &["--help"]].concat());
        let (_, rest) = text.split_once("Usage: ").unwrap();
        rest.split_once('\n').unwrap().1.to_owned()
    };
    for name in ["align", "replay"] {
        assert_eq!(flags(&[name]), flags(&["drafter", name]));
    }
    let place = Workplace::new();
    let old = |arguments: &[&str]| {
        let ran = finish(place.command(arguments).env("XDG_DATA_HOME", place.path("data")));
        ran.succeeds();
        ran
    };
    assert_eq!(old(&["learn", "off"]).stderr, finish(&mut place.command(&["data", "learning", "off"])).stderr);
    assert_eq!(old(&["learn", "status", "--json"]).json()["learning"], false);
    old(&["learn", "on", "-m", "model.gguf"]);
    old(&["learn", "forget", "--all"]);
    assert_eq!(old(&["cache", "status", "--json"]).json()["prompts"], 0);
    assert_eq!(old(&["cache", "clear"]).stderr, finish(&mut place.command(&["data", "delete", "prompts"])).stderr);
}

#[test]
fn the_version_names_the_engine_and_its_cpu_features() {
    let version = help(&["--version"]);
    assert_eq!(version, help(&["-V"]));
    let lines: Vec<&str> = version.lines().collect();
    assert_eq!(lines.len(), 3, "{version}");
    assert_eq!(lines[0], format!("chaski {}", env!("CARGO_PKG_VERSION")));
    let (ggml, crate_version) =
        lines[1].strip_prefix("llama.cpp: ggml ").unwrap().split_once(", llama-cpp-2 ").unwrap();
    let is_version = |text: &str| text.split('.').count() == 3 && text.split('.').all(|n| n.parse::<u32>().is_ok());
    assert!(is_version(ggml) && is_version(crate_version), "{version}");
    let features = lines[2].strip_prefix("CPU features: ").unwrap();
    assert!(!features.trim().is_empty(), "{version}");
}

#[test]
fn help_of_batch() {
    let merge = help(&["batch", "merge", "--help"]);
    assert_data_eq!(help(&["batch", "--help"]) + "\n" + &merge, file!["../snapshots/batch-help.txt"].raw());
}
