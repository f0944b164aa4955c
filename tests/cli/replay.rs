//! `chaski drafter replay` on answers recorded with `run --trace`.

use std::fs;

use serde_json::{Value, json};

use super::harness::{PROMPT, Ran, Workplace, finish};

/// A workplace with two recorded answers in `traces.jsonl`.
fn recorded() -> Workplace {
    let place = Workplace::new();
    for id in ["chat-1", "edit-1"] {
        place.run(&["-p", PROMPT, "--temp", "0", "-q", "--trace", "traces.jsonl", "--trace-id", id]).succeeds();
    }
    place
}

fn replay(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut place.command(&[&["drafter", "replay"], arguments].concat()))
}

fn first_trace(place: &Workplace) -> Value {
    let text = fs::read_to_string(place.path("traces.jsonl")).unwrap();
    serde_json::from_str(text.lines().next().unwrap()).unwrap()
}

#[test]
fn a_trace_holds_the_answer() {
    let place = recorded();
    let text = fs::read_to_string(place.path("traces.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 2, "one line an answer");
    let trace = first_trace(&place);
    let answer = place.json(&["-p", PROMPT, "--temp", "0", "--drafter", "none"]);
    assert_eq!((&trace["id"], &trace["tokens"]), (&json!("chat-1"), &answer["tokens"]));
    for (token, top) in trace["tokens"].as_array().unwrap().iter().zip(trace["top"].as_array().unwrap()) {
        assert_eq!(&top[0][0], token, "the likeliest was said");
    }
}

#[test]
fn every_drafter_under_every_curve_is_a_row() {
    let place = recorded();
    let ran = replay(&place, &["traces.jsonl", "--drafters", "auto,aded,aded-sized,mcts,none", "-o", "json"]);
    ran.succeeds();
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(rows.len(), 5 * 3);
    for row in &rows {
        let kinds: Vec<&String> = row["speedup_by_kind"].as_object().unwrap().keys().collect();
        assert_eq!(kinds, ["chat", "edit"]);
        assert!(row["tokens_per_step"].as_f64().unwrap() >= 1.0, "{row}");
    }
    let plain = rows.iter().find(|row| row["drafter"] == "none").unwrap();
    assert!((plain["speedup"].as_f64().unwrap() - 1.0).abs() < 1e-6 && plain["n_drafted"] == 0, "{plain}");

    let table = replay(&place, &["traces.jsonl", "--curve", "1:62,4:107", "--calibration"]);
    table.succeeds();
    assert!(table.stdout.contains("| auto | 1:62,4:107 |") && table.stderr.is_empty(), "{table:#?}");
}

#[test]
fn a_source_with_a_price_is_replayed_from_its_predictions() {
    let place = recorded();
    // Always right, and sure of it.
    let predictions = |trace: &Value| {
        let rows = trace["tokens"].as_array().unwrap().iter().map(|token| json!([[[token, 0.95]]]));
        json!({"id": trace["id"], "model": "oracle", "n_depths": 1, "rows": Value::from_iter(rows)})
    };
    let traces: Vec<Value> = fs::read_to_string(place.path("traces.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    place.write("oracle.jsonl", format!("{}\n{}\n", predictions(&traces[0]), predictions(&traces[1])));
    let with = ["traces.jsonl", "--curve", "1%", "--predictions", "oracle.jsonl", "--price"];
    let ran = replay(&place, &[&with[..], &["0,2", "-o", "json"]].concat());
    ran.succeeds();
    let rows: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["drafter"].as_str().unwrap()).collect();
    assert_eq!(names, ["auto", "auto+oracle at 0", "auto+oracle at 2"]);
    let speedup = |row: usize| rows[row]["speedup"].as_f64().unwrap();
    assert!(speedup(1) > speedup(0) && (speedup(2) - speedup(0)).abs() < 1e-9, "{rows:#?}");
    assert_eq!((&rows[0]["predictions_per_token"], &rows[2]["predictions_per_token"]), (&json!(0.0), &json!(0.0)));
    assert!(rows[1]["predictions_per_token"].as_f64().unwrap() > 0.1);
    let table = replay(&place, &[&with[..], &["0", "--keep"]].concat());
    table.succeeds();
    assert!(
        table.stdout.contains("| predictions/token |") && table.stdout.contains("| auto+oracle at 0 |"),
        "{table:#?}"
    );

    place.write("half.jsonl", format!("{}\n", predictions(&traces[0])));
    let ran = replay(&place, &["traces.jsonl", "--predictions", "half.jsonl"]);
    ran.fails(1, &["there are no predictions for the trace edit-1"]);
    place.write("half.jsonl", "\n{}\n");
    let ran = replay(&place, &["traces.jsonl", "--predictions", "half.jsonl"]);
    ran.fails(1, &["half.jsonl: line 2: missing field"]).hints("drafter replay --help");
    replay(&place, &["traces.jsonl", "--price", "0.1"]).fails(2, &["the following required arguments"]);
}

#[test]
fn bad_traces_name_file_and_line() {
    let place = recorded();
    let sound = fs::read_to_string(place.path("traces.jsonl")).unwrap();
    let sound = sound.lines().next().unwrap().to_owned();
    let with = |key: &str, value: Value| {
        let mut trace = first_trace(&place);
        trace[key] = value;
        trace.to_string()
    };
    let top = |p: f64| Value::from(vec![json!([[1, p]]); first_trace(&place)["tokens"].as_array().unwrap().len()]);
    for (second, message) in [
        (sound[..sound.len() / 2].to_owned(), "EOF"),
        (with("prompt", json!([1 << 20])), "a token is outside the vocabulary"),
        (with("prompt", json!([-1])), "a token is outside the vocabulary"),
        (with("prompt", json!([])), "the prompt is empty"),
        (with("top", top(1.5)), "a probability is not from 0 to 1"),
        (with("top", json!([])), "as many rows of top as tokens"),
        (with("n_vocab", json!(1_u64 << 40)), "n_vocab"),
    ] {
        place.write("bad.jsonl", format!("{sound}\n{second}\n"));
        replay(&place, &["traces.jsonl", "bad.jsonl"])
            .fails(1, &["bad.jsonl", "line 2", message])
            .hints("chaski run --trace");
    }
}

#[test]
fn files_that_are_no_traces_are_named() {
    let place = recorded();
    place.write("empty.jsonl", "\n");
    replay(&place, &["empty.jsonl"]).fails(1, &["empty.jsonl", "no traces"]);
    place.write("binary.jsonl", b"{\"id\": \"\xff\xfe\"}");
    replay(&place, &["binary.jsonl"]).fails(1, &["binary.jsonl", "not UTF-8"]);
    replay(&place, &["none.jsonl"]).fails(1, &["none.jsonl"]);
}

#[test]
fn bad_curves_are_mistakes_of_usage() {
    let place = recorded();
    for curve in ["x%", "-1%", "1:0", "4:107", "1:62,4", "none.json", "1:nan", "0:5,1:6"] {
        replay(&place, &["traces.jsonl", &format!("--curve={curve}")]).fails(2, &["--curve"]).hints("1%");
    }
}

#[test]
fn what_was_trained_is_a_file_that_parses() {
    let place = recorded();
    let ran = replay(&place, &["traces.jsonl", "--train", "state.json"]);
    ran.succeeds();
    assert_eq!(ran.stdout, "");
    let states: Vec<Value> = serde_json::from_str(&fs::read_to_string(place.path("state.json")).unwrap()).unwrap();
    assert!(states.len() == 1 && states[0]["mixer"].is_object() && states[0]["calibrator"].is_object(), "{states:?}");
    replay(&place, &["traces.jsonl", "--train", "no/state.json"]).fails(1, &["no/state.json"]);
    let both = ["traces.jsonl", "--train", "state.json", "--predictions", "oracle.jsonl"];
    replay(&place, &both).fails(2, &["cannot be used with", "--predictions"]);
}

#[test]
fn explain_tells_each_step_and_changes_nothing() {
    let place = Workplace::new();
    let plain = place.text_of(&["-p", PROMPT]);
    for drafter in ["auto", "aded", "none"] {
        let ran = place.run(&["-p", PROMPT, "-s", "7", "-q", "--explain", "--drafter", drafter, "--trace", "t.jsonl"]);
        ran.succeeds();
        assert_eq!(ran.stdout, plain, "{drafter}");
        let steps = ran.stderr.lines().filter(|line| line.starts_with("step at ")).count();
        assert!((1..=32).contains(&steps), "{ran:#?}");
        match drafter {
            "aded" => assert!(ran.stderr.contains("this drafter always verifies the whole draft\n  "), "{ran:#?}"),
            "none" => {
                assert!(ran.stderr.lines().all(|line| line.ends_with("plain decoding: nothing was drafted")))
            }
            _ => assert!(ran.stderr.contains(": plain decoding: "), "{ran:#?}"),
        }
    }
    let traces = fs::read_to_string(place.path("t.jsonl")).unwrap();
    assert_eq!(traces.lines().count(), 3, "both look on");
    let json = place.run(&["-p", PROMPT, "-s", "7", "-q", "--json", "--explain"]);
    assert_eq!(json.json()["text"], plain.as_str());
}
