//! Mistakes and broken files: each has its exit code, one `error:` line, and a hint if the user can do something.

use super::harness::{ON_CPU, PROMPT, Workplace, finish, timing};
use super::support::tiny::tiny_llama;

#[test]
fn a_missing_model_is_not_found() {
    let place = Workplace::new();
    let ran = place.run(&["-m", "no/such.gguf", "-p", PROMPT]);
    ran.fails(4, &["no/such.gguf: no such model file"]).hints("get-model.sh");
    finish(&mut place.command(&["bench", "-m", "no/such.gguf"])).fails(4, &["no/such.gguf: no such model file"]);
}

#[test]
fn whoever_gives_no_model_is_told_how() {
    let place = Workplace::new();
    for line in [&["run", "-p", PROMPT][..], &["chat"], &["bench"], &["tune"]] {
        let ran = finish(place.command(line).env_remove("LLAMA_ARG_MODEL"));
        ran.fails(2, &["required arguments"]).hints("LLAMA_ARG_MODEL");
    }
    finish(&mut place.command(&["run", "-p", PROMPT, "-hf", "a/b"]))
        .fails(2, &["unknown flag -hf"])
        .hints("-m FILE.gguf");
}

#[test]
fn what_is_not_a_gguf_file_is_said() {
    let place = Workplace::new();
    place.write("zip.gguf", [&b"PK\x03\x04"[..], &[0; 100]].concat());
    place.run(&["-m", "zip.gguf", "-p", PROMPT]).fails(1, &["zip.gguf: expected a GGUF file"]).hints("safetensors");
    place.write("empty.gguf", "");
    place.run(&["-m", "empty.gguf", "-p", PROMPT]).fails(1, &["empty.gguf: ", "24 bytes"]).hints("download it again");
    place.run(&["-m", ".", "-p", PROMPT]).fails(1, &["expected a regular file"]).hints(".gguf file");
    place.run(&["-m", "/dev/zero", "-p", PROMPT]).fails(1, &["expected a regular file"]).hints(".gguf file");
}

#[test]
fn a_truncated_model_says_what_it_needs_and_has() {
    let whole = tiny_llama(3);
    let place = Workplace::new();
    let n = whole.len();
    for length in [1, 23, 24, 25, 100, 1000, 5000, n / 4, n / 2, n - 4096, n - 1] {
        place.write("cut.gguf", &whole[..length]);
        let ran = place.run(&["-m", "cut.gguf", "-p", PROMPT]);
        ran.fails(1, &["cut.gguf: ", "the file has"]).hints("download it again");
        match length {
            0..24 => ran.fails(1, &["at least 24 bytes", &format!("has {length}")]),
            _ if length < n / 4 => ran.fails(1, &["the header is cut off", "needs"]),
            _ => ran.fails(1, &[&format!("need {n} bytes, but the file has {length}: incomplete download")]),
        };
    }
}

#[test]
fn a_prompt_must_leave_room_in_the_context() {
    let place = Workplace::new();
    let n_prompt = timing(&place.json(&["-p", PROMPT]), "prompt_n");
    let with = |n_ctx: u64| place.run(&["-p", PROMPT, "-c", &n_ctx.to_string()]);
    for n_ctx in [1, n_prompt - 1, n_prompt] {
        let ran = with(n_ctx);
        ran.fails(6, &[&format!("the prompt has {n_prompt} tokens, but the context has {n_ctx}")]);
        ran.hints(&format!("-c {}", n_prompt + 512));
    }
    let one = with(n_prompt + 1);
    one.succeeds().notices(&format!("the context of {} tokens is full", n_prompt + 1));
    assert!(one.stderr.starts_with("1 tokens in "), "{one:#?}");
    // Without -c, the context has the model's trained length.
    place.write("long.txt", "the ".repeat(70_000));
    place.run(&["-f", "long.txt"]).fails(6, &["tokens, but the context has 65536"]).hints("shorten the prompt");
    place
        .run(&["-p", PROMPT, "-c", "65537", "-n", "1"])
        .succeeds()
        .notices("-c 65537 is more than the 65536 tokens that the model was trained for");
}

#[test]
fn wrong_flags_and_numbers_are_usage_errors() {
    let place = Workplace::new();
    let too_great = u32::MAX.to_string();
    for (arguments, message) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["-n", "many"], "many"),
        (&["-n", "0"], "-n must be -1, or 1 or more"),
        (&["-n", "-3"], "-n must be -1, or 1 or more"),
        (&["-c", "-1"], "-1"),
        (&["-tb", "513"], "1 to 512"),
        (&["-t", "513"], "1 to 512"),
        (&["-s", "-2"], "--seed"),
        (&["-s", &too_great], "--seed"),
        (&["--temp", "-0.1"], "--temp"),
        (&["--temp", "nan"], "--temp"),
        (&["--temp", "1e39"], "--temp"),
        (&["--top-k", "-2"], "--top-k"),
        (&["--top-p", "1.1"], "--top-p"),
        (&["--top-p", "nan"], "--top-p"),
        (&["--min-p", "-0.1"], "--min-p"),
        (&["--repeat-penalty", "0"], "--repeat-penalty"),
        (&["--repeat-penalty", "inf"], "--repeat-penalty"),
        (&["--drafter", "best"], "best"),
        (&["-fa", "maybe"], "maybe"),
        (&["-r", ""], "stop string"),
        (&["--raw", "-sys", "be brief"], "--raw"),
        (&["--curve-budget", "x"], "x"),
        (&["stray"], "[PROMPT]"),
    ] {
        let mut command = place.command(&[&["run", "-p", PROMPT], arguments].concat());
        finish(&mut command).fails(2, &[message]);
    }
}

#[test]
fn hopeless_contexts_are_errors_and_not_crashes() {
    let place = Workplace::new();
    for n_ctx in ["1073741825", "4294967295", "4294967296", "18446744073709551615"] {
        place
            .run(&[&ON_CPU[..], &["-p", PROMPT, "-c", n_ctx]].concat())
            .fails(5, &["the model needs "])
            .hints("-c 65536");
    }
    place.run(&["-p", PROMPT, "-c", "99999999999999999999"]).fails(2, &[]);
}

#[test]
fn a_command_must_be_given() {
    let place = Workplace::new();
    let none = finish(&mut place.command(&[]));
    assert_eq!((none.code, none.stdout.as_str()), (Some(2), ""), "{none:#?}");
    assert!(none.stderr.contains("Usage: chaski"), "{none:#?}");
    finish(&mut place.command(&["walk"])).fails(2, &["walk"]);
    finish(place.command(&["run", "-p", PROMPT]).env_remove("LLAMA_ARG_MODEL")).fails(2, &["required"]);
}
