//! The commands: a line of a batch gives the same text as `run`, whatever other lines there are and whatever interrupts
//! the batch; restored prompts give the same text as decoded ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::harness::{Ran, Workplace, finish, timing};
#[cfg(target_os = "linux")]
use super::harness::{Running, wait_until};
use super::support::loop_parts::Dice;
use super::support::real;
use super::{context, exact_model, words};

const N_LINES: usize = 64;

/// Number of tokens per answer.
const N_TOKENS: &str = "16";

struct Place {
    inner: Workplace,
    model: String,
}

impl Place {
    fn new(model: &Path) -> Place {
        Place { inner: Workplace::with_model(b"none"), model: model.to_str().unwrap().to_owned() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.inner.command(arguments);
        command
            .env("LLAMA_ARG_MODEL", &self.model)
            .env("LLAMA_ARG_THREADS", "2")
            .env("LLAMA_ARG_N_PREDICT", N_TOKENS)
            .env("XDG_DATA_HOME", self.inner.path("data"))
            .env("XDG_STATE_HOME", self.inner.path("state"));
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Value {
        finish(&mut self.command(&[&["run", "--json", "--curve-budget", "20"], arguments].concat())).json()
    }

    fn batch(&self, input: &str, output: &str, arguments: &[&str]) -> Command {
        self.command(&[&["batch", "-i", input, "-o", output, "--seed", "5", "-q"], arguments].concat())
    }

    /// The answers of a batch, by id.
    #[track_caller]
    fn answers(&self, input: &str, output: &str, arguments: &[&str]) -> BTreeMap<String, String> {
        finish(&mut self.batch(input, output, arguments)).succeeds();
        self.records(output)
    }

    fn records(&self, output: &str) -> BTreeMap<String, String> {
        self.members(output, |body| {
            let content = &body["choices"][0]["message"]["content"];
            content.as_str().unwrap_or_else(|| panic!("{body}")).to_owned()
        })
    }

    /// The seeds of a batch's answers, by id.
    fn seeds(&self, output: &str) -> BTreeMap<String, String> {
        self.members(output, |body| body["seed"].to_string())
    }

    fn members(&self, output: &str, member: impl Fn(&Value) -> String) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.inner.path(output)).unwrap();
        let of_line = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap();
            (record["custom_id"].as_str().unwrap().to_owned(), member(&record["response"]["body"]))
        };
        text.lines().map(of_line).collect()
    }
}

/// A line: greedy or not, with or without its own seed; some share a prefix.
fn line(dice: &mut Dice, i: usize) -> Value {
    let shared =
        if dice.roll(2) == 0 { "Answer in one sentence, as a sailor would, and name a port if you can. " } else { "" };
    let n = 1 + dice.roll(50);
    let content = format!("{shared}{}", words(dice, n));
    let mut line = json!({"custom_id": format!("q{i}"), "messages": [{"role": "user", "content": content}]});
    match i % 4 {
        0 => line["temperature"] = 0.into(),
        1 => line["seed"] = i.into(),
        2 => line["repeat_penalty"] = 1.1.into(),
        _ => {}
    }
    line
}

