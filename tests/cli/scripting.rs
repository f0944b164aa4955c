//! What scripts rely on: stdout has only data, in the documented formats.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::harness::{PROMPT, Ran, Workplace, finish, timing};

fn command(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut place.command(arguments))
}

fn lines(stdout: &str) -> Vec<Value> {
    assert!(stdout.ends_with('\n'), "{stdout:?}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn jsonl_tells_the_prompt_the_text_and_the_end() {
    let place = Workplace::new();
    let arguments = ["-p", PROMPT, "-s", "7"];
    let answer = place.json(&arguments);
    let events = lines(&place.run(&[&arguments[..], &["--jsonl"]].concat()).succeeds().stdout);
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<&Value>>();
    let names: BTreeSet<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["end", "prompt", "text"]));
    let text: String = of("text").iter().map(|event| event["content"].as_str().unwrap()).collect();
    assert_eq!(text, answer["text"].as_str().unwrap());

    let n_prompt = timing(&answer, "prompt_n");
    let progress: Vec<&Value> = of("prompt").iter().map(|event| &event["prompt_progress"]).collect();
    let last = progress.last().unwrap();
    assert_eq!(
        (&last["processed"], &last["total"], &last["cache"]),
        (&json!(n_prompt - 1), &json!(n_prompt - 1), &json!(0))
    );
    assert!(progress.iter().all(|progress| progress["time_ms"].is_u64()), "{progress:?}");

    let end = events.last().unwrap();
    assert_eq!((&end["event"], of("end").len()), (&json!("end"), 1));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    assert_eq!(keys(end), keys(&answer).into_iter().chain(["event".to_owned()]).collect());
    assert_eq!(
        (&end["text"], &end["tokens"], &end["stop_type"]),
        (&answer["text"], &answer["tokens"], &answer["stop_type"])
    );
    place.run(&["-p", "x", "--json", "--jsonl"]).fails(2, &["--json"]);
}

