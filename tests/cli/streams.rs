//! A stdout that is closed or full.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use super::harness::{PROMPT, Ran, Running, Workplace};

/// Reads this much of stdout, and hangs up.
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
