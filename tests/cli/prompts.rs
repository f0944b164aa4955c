//! Where the prompt comes from. The tiny model's draws depend on every token before them, so equal texts mean equal
//! prompts.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::harness::{PROMPT, Running, Workplace, finish};

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

#[test]
fn an_open_and_silent_stdin_does_not_block_a_given_prompt() {
    let place = Workplace::new();
    let file = place.write("prompt.txt", PROMPT);
    let text = place.text_of(&["-p", PROMPT]);
    for arguments in [["-p", PROMPT], ["-f", file.to_str().unwrap()]] {
        let start = Instant::now();
        let mut running = Running::start(place.run_command(&[&SEEDED[..], &arguments].concat()).stdin(Stdio::piped()));
        // Held open until the command has ended.
        let held = running.child.stdin.take();
        let ran = running.finish();
        assert!(start.elapsed() >= Duration::from_secs(1));
        drop(held);
        ran.succeeds().notices("stdin is open but silent");
        assert_eq!(ran.stdout, text);
    }
}

#[test]
fn no_prompt_at_all_is_a_usage_error() {
    let place = Workplace::new();
    let hint = "-p TEXT, -f FILE, or through a pipe";
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
