//! Sources of the prompt. The tiny model's draws depend on every earlier token, so equal texts mean equal prompts.

use std::fs::File;
use std::io::Write as _;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{CHASKI, PROMPT, Running, Workplace, finish};

const QUESTION: &str = "is it the station";
const SEEDED: [&str; 3] = ["-s", "7", "-q"];

#[test]
fn every_source_gives_the_same_prompt() {
    let place = Workplace::new();
    let file = place.write("prompt.txt", PROMPT);
    let text = place.text_of(&["-p", PROMPT]);
    assert_ne!(text, place.text_of(&["-p", QUESTION]));
    assert_eq!(text, place.text_of(&["-f", file.to_str().unwrap()]));
    for arguments in [&[][..], &["-f", "-"]] {
        let ran = place.run_with_stdin(&[&SEEDED[..], arguments].concat(), PROMPT);
        ran.succeeds();
        assert_eq!((ran.stdout, ran.stderr), (text.clone(), String::new()), "{arguments:?}");
        let mut redirected = place.run_command(&[&SEEDED[..], arguments].concat());
        assert_eq!(finish(redirected.stdin(File::open(&file).unwrap())).stdout, text, "{arguments:?} < prompt.txt");
    }
}

#[test]
fn stdin_comes_before_the_file_and_the_file_before_the_text() {
    let place = Workplace::new();
    place.write("prompt.txt", "he said that\n");
    let joined = format!("{PROMPT}\n\n{QUESTION}");
    let text = place.text_of(&["-p", &joined]);
    assert_ne!(text, place.text_of(&["-p", &format!("{QUESTION}\n\n{PROMPT}")]));
    for arguments in [&["-p", QUESTION][..], &["-f", "-", "-p", QUESTION]] {
        let ran = place.run_with_stdin(&[&SEEDED[..], arguments].concat(), &format!("{PROMPT}\n"));
        assert_eq!((ran.stdout, ran.stderr), (text.clone(), String::new()), "{arguments:?}");
    }
    let all = place.text_of(&["-p", &format!("{PROMPT}\n\nhe said that\n\n{QUESTION}")]);
    let input = place.write("stdin.txt", PROMPT);
    let mut command = place.run_command(&[&SEEDED[..], &["-p", QUESTION, "-f", "prompt.txt"]].concat());
    assert_eq!(finish(command.stdin(File::open(input).unwrap())).stdout, all);
}

#[test]
fn the_last_newlines_of_a_lone_prompt_are_its_own() {
    let place = Workplace::new();
    let text = place.text_of(&["--raw", "-p", &format!("{PROMPT}\n\n")]);
    assert_ne!(text, place.text_of(&["--raw", "-p", PROMPT]));
    let ran = place.run_with_stdin(&[&SEEDED[..], &["--raw"]].concat(), &format!("{PROMPT}\n\n"));
    assert_eq!(ran.stdout, text);
}

/// A service may leave a socket on stdin that nobody writes to.
#[cfg(unix)]
#[test]
fn an_open_and_silent_stdin_does_not_block_a_given_prompt() {
    let place = Workplace::new();
    let file = place.write("prompt.txt", PROMPT);
    let text = place.text_of(&["-p", PROMPT]);
    for arguments in [["-p", PROMPT], ["-f", file.to_str().unwrap()]] {
        let start = Instant::now();
        // Keep it open until the command ends.
        let (held, theirs) = UnixStream::pair().unwrap();
        let mut command = place.run_command(&[&SEEDED[..], &arguments].concat());
        let ran = finish(command.stdin(Stdio::from(OwnedFd::from(theirs))));
        assert!(start.elapsed() >= Duration::from_secs(1));
        drop((held, command));
        ran.succeeds().notices("nothing came on stdin");
        assert_eq!(ran.stdout, text);
    }
}

/// The program before a pipe may be slow. Late data from a socket is at least reported.
#[cfg(unix)]
#[test]
fn issue_13_1_a_pipe_that_starts_late_is_read() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", &format!("{PROMPT}\n\n{QUESTION}")]);
    let arguments = [&SEEDED[..], &["-p", QUESTION]].concat();
    let mut running = Running::start(place.run_command(&arguments).stdin(Stdio::piped()));
    thread::sleep(Duration::from_secs(4));
    running.child.stdin.take().unwrap().write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
    let ran = running.finish();
    assert_eq!((ran.succeeds().stdout.as_str(), ran.stderr.as_str()), (text.as_str(), ""));
}

