//! `--draft-model`: a second model that drafts. It changes no text, and a model that cannot draft is refused.

use std::fs;
use std::path::Path;

use chaski::gguf::Gguf;
use serde_json::{Value, json};

use super::harness::{ON_CPU, PROMPT, Workplace, finish};
use super::support::gguf_writer::Meta;
use super::support::tiny::{TinyOptions, tiny_llama, tiny_mamba, tiny_writer};

/// A workplace with a target and `draft.gguf`, which has the same vocabulary.
fn place() -> Workplace {
    let place = Workplace::new();
    place.write("draft.gguf", tiny_llama(4));
    place
}

/// A model with `token` in the place of token 300.
fn with_token(token: &str) -> Vec<u8> {
    let mut w = tiny_writer(&TinyOptions { seed: 4, ..TinyOptions::default() });
    let gguf = Gguf::from_bytes(w.clone().finish(), Path::new("usual.gguf")).unwrap();
    let tokens = gguf.get_array("tokenizer.ggml.tokens").unwrap();
    let mut tokens: Vec<String> = tokens.strings().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    token.clone_into(&mut tokens[300]);
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    w.set("tokenizer.ggml.tokens", Meta::strs(&tokens));
    w.finish()
}

#[test]
fn a_draft_model_changes_no_text_and_is_reported() {
    let place = place();
    for sampling in [&["--temp", "0"][..], &["-s", "7"]] {
        let run = |more: &[&str]| place.json(&[&["-p", PROMPT], sampling, more].concat());
        let plain = run(&["--drafter", "none"]);
        assert_eq!(plain.get("draft_model"), None);
        for draft in ["draft.gguf", "model.gguf"] {
            let drafted = run(&["-md", draft]);
            assert_eq!(drafted["text"], plain["text"]);
            assert_eq!((&drafted["draft_model"]["name"], &drafted["exact"]), (&json!(draft), &plain["exact"]));
            assert!(drafted["draft_model"]["predictions"].is_u64(), "{drafted}");
        }
    }
    let ran = place.run(&["-p", PROMPT, "--model-draft", "draft.gguf", "-v"]);
    assert!(ran.succeeds().stderr.contains("\ndraft model: "), "{ran:#?}");
}

#[test]
fn a_chat_and_a_benchmark_take_one_too() {
    let place = place();
    place.write("prompts.jsonl", json!({"id": "a-1", "kind": "a", "prompt": PROMPT}).to_string() + "\n");
    let chat = |more: &[&str]| {
        let mut command = place.command(&[&["chat", "-s", "7", "--curve-budget", "20"], more].concat());
        let input = place.write("input.txt", format!("{PROMPT}\nhe said\n"));
        finish(command.stdin(fs::File::open(input).unwrap()))
    };
    let drafted = chat(&["-md", "draft.gguf"]);
    assert_eq!(drafted.succeeds().stdout, chat(&["--drafter", "none"]).stdout);
    let bench = ["bench", "--curve-budget", "20", "-n", "8", "-r", "1", "--prompts", "prompts.jsonl"];
    let more = ["-md", "draft.gguf", "-o", "jsonl", "--raw-output", "raw.jsonl"];
    let ran = finish(&mut place.command(&[&bench[..], &more].concat()));
    for line in ran.succeeds().stdout.lines().chain(fs::read_to_string(place.path("raw.jsonl")).unwrap().lines()) {
        let row: Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["draft_model"], "draft.gguf", "{row}");
        let has_predictions = row["drafter"] == "auto" && row.get("timings").is_some();
        assert_eq!(row.get("predictions").is_some(), has_predictions, "{row}");
    }
    let ran = finish(&mut place.command(&["bench", "-md", "draft.gguf", "--curve", "-r", "1"]));
    assert!(ran.succeeds().stderr.contains("notice: --draft-model has no effect"), "{ran:#?}");
}

#[test]
fn it_comes_from_settings_and_variables_and_none_turns_it_off() {
    let place = place();
    place.write("config.toml", "draft-model = \"draft.gguf\"\n");
    let run = |more: &[&str]| {
        let config = ["run", "--json", "--config", "config.toml", "-p", PROMPT, "-n", "4", "--curve-budget", "20"];
        place.command(&[&config[..], more].concat())
    };
    assert_eq!(finish(&mut run(&[])).json()["draft_model"]["name"], "draft.gguf");
    assert_eq!(finish(&mut run(&["-md", "none"])).json().get("draft_model"), None);
    assert_eq!(finish(&mut run(&["-md", "none", "--drafter", "none"])).json().get("draft_model"), None);
    let mut variable = place.run_command(&["-p", PROMPT]);
    finish(variable.env("LLAMA_ARG_SPEC_DRAFT_MODEL", "gone.gguf"))
        .fails(4, &["gone.gguf: no such model file (LLAMA_ARG_SPEC_DRAFT_MODEL=gone.gguf)"]);
}

