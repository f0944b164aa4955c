//! A closed or full stdout.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use super::harness::{PROMPT, Ran, Running, Workplace};

/// Reads `n_bytes` of stdout and closes the pipe.
fn hang_up_after(place: &Workplace, n_bytes: usize, arguments: &[&str]) -> Ran {
    let (mut ours, theirs) = std::io::pipe().unwrap();
    let mut command = place.command(arguments);
    let running = Running::start_into(&mut command, theirs);
    let mut start = vec![0; n_bytes];
    ours.read_exact(&mut start).unwrap();
    drop(ours);
    running.finish()
}

#[test]
fn a_reader_that_has_enough_is_not_an_error() {
    let place = Workplace::new();
    for arguments in [
        &["run", "--curve-budget", "20", "-p", PROMPT, "-n", "20000", "-c", "30000"][..],
        &["run", "--curve-budget", "20", "-p", PROMPT, "-n", "20000", "-c", "30000", "--drafter", "none"],
    ] {
        let ran = hang_up_after(&place, 10, arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    for arguments in [&["run", "--json", "-p", PROMPT][..], &["--help"], &["run", "--help"], &["--version"]] {
        let ran = hang_up_after(&place, 0, arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_stdout_is_named() {
    let full = || File::options().write(true).open("/dev/full").map(Stdio::from);
    if full().is_err() {
        return super::harness::skip("a_full_stdout_is_named", "there is no /dev/full");
    }
    let place = Workplace::new();
    for arguments in [
        &["run", "-p", PROMPT, "-n", "20000", "-c", "30000"][..],
        &["run", "-p", PROMPT, "--json"],
        &["--version"],
        &["--help"],
        &["bench", "--help"],
    ] {
        let ran = Running::start_into(&mut place.command(arguments), full().unwrap()).finish();
        ran.fails(1, &["cannot write to stdout: no space left on device"]);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    }
}

#[test]
fn a_closed_stderr_loses_nothing_of_the_text() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    let (ours, theirs) = std::io::pipe().unwrap();
    drop(ours);
    let mut command = place.run_command(&["-p", PROMPT, "-s", "7"]);
    let child = command.stdout(Stdio::piped()).stderr(theirs).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap()), (Some(0), text));
}

/// As after `2>&1`: statistics must start on a new line, not after the answer's last word.
#[test]
fn issue_13_13_in_one_stream_statistics_have_a_line_of_their_own() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    assert!(!text.ends_with('\n'), "{text:?}");
    let merged = |more: &[&str]| {
        let (mut ours, theirs) = std::io::pipe().unwrap();
        let mut command = place.run_command(&[&["-p", PROMPT, "-s", "7"], more].concat());
        let mut child = command.stdout(theirs.try_clone().unwrap()).stderr(theirs).spawn().unwrap();
        drop(command);
        let mut all = String::new();
        ours.read_to_string(&mut all).unwrap();
        child.wait().unwrap();
        all
    };
    let all = merged(&[]);
    let (answer, status) = all.strip_suffix('\n').unwrap().rsplit_once('\n').unwrap();
    assert_eq!(answer, text);
    assert!(status.starts_with("32 tokens in ") && status.ends_with("; seed 7"), "{all:?}");
    // With nothing to report, nothing is added.
    assert_eq!(merged(&["-q"]), text);
    // The same for a lone notice.
    let all = merged(&["-q", "-c", "50", "-n", "-1", "--ignore-eos"]);
    assert!(all.contains("\nnotice: the answer was cut off") && !all.contains("\n\nnotice"), "{all:?}");
}

#[test]
fn issue_13_3_notices_stay_with_q() {
    let place = Workplace::new();
    let ran = place.run(&["-p", PROMPT, "-q", "-c", "50", "-n", "-1", "--ignore-eos"]);
    ran.succeeds().notices("the context of 50 tokens is full");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
}