#[cfg(unix)]
#[test]
fn issue_13_1_a_socket_is_read_to_its_end_once_it_says_something() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", &format!("{PROMPT}\n\n{QUESTION}")]);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = place.run_command(&[&SEEDED[..], &["-p", QUESTION]].concat());
    let running = Running::start(command.stdin(Stdio::from(OwnedFd::from(theirs))));
    drop(command);
    let (first, rest) = PROMPT.split_at(4);
    ours.write_all(first.as_bytes()).unwrap();
    thread::sleep(Duration::from_secs(4));
    ours.write_all(rest.as_bytes()).unwrap();
    drop(ours);
    assert_eq!(running.finish().succeeds().stdout, text);
}

#[cfg(unix)]
#[test]
fn issue_13_1_what_a_socket_says_too_late_is_told() {
    let place = Workplace::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // An answer that takes some time.
    let mut command =
        place.run_command(&[&SEEDED[..], &["-p", QUESTION, "-n", "-1", "-c", "30000", "--ignore-eos"]].concat());
    let running = Running::start(command.stdin(Stdio::from(OwnedFd::from(theirs))));
    drop(command);
    running.wait_for_stderr("nothing came on stdin");
    running.wait_for_text();
    ours.write_all(PROMPT.as_bytes()).unwrap();
    running.signal("INT");
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    ran.notices("data came on stdin too late");
}

/// A command that reads stdin takes the list from a `while read` loop.
#[cfg(unix)]
#[test]
fn issue_13_1_a_loop_over_lines_is_told_who_took_them() {
    let place = Workplace::new();
    place.write("list.txt", "the rain\nthe train\nthe station\n");
    let run = |script: &str| {
        let command = place.command(&[]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script, CHASKI]).current_dir(place.path(""));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        finish(&mut shell)
    };
    let answer = |more: &str| format!("while read -r line; do \"$0\" run -q -n 2 -p \"$line\" {more}; echo; done");
    for (script, is_told_everywhere) in [
        (format!("{} <list.txt", answer("")), true),
        (format!("cat list.txt | {}", answer("")), cfg!(target_os = "linux")),
    ] {
        let ran = run(&script);
        assert_eq!(ran.succeeds().stdout.lines().count(), 1, "{ran:#?}");
        if is_told_everywhere {
            ran.notices("stdin is part of the prompt: 2 lines, 22 bytes").notices("--no-stdin");
        }
        let ran = run(&script.replace("run -q", "run -q --no-stdin"));
        assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (3, ""), "{ran:#?}");
    }
}

#[test]
fn issue_13_1_a_document_is_counted_where_statistics_are_told() {
    let place = Workplace::new();
    let ran = place.run_with_stdin(&["-p", QUESTION], "the rain\nthe train\n");
    ran.succeeds().notices("stdin is part of the prompt: 2 lines, 19 bytes");
    let ran = place.run_with_stdin(&["-p", QUESTION, "--no-stdin", "-s", "7", "-q"], "the rain\n");
    assert_eq!((ran.stdout, ran.stderr), (place.text_of(&["-p", QUESTION]), String::new()));
    place.run(&["-f", "-", "--no-stdin"]).fails(2, &["--no-stdin", "-f -"]);
    place.run_with_stdin(&["--no-stdin"], PROMPT).fails(2, &["the prompt is empty"]);
}

#[test]
fn issue_13_12_a_prompt_may_stand_alone() {
    let place = Workplace::new();
    assert_eq!(place.text_of(&[PROMPT]), place.text_of(&["-p", PROMPT]));
    let ran = place.run_with_stdin(&[&SEEDED[..], &[QUESTION]].concat(), PROMPT);
    assert_eq!(ran.succeeds().stdout, place.text_of(&["-p", &format!("{PROMPT}\n\n{QUESTION}")]));
    place.write("prompt.txt", PROMPT);
    place.run(&[QUESTION, "-p", PROMPT]).fails(2, &["[PROMPT]", "--prompt"]);
    place.run(&[QUESTION, "-f", "prompt.txt"]).fails(2, &["[PROMPT]", "--file"]);
    place.run(&["the", "rain"]).fails(2, &["'rain'"]).hints("quotes");
    place.run(&["-s", "7", "the", "rain in", "Spain"]).fails(2, &["'rain in'"]).hints("quotes");
}

