//! `chaski run`: one prompt, one answer.

use serde_json::{Value, json};

use super::harness::{PROMPT, Workplace, finish, timing};

#[test]
fn text_goes_to_stdout_and_one_line_of_statistics_to_stderr() {
    let place = Workplace::new();
    let ran = place.run(&["-p", PROMPT, "--temp", "0"]);
    ran.succeeds();
    assert!(!ran.stdout.is_empty() && !ran.stdout.contains("tokens/s"), "{ran:#?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:#?}");
    assert!(ran.stderr.starts_with("32 tokens in ") && ran.stderr.contains(" tokens/s (prompt: "), "{ran:#?}");
    assert!(!ran.stderr.contains("seed"), "the likeliest token needs no seed: {ran:#?}");

    let quiet = place.run(&["-p", PROMPT, "--temp", "0", "-q"]);
    assert_eq!((quiet.code, quiet.stdout, quiet.stderr.as_str()), (Some(0), ran.stdout, ""));
}

#[test]
fn flags_win_over_the_environment() {
    let place = Workplace::new();
    let mut command = place.run_command(&["-m", "model.gguf", "-n", "5", "-t", "2", "-p", PROMPT]);
    let ran = finish(command.env("LLAMA_ARG_MODEL", "no.gguf").env("LLAMA_ARG_THREADS", "0"));
    ran.succeeds();
    assert!(ran.stderr.starts_with("5 tokens in "), "{ran:#?}");
}

#[test]
fn json_is_one_object_with_the_documented_keys() {
    let place = Workplace::new();
    let answer = place.json(&["-p", PROMPT, "-s", "5"]);
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut all = keys(&answer);
    all.sort();
    all.retain(|key| key != "inexact");
    assert_eq!(all, ["exact", "seed", "settings", "stop_type", "text", "timings", "tokens"]);
    let timings = keys(&answer["timings"]);
    for name in [
        "prompt_n",
        "cache_n",
        "prompt_ms",
        "prompt_per_second",
        "predicted_n",
        "predicted_ms",
        "predicted_per_second",
        "steps",
        "tokens_per_step",
        "draft_n",
        "draft_n_accepted",
        "draft_ms",
    ] {
        assert!(timings.iter().any(|key| key == name) && answer["timings"][name].is_number(), "{name}: {answer}");
    }
    assert_eq!((&answer["stop_type"], &answer["seed"]), (&json!("limit"), &json!(5)));
    assert_eq!((timing(&answer, "predicted_n"), timing(&answer, "cache_n")), (32, 0));
    assert_eq!(answer["tokens"].as_array().unwrap().len(), 32);
    assert_eq!(answer["text"].as_str().unwrap(), place.run(&["-p", PROMPT, "-s", "5"]).stdout);
}

#[test]
fn every_drafter_gives_the_same_text() {
    let place = Workplace::new();
    for temperature in ["0", "0.8"] {
        let answer =
            |drafter| place.json(&["-p", PROMPT, "-n", "200", "-s", "11", "--temp", temperature, "--drafter", drafter]);
        let plain = answer("none");
        assert_eq!((timing(&plain, "draft_n"), timing(&plain, "steps")), (0, 200));
        for drafter in ["auto", "aded"] {
            let drafted = answer(drafter);
            assert_eq!(drafted["tokens"], plain["tokens"], "{drafter} at {temperature}");
            assert_eq!(drafted["text"], plain["text"], "{drafter} at {temperature}");
            if drafter == "aded" {
                assert!(timing(&drafted, "draft_n") > 0, "{drafted}");
            }
        }
    }
}

#[test]
fn a_reported_seed_gives_the_text_again() {
    let place = Workplace::new();
    let wild = ["-p", PROMPT, "--temp", "1.5", "-s"];
    let once = place.json(&[&wild[..], &["-1"]].concat());
    let again = place.json(&[&wild[..], &["-1"]].concat());
    assert_ne!(once["seed"], again["seed"]);
    assert_ne!(once["text"], again["text"]);
    let seed = once["seed"].to_string();
    let ran = place.run(&[&wild[..], &[seed.as_str()]].concat());
    ran.succeeds();
    assert_eq!(ran.stdout, once["text"]);
    assert!(ran.stderr.trim_end().ends_with(&format!("; seed {seed}")), "{ran:#?}");
    // Without -s the seed is random too.
    assert_ne!(place.json(&wild[..4])["seed"], place.json(&wild[..4])["seed"]);
}