fn jsonl(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_line_is_answered_as_if_it_were_alone() {
    let Some(model) = exact_model("lines") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    let mut dice = Dice(21);
    let lines: Vec<Value> = (0..N_LINES).map(|i| line(&mut dice, i)).collect();
    place.inner.write("lines.jsonl", jsonl(&lines));
    let expected = place.answers("lines.jsonl", "one.jsonl", &["-np", "1", "--no-drafts", "--no-prompt-cache"]);
    assert_eq!(expected.len(), N_LINES);
    let is_same = |what: &str, answers: &BTreeMap<String, String>| {
        for (id, answer) in &expected {
            assert_eq!(answers.get(id), Some(answer), "{what}: {id}");
        }
    };

    is_same("64 at a time", &place.answers("lines.jsonl", "all.jsonl", &["-np", "64"]));
    is_same("as many as pay", &place.answers("lines.jsonl", "some.jsonl", &["-t", "1", "-tb", "2"]));

    let mut shuffled = lines.clone();
    (1..N_LINES).rev().for_each(|i| shuffled.swap(i, dice.roll(i + 1)));
    place.inner.write("shuffled.jsonl", jsonl(&shuffled));
    is_same("in another order", &place.answers("shuffled.jsonl", "shuffled-out.jsonl", &["-np", "9"]));

    for shard in ["1/2", "2/2"] {
        finish(&mut place.batch("lines.jsonl", "whole.jsonl", &["--shard", shard, "-np", "6"])).succeeds();
    }
    finish(&mut place.command(&["batch", "merge", "-o", "whole.jsonl"])).succeeds();
    is_same("in two shards", &place.records("whole.jsonl"));

    // Alone: as the only line of a batch, with the seed derived from its id, and as a prompt of `run` with the same
    // seed.
    for i in [0, 1, 2, 3, 25] {
        place.inner.write("only.jsonl", jsonl(&lines[i..=i]));
        let only = place.answers("only.jsonl", &format!("only-{i}.jsonl"), &[]);
        assert_eq!(only[&format!("q{i}")], expected[&format!("q{i}")], "line {i} alone");
    }
    let seeds = place.seeds("one.jsonl");
    for i in [0, 1, 3, 5, 34, 60] {
        let content = lines[i]["messages"][0]["content"].as_str().unwrap();
        let seed = &seeds[&format!("q{i}")];
        let sampling = match i % 4 {
            0 => &["--temp", "0"][..],
            2 => &["-s", seed, "--repeat-penalty", "1.1"],
            _ => &["-s", seed],
        };
        for drafter in ["auto", "none", "aded"] {
            let run = place.run(&[&["-p", content, "--drafter", drafter], sampling].concat());
            assert_eq!(run["text"], expected[&format!("q{i}")], "run of line {i}, --drafter {drafter}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_was_killed_goes_on_to_the_same_answers() {
    let Some(model) = exact_model("kills") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    let mut dice = Dice(22);
    let lines: Vec<Value> = (0..40).map(|i| line(&mut dice, i)).collect();
    place.inner.write("lines.jsonl", jsonl(&lines));
    let expected = place.answers("lines.jsonl", "whole.jsonl", &["-np", "8"]);
    let journal = place.inner.path("killed.jsonl.journal");
    let n_bytes = || fs::metadata(&journal).map_or(0, |metadata| metadata.len());
    for n_lanes in ["3", "5", "12"] {
        let before = n_bytes();
        let mut running = Running::start(&mut place.batch("lines.jsonl", "killed.jsonl", &["-np", n_lanes]));
        // Wait for at least one more answer.
        wait_until("an answer in the journal", || n_bytes() > before + 200 || !running.is_running());
        if running.is_running() {
            let kill = format!("kill -KILL {}", running.worker());
            assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
            assert!(running.finish().stderr.contains("the process was killed"));
        }
    }
    assert_eq!(place.answers("lines.jsonl", "killed.jsonl", &["-np", "7"]), expected);
}

#[test]
fn a_prompt_from_the_disk_is_the_prompt_that_was_read() {
    let Some(model) = exact_model("prompt cache") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    let document = words(&mut Dice(23), 700);
    for sampling in [&["--temp", "0"][..], &["-s", "7"]] {
        for question in ["What is it about?", "Name a number in it."] {
            let prompt = format!("{document}\n{question}");
            let run = |more: &[&str]| place.run(&[&["-p", &prompt, "-n", "48"], sampling, more].concat());
            let expected = run(&["--no-prompt-cache", "--drafter", "none"]);
            let (first, second) = (run(&[]), run(&["-t", "1", "-tb", "3"]));
            assert!(timing(&second, "cache_n") > 600, "{second}");
            for answer in [first, second] {
                assert_eq!(answer["tokens"], expected["tokens"], "{sampling:?}, {question:?}");
            }
        }
    }
    // In the second run the shared prefix comes from the disk.
    let content = |i: usize| format!("{document}\nQuestion {i}: what is it about?");
    let line = |i: usize| json!({"custom_id": i.to_string(), "prompt": content(i), "seed": i});
    place.inner.write("lines.jsonl", jsonl(&(0..4).map(line).collect::<Vec<_>>()));
    let expected = place.answers("lines.jsonl", "plain.jsonl", &["-np", "2", "--no-prompt-cache", "--no-drafts"]);
    for output in ["first.jsonl", "second.jsonl"] {
        assert_eq!(place.answers("lines.jsonl", output, &["-np", "2"]), expected, "{output}");
    }
    for i in 0..4 {
        let run = place.run(&["-p", &content(i), "-s", &i.to_string()]);
        assert_eq!(run["text"], expected[&i.to_string()], "run of line {i}");
    }
}

const MESSAGES: [&str; 6] = [
    "Tell me about a harbour in the north, in a few sentences.",
    "Which ships come there?",
    "And in winter?",
    "Who works there at night?",
    "Describe one of them: name, age, and what she carries in her pockets.",
    "What would she say of the sea?",
];

fn chat(place: &Place, arguments: &[&str], messages: &[&str]) -> Ran {
    let input = File::open(place.inner.write("messages.txt", messages.join("\n"))).unwrap();
    let arguments = [&["chat", "-s", "7", "-n", "40", "-c", "256", "--curve-budget", "20"], arguments].concat();
    let ran = finish(place.command(&arguments).stdin(input));
    ran.succeeds();
    ran
}

/// The context fills up after some turns: the oldest messages are dropped, and the rest comes from the cache, a new
/// prefill or a file.
#[test]
fn a_chat_says_the_same_in_one_process_and_in_many() {
    let Some(model) = exact_model("chats") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    let plain = ["--drafter", "none", "--no-prompt-cache", "-t", "1"];
    for sampling in [&["--temp", "0"][..], &["--temp", "0.8"]] {
        let expected = chat(&place, &[&plain[..], sampling].concat(), &MESSAGES);
        assert!(expected.stderr.contains("oldest"), "nothing was dropped: {expected:#?}");
        assert_eq!(chat(&place, sampling, &MESSAGES).stdout, expected.stdout, "drafted, {sampling:?}");
        let name = format!("chat-{}", sampling[1].replace('.', ""));
        let one_by_one = |message: &&str| chat(&place, &[&[name.as_str()], sampling].concat(), &[message]).stdout;
        let stdout: String = MESSAGES.iter().map(one_by_one).collect();
        assert_eq!(stdout, expected.stdout, "each message in a process of its own, {sampling:?}");
    }
}

#[test]
fn a_line_that_loses_its_oldest_turns_is_the_shorter_line() {
    let Some(model) = exact_model("shorter lines") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    let turns = |from: usize| -> Vec<Value> {
        let turn = |i: usize| {
            let (user, assistant) = (words(&mut Dice(50 + i as u64), 40), words(&mut Dice(90 + i as u64), 20));
            [json!({"role": "user", "content": user}), json!({"role": "assistant", "content": assistant})]
        };
        let last = json!({"role": "user", "content": "Go on."});
        (from..8).flat_map(turn).chain([last]).collect()
    };
    let line = |id: &str, from: usize| json!({"custom_id": id, "messages": turns(from), "seed": 3});
    let shorter: Vec<Value> = (0..8).map(|from| line(&format!("from-{from}"), from)).collect();
    place.inner.write("long.jsonl", jsonl(&[line("long", 0)]));
    place.inner.write("shorter.jsonl", jsonl(&shorter[4..]));
    let ran = finish(&mut place.batch("long.jsonl", "long-out.jsonl", &["-c", "512", "--on-overflow", "drop-oldest"]));
    ran.succeeds();
    let of_long = place.records("long-out.jsonl").remove("long").unwrap();
    let of_shorter = place.answers("shorter.jsonl", "shorter-out.jsonl", &["-c", "512", "-np", "4"]);
    let n_equal = of_shorter.values().filter(|answer| **answer == of_long).count();
    assert!(ran.stderr.contains("oldest"), "{ran:#?}");
    assert!(n_equal >= 1, "{of_long:?} is none of {of_shorter:#?}");
}

#[test]
fn an_adapter_is_the_same_in_run_and_batch() {
    let Some(model) = exact_model("adapters on the command line") else { return };
    let _turn = real::turn();
    let place = Place::new(&model);
    place.inner.write("style.gguf", context::adapter(&model));
    let mut dice = Dice(24);
    let lines: Vec<Value> = (0..12).map(|i| line(&mut dice, 4 * i + 1)).collect();
    place.inner.write("lines.jsonl", jsonl(&lines));
    let lora = ["--lora", "style.gguf"];
    let batch = |output: &str, more: &[&str]| place.answers("lines.jsonl", output, &[&lora[..], more].concat());
    let expected = batch("one.jsonl", &["-np", "1", "--no-drafts"]);
    assert_eq!(batch("all.jsonl", &["-np", "12"]), expected);
    for i in [0, 5] {
        let (content, seed) = (lines[i]["messages"][0]["content"].as_str().unwrap(), lines[i]["seed"].to_string());
        let run = place.run(&["-p", content, "-s", &seed, "--lora", "style.gguf"]);
        assert_eq!(run["text"], expected[lines[i]["custom_id"].as_str().unwrap()], "run of line {i}");
    }
}
