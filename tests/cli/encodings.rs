//! Files in other encodings: with a byte-order mark, or in UTF-16. Every reader must treat them like plain UTF-8.

use std::fs::{self, File};

use super::harness::{PROMPT, Workplace, finish};

/// The same text as plain UTF-8, with a byte-order mark, and as UTF-16 in both byte orders.
fn saved(text: &str) -> [(&'static str, Vec<u8>); 4] {
    let marked = format!("\u{feff}{text}");
    let utf16 = |bytes: fn(u16) -> [u8; 2]| marked.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    [
        ("plain", text.into()),
        ("marked", marked.clone().into()),
        ("UTF-16 LE", utf16(u16::to_le_bytes)),
        ("UTF-16 BE", utf16(u16::to_be_bytes)),
    ]
}

/// Runs `ask` on each form of `text` in `input.txt`; all results must equal the first.
#[track_caller]
fn all_alike(place: &Workplace, text: &str, ask: impl Fn(&str) -> (Option<i32>, String)) -> String {
    let ran = saved(text).map(|(form, bytes)| {
        place.write("input.txt", bytes);
        (form, ask("input.txt"))
    });
    assert_eq!(ran[0].1.0, Some(0), "{ran:?}");
    for (form, result) in &ran {
        assert_eq!(*result, ran[0].1, "{form}");
    }
    ran[0].1.1.clone()
}

fn run(place: &Workplace, arguments: &[&str]) -> (Option<i32>, String) {
    let ran = place.run(&[&["-s", "7", "-q"], arguments].concat());
    assert_eq!(ran.stderr, "");
    (ran.code, ran.stdout)
}

#[test]
fn issue_13_5_a_prompt_with_a_mark_is_the_prompt() {
    let place = Workplace::new();
    let expected = place.text_of(&["-p", PROMPT]);
    assert_eq!(all_alike(&place, PROMPT, |file| run(&place, &["-f", file])), expected);
    let piped = |file: &str| {
        let ran = finish(place.run_command(&["-s", "7", "-q"]).stdin(File::open(place.path(file)).unwrap()));
        (ran.code, ran.stdout)
    };
    assert_eq!(all_alike(&place, PROMPT, piped), expected);
    // The result of "$(cat FILE)".
    let marked = format!("\u{feff}{PROMPT}");
    assert_eq!(place.text_of(&["-p", &marked]), expected);
    assert_eq!(place.text_of(&[&format!("--prompt={marked}")]), expected);
    let system = place.text_of(&["-p", PROMPT, "-sys", "is it the station"]);
    assert_eq!(place.text_of(&["-p", PROMPT, "-sys", "\u{feff}is it the station"]), system);
}

#[test]
fn issue_13_5_schemas_grammars_templates_and_settings_may_have_a_mark() {
    let place = Workplace::new();
    all_alike(&place, r#"{"enum": ["red"]}"#, |file| run(&place, &["-p", PROMPT, "--json-schema-file", file]));
    all_alike(&place, "root ::= \"sun\"\n", |file| run(&place, &["-p", PROMPT, "--grammar-file", file]));
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    all_alike(&place, template, |file| run(&place, &["-p", PROMPT, "--chat-template-file", file]));
    let one = all_alike(&place, "n-predict = 1\n", |file| {
        let mut command = place.run_command(&["-p", PROMPT, "-s", "7", "-q", "--config", file]);
        let ran = finish(command.env_remove("LLAMA_ARG_N_PREDICT"));
        (ran.code, ran.stdout + &ran.stderr)
    });
    assert_ne!(one, place.text_of(&["-p", PROMPT]), "the setting holds");
}

#[test]
fn issue_13_5_a_batch_may_have_a_mark() {
    let place = Workplace::new();
    let texts = |input: &str, more: &[&str]| {
        let _ = fs::remove_file(place.path("out.txt"));
        let _ = fs::remove_file(place.path("out.txt.journal"));
        let batch = ["batch", "-i", input, "-o", "out.txt", "--text", "-s", "7", "-q"];
        let ran = finish(&mut place.command(&[&batch, more].concat()));
        assert_eq!(ran.stderr, "");
        (ran.code, fs::read_to_string(place.path("out.txt")).unwrap())
    };
    let lines = "{\"prompt\": \"the rain\"}\n{\"prompt\": \"the station\"}\n";
    let answers = all_alike(&place, lines, |file| texts(file, &["--format", "jsonl"]));
    // Without --format, the first characters decide.
    assert_eq!(
        all_alike(&place, lines, |file| {
            fs::rename(place.path(file), place.path("lines")).unwrap();
            texts("lines", &[])
        }),
        answers
    );
    let rows = all_alike(&place, "text\nthe rain\nthe station\n", |file| {
        texts(file, &["--format", "csv", "--template", "{{text}}"])
    });
    place.write("rows.csv", "text\nthe rain\nthe station\n");
    assert_eq!(all_alike(&place, "{{text}}", |file| texts("rows.csv", &["--template-file", file])), rows);
}

#[test]
fn issue_13_5_a_chat_over_a_pipe_may_have_a_mark() {
    let place = Workplace::new();
    place.write("notes.txt", "\u{feff}he said that");
    let chat = |file: &str| {
        let mut command = place.command(&["chat", "--curve-budget", "20", "-s", "7"]);
        let ran = finish(command.stdin(File::open(place.path(file)).unwrap()));
        (ran.code, ran.stdout + &ran.stderr)
    };
    // The first line is a command, not a message.
    let said = all_alike(&place, &format!("/system is it\n/read notes.txt\n{PROMPT}\n"), chat);
    assert!(said.contains("the system prompt is set") && said.contains("notes.txt: 12 bytes"), "{said}");
}

#[test]
fn issue_13_5_prompt_files_and_corpora_may_have_a_mark() {
    let place = Workplace::new();
    let build = |file: &str| {
        let build = ["drafter", "build", "-o", "t.chaski", file];
        let ran = finish(&mut place.command(&build));
        let inspected = finish(&mut place.command(&["drafter", "inspect", "t.chaski"]));
        let _ = fs::remove_file(place.path("t.chaski"));
        (ran.code, inspected.succeeds().stdout.lines().filter(|line| line.contains("tri-grams")).collect())
    };
    all_alike(&place, &PROMPT.repeat(20), build);
    let prompts = "{\"id\": \"chat-1\", \"kind\": \"chat\", \"prompt\": \"the rain\"}\n";
    all_alike(&place, prompts, |file| {
        let bench = ["bench", "--prompts", file, "--drafters", "none", "-n", "2", "-r", "1", "--curve-budget", "20"];
        let ran = finish(&mut place.command(&bench));
        assert!(ran.stdout.contains("chat"), "{ran:#?}");
        (ran.code, String::new())
    });
}

#[test]
fn issue_13_5_other_encodings_have_a_hint() {
    let place = Workplace::new();
    for (bytes, error, hint) in [
        (&b"caf\xe9"[..], "not UTF-8 at byte 3", "iconv -f latin1"),
        (b"t\0h\0e\0 \0r\0a\0i\0n\0", "looks like UTF-16", "iconv -f utf-16le -t utf-8"),
        (b"\0t\0h\0e\0 \0r\0a\0i\0n", "looks like UTF-16", "iconv -f utf-16be -t utf-8"),
        (b"\xff\xfe\0\0t\0\0\0", "UTF-32", "iconv -f utf-32 -t utf-8"),
        (b"\xff\xfet\0h", "not UTF-16 at byte 4", "save it again as UTF-8"),
    ] {
        place.write("input.txt", bytes);
        for flag in ["-f", "--json-schema-file", "--grammar-file", "--chat-template-file", "--config"] {
            let ran = place.run(&[flag, "input.txt", "-p", PROMPT]);
            assert!(matches!(ran.code, Some(1 | 2)), "{ran:#?}");
            ran.fails(ran.code.unwrap(), &["input.txt: ", error]).hints(hint);
        }
        let batch = ["batch", "-i", "input.txt", "-o", "out.jsonl"];
        if error != "not UTF-8 at byte 3" {
            finish(&mut place.command(&batch)).fails(1, &["input.txt: ", error]).hints(hint);
        }
    }
}
