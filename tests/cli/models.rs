//! Unusual models, and special tokens in user texts.

use serde_json::Value;

use super::harness::{ON_CPU, PROMPT, Workplace, finish, timing};
use super::support::gguf_writer::{GgufWriter, Meta};
use super::support::tiny::{TinyOptions, tiny, tiny_mamba, tiny_writer};

fn without_template() -> Workplace {
    Workplace::with_model(&tiny(&TinyOptions { seed: 3, chat_template: None, ..TinyOptions::default() }))
}

#[test]
fn a_model_without_a_chat_template_wants_to_be_told_how_to_go_on() {
    let place = without_template();
    place.run(&["-p", PROMPT]).fails(2, &["no chat template"]).hints("--raw");
    let raw = place.run(&["-p", PROMPT, "--raw", "-q"]);
    assert_eq!((raw.code, raw.stderr.as_str()), (Some(0), ""), "--raw is asked for, so nothing needs saying");
    let own = "{% for m in messages %}{{ m.content }} {% endfor %}{{ word }}";
    let given =
        ["-p", "the sun", "-sys", "he said", "--chat-template", own, "--chat-template-kwargs", r#"{"word": "is"}"#];
    assert_eq!(place.text_of(&given), place.text_of(&["--raw", "-p", "he said the sun is"]));
    std::fs::write(place.path("own.jinja"), own).unwrap();
    let file = [&given[..4], &["--chat-template-file", "own.jinja"], &given[6..]].concat();
    assert_eq!(place.text_of(&file), place.text_of(&given));
}

#[test]
#[cfg(unix)]
fn issue_13_14_dates_in_templates_are_local() {
    use std::time::{SystemTime, UNIX_EPOCH};
    let place = Workplace::new();
    let hours = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600;
    for (zone, ahead) in [("UTC", 0), ("XXX-5", 5), ("XXX+7", 24 - 7)] {
        let before = hours();
        let mut command =
            place.run_command(&["-p", PROMPT, "-s", "7", "-q", "--chat-template", "{{ strftime_now('%H') }}"]);
        let ran = finish(command.env("TZ", zone));
        let expected = |hours: u64| place.text_of(&["--raw", "-p", &format!("{:02}", (hours + ahead) % 24)]);
        assert!([before, hours()].map(expected).contains(&ran.stdout), "{zone}: {ran:#?}");
    }
}

#[test]
fn issue_13_14_what_is_no_model_is_named() {
    let place = Workplace::new();
    for (bytes, what, hint) in [
        ("<!DOCTYPE html>\n<html><head>", "found a web page", "/resolve/"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "found a Git LFS pointer",
            "git lfs pull",
        ),
        ("{\"error\":\"Access to this model is restricted\"}", "found JSON", "log in"),
        ("Entry not found", "found text", "log in"),
        ("PK\x03\x04archive/data.pkl", "found a PyTorch model", "convert"),
        ("", "the file has 0", "download it again"),
    ] {
        place.write("wrong.gguf", bytes);
        place.run(&["-m", "wrong.gguf", "-p", PROMPT]).fails(1, &["wrong.gguf: ", what]).hints(hint);
        finish(&mut place.command(&["models", "show", "wrong.gguf"])).fails(1, &["wrong.gguf: ", what]).hints(hint);
    }
}

#[test]
fn templates_have_llama_cpps_names() {
    let place = Workplace::new();
    // chatml is the tiny model's own template.
    assert_eq!(place.text_of(&["-p", PROMPT, "--chat-template", "chatml"]), place.text_of(&["-p", PROMPT]));
    let vicuna = format!("USER: {PROMPT}\nASSISTANT:");
    let named = place.text_of(&["-p", PROMPT, "--chat-template", "vicuna"]);
    assert_eq!(named, place.text_of(&["-p", &vicuna, "--raw"]));
    place.run(&["-p", PROMPT, "--chat-template", "vicuna7"]).fails(2, &["vicuna7"]).hints("vicuna vicuna-orca");
    place
        .run(&["-p", PROMPT, "--chat-template-kwargs", "[]"])
        .fails(2, &["--chat-template-kwargs"])
        .hints("enable_thinking");
    place.run(&["-p", PROMPT, "--chat-template-file", "none.jinja"]).fails(1, &["none.jinja"]);
}

#[test]
fn a_system_prompt_is_a_message_of_its_own() {
    let place = Workplace::new();
    let rendered =
        format!("<|im_start|>system\nhe said<|im_end|>\n<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n");
    let raw = place.json(&["--raw", "-p", &rendered, "-s", "7"]);
    let chat = place.json(&["-p", PROMPT, "-sys", "he said", "-s", "7"]);
    assert!(timing(&chat, "prompt_n") > timing(&place.json(&["-p", PROMPT]), "prompt_n"));
    // The chat is tokenized in pieces, so words may be split differently; both have the special tokens.
    assert!(timing(&chat, "prompt_n").abs_diff(timing(&raw, "prompt_n")) <= 8, "{chat}\n{raw}");
}

#[test]
fn special_tokens_in_users_texts_are_text() {
    let n_tokens = |place: &Workplace, raw: bool, text: &str| {
        let mut arguments = vec!["-n", "1", "-p", text];
        arguments.extend(raw.then_some("--raw"));
        timing(&place.json(&arguments), "prompt_n")
    };
    let place = Workplace::new();
    let plain = n_tokens(&place, false, "rain 0 hotel");
    for special in ["<|im_end|>", "<|im_start|>", "</s>"] {
        let text = format!("rain 0{special} hotel");
        let n_more = n_tokens(&place, false, &text) - plain;
        assert!(n_more >= 3, "{special} became {n_more} tokens");
        let n_raw = n_tokens(&place, true, &text) - n_tokens(&place, true, "rain 0 hotel");
        // The special token itself, and at most one for the space after it.
        assert!(n_raw <= 2 && n_raw < n_more, "{special} became {n_raw} tokens with --raw");
    }
    // The template's special tokens are parsed.
    let n_chat = n_tokens(&place, false, PROMPT) - n_tokens(&place, true, PROMPT);
    assert!(n_chat < 30, "{n_chat} tokens around the prompt");
}

#[test]
fn drafts_change_no_answer_of_a_recurrent_model() {
    let place = Workplace::with_model(&tiny_mamba(1));
    for temperature in ["0", "0.8"] {
        let answer =
            |drafter| place.json(&["-p", PROMPT, "--temp", temperature, "-s", "7", "-n", "150", "--drafter", drafter]);
        let plain = answer("none");
        for drafter in ["auto", "aded"] {
            let drafted = answer(drafter);
            assert_eq!(drafted["tokens"], plain["tokens"], "{drafter}, temperature {temperature}");
            // With `auto` the times of this machine decide; `tests/tiny_model/recurrent.rs` has it draft by given ones.
            if drafter == "aded" {
                assert!(timing(&drafted, "draft_n") > 0, "{drafted}");
            }
        }
    }
    let ran = finish(&mut place.command(&["bench", "--check", "-n", "20"]));
    ran.succeeds();
    assert!(ran.stdout.contains("chain") && !ran.stdout.contains("tree"), "{ran:#?}");
}

#[test]
fn a_model_that_answers_nan_is_reported() {
    let place = Workplace::with_model(&tiny(&TinyOptions { nan_weights: true, ..TinyOptions::default() }));
    for temperature in ["0", "0.8"] {
        for drafter in ["auto", "aded", "none"] {
            let ran = place.run(&["-p", PROMPT, "--temp", temperature, "--drafter", drafter]);
            ran.fails(1, &["NaN or infinity"]);
            let json = place.run(&["-p", PROMPT, "--temp", temperature, "--drafter", drafter, "--json"]);
            json.fails(1, &["NaN or infinity"]);
        }
    }
}

#[test]
fn a_broken_template_is_reported_with_the_model() {
    let place = Workplace::with_model(&tiny(&TinyOptions {
        chat_template: Some("{% for message in messages %}".into()),
        ..TinyOptions::default()
    }));
    place.run(&["-p", PROMPT]).fails(1, &["model.gguf: "]).hints("");
    place.run(&["-p", PROMPT, "--raw"]).succeeds();
}

/// Writes model files of every kind of store, below the harness's home.
fn stores(place: &Workplace) {
    let write = |path: &str, bytes: &[u8]| {
        let path = place.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let model = |seed| tiny(&TinyOptions { seed, ..TinyOptions::default() });
    write("models/Condor-1B.Q4_0.gguf", &model(1));
    write("models/condor-2B.Q4_0.gguf", &model(2));
    let whole = model(3);
    write("models/broken.gguf", &whole[..whole.len() - 1000]);
    write("models/half.gguf.part", b"GGUF");
    write("cache/huggingface/hub/models--org--puma-GGUF/snapshots/1/puma.Q8_0.gguf", &model(4));
    let digest = "0f".repeat(32);
    let manifest = format!(
        r#"{{"layers": [{{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:{digest}"}}]}}"#
    );
    write("home/.ollama/models/manifests/registry.ollama.ai/library/llama/latest", manifest.as_bytes());
    write("home/.ollama/models/manifests/registry.ollama.ai/library/torn/latest", b"{");
    write(&format!("home/.ollama/models/blobs/sha256-{digest}"), &model(5));
    write("home/.lmstudio/models/org/vicuna/vicuna.gguf", &model(6));
    write("cache/llama.cpp/alpaca.gguf", &model(7));
    write("extra/deep/guanaco.gguf", &model(8));
}

#[test]
fn models_are_found_wherever_programs_keep_them() {
    let place = Workplace::new();
    stores(&place);
    let list = finish(&mut place.command(&["models", "list", "--json", "--dir", "extra"]));
    let models = list.json()["models"].as_array().unwrap().clone();
    let of =
        |name: &str| models.iter().find(|model| model["name"] == name).unwrap_or_else(|| panic!("{name}: {list:#?}"));
    for (name, store) in [
        ("Condor-1B.Q4_0", "folder"),
        ("puma.Q8_0", "hugging-face"),
        ("llama:latest", "ollama"),
        ("vicuna", "lm-studio"),
        ("alpaca", "llama-cpp"),
        ("guanaco", "folder"),
    ] {
        let model = of(name);
        assert_eq!(model["store"], store, "{name}");
        assert_eq!((&model["quantization"], &model["context_length"]), (&"F32".into(), &65536.into()), "{name}");
        assert!(model["n_parameters"].as_u64() > Some(10_000) && model["fault"].is_null(), "{model}");
    }
    assert_eq!(of("puma.Q8_0")["also"][0], "org/puma-GGUF/puma.Q8_0");
    for (name, fault) in
        [("broken", "incomplete download"), ("half", "incomplete"), ("torn:latest", "manifest is damaged")]
    {
        assert!(of(name)["fault"].as_str().unwrap().contains(fault), "{}", of(name));
    }
    assert_eq!(models.len(), 10, "{list:#?}");
    let text = finish(&mut place.command(&["models", "list", "--dir", "extra"]));
    text.succeeds();
    assert_eq!(text.stdout.lines().count(), 10, "{text:#?}");
    assert!(text.stdout.lines().any(|line| line.starts_with("broken") && line.contains("! ")), "{text:#?}");
    finish(&mut place.command(&["models", "list", "--dir", "nowhere"])).fails(2, &["nowhere: no such folder"]);
}

#[test]
fn a_model_is_named_by_what_no_other_name_begins_with() {
    let place = Workplace::new();
    stores(&place);
    let answer = |name: &str| place.run(&["-m", name, "-p", PROMPT, "-n", "1", "-q"]);
    for name in ["puma", "ORG/PUMA", "llama", "condor-1b", "VICUNA"] {
        answer(name).succeeds();
    }
    answer("condor").fails(2, &["2 models", "Condor-1B.Q4_0", "condor-2B.Q4_0"]).hints("more of the name");
    answer("pumma").fails(4, &["pumma: no such model file, and no model has this name"]).hints("puma.Q8_0");
    answer("xyzzy").fails(4, &["no such model"]).hints("chaski models list");
    answer("broken").fails(1, &["incomplete download"]);
    finish(&mut place.command(&["models", "show", "puma"])).succeeds();
    // A file or something like a path takes precedence over a name.
    place.write("puma", b"not a model");
    answer("puma").fails(1, &["expected"]);
    answer("./condor-1B.Q4_0").fails(4, &["no such model file"]);
}

#[test]
fn shards_are_one_model() {
    let place = Workplace::new();
    std::fs::create_dir(place.path("models")).unwrap();
    let mut w = tiny_writer(&TinyOptions::default());
    let second = w.tensors.split_off(5);
    let n = u64::try_from(w.tensors.len() + second.len()).unwrap();
    w.set("split.no", Meta::U16(0)).set("split.count", Meta::U16(2)).set("split.tensors.count", Meta::U64(n));
    let mut rest = GgufWriter::default();
    rest.set("split.no", Meta::U16(1)).set("split.count", Meta::U16(2)).set("split.tensors.count", Meta::U64(n));
    rest.tensors = second;
    place.write("models/t-00001-of-00002.gguf", w.finish());
    let list = || finish(&mut place.command(&["models", "list", "--json"])).json()["models"].clone();
    assert!(list()[0]["fault"].as_str().unwrap().contains("shard 2 of 2 is missing"), "{}", list());
    place.write("models/t-00002-of-00002.gguf", rest.finish());
    assert_eq!((&list()[0]["name"], &list()[0]["n_files"]), (&"t".into(), &2.into()));
    assert_eq!(list().as_array().unwrap().len(), 1);
}

#[test]
fn what_is_in_a_model_is_shown_and_cleaned() {
    let place = Workplace::new();
    let mut w = tiny_writer(&TinyOptions::default());
    w.set("general.name", Meta::str("evil\x1b]52;c;AAAA\x07\nsize 1 B")).set("general.license", Meta::str("MIT"));
    place.write("model.gguf", w.finish());
    let text = finish(&mut place.command(&["models", "show", "model.gguf"]));
    text.succeeds();
    assert!(!text.stdout.contains(|c: char| c.is_control() && c != '\n'), "{text:#?}");
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(lines.contains(&"name          evil]52;c;AAAA size 1 B"), "{text:#?}");
    for (name, value) in [("licence", "MIT"), ("template", "chatml"), ("quantization", "F32"), ("context", "65,536")] {
        assert!(lines.iter().any(|line| line.starts_with(name) && line.contains(value)), "{name}: {text:#?}");
    }
    let json = finish(&mut place.command(&["models", "show", "--json", "model.gguf"])).json();
    assert_eq!(json["tensors"][0]["name"], "f32");
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["length"], 384);
    assert_eq!(json["template"]["kind"], "chatml");
    assert!(json["memory"]["total_bytes"].as_u64() > Some(1 << 20));
    assert!(json["tokens_per_second"].is_null(), "nothing was measured yet");
    // With the default settings of this machine.
    let mut run = place.run_command(&["-p", PROMPT, "-n", "64"]);
    finish(run.env_remove("LLAMA_ARG_THREADS")).succeeds();
    let json = finish(&mut place.command(&["models", "show", "--json", "model.gguf"])).json();
    assert!(json["tokens_per_second"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn a_context_that_does_not_fit_is_refused_before_loading() {
    let place = Workplace::new();
    // The tiny model's cache takes 256 bytes per token, so only a false header can need too much.
    let mut w = tiny_writer(&TinyOptions::default());
    w.set("llama.context_length", Meta::U32(u32::MAX));
    place.write("huge.gguf", w.finish());
    let run = place.run(&[&ON_CPU[..], &["-m", "huge.gguf", "-p", PROMPT, "-c", "4000000000"]].concat());
    run.fails(5, &["huge.gguf: with a context of 4000000000 tokens, the model needs", "are available"]).hints("-c ");
    // Without -c, -n gives the needed size.
    let run = place.run(&[&ON_CPU[..], &["-m", "huge.gguf", "-p", PROMPT, "-n", "4000000000"]].concat());
    run.fails(5, &["huge.gguf: with a context of 4000000000 tokens, the model needs", "are available"]).hints("-c ");
    let chat = finish(&mut place.command(&[&["chat", "-m", "huge.gguf", "-c", "4000000000"], &ON_CPU[..]].concat()));
    chat.fails(5, &["are available"]);
    let fit = finish(&mut place.command(&["models", "fit", "huge.gguf"]));
    fit.succeeds();
    assert!(fit.stdout.contains("4294967295") && fit.stdout.contains("does not fit"), "{fit:#?}");
    let fit = finish(&mut place.command(&["models", "fit", "--json", "model.gguf"])).json();
    assert_eq!(fit["fits"][0]["n_ctx"], 2048);
    assert_eq!(fit["fits"][0]["fits"], true);
}

#[test]
fn a_line_of_a_batch_that_does_not_fit_is_refused_alone() {
    let mut w = tiny_writer(&TinyOptions::default());
    // llama.cpp supports no longer context.
    w.set("llama.context_length", Meta::U32(i32::MAX.unsigned_abs()));
    let place = Workplace::with_model(&w.finish());
    let line =
        |name: &str, n: u32| format!("{{\"custom_id\": \"{name}\", \"prompt\": \"{PROMPT}\", \"max_tokens\": {n}}}\n");
    let lines = [("before", 5), ("huge", 2_000_000_000), ("after", 5)];
    place.write("prompts.jsonl", lines.map(|(name, n)| line(name, n)).concat());
    // The cache would take a tebibyte.
    let flags = ["batch", "-i", "prompts.jsonl", "-o", "-", "--ordered", "-s", "7", "-ctk", "f32", "-ctv", "f32"];
    let ran = finish(&mut place.command(&[&flags[..], &ON_CPU].concat()));
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    let records: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let codes: Vec<&Value> = records.iter().map(|record| &record["error"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &Value::from("not_enough_memory"), &Value::Null], "{ran:#?}");
    let message = records[1]["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("an answer of 2000000000 need")
            && message.contains("hint: these would fit, in a new job: max_tokens "),
        "{message}"
    );
    // The suggested value fits.
    let fitting = message.split("max_tokens ").nth(1).unwrap().split([',', ';']).next().unwrap();
    assert!((1..2_000_000_000).contains(&fitting.parse::<u32>().unwrap()), "{message}");
}

#[test]
fn auto_is_as_many_positions_as_fit() {
    let mut w = tiny_writer(&TinyOptions::default());
    w.set("llama.context_length", Meta::U32(1024));
    let place = Workplace::with_model(&w.finish());
    place.run(&[&ON_CPU[..], &["-p", PROMPT, "-c", "auto", "-n", "1"]].concat()).succeeds();
    let long = "rain ".repeat(3000);
    place.run(&[&ON_CPU[..], &["-p", &long, "-c", "auto", "-n", "1"]].concat()).fails(6, &["the context has 1024"]);
    place.run(&["-p", PROMPT, "-c", "some"]).fails(2, &["some"]);
}