/// Runs every command with stdout in a pipe: no colours, progress bars, carriage returns or extra words.
#[test]
fn stdout_of_every_command_is_its_data_and_nothing_else() {
    let place = Workplace::new();
    place.write("prompts.txt", format!("{PROMPT}\nthe train\n"));
    place.write("text.txt", "the rain in the station, the rain in the train\n");
    place.run(&["-p", PROMPT, "-q", "--temp", "0", "--trace", "traces.jsonl"]).succeeds();
    command(&place, &["drafter", "build", "-o", "a.chaski", "text.txt"]).succeeds();

    // How the data of each command is recognized.
    let is_text = |_: &str| true;
    let is_json = |stdout: &str| serde_json::from_str::<Value>(stdout).is_ok();
    let is_jsonl = |stdout: &str| !lines(stdout).is_empty();
    let is_empty = str::is_empty;
    let is_table = |stdout: &str| stdout.lines().next().is_some_and(|line| line.starts_with('|'));
    let is_toml = |stdout: &str| stdout.lines().all(|line| line.starts_with('#') || line.contains(" = "));
    let begins = |start: &'static str| move |stdout: &str| stdout.starts_with(start);
    type IsData<'a> = &'a dyn Fn(&str) -> bool;
    let cases: &[(&[&str], IsData<'_>)] = &[
        (&["run", "-p", PROMPT], &is_text),
        (&["run", "-p", PROMPT, "--json"], &is_json),
        (&["run", "-p", PROMPT, "--jsonl"], &is_jsonl),
        (&["run", "-p", PROMPT, "--json", "--explain"], &is_json),
        (&["batch", "-i", "prompts.txt", "-o", "-"], &is_jsonl),
        (&["batch", "-i", "prompts.txt", "-o", "results.jsonl"], &is_empty),
        (&["batch", "-o", "results.jsonl", "--status=json"], &is_json),
        (&["bench", "--prompts", "traces.jsonl"], &is_empty),
        (&["drafter", "replay", "traces.jsonl", "-o", "json"], &is_json),
        (&["drafter", "replay", "traces.jsonl"], &is_table),
        (&["drafter", "inspect", "--json", "a.chaski"], &is_json),
        (&["drafter", "merge", "-o", "b.chaski", "a.chaski", "a.chaski"], &is_empty),
        (&["data", "show"], &begins("prompts ")),
        (&["data", "show", "--json"], &is_json),
        (&["data", "learning", "off"], &is_empty),
        (&["data", "delete", "learned"], &is_empty),
        (&["data", "delete", "all"], &is_empty),
        (&["config", "show"], &is_toml),
        (&["completions", "fish"], &begins("# Print an optspec for argparse")),
        (&["man"], &begins(".ie \\n(.g")),
        (&["man", "pages"], &is_empty),
        (&["--version"], &begins("chaski ")),
    ];
    for (arguments, is_data) in cases {
        let ran = command(&place, arguments);
        // A file that is not a list of prompts is refused; stdout stays empty then too.
        if arguments[0] != "bench" {
            ran.succeeds();
        }
        let is_clean = |byte: u8| byte == b'\n' || byte == b'\t' || byte >= b' ';
        let must_be_clean = arguments[0] != "run" || arguments.len() > 3;
        assert!(!must_be_clean || ran.stdout.bytes().all(is_clean), "{arguments:?}: {ran:#?}");
        assert!(is_data(&ran.stdout), "{arguments:?}: {ran:#?}");
    }

    // The data of `run` is the text, byte for byte.
    let arguments = ["-p", PROMPT, "-s", "9"];
    assert_eq!(place.run(&arguments).stdout, place.json(&arguments)["text"].as_str().unwrap());
    assert_eq!(place.run(&[&arguments[..], &["-q"]].concat()).stderr, "");
    let status = place.run(&arguments).stderr;
    assert!(status.lines().count() == 1 && !status.contains(['\r', '\x1b']), "{status:?}");
}

#[test]
fn shells_and_man_know_all_commands() {
    let place = Workplace::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = command(&place, &["completions", shell]);
        script.succeeds();
        for word in ["batch", "prompt-cache-size", "completions"] {
            assert!(script.stdout.contains(word), "{word} is not in the script for {shell}");
        }
        assert_eq!(script.stderr, "");
    }
    command(&place, &["completions", "cmd"]).fails(2, &["cmd"]);
    command(&place, &["man", "made/on/demand"]).succeeds();
    for page in ["chaski.1", "chaski-run.1", "chaski-batch.1", "chaski-data-delete.1", "chaski-drafter-align.1"] {
        let text = fs::read_to_string(place.path("made/on/demand").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    place.write("file", "");
    command(&place, &["man", "file"]).fails(1, &["file"]);
}

/// A seed has one text: alone or in a batch, with or without drafts and caches.
#[test]
fn the_same_seed_is_the_same_text_in_run_and_in_a_batch() {
    let place = Workplace::new();
    let document = PROMPT.repeat(12);
    let prompts = [PROMPT, "the train", document.as_str(), "the rain in the train", document.as_str()];
    let requests: String = prompts
        .iter()
        .enumerate()
        .map(|(seed, prompt)| {
            json!({ "custom_id": seed.to_string(), "prompt": prompt, "seed": seed + 40 }).to_string() + "\n"
        })
        .collect();
    place.write("requests.jsonl", requests);
    command(&place, &["batch", "-i", "requests.jsonl", "-o", "results.jsonl", "-q"]).succeeds();
    let results = fs::read_to_string(place.path("results.jsonl")).unwrap();
    for record in lines(&results) {
        let seed: usize = record["custom_id"].as_str().unwrap().parse().unwrap();
        let text = |more: &[&str]| {
            let seed_text = (seed + 40).to_string();
            let ran = place.run(&[&["-p", prompts[seed], "-s", &seed_text, "-q"], more].concat());
            ran.succeeds();
            ran.stdout
        };
        let message = &record["response"]["body"]["choices"][0]["message"]["content"];
        let expected = text(&["--drafter", "none", "--no-prompt-cache"]);
        assert_eq!(message.as_str(), Some(expected.as_str()), "{record}");
        // The second time, the document comes from the prompt cache.
        assert_eq!((text(&[]), text(&[])), (expected.clone(), expected));
    }
}
