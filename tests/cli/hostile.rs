//! Hostile input: prompts that break tokenizers, and names with terminal control sequences.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use super::harness::{PROMPT, Workplace, finish, real_model};
use super::support::gguf_writer::Meta;
use super::support::tiny::{TinyOptions, tiny_writer};

const MIB: usize = 1 << 20;

/// Sets the clipboard of a terminal; it must never reach one.
const ESCAPE: &str = "\x1b]52;c;eA==\x07";

/// Repetitive texts, and some that a tokenizer reads as one word; `n` bytes each.
fn runs(n: usize) -> Vec<(&'static str, String)> {
    let digits: String = (0..n / 8).fold(String::new(), |mut digits, n| {
        let _ = write!(digits, "{n:08}");
        digits
    });
    vec![
        ("letters", "a".repeat(n)),
        ("spaces", " ".repeat(n) + "x"),
        ("digits", digits),
        ("newlines", "\n".repeat(n) + "x"),
        ("CJK", "木".repeat(n / 3)),
        ("NUL", "\0".repeat(n)),
        ("combining", format!("a{}", "\u{301}".repeat(n / 2))),
        ("emoji", "👩‍👩‍👧".repeat(n / 18)),
    ]
}

/// Checks that a text far longer than the context is refused with its number of tokens: all of it was tokenized.
fn is_refused_in_words(place: &Workplace, model: &str, (name, text): &(&str, String)) {
    place.write("huge.txt", text);
    let start = Instant::now();
    let ran = finish(&mut place.run_command(&["-m", model, "-f", "huge.txt", "-n", "1", "-c", "512"]));
    assert!(start.elapsed() < Duration::from_secs(120), "{name}: {:?}", start.elapsed());
    ran.fails(6, &["tokens", "512"]);
}

#[test]
fn a_mebibyte_of_one_thing_is_refused_in_words() {
    let place = Workplace::new();
    runs(MIB).iter().for_each(|run| is_refused_in_words(&place, "model.gguf", run));
}

#[test]
fn a_real_tokenizer_refuses_a_mebibyte_of_one_thing_in_words() {
    let Some(model) = real_model("a_real_tokenizer_refuses_a_mebibyte_of_one_thing_in_words") else { return };
    let place = Workplace::new();
    runs(MIB).iter().for_each(|run| is_refused_in_words(&place, model.to_str().unwrap(), run));
}

#[test]
fn a_prompt_beyond_the_cap_is_refused_before_it_is_in_memory() {
    let place = Workplace::new();
    let huge = fs::File::create(place.path("huge.txt")).unwrap();
    // A sparse file, which takes no disk space.
    huge.set_len(64 * MIB as u64 + 1).unwrap();
    place.run(&["-f", "huge.txt"]).fails(1, &["huge.txt", "64 MiB"]);
}

#[test]
fn a_model_that_is_named_with_escapes_is_shown_without() {
    let mut writer = tiny_writer(&TinyOptions::default());
    writer.set("general.name", Meta::str(ESCAPE));
    writer.set("general.license", Meta::str(ESCAPE));
    let place = Workplace::with_model(&writer.finish());
    let name = format!("{ESCAPE}.gguf");
    fs::rename(place.path("model.gguf"), place.path(&name)).unwrap();
    let missing = format!("{ESCAPE}/none.gguf");
    for arguments in [
        &["run", "-v", "-m", &name, "-p", PROMPT, "-n", "4"][..],
        &["run", "-m", &missing, "-p", PROMPT],
        &["run", "-m", &name, "-f", &missing],
        &["chat", "-m", &missing],
        &["drafter", "inspect", &missing],
        &["batch", "-m", &name, "-i", &missing, "-o", "out.jsonl"],
    ] {
        let ran = finish(&mut place.command(arguments));
        let shown = ran.stdout + &ran.stderr;
        assert!(!shown.contains(['\x1b', '\x07']) && !shown.is_empty(), "{arguments:?}: {shown:?}");
    }
}

#[test]
fn a_broken_model_that_is_named_with_escapes_is_shown_without() {
    let mut writer = tiny_writer(&TinyOptions::default());
    writer.set("general.architecture", Meta::str(ESCAPE));
    let place = Workplace::with_model(&writer.finish());
    let ran = place.run(&["-p", PROMPT]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(!ran.stderr.contains('\x1b') && ran.stderr.contains("]52;c;eA=="), "{ran:#?}");
}

#[test]
fn a_trace_or_a_drafter_file_in_the_place_of_the_model_is_refused() {
    let place = Workplace::new();
    let before = fs::read(place.path("model.gguf")).unwrap();
    fs::hard_link(place.path("model.gguf"), place.path("hard.gguf")).unwrap();
    place.write("text.txt", PROMPT);
    let mut outputs = vec!["model.gguf", "./model.gguf", "hard.gguf"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("model.gguf", place.path("soft.gguf")).unwrap();
        outputs.push("soft.gguf");
    }
    for output in outputs {
        for arguments in [
            &["run", "-p", PROMPT, "--trace", output][..],
            &["drafter", "build", "-o", output, "text.txt"],
            &["drafter", "align", "-o", output, "--tokens", "10"],
            &["bench", "--rows", "--raw-output", output],
        ] {
            let ran = finish(&mut place.command(arguments));
            assert!(ran.code != Some(0) && ran.stderr.contains("error: "), "{arguments:?}: {ran:#?}");
            assert_eq!(fs::read(place.path("model.gguf")).unwrap(), before, "{arguments:?}");
        }
    }
}
