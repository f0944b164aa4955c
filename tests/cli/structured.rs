//! Structured output and other limits on tokens, on tiny models that know no JSON.

use serde_json::Value;

use super::harness::{PROMPT, Workplace, finish};

const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
    "n": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["red", "green"]}},
    "required": ["name", "n", "kind"], "additionalProperties": false}"#;

#[test]
fn an_answer_is_of_its_schema_with_drafts_and_without() {
    let place = Workplace::new();
    for seed in ["1", "2", "3"] {
        let ask = ["-p", PROMPT, "-j", SCHEMA, "-n", "100", "-s", seed];
        let drafted = place.json(&ask);
        let text = drafted["text"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value["name"].is_string() && value["n"].is_u64() && value["kind"].is_string(), "{text}");
        let plain = place.json(&[&ask[..], &["--drafter", "none"]].concat());
        assert_eq!(plain["text"], drafted["text"]);
    }
}

#[test]
fn grammars_and_expressions_hold_too() {
    let place = Workplace::new();
    let file = place.write("list.gbnf", "root ::= item{3}\nitem ::= (\"sun\" | \"moon\") \"\\n\"\n");
    let list = place.text_of(&["-p", PROMPT, "--grammar-file", file.to_str().unwrap()]);
    assert!(list.lines().count() == 3 && list.lines().all(|line| ["sun", "moon"].contains(&line)), "{list:?}");
    let date = place.text_of(&["-p", PROMPT, "--regex", "[0-9]{4}-(0[1-9]|1[0-2])"]);
    let date = date.trim_end();
    assert!(date.len() == 7 && date.as_bytes()[4] == b'-', "{date:?}");
}

