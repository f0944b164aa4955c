//! Exactness of a context: computed, reported, and demanded by `--exact`.

use std::process::Command;

use serde_json::{Value, json};

use super::harness::{PROMPT, Ran, Workplace, finish, skip};
use super::support::tiny::{tiny_gemma3, tiny_mamba};

/// The workplace, if chaski's kernels are in use there; `None` if this machine has only ggml's.
pub(crate) fn place_with_kernels(test: &str, place: Workplace) -> Option<Workplace> {
    let shown = finish(&mut place.command(&["models", "show", "--json", "model.gguf"])).json();
    if shown["kernels"]["kernels"] == "ggml" {
        skip(test, "this machine has ggml's kernels only");
        return None;
    }
    Some(place)
}

fn with_ggml(command: &mut Command) -> Ran {
    finish(command.env("CHASKI_KERNELS", "ggml"))
}

#[test]
fn json_tells_whether_an_answer_is_exact() {
    let Some(place) = place_with_kernels("exact json", Workplace::new()) else { return };
    let exact = place.json(&["-p", PROMPT]);
    assert_eq!((&exact["exact"], exact.get("inexact")), (&json!(true), None), "{exact}");
    let flash = place.json(&["-p", PROMPT, "-fa", "on"]);
    assert_eq!((&flash["exact"], &flash["inexact"]), (&json!(false), &json!(["flash attention is on"])));
    let ggml = with_ggml(&mut place.run_command(&["-p", PROMPT, "--json"])).json();
    assert_eq!(ggml["exact"], false);
    assert_eq!(ggml["inexact"], json!(["ggml's kernels are used: CHASKI_KERNELS=ggml"]));
}

#[test]
fn verbose_prints_one_line() {
    let Some(place) = place_with_kernels("exact verbose", Workplace::new()) else { return };
    let lines = |ran: &Ran| ran.stderr.lines().filter(|line| line.starts_with("exact: ")).count();
    let ran = place.run(&["-p", PROMPT, "-v"]);
    assert_eq!(lines(&ran), 1, "{ran:#?}");
    assert!(ran.stderr.contains("exact: yes\n"), "{ran:#?}");
    let ran = place.run(&["-p", PROMPT, "-v", "-fa", "on"]);
    assert!(ran.stderr.contains("exact: no: flash attention is on\n"), "{ran:#?}");
}

#[test]
fn models_show_tells_what_the_header_allows() {
    let Some(place) = place_with_kernels("exact show", Workplace::new()) else { return };
    let show = |arguments: &[&str]| place.command(&[&["models", "show", "model.gguf"], arguments].concat());
    let text = finish(&mut show(&[])).stdout;
    assert!(text.contains("exact         on this machine: yes\n"), "{text}");
    assert_eq!(finish(&mut show(&["--json"])).json()["exact"], true);
    let text = with_ggml(&mut show(&[])).stdout;
    assert!(
        text.contains("exact         on this machine: no: ggml's kernels are used: CHASKI_KERNELS=ggml\n"),
        "{text}"
    );
    assert_eq!(with_ggml(&mut show(&["--json"])).json()["inexact"].as_array().map(Vec::len), Some(1));
}

#[test]
fn exact_changes_no_text_where_it_holds() {
    for (name, place) in [
        ("llama", Workplace::new()),
        ("gemma3", Workplace::with_model(&tiny_gemma3(3))),
        ("mamba", Workplace::with_model(&tiny_mamba(3))),
    ] {
        let Some(place) = place_with_kernels("exact text", place) else { return };
        let exact = place.run(&["-p", PROMPT, "-s", "7", "--exact", "--json"]).json();
        assert_eq!(exact["exact"], true, "{name}: {exact}");
        assert_eq!(exact["text"], place.json(&["-p", PROMPT, "-s", "7", "--drafter", "none"])["text"], "{name}");
    }
}

#[test]
fn exact_refuses_what_is_not() {
    let Some(place) = place_with_kernels("exact refusals", Workplace::new()) else { return };
    place.write("prompts.txt", format!("{PROMPT}\n"));
    place.write("prompts.jsonl", json!({"id": "a-1", "kind": "a", "prompt": PROMPT}).to_string() + "\n");
    let run = ["run", "--curve-budget", "20", "--exact", "-p", PROMPT];
    let batch = ["batch", "--exact", "-i", "prompts.txt", "-o", "results.jsonl", "-np", "1"];
    let bench = ["bench", "--exact", "--check", "-n", "4", "--prompts", "prompts.jsonl"];
    for arguments in [&run[..], &batch, &bench] {
        let flash = finish(&mut place.command(&[arguments, &["-fa", "on"]].concat()));
        flash.fails(1, &["this is not exact: flash attention is on"]).hints("-fa off");
        let ggml = with_ggml(&mut place.command(arguments));
        ggml.fails(1, &["this is not exact: ggml's kernels are used: CHASKI_KERNELS=ggml"])
            .hints("unset CHASKI_KERNELS");
        assert_eq!((flash.stdout, ggml.stdout), (String::new(), String::new()));
        finish(&mut place.command(arguments)).succeeds();
    }
    place
        .run(&["-p", PROMPT, "--exact", "-ctv", "q8_0"])
        .fails(1, &["the value cache is quantized"])
        .hints("-ctv f16 -fa off");
}

#[test]
fn a_batch_tells_in_its_summary() {
    let Some(place) = place_with_kernels("exact batch", Workplace::new()) else { return };
    place.write("prompts.txt", format!("{PROMPT}\n{PROMPT} again\n"));
    let batch = ["batch", "-i", "prompts.txt", "-o", "results.jsonl", "-n", "4"];
    let ran = finish(&mut place.command(&batch));
    assert!(ran.succeeds().stderr.contains("; exact: yes; seed "), "{ran:#?}");
    let again = ["batch", "-i", "prompts.txt", "-o", "others.jsonl", "-n", "4", "-fa", "on"];
    let ran = finish(&mut place.command(&again));
    assert!(ran.succeeds().stderr.contains("; exact: no: flash attention is on; seed "), "{ran:#?}");
}

#[test]
fn bench_check_lists_what_is_not_exact() {
    let Some(place) = place_with_kernels("exact check", Workplace::new()) else { return };
    place.write("prompts.jsonl", json!({"id": "a-1", "kind": "a", "prompt": PROMPT}).to_string() + "\n");
    let check = |more: &[&str]| {
        let start = ["bench", "--check", "-n", "8", "--prompts", "prompts.jsonl", "--widths", "4"];
        finish(&mut place.command(&[&start[..], more].concat()))
    };
    let ran = check(&[]);
    assert!(ran.succeeds().stdout.contains("\nequal: 16 of 16 positions, bits\n"), "{ran:#?}");
    assert!(!ran.stdout.contains("not exact") && !ran.stdout.contains("margin"), "{ran:#?}");
    let ran = check(&["-fa", "on"]);
    assert!(ran.succeeds().stdout.contains("\nnot exact: flash attention is on\n"), "{ran:#?}");
    let json: Value = check(&["-o", "json"]).json();
    assert_eq!((&json["exact"], &json["summary"][0]["n_same_bits"]), (&json!(true), &json!(8)));
}

#[test]
fn the_notice_on_the_same_text_is_for_what_is_not_exact() {
    let Some(place) = place_with_kernels("exact notice", Workplace::new()) else { return };
    let hint = "for the same text again add";
    assert!(!place.run(&["-p", PROMPT, "-s", "7"]).stderr.contains(hint));
    assert!(place.run(&["-p", PROMPT, "-s", "7", "-fa", "on"]).stderr.contains(hint));
}