#[test]
fn the_greatest_seed_is_a_seed_like_others() {
    let place = Workplace::new();
    // llama.cpp reads the next number as "choose a random seed".
    let greatest = (u32::MAX - 1).to_string();
    let answer = || place.json(&["-p", PROMPT, "--temp", "1.5", "-s", &greatest])["text"].clone();
    assert_eq!(answer(), answer());
}

#[test]
fn a_stop_string_ends_the_text_before_itself() {
    let place = Workplace::new();
    let whole = place.text_of(&["-p", PROMPT]);
    // Inside the text, and longer than a token.
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[20..26].iter().collect();
    let before = &whole[..whole.find(&stop).unwrap()];
    for drafter in ["auto", "aded", "none"] {
        let arguments = ["-p", PROMPT, "-s", "7", "--drafter", drafter, "-r", "never seen", "-r", &stop];
        let ran = place.run(&arguments);
        ran.succeeds();
        assert_eq!(ran.stdout, before, "{drafter}");
        let answer = place.json(&arguments);
        assert_eq!(answer["text"], before, "{drafter}");
        assert_eq!((&answer["stop_type"], &answer["stopping_word"]), (&json!("word"), &json!(stop)));
    }
}

#[test]
fn a_full_context_is_said() {
    let place = Workplace::new();
    let n_prompt = timing(&place.json(&["-p", PROMPT]), "prompt_n");
    let n_ctx = (n_prompt + 10).to_string();
    let ran = place.run(&["-p", PROMPT, "-n", "-1", "-c", &n_ctx]);
    ran.succeeds().notices(&format!("the context of {n_ctx} tokens is full; hint: use a larger -c"));
    assert!(ran.stderr.starts_with("10 tokens in "), "{ran:#?}");
    let answer = place.json(&["-p", PROMPT, "-n", "-1", "-c", &n_ctx]);
    assert_eq!((&answer["stop_type"], timing(&answer, "predicted_n")), (&json!("limit"), 10));
}

#[test]
fn issue_13_13_a_context_longer_than_the_model_knows_is_a_notice() {
    let place = Workplace::new();
    let notice = "-c 70000 is more than the 65536 tokens that the model was trained for";
    let run = place.run(&["-p", PROMPT, "-c", "70000", "-n", "3", "-q"]);
    run.succeeds().notices(notice).notices("-c 65536");
    place.write("prompts.txt", format!("{PROMPT}\n"));
    let batch = ["batch", "-i", "prompts.txt", "-o", "results.jsonl", "-c", "70000", "-n", "3", "-np", "1"];
    finish(&mut place.command(&batch)).succeeds().notices(notice);
    let unchecked = ["-p", PROMPT, "-c", "9000000000", "--no-memory-check"];
    place.run(&unchecked).fails(2, &["-c 9000000000 is more than"]).hints("-c 65536");
}

#[test]
fn issue_13_4_the_seed_is_told_with_what_brings_the_text_again() {
    let place = Workplace::new();
    let hint = "; for the same text again add --drafter none --no-prompt-cache; seed 7";
    // The hint appears if the seed alone is not enough: in every context that is not exact.
    let drafted = place.run(&["-p", PROMPT, "-s", "7", "-fa", "on"]);
    assert!(drafted.stderr.trim_end().ends_with(hint), "{drafted:#?}");
    let plain = || place.run(&["-p", PROMPT, "-s", "7", "--drafter", "none", "--no-prompt-cache"]);
    let (first, again) = (plain(), plain());
    assert!(first.stderr.trim_end().ends_with("; seed 7") && !first.stderr.contains("again"), "{first:#?}");
    assert_eq!(first.succeeds().stdout, again.succeeds().stdout);
}