#[test]
fn an_answer_that_was_cut_off_is_an_error() {
    let place = Workplace::new();
    let ran = place.run(&["-p", PROMPT, "-j", SCHEMA, "-n", "3", "-q"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("cut off after 3 tokens") && ran.stderr.contains("hint: use a larger -n"), "{ran:#?}");
}

#[test]
fn mistakes_are_found_before_the_model_is_looked_for() {
    let place = Workplace::new();
    let run = |arguments: &[&str]| place.run(&[&["-m", "none.gguf", "-p", PROMPT], arguments].concat());
    run(&["-j", r#"{"type": "strin"}"#]).fails(2, &["the JSON schema", "strin"]);
    run(&["-j", "{"]).fails(2, &["not valid JSON"]);
    run(&["--grammar", "root ::= item"]).fails(2, &["the grammar", "line 1", "item"]);
    run(&["--regex", "("]).fails(2, &["the regular expression"]);
    run(&["--regex", "a", "-r", "x"]).fails(2, &["-r"]);
    run(&["--regex", "a", "--ignore-eos"]).fails(2, &["--ignore-eos"]);
    run(&["--json-schema-file", "none.json"]).fails(1, &["none.json"]);
    let file = place.write("bad.json", "[]");
    run(&["--json-schema-file", file.to_str().unwrap()]).fails(2, &["bad.json", "not a JSON object"]);
    run(&["--repeat-penalty", "0"]).fails(2, &["--repeat-penalty", "above 0"]);
}

#[test]
fn issue_13_2_what_a_schema_asks_for_is_honoured_or_refused_with_its_path() {
    let place = Workplace::new();
    let refused = |schema: &str, what: &[&str]| {
        place.run(&["-m", "none.gguf", "-p", PROMPT, "-j", schema]).fails(2, what);
    };
    refused(r#"{"properties": {"a": {"minLenght": 3}}}"#, &["#/properties/a/minLenght", "did you mean \"minLength\"?"]);
    refused(r#"{"name": "n", "strict": true, "schema": {"typ": "string"}}"#, &["#/schema/typ"]);
    refused(
        r#"{"type": "integer", "minimum": 9007199254740993}"#,
        &["#/minimum: 9007199254740993 cannot be enforced exactly"],
    );
    refused(r#"{"items": {"type": "string", "pattern": "(?!a)b"}}"#, &["#/items: pattern: look-ahead"]);
    let long = place.write("huge.json", format!("{{\"enum\": [\"{}\"]}}", "x".repeat(250_000)));
    let file = ["-m", "none.gguf", "-p", PROMPT, "--json-schema-file", long.to_str().unwrap()];
    place.run(&file).fails(2, &["huge.json: it has 250014 bytes; the limit is 65536"]);
    let wrapped = place.text_of(&["-p", PROMPT, "-j", r#"{"name": "n", "schema": {"enum": ["sun"]}}"#]);
    assert_eq!(wrapped.trim_end(), "\"sun\"");
    let free = r#"{"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        "minProperties": 4, "maxProperties": 6}"#;
    for seed in ["1", "2", "3"] {
        let told = place.json(&["-p", PROMPT, "-j", free, "-n", "4000", "-s", seed, "-l", "0+0"]);
        let text = told["text"].as_str().unwrap();
        // The text and the parsed object have the same number of names, so each name occurs once.
        let members: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(text.matches("\": ").count(), members.len(), "{text}");
    }
}

#[test]
fn log_probabilities_are_told_as_openai_does() {
    let place = Workplace::new();
    let told = place.json(&["-p", PROMPT, "-n", "6", "--temp", "0", "--logprobs", "2"]);
    let tokens = told["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.len(), told["tokens"].as_array().unwrap().len());
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, told["text"].as_str().unwrap());
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["logprob"], &top[0]["bytes"]), (2, &token["logprob"], &token["bytes"]));
    }
    let plain = place.json(&["-p", PROMPT, "-n", "6", "--temp", "0", "--logprobs", "2", "--drafter", "none"]);
    assert_eq!(plain["logprobs"], told["logprobs"]);
    assert_eq!(place.json(&["-p", PROMPT, "-n", "6"]).get("logprobs"), None);
}

#[test]
fn biases_force_and_forbid() {
    let place = Workplace::new();
    let tokens =
        |bias: &[&str]| place.json(&[&["-p", PROMPT, "-n", "5", "--temp", "0"], bias].concat())["tokens"].clone();
    let usual = tokens(&[]);
    let first = usual[0].as_i64().unwrap();
    assert_ne!(tokens(&["-l", &format!("{first}-inf")])[0], usual[0]);
    assert_eq!(tokens(&["-l", &format!("{first}+1000")]), serde_json::json!(vec![first; 5]));
    place.run(&["-p", PROMPT, "-l", "99999+1"]).fails(2, &["99999"]);
}

/// A tiny model does not think by itself; this constraint makes it.
const THOUGHT: &str = "<think>[a-c]{3}</think>\n\n[d-f]{4}";

#[test]
fn issue_13_6_thinking_is_kept_out_of_stdout() {
    let place = Workplace::new();
    let base = ["-p", PROMPT, "-s", "7", "--chat-template", "{{ messages[0].content }}", "--regex", THOUGHT];
    let run = |more: &[&str]| place.run(&[&base[..], more].concat());
    let is_answer = |text: &str| text.len() == 4 && text.bytes().all(|byte| (b'd'..=b'f').contains(&byte));
    let shown = run(&[]);
    assert!(is_answer(&shown.succeeds().stdout) && shown.stderr.starts_with("<think>"), "{shown:#?}");
    for quiet in [&["-q"][..], &["-q", "--reasoning", "hide"], &["-q", "--reasoning", "off"]] {
        let ran = run(quiet);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (shown.stdout.as_str(), ""), "{quiet:?}");
    }
    assert!(!run(&["--reasoning", "hide"]).stderr.contains("think"));
    let json = run(&["--json", "-q"]).json();
    assert_eq!(
        (json["text"].as_str().unwrap(), json["reasoning_content"].as_str().unwrap().len()),
        (shown.stdout.as_str(), 3)
    );
    let events = run(&["--jsonl", "-q"]).stdout;
    let of = |name: &str, member: &str| -> String {
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event"] == name).map(|event| event[member].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("text", "content"), shown.stdout);
    assert!(of("reasoning", "reasoning_content").contains("</think>"));
    // Thinking in a raw text is left alone.
    let raw = place.run(&["-p", PROMPT, "-s", "7", "-q", "--raw", "--regex", THOUGHT]);
    assert!(raw.succeeds().stdout.starts_with("<think>"), "{raw:#?}");
}

#[test]
fn issue_13_6_an_answer_that_ends_within_its_thinking_is_told() {
    let place = Workplace::new();
    let template = "{{ messages[0].content }}<think>\n";
    let flags = ["--chat-template", template, "-n", "5", "-s", "7", "--ignore-eos"];
    let ran = place.run(&[&["-p", PROMPT, "-q"], &flags[..]].concat());
    ran.succeeds().notices("ended within the model's thinking");
    assert_eq!(ran.stdout, "");
    let json = place.run(&[&["-p", PROMPT, "-q", "--json"], &flags[..]].concat()).json();
    assert_eq!((&json["text"], json["reasoning_content"].as_str().unwrap().is_empty()), (&Value::from(""), false));
    // A constraint starts after the thinking, which never ends here.
    let form = place.run(&[&["-p", PROMPT, "-q", "-j", "{}"], &flags[..6]].concat());
    form.fails(1, &["cut off after 5 tokens"]);

    place.write("prompts.txt", format!("{PROMPT}\n"));
    let batch = finish(&mut place.command(&[&["batch", "-i", "prompts.txt", "-o", "-", "-q"], &flags[..]].concat()));
    batch.succeeds().notices("line 1: the answer ended within the model's thinking");
    let record: Value = serde_json::from_str(&batch.stdout).unwrap();
    let message = &record["response"]["body"]["choices"][0]["message"];
    assert_eq!((&message["content"], message["reasoning_content"].is_string()), (&Value::from(""), true), "{record}");
    let text = ["batch", "-i", "prompts.txt", "-o", "-", "-q", "--text"];
    assert_eq!(finish(&mut place.command(&[&text, &flags[..]].concat())).stdout, "\n");
}
