//! `chaski bench` on prompts of our own.

use std::fs;

use serde_json::Value;

use super::harness::{Ran, Running, Workplace, finish};

const PROMPTS: &str = r#"{"id": "rain", "kind": "chat", "prompt": "the rain in the station"}
{"id": "that", "kind": "edit", "prompt": "he said that it is the rain, he said that it is the"}
"#;

fn bench(place: &Workplace, arguments: &[&str]) -> Ran {
    let start = ["bench", "--curve-budget", "20", "-n", "16", "-r", "1", "--prompts", "prompts.jsonl"];
    finish(&mut place.command(&[&start[..], arguments].concat()))
}

fn place() -> Workplace {
    let place = Workplace::new();
    place.write("prompts.jsonl", PROMPTS);
    place
}

fn records(place: &Workplace) -> Vec<Value> {
    let raw = fs::read_to_string(place.path("raw.jsonl")).unwrap();
    raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_table_on_stdout_and_every_answer_in_the_raw_file() {
    let place = place();
    let ran = bench(&place, &["--raw-output", "raw.jsonl"]);
    ran.succeeds();
    assert_eq!(ran.stderr, "1/2: rain\n2/2: that\n");
    assert!(ran.stdout.starts_with("model.gguf, 1 threads"), "{ran:#?}");
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let names: Vec<(&str, &str)> = rows[1..].iter().map(|row| (row[1], row[2])).collect();
    let expected: Vec<(&str, &str)> = ["chat", "edit", "all"]
        .iter()
        .flat_map(|&kind| ["none", "auto", "aded"].map(|drafter| (kind, drafter)))
        .collect();
    assert_eq!(names, expected, "{}", ran.stdout);
    for row in &rows[1..] {
        assert_eq!(row.len(), rows[0].len(), "{row:?}");
        assert!(row[3].parse::<f64>().unwrap() > 0.0, "{row:?}");
        let (n_equal, n) = row[8].split_once('/').unwrap();
        assert_eq!(n_equal, n, "an F32 model answers the same to every drafter: {row:?}");
    }
    let records = records(&place);
    assert_eq!(records.len(), 6);
    for record in records {
        assert!(["rain", "that"].contains(&record["id"].as_str().unwrap()), "{record}");
        assert_eq!(
            (&record["repetition"], record["timings"]["predicted_n"].as_u64()),
            (&0.into(), Some(16)),
            "{record}"
        );
        assert!(record.get("first_difference").is_none(), "{record}");
    }
}

#[test]
fn drafters_can_be_chosen() {
    let ran = bench(&place(), &["--drafters", "aded"]);
    ran.succeeds();
    assert!(ran.stdout.contains("| aded |") && !ran.stdout.contains("| auto |"), "{ran:#?}");
}

#[test]
fn mistakes_are_named() {
    let place = place();
    let run = |arguments: &[&str]| finish(&mut place.command(&[&["bench"], arguments].concat()));
    run(&["-n", "0"]).fails(2, &["-n and -r must be more than 0"]);
    run(&["-r", "0"]).fails(2, &["-n and -r must be more than 0"]);
    run(&["-n", "-1"]).fails(2, &["-1"]);
    run(&["--drafters", "best"]).fails(2, &["best"]);
    run(&["--prompts", "no.jsonl"]).fails(1, &["no.jsonl: no such file or directory"]);
    place.write("bad.jsonl", format!("{PROMPTS}{{\"id\": \"x\"}}\n"));
    run(&["--prompts", "bad.jsonl"]).fails(1, &["bad.jsonl:3: "]).hints("a line is");
    place.write("empty.jsonl", "\n");
    run(&["--prompts", "empty.jsonl"]).fails(1, &["empty.jsonl: no prompts"]);
    run(&["--prompts", "prompts.jsonl", "--raw-output", "no/raw.jsonl"]).fails(1, &["no/raw.jsonl: no such file"]);
    run(&["--prompts", "prompts.jsonl", "-n", "16", "-r", "1", "-c", "4"]).fails(6, &["the context has 4"]);
}

#[test]
fn the_raw_output_never_overwrites_what_is_read() {
    let place = place();
    fs::hard_link(place.path("model.gguf"), place.path("link.gguf")).unwrap();
    let model = fs::read(place.path("model.gguf")).unwrap();
    for output in ["model.gguf", "link.gguf", "prompts.jsonl"] {
        bench(&place, &["--raw-output", output]).fails(2, &[output, "overwrite"]).hints("--raw-output");
    }
    assert!(fs::read(place.path("model.gguf")).unwrap() == model, "the model is as before");
    assert_eq!(fs::read_to_string(place.path("prompts.jsonl")).unwrap(), PROMPTS);
}

#[test]
fn an_interrupted_bench_keeps_what_it_measured() {
    let place = place();
    let arguments = [
        "bench",
        "--curve-budget",
        "20",
        "-n",
        "1900",
        "-r",
        "1",
        "--prompts",
        "prompts.jsonl",
        "--raw-output",
        "raw.jsonl",
    ];
    let running = Running::start(&mut place.command(&arguments));
    running.wait_for_stderr("2/2: that");
    running.signal("INT");
    running.finish().fails(130, &["interrupted"]);
    assert_eq!(records(&place).len(), 3, "all of the first prompt");
}
