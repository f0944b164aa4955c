//! `chaski bench`, on the tests' own prompts.

use std::fs;

use serde_json::Value;

use super::exact::place_with_kernels;
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

/// The cells of each Markdown row except the separator.
fn cells(stdout: &str) -> Vec<Vec<&str>> {
    let rows = stdout.lines().filter(|line| line.starts_with("| "));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Checks that a record names its model, settings, base and machine.
#[track_caller]
fn has_setup(record: &Value) {
    assert_eq!(
        (&record["model"], &record["settings"], &record["base"]),
        (&"model.gguf".into(), &"-fa off -t 1 -tb 1 -ctk f16 -ctv f16".into(), &"none".into()),
        "{record}"
    );
    assert!(record["machine"].as_str().unwrap().contains("ggml"), "{record}");
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_table_on_stdout_and_every_answer_in_the_raw_file() {
    let place = place();
    let ran = bench(&place, &["--raw-output", "raw.jsonl"]);
    ran.succeeds();
    assert_eq!(ran.stderr, "1/2: rain\n2/2: that\n");
    assert!(ran.stdout.starts_with("model.gguf, -fa off -t 1 -tb 1 "), "{ran:#?}");
    let rows = cells(&ran.stdout);
    let names: Vec<(&str, &str)> = rows[1..].iter().map(|row| (row[0], row[1])).collect();
    let expected: Vec<(&str, &str)> = ["chat", "edit", "all"]
        .iter()
        .flat_map(|&kind| ["none", "auto", "aded"].map(|drafter| (kind, drafter)))
        .collect();
    assert_eq!(names, expected, "{}", ran.stdout);
    let column = |title: &str| rows[0].iter().position(|&name| name == title).unwrap();
    for row in &rows[1..] {
        assert_eq!(row.len(), rows[0].len(), "{row:?}");
        assert!(row[column("tokens/s")].parse::<f64>().unwrap() > 0.0, "{row:?}");
        let (n_equal, n) = row[column("equal texts")].split_once('/').unwrap();
        assert_eq!(n_equal, n, "an F32 model answers the same to every drafter: {row:?}");
        assert_eq!(row[column("equal tokens")], "100.0%", "{row:?}");
    }
    let records = records(&place);
    assert_eq!(records.len(), 6);
    for record in records {
        has_setup(&record);
        assert!(["rain", "that"].contains(&record["id"].as_str().unwrap()), "{record}");
        assert_eq!(
            (&record["repetition"], record["timings"]["predicted_n"].as_u64()),
            (&0.into(), Some(16)),
            "{record}"
        );
        assert_eq!(
            (&record["is_equal"], &record["n_equal"], &record["n_plain"]),
            (&true.into(), &16.into(), &16.into())
        );
        assert_eq!(record["tokens"].as_array().unwrap().len(), 16, "{record}");
    }
}

#[test]
fn the_table_is_the_same_in_every_format() {
    let place = place();
    let of = |format: &str| {
        let ran = bench(&place, &["-o", format, "--kinds", "edit", "--drafters", "auto"]);
        ran.succeeds();
        assert_eq!(ran.stderr, "1/1: that\n");
        ran.stdout
    };
    let json: Value = serde_json::from_str(&of("json")).unwrap();
    has_setup(&json);
    let rows = json["drafters"].as_array().unwrap();
    let names = |row: &Value| [row["kind"].clone(), row["drafter"].clone()];
    let expected = [["edit", "none"], ["edit", "auto"], ["all", "none"], ["all", "auto"]];
    assert_eq!(rows.iter().map(names).collect::<Vec<_>>(), expected);
    assert_eq!(
        (&rows[1]["n_texts"], &rows[1]["predicted_n"], &rows[1]["worst_id"]),
        (&1.into(), &16.into(), &"that".into())
    );
    let jsonl = lines(&of("jsonl"));
    assert_eq!(jsonl.iter().map(names).collect::<Vec<_>>(), expected);
    jsonl.iter().for_each(has_setup);
    let csv = of("csv");
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    assert_eq!((csv.lines().count(), header[0]), (5, "model"));
    for key in ["kind", "drafter", "speedup", "speedup_min", "speedup_max", "share_equal_tokens"] {
        assert!(header.contains(&key) && rows[0].get(key).is_some(), "{key} in {header:?}");
    }
}

#[test]
fn the_curve_as_a_table_a_plot_and_a_picture() {
    let place = place();
    let arguments = ["bench", "--curve", "--depth", "8,64", "--widths", "4,16", "-r", "2"];
    let ran = finish(&mut place.command(&[&arguments[..], &["--svg", "c.svg", "--raw-output", "raw.jsonl"]].concat()));
    ran.succeeds();
    let rows = cells(&ran.stdout);
    let widths: Vec<[&str; 2]> = rows[1..].iter().map(|row| [row[0], row[1]]).collect();
    assert_eq!(widths, [["8", "1"], ["8", "4"], ["8", "16"], ["64", "1"], ["64", "4"], ["64", "16"]]);
    assert_eq!((rows[0][4], rows[1][4], rows[4][4]), ("c(n)", "1.00", "1.00"));
    assert!(
        ran.stderr.contains("c(n)\n") && ran.stderr.contains("* 8 tokens in the context\n"),
        "a plot: {}",
        ran.stderr
    );
    let svg = fs::read_to_string(place.path("c.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("64 tokens in the context"), "{svg}");
    let records = records(&place);
    assert_eq!(records.len(), 6);
    for record in &records {
        has_setup(record);
        assert_eq!(record["samples_ms"].as_array().unwrap().len(), 2, "{record}");
    }
}

#[test]
fn llama_benchs_rows() {
    let ran =
        finish(&mut place().command(&["bench", "--rows", "--pp", "32,300", "--tg", "8", "-r", "2", "-o", "jsonl"]));
    ran.succeeds();
    let rows = lines(&ran.stdout);
    let tests: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["pp32", "pp300", "tg8"]);
    for row in &rows {
        has_setup(row);
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["stddev_ts"].as_f64().unwrap() >= 0.0, "{row}");
        assert_eq!(row["samples_ms"].as_array().unwrap().len(), 2, "{row}");
    }
}

#[test]
fn an_exact_model_passes_the_check() {
    let Some(place) = place_with_kernels("exact check", place()) else { return };
    let ran = bench_check(&place, &["--widths", "4,64", "-o", "json", "--raw-output", "raw.jsonl"]);
    ran.succeeds();
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    has_setup(&json);
    assert_eq!(json["differences"], Value::Array(Vec::new()));
    let summary = json["summary"].as_array().unwrap();
    assert_eq!(summary.len(), 4, "two shapes of two widths");
    for row in summary {
        let figures = ["n_positions", "n_same_bits", "n_equal", "n_equal_texts", "n_texts"];
        let figures = figures.map(|key| row[key].as_u64().unwrap());
        assert_eq!(figures, [32, 32, 32, 2, 2], "{row}");
    }
    assert_eq!(records(&place).len(), 8, "two prompts in four shapes");
    let table = bench_check(&place, &[]);
    table.succeeds();
    assert!(table.stdout.contains("| tree | 16 | 32 | 32 | 32 | 100.000% | 2/2 |\n"), "{table:#?}");
}

fn bench_check(place: &Workplace, arguments: &[&str]) -> Ran {
    let start = ["bench", "--check", "-n", "16", "--prompts", "prompts.jsonl"];
    finish(&mut place.command(&[&start[..], arguments].concat()))
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
    run(&["-n", "0"]).fails(2, &["-n and -r must be 1 or more"]);
    run(&["-r", "0"]).fails(2, &["-n and -r must be 1 or more"]);
    run(&["-n", "-1"]).fails(2, &["-1"]);
    run(&["--drafters", "best"]).fails(2, &["best"]);
    run(&["--curve", "--rows"]).fails(2, &["--curve", "--rows"]);
    run(&["--curve", "--widths", "65"]).fails(2, &["65"]);
    run(&["--curve", "--prompts", "prompts.jsonl"]).fails(2, &["--prompts"]);
    run(&["--depth", "9"]).fails(2, &["required"]);
    run(&["--rows", "--pp", "0"]).fails(2, &["--pp and --tg"]);
    run(&["--rows", "--pp", "100000"]).fails(2, &["a context of 100000 tokens"]);
    run(&["--check", "--widths", "1"]).fails(2, &["--widths"]);
    run(&["--kinds", "poem"]).fails(2, &["no prompt has \"poem\""]).hints("chat, code, edit");
    run(&["--prompts", "no.jsonl"]).fails(1, &["no.jsonl: no such file or directory"]);
    place.write("bad.jsonl", format!("{PROMPTS}{{\"id\": \"x\"}}\n"));
    run(&["--prompts", "bad.jsonl"]).fails(1, &["bad.jsonl:3: "]).hints("each line must be");
    place.write("empty.jsonl", "\n");
    run(&["--prompts", "empty.jsonl"]).fails(1, &["empty.jsonl: the file contains no prompts"]);
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
    finish(&mut place.command(&["bench", "--curve", "--svg", "link.gguf"])).fails(2, &["overwrite"]).hints("--svg");
    assert!(fs::read(place.path("model.gguf")).unwrap() == model, "the model is as before");
    assert_eq!(fs::read_to_string(place.path("prompts.jsonl")).unwrap(), PROMPTS);
}

#[test]
fn an_interrupted_bench_keeps_what_it_measured() {
    let place = place();
    // Decoding the second prompt takes seconds.
    let long = format!("{{\"id\": \"long\", \"kind\": \"chat\", \"prompt\": \"{}\"}}\n", "the rain ".repeat(6000));
    place.write("prompts.jsonl", PROMPTS.lines().next().unwrap().to_owned() + "\n" + &long);
    let arguments = [
        "bench",
        "--curve-budget",
        "20",
        "-n",
        "16",
        "-r",
        "1",
        "--prompts",
        "prompts.jsonl",
        "--raw-output",
        "raw.jsonl",
    ];
    let running = Running::start(&mut place.command(&arguments));
    running.wait_for_stderr("2/2: long");
    running.signal("INT");
    running.finish().fails(130, &["interrupted"]);
    assert_eq!(records(&place).len(), 3, "all of the first prompt");
}