#[test]
fn issue_13_13_an_empty_stdin_is_told() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    for input in ["", " \n"] {
        let ran = place.run_with_stdin(&[&SEEDED[..], &["-p", PROMPT]].concat(), input);
        ran.succeeds().notices("stdin was empty");
        assert_eq!(ran.stdout, text);
    }
    let empty = File::open(place.write("empty.txt", "")).unwrap();
    finish(place.run_command(&[&SEEDED[..], &[PROMPT]].concat()).stdin(empty)).succeeds().notices("stdin was empty");
    // /dev/null is meant to be empty.
    assert_eq!(place.run(&[&SEEDED[..], &["-p", PROMPT]].concat()).stderr, "");
}

#[test]
fn no_prompt_at_all_is_a_usage_error() {
    let place = Workplace::new();
    let hint = "-p TEXT, with -f FILE, or through a pipe";
    place.run(&[]).fails(2, &["the prompt is empty"]).hints(hint);
    place.run(&["-f", "-"]).fails(2, &["the prompt is empty"]).hints(hint);
    place.run(&["-p", ""]).fails(2, &["the prompt is empty"]).hints(hint);
    place.run(&["-p", " \n\t"]).fails(2, &["the prompt is empty"]).hints(hint);
    place.run_with_stdin(&[], "\n").fails(2, &["the prompt is empty"]).hints(hint);
    place.write("empty.txt", "");
    place.run(&["-f", "empty.txt"]).fails(2, &["the prompt is empty"]).hints(hint);
}

#[test]
fn a_prompt_file_that_cannot_be_read_is_named() {
    let place = Workplace::new();
    let nothing = "no such file or directory";
    place.run(&["-f", "no.txt"]).fails(1, &["no.txt: ", nothing]).hints("-p");
    place.run(&["-f", "."]).fails(1, &[".: is a directory"]);
    place.write("latin1.txt", b"caf\xe9");
    place.run(&["-f", "latin1.txt"]).fails(1, &["latin1.txt: not UTF-8 at byte 3"]).hints("iconv");
    let latin1 = File::open(place.path("latin1.txt")).unwrap();
    finish(place.run_command(&[]).stdin(latin1)).fails(1, &["stdin: not UTF-8 at byte 3"]).hints("iconv");
}

#[test]
fn a_prompt_may_hold_any_character() {
    let place = Workplace::new();
    for (name, text) in
        [("nul", "a\0b"), ("emoji", "🍃 žluťoučký 木"), ("escape", "\x1b]52;c;eA==\x07"), ("crlf", "a\r\nb")]
    {
        place.write("odd.txt", text);
        let ran = place.run(&["-f", "odd.txt"]);
        ran.succeeds();
        assert_eq!(ran.stderr.lines().count(), 1, "{name}: {ran:#?}");
    }
}

#[test]
fn issue_13_13_escapes_are_read_where_that_is_asked_for() {
    let place = Workplace::new();
    let lines = place.text_of(&["-p", "the rain\nin the \"station\""]);
    assert_eq!(place.text_of(&["-e", "-p", r#"the rain\nin the \"station\""#]), lines);
    assert_eq!(place.text_of(&["--escape", r"the rain\x0ain the \x22station\x22"]), lines);
    assert_ne!(place.text_of(&["-p", r#"the rain\nin the \"station\""#]), lines);
    let system = place.text_of(&["-sys", "a\tb", "-p", PROMPT]);
    assert_eq!(place.text_of(&["-e", "-sys", r"a\tb", "-p", PROMPT]), system);
    // A file may contain backslashes.
    place.write("code.txt", r"print('\n')");
    assert_eq!(place.text_of(&["-e", "-f", "code.txt"]), place.text_of(&["-p", r"print('\n')"]));
    place.run(&["-e", "-r", r"\xff", PROMPT]).fails(2, &["-r", "UTF-8"]).hints(r"\xc3\xa9");
}