#[test]
fn drafters_that_ask_no_model_refuse_one() {
    let place = place();
    for drafter in ["none", "aded", "aded-sized"] {
        let ran = place.run(&["-p", PROMPT, "-md", "draft.gguf", "--drafter", drafter]);
        ran.fails(2, &["only the drafter auto can ask a draft model"]).hints("give -md none");
    }
    let ran = finish(&mut place.command(&["bench", "-md", "draft.gguf", "--drafters", "aded"]));
    ran.fails(2, &["only the drafter auto"]);
}

#[test]
fn what_cannot_draft_is_refused_before_loading() {
    let place = place();
    let run = |draft: &str| place.run(&["-p", PROMPT, "-md", draft]);
    run("none.gguf").fails(4, &["none.gguf: no such model file"]).hints("check the path");
    run("nobody").fails(4, &["nobody: no such model file, and no model has this name"]);
    place.write("text.gguf", "no model");
    run("text.gguf").fails(1, &["text.gguf: "]);
    place.write("other.gguf", with_token("\u{2581}puma"));
    let ran = run("other.gguf");
    let token = "token 300 is \"\u{2581}puma\" in other.gguf and ";
    ran.fails(1, &["other.gguf: cannot draft for this model", token, "in model.gguf"]).hints("the same family");
    place.write("mamba.gguf", tiny_mamba(1));
    run("mamba.gguf").fails(1, &["mamba.gguf: this model is recurrent"]).hints("the same family");
    let of_mamba = |draft| place.json(&["-m", "mamba.gguf", "-p", PROMPT, "-s", "7", "-n", "100", "-md", draft]);
    assert_eq!(of_mamba("draft.gguf")["tokens"], of_mamba("none")["tokens"], "it may have a draft model");
}

#[test]
fn a_model_that_cannot_go_back_takes_no_drafts() {
    let place = place();
    let mut other = tiny_writer(&TinyOptions { seed: 3, ..TinyOptions::default() });
    other.set("general.architecture", Meta::str("deepseek4"));
    for (key, value) in
        [("block_count", 2), ("context_length", 512), ("embedding_length", 64), ("attention.head_count", 4)]
    {
        other.set(&format!("deepseek4.{key}"), Meta::U32(value));
    }
    place.write("deepseek4.gguf", other.finish());
    let ran = place.run(&["-m", "deepseek4.gguf", "-p", PROMPT, "-md", "draft.gguf"]);
    ran.fails(1, &["deepseek4.gguf: this model's state cannot go back"]).hints("give -md none");
    let ran = finish(&mut place.command(&["bench", "--check", "-m", "deepseek4.gguf"]));
    ran.fails(1, &["deepseek4.gguf: this model is decoded without drafts"]);
}

#[test]
fn both_models_count_for_the_memory() {
    let place = place();
    let mut w = tiny_writer(&TinyOptions { seed: 4, ..TinyOptions::default() });
    w.set("llama.block_count", Meta::U32(512)).set("llama.attention.key_length", Meta::U32(1 << 24));
    place.write("wide.gguf", w.finish());
    let ran = place.run(&[&ON_CPU[..], &["-p", PROMPT, "-md", "wide.gguf"]].concat());
    ran.fails(5, &["model.gguf: ", "the model and its draft model need", "are available"]).hints("-md none");
    place.run(&[&ON_CPU[..], &["-p", PROMPT, "-c", "auto", "-n", "1", "-md", "draft.gguf"]].concat()).succeeds();
}

#[test]
fn models_that_could_draft_are_listed() {
    let place = place();
    fs::create_dir(place.path("models")).unwrap();
    fs::rename(place.path("draft.gguf"), place.path("models/small.gguf")).unwrap();
    place.write("models/other.gguf", with_token("puma"));
    place.write("models/mamba.gguf", tiny_mamba(1));
    let mut large = tiny_writer(&TinyOptions { seed: 5, ..TinyOptions::default() });
    large.tensor_f32("large.weight", &[1024, 1024], &vec![0.0; 1 << 20]);
    place.write("models/large.gguf", large.finish());
    let command = |arguments: &[&str]| finish(&mut place.command(arguments));
    let listed = command(&["models", "list", "--json"]).json();
    for model in listed["models"].as_array().unwrap() {
        let expected = if model["name"] == "large" { json!(["small"]) } else { Value::Null };
        assert_eq!(model["draft_models"], expected, "{model}");
    }
    let ran = command(&["models", "list"]);
    assert_eq!(ran.succeeds().stderr, "draft models (-md): small for large\n");
    let shown = command(&["models", "show", "large"]);
    assert!(shown.succeeds().stdout.contains("draft models  small (-md)\n"), "{shown:#?}");
    assert_eq!(command(&["models", "show", "small", "--json"]).json()["draft_models"], json!([]));
    // The hint of a misfit names what fits, and names stand for files.
    let ran = place.run(&["-m", "large", "-p", PROMPT, "-md", "other"]);
    ran.fails(1, &["other.gguf: cannot draft"]).hints("these could draft: -md small");
    assert_eq!(place.json(&["-p", PROMPT, "-md", "small"])["draft_model"]["name"], "small.gguf");
}
