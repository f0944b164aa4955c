//! `chaski batch`: formats, exit codes, interruptions and faults. The model is exact, so texts can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{CHASKI, PATIENCE, PROMPT, Ran, Running, Workplace, finish, wait_until};

/// Default arguments of the tests.
const DEFAULTS: [[&str; 2]; 5] =
    [["-i", "prompts.jsonl"], ["-o", "results.jsonl"], ["-np", "4"], ["--temp", "0"], ["--seed", "1"]];

fn arguments<'a>(given: &[&'a str]) -> Vec<&'a str> {
    let missing = DEFAULTS.into_iter().filter(|[flag, _]| !given.contains(flag)).flatten();
    ["batch"].into_iter().chain(missing).chain(given.iter().copied()).collect()
}

fn command(place: &Workplace, given: &[&str]) -> Command {
    place.command(&arguments(given))
}

fn batch(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut command(place, arguments))
}

/// Writes a file of prompts of many lengths.
fn prompts(place: &Workplace, n: usize) {
    let line = |n: usize| format!("{{\"custom_id\": \"q{n}\", \"prompt\": \"{} {PROMPT}\"}}\n", "the ".repeat(n % 13));
    place.write("prompts.jsonl", (0..n).map(line).collect::<String>());
}

fn records(place: &Workplace, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Text or error code of each record, by name.
fn answers(place: &Workplace, name: &str) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    for record in records(place, name) {
        let content = &record["response"]["body"]["choices"][0]["message"]["content"];
        let answer = content.as_str().or(record["error"]["code"].as_str()).unwrap().to_owned();
        assert!(answers.insert(record["custom_id"].to_string(), answer).is_none(), "{record}");
    }
    answers
}

fn n_journal_bytes(place: &Workplace) -> u64 {
    fs::metadata(place.path("results.jsonl.journal")).map_or(0, |metadata| metadata.len())
}

fn wait_for_journal(place: &Workplace, n_bytes: u64) {
    wait_until("what is entered in the journal", || n_journal_bytes(place) >= n_bytes);
}

#[test]
fn lines_are_answered_as_run_answers_them() {
    let place = Workplace::new();
    prompts(&place, 30);
    let ran = batch(&place, &[]);
    ran.succeeds();
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("30 ok + 0 failed = 30 lines"), "{ran:#?}");
    let answers = answers(&place, "results.jsonl");
    assert_eq!(answers.len(), 30);
    for n in [0, 5, 12] {
        let prompt = format!("{} {PROMPT}", "the ".repeat(n));
        let alone = place.json(&["-p", &prompt, "--temp", "0", "--drafter", "none", "-q"]);
        assert_eq!(answers[&format!("\"q{n}\"")], alone["text"].as_str().unwrap());
    }
    let record = &records(&place, "results.jsonl")[0]["response"]["body"];
    assert_eq!((&record["model"], &record["usage"]["completion_tokens"]), (&"model".into(), &32.into()));
    assert_eq!(
        (&record["timings"]["predicted_n"], &record["choices"][0]["finish_reason"]),
        (&32.into(), &"length".into())
    );
    // The same command finds nothing to do.
    assert!(batch(&place, &[]).succeeds().stderr.contains("30 of 30 lines were already done"));
}

#[test]
fn parameters_of_a_line_are_honoured_or_refused() {
    let place = Workplace::new();
    let body = |parameters: &str| {
        format!(r#"{{"custom_id": "q", "url": "/v1/completions", "body": {{"prompt": "{PROMPT}", {parameters}}}}}"#)
    };
    let answer = |line: &str| {
        place.write("prompts.jsonl", line);
        let _ = fs::remove_file(place.path("results.jsonl"));
        let _ = fs::remove_file(place.path("results.jsonl.journal"));
        let ran = batch(&place, &["-q"]);
        (ran.code, records(&place, "results.jsonl").remove(0))
    };
    let (code, short) = answer(&body(r#""max_tokens": 3, "logprobs": 2"#));
    let choice = &short["response"]["body"]["choices"][0];
    assert_eq!((code, &short["response"]["body"]["usage"]["completion_tokens"]), (Some(0), &3.into()));
    assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(choice["logprobs"]["top_logprobs"][0].as_object().unwrap().len(), 2);
    let sampled = |seed: u32| {
        let (_, record) =
            answer(&body(&format!(r#""temperature": 5, "top_p": 1, "top_k": 0, "min_p": 0, "seed": {seed}"#)));
        record["response"]["body"]["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(sampled(5), sampled(5));
    assert_ne!(sampled(5), sampled(6));
    let (code, refused) = answer(&body(r#""n": 2"#));
    assert_eq!((code, &refused["error"]["code"]), (Some(3), &"unsupported_parameter".into()));
    let (code, object) = answer(&body(r#""response_format": {"type": "json_object"}, "max_tokens": 200"#));
    assert_eq!((code, object["error"].clone()), (Some(0), Value::Null));
    assert!(
        object["response"]["body"]["choices"][0]["text"].as_str().unwrap().trim_start().starts_with('{'),
        "{object}"
    );
}

#[test]
fn malformed_lines_fail_alone() {
    let place = Workplace::new();
    let deep = format!("{{\"prompt\": {}1{}}}", "[".repeat(500), "]".repeat(500));
    let long = format!("{{\"prompt\": \"{}\"}}", "x".repeat(5 << 20));
    let bad =
        ["[]", "{", "{\"prompt\": \"a\", \"n\": 3}", "{\"custom_id\": \"a\", \"prompt\": \"the rain\"}", &deep, &long];
    let mut bytes =
        format!("\u{feff}{{\"custom_id\": \"a\", \"prompt\": \"{PROMPT}\"}}\r\n\r\n{}\n", bad.join("\n")).into_bytes();
    bytes.extend(b"\xff\xfe\n");
    place.write("prompts.jsonl", bytes);
    let ran = batch(&place, &["--ordered"]);
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    assert!(ran.stderr.contains("1 ok + 7 failed = 8 lines") && ran.stderr.contains("1 blank line"), "{ran:#?}");
    let code = |record: &Value| record["error"]["code"].as_str().unwrap_or("ok").to_owned();
    let codes: Vec<String> = records(&place, "results.jsonl").iter().map(code).collect();
    let expected = [
        "ok",
        "invalid_request",
        "invalid_json",
        "unsupported_parameter",
        "duplicate_custom_id",
        "invalid_json",
        "line_too_long",
        "invalid_utf8",
    ];
    assert_eq!(codes, expected);
}

#[test]
fn a_prompt_longer_than_the_context_fails_with_both_numbers() {
    let place = Workplace::new();
    let line = |n: usize| format!("{{\"custom_id\": \"{n}\", \"prompt\": \"{}\"}}\n", "the ".repeat(n));
    place.write("prompts.jsonl", (40..80).map(line).collect::<String>());
    assert_eq!(batch(&place, &["-c", "64"]).code, Some(3));
    let (mut longest, mut n_failed) = (0, 0);
    for record in records(&place, "results.jsonl") {
        match record["response"]["body"]["usage"]["prompt_tokens"].as_u64() {
            Some(n) => longest = longest.max(n),
            None => {
                n_failed += 1;
                let message = record["error"]["message"].as_str().unwrap();
                assert_eq!(record["error"]["code"], "context_length_exceeded");
                assert!(message.contains("64"), "{message}");
            }
        }
    }
    assert!(longest == 63 && n_failed > 3, "{longest} {n_failed}");
}

#[test]
fn tables_texts_and_templates() {
    let place = Workplace::new();
    place.write("a.csv", format!("id,text\n1,{PROMPT}\n2,\"the rain,\nthe station\"\n"));
    let run =
        |arguments: &[&str]| finish(&mut place.command(&[&["batch", "--temp", "0", "-n", "4"], arguments].concat()));
    run(&["-i", "a.csv", "-o", "a.jsonl"]).fails(2, &["a.csv: a table needs a template"]).hints("--template");
    run(&["-i", "a.csv", "-o", "a.jsonl", "--template", "{{ text"]).fails(2, &["--template, line 1"]);
    run(&["-i", "a.csv", "-o", "a.jsonl", "--template", "{{id}} {{text}}"]).succeeds();
    assert_eq!(records(&place, "a.jsonl").len(), 2);
    place.write("template.txt", "in {{text}}");
    run(&["-i", "a.csv", "-o", "b.jsonl", "--template-file", "template.txt"]).succeeds();
    place.write("a.txt", format!("{PROMPT}\nthe rain\n"));
    run(&["-i", "a.txt", "-o", "texts.txt", "--text"]).succeeds();
    let texts = fs::read_to_string(place.path("texts.txt")).unwrap();
    assert_eq!(texts.lines().count(), 2);
    let alone = place.json(&["-p", PROMPT, "--temp", "0", "-n", "4", "--drafter", "none", "-q"]);
    let escaped = alone["text"].as_str().unwrap().replace('\\', "\\\\").replace('\n', "\\n");
    assert_eq!(texts.lines().next().unwrap(), escaped);
}

/// Kills the worker, or the watcher if there is no worker yet.
fn kill(running: &mut Running) {
    let id = running.child.id();
    let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    match workers.trim() {
        "" => running.child.kill().unwrap(),
        // The worker may have ended just now.
        worker => drop(Command::new("sh").args(["-c", &format!("kill -KILL {worker}")]).output().unwrap()),
    }
}

#[test]
fn fifty_kills_lose_nothing() {
    let place = Workplace::new();
    prompts(&place, 400);
    batch(&place, &["-o", "whole.jsonl"]).succeeds();
    let whole = answers(&place, "whole.jsonl");
    let (mut dice, mut n_kills) = (1u64, 0);
    while n_kills < 50 {
        let mut running = Running::start(&mut command(&place, &[]));
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis(dice >> 56));
        kill(&mut running);
        let ran = running.finish();
        if ran.code == Some(0) {
            assert_eq!(answers(&place, "results.jsonl"), whole);
            fs::remove_file(place.path("results.jsonl")).unwrap();
            fs::remove_file(place.path("results.jsonl.journal")).unwrap();
        } else if !ran.stderr.contains("another process is writing to it") {
            assert!(ran.code.is_none() || ran.stderr.contains("the process was killed"), "{ran:#?}");
            n_kills += 1;
        }
    }
    // A worker without a watcher ends by itself; until then it holds the results.
    let start = Instant::now();
    loop {
        let ran = batch(&place, &[]);
        if ran.code == Some(0) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{ran:#?}");
    }
    assert_eq!(answers(&place, "results.jsonl"), whole);
}

#[test]
fn signals_end_it_cleanly_and_it_goes_on() {
    let place = Workplace::new();
    prompts(&place, 3000);
    let mut n_with_lost = 0;
    for signal in ["INT", "TERM", "INT", "TERM"] {
        let n_before = n_journal_bytes(&place);
        let running = Running::start(&mut command(&place, &[]));
        // The job is working again.
        wait_for_journal(&place, n_before + 3000);
        running.signal(signal);
        let ran = running.finish();
        ran.fails(130, &["interrupted"]).hints("run the same command again to continue");
        assert!(ran.stderr.contains("of 3000 lines are safe in results.jsonl"), "{ran:#?}");
        // Issue 13, 10: four lines are running, unless they have just ended.
        let lost = [" is lost", "s are lost"];
        n_with_lost += usize::from(lost.iter().any(|lost| ran.stderr.contains(&format!("answer{lost}"))));
        let status = finish(&mut place.command(&["batch", "--status", "-o", "results.jsonl"]));
        assert!(status.succeeds().stdout.starts_with("stopped: "), "{status:#?}");
    }
    assert!(n_with_lost > 0, "no answer was ever under way");
    batch(&place, &[]).succeeds();
    assert_eq!(answers(&place, "results.jsonl").len(), 3000);
}

#[test]
#[cfg(target_os = "linux")]
fn a_crash_of_the_engine_does_not_end_the_job() {
    let place = Workplace::new();
    prompts(&place, 2000);
    let running = Running::start(&mut command(&place, &[]));
    wait_for_journal(&place, 3000);
    let id = running.child.id();
    let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    assert!(Command::new("sh").args(["-c", &format!("kill -ABRT {workers}")]).status().unwrap().success());
    let ran = running.finish();
    assert!(ran.succeeds().stderr.contains("the engine crashed (abort)"), "{ran:#?}");
    assert_eq!(answers(&place, "results.jsonl").len(), 2000);
}

#[test]
fn a_full_disk_is_told_and_the_rest_is_done_later() {
    let place = Workplace::new();
    prompts(&place, 200);
    // A file size limit stands in for a full disk.
    let limited = format!("trap '' XFSZ; ulimit -f 32; exec {CHASKI} {}", arguments(&[]).join(" "));
    let mut shell = place.command(&[]);
    let variables: Vec<(std::ffi::OsString, std::ffi::OsString)> =
        shell.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    shell = Command::new("sh");
    shell.args(["-c", &limited]).current_dir(place.path("")).envs(variables).stdin(Stdio::null());
    let ran = finish(&mut shell);
    ran.fails(1, &["results.jsonl", "too large"]).hints("lines are safe in results.jsonl");
    batch(&place, &[]).succeeds();
    assert_eq!(answers(&place, "results.jsonl").len(), 200);
    if cfg!(target_os = "linux") {
        batch(&place, &["-o", "/dev/full"]).fails(1, &["/dev/full: no space left"]);
    }
}

#[test]
fn a_closed_stdout_is_quiet() {
    let place = Workplace::new();
    prompts(&place, 50);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = Running::start_into(&mut command(&place, &["-o", "-", "-q"]), writer).finish();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:#?}");
    let ran = batch(&place, &["-o", "-", "--ordered"]);
    assert_eq!(ran.succeeds().stdout.lines().count(), 50);
    assert!(!place.path("-").exists() && !place.path("-.journal").exists());
}

#[test]
fn no_input_is_overwritten() {
    let place = Workplace::new();
    prompts(&place, 3);
    let before = fs::read(place.path("prompts.jsonl")).unwrap();
    fs::hard_link(place.path("prompts.jsonl"), place.path("hard.jsonl")).unwrap();
    fs::hard_link(place.path("model.gguf"), place.path("hard.gguf")).unwrap();
    fs::hard_link(place.path("prompts.jsonl"), place.path("sly.jsonl.journal")).unwrap();
    for output in ["prompts.jsonl", "./prompts.jsonl", "hard.jsonl", "model.gguf", "hard.gguf", "sly.jsonl"] {
        batch(&place, &["-o", output]).fails(2, &["the output would overwrite an input file"]).hints("-o");
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("prompts.jsonl", place.path("soft.jsonl")).unwrap();
        batch(&place, &["-o", "soft.jsonl"]).fails(2, &["would overwrite"]);
    }
    assert_eq!(fs::read(place.path("prompts.jsonl")).unwrap(), before);
    place.write("mine.txt", "notes");
    batch(&place, &["-o", "mine.txt"]).fails(1, &["mine.txt", "no journal"]).hints("another -o");
    assert_eq!(fs::read(place.path("mine.txt")).unwrap(), b"notes");
}

#[test]
fn mistakes_are_named() {
    let place = Workplace::new();
    prompts(&place, 3);
    batch(&place, &["-i", "nowhere.jsonl"]).fails(1, &["nowhere.jsonl"]);
    batch(&place, &["-i", "/dev/null"]).fails(2, &["/dev/null", "not a regular file"]).hints("save it to a file");
    batch(&place, &["-i", "-"]).fails(2, &["stdin", "not a regular file"]).hints("save it to a file");
    batch(&place, &["-m", "nowhere.gguf"]).fails(4, &["nowhere.gguf"]);
    batch(&place, &["-np", "0"]).fails(2, &["--parallel"]);
    batch(&place, &["-n", "0"]).fails(2, &["-n must be"]);
    batch(&place, &["-r", ""]).fails(2, &["stop string is empty"]);
    batch(&place, &["--raw", "-sys", "x"]).fails(2, &["--raw"]);
    batch(&place, &["--shard", "5/4"]).fails(2, &["--shard 5/4", "1 to 4"]).hints("2/4");
    finish(place.command(&["batch", "-o", "x.jsonl", "-i", "prompts.jsonl"]).env_remove("LLAMA_ARG_MODEL"))
        .fails(2, &["no model"])
        .hints("LLAMA_ARG_MODEL");
    finish(&mut place.command(&["batch", "--status", "-o", "nowhere.jsonl"]))
        .fails(1, &["nowhere.jsonl.journal: no such journal"]);
    batch(&place, &[]).succeeds();
    batch(&place, &["-n", "5"]).fails(1, &["another --n-predict: 32 then, 5 now"]).hints("as before");
    batch(&place, &["--top-k", "5"]).fails(1, &["another --top-k: 40 then, 5 now"]);
}

#[test]
fn shards_are_read_from_the_scheduler_and_joined() {
    let place = Workplace::new();
    prompts(&place, 21);
    batch(&place, &["-o", "whole.jsonl", "--ordered"]).succeeds();
    batch(&place, &["-o", "all.jsonl", "--shard", "1/3"]).succeeds();
    finish(command(&place, &["-o", "all.jsonl", "--shard", "auto/3"]).env("JOB_COMPLETION_INDEX", "1")).succeeds();
    let merge = || finish(&mut place.command(&["batch", "merge", "-o", "all.jsonl"]));
    merge().fails(1, &["all.3-of-3.jsonl", "no journal"]);
    let slurm = [("SLURM_ARRAY_TASK_ID", "12"), ("SLURM_ARRAY_TASK_MIN", "10"), ("SLURM_ARRAY_TASK_COUNT", "3")];
    finish(command(&place, &["-o", "all.jsonl", "--shard", "auto"]).envs(slurm)).succeeds();
    let ran = merge();
    assert!(ran.succeeds().stderr.contains("21 ok + 0 failed = 21 lines"), "{ran:#?}");
    assert_eq!(answers(&place, "all.jsonl"), answers(&place, "whole.jsonl"));
    let names =
        |name: &str| -> Vec<Value> { records(&place, name).iter().map(|record| record["custom_id"].clone()).collect() };
    assert_eq!(names("all.jsonl"), names("whole.jsonl"));
    let status = finish(&mut place.command(&["batch", "--status=json", "-o", "all.jsonl"])).json();
    assert_eq!((&status["phase"], &status["n_ok"], &status["n_left"]), (&"finished".into(), &21.into(), &0.into()));
    merge().fails(1, &["all.jsonl: the file already exists"]);
    let unseeded = ["batch", "-i", "prompts.jsonl", "-o", "b.jsonl", "--shard", "1/2"];
    finish(&mut place.command(&unseeded)).fails(2, &["need the same seed"]).hints("--seed");
}

#[test]
fn shards_are_claimed_until_all_are_finished() {
    let place = Workplace::new();
    prompts(&place, 21);
    batch(&place, &["-o", "whole.jsonl", "--ordered"]).succeeds();
    let claim = |args: &[&str]| batch(&place, &[&["-o", "all.jsonl", "--ordered", "--shard"], args].concat());
    let status = |format: &str| finish(&mut place.command(&["batch", format, "-o", "all.jsonl"]));
    status("--status").fails(1, &["all.jsonl.journal: no such journal"]);
    let ran = claim(&["claim/4"]);
    assert!(
        ran.succeeds().stderr.contains("all 4 shards are finished, 4 of them by this process; hint: join"),
        "{ran:#?}"
    );
    assert!(status("--status").succeeds().stdout.contains("finished: 4 of 4 shards finished, 0 claimed"));
    assert_eq!(status("--status=json").json()["n_ok"], 21);
    let ran = claim(&["claim"]);
    assert!(ran.succeeds().stderr.contains("0 of them by this process"), "{ran:#?}");
    claim(&["claim/5"]).fails(1, &["another --shard: claim/4 then, claim/5 now"]);
    claim(&["claim/4", "--retry-failed"]).fails(2, &["--retry-failed does not go with --shard claim"]);
    claim(&["claim/0"]).fails(2, &["1 to 10000"]);
    for shard in [&["--shard", "1/4"][..], &[]] {
        let lease = [&["-o", "b.jsonl", "--lease", "9"], shard].concat();
        batch(&place, &lease).fails(2, &["--lease goes only with --shard claim"]).hints("--shard claim");
    }
    batch(&place, &["-o", "-", "--shard", "claim"]).fails(2, &["needs an output file"]);
    finish(&mut place.command(&["batch", "merge", "-o", "all.jsonl"])).succeeds();
    assert_eq!(answers(&place, "all.jsonl"), answers(&place, "whole.jsonl"));
    assert_eq!(status("--status=json").json()["phase"], "finished");
}

/// Memory of a process and its children, in KiB. File pages are not counted: the system drops and rereads them at will.
#[cfg(target_os = "linux")]
fn taken_kib(pid: u32) -> u64 {
    let read = |name: String| fs::read_to_string(name).unwrap_or_default();
    let own = read(format!("/proc/{pid}/status"));
    let own = own.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    let children = read(format!("/proc/{pid}/task/{pid}/children"));
    own.unwrap_or(0) + children.split_whitespace().map(|pid| taken_kib(pid.parse().unwrap())).sum::<u64>()
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_flat_over_ten_thousand_lines() {
    // Each line's name takes 18 bytes. The number of running lines depends on which thread is ahead: on a busy machine
    // the first half took 17 to 24 MiB.
    assert_flat(&["--no-drafts"], 8 << 10);
    // Learning fills two tables of 4 MiB, sooner or later.
    assert_flat(&[], 16 << 10);
}

/// Checks that memory grows by less than `most_kib` in the second half of many lines.
#[cfg(target_os = "linux")]
fn assert_flat(arguments: &[&str], most_kib: u64) {
    const N: usize = 40_000;
    let place = Workplace::new();
    prompts(&place, N);
    let mut command = command(&place, &[&["-np", "32", "-n", "4", "-q"], arguments].concat());
    // Per-thread heaps would make memory unpredictable.
    let mut running = Running::start(command.env("MALLOC_ARENA_MAX", "1"));
    let n_done = || fs::read(place.path("results.jsonl")).map_or(0, |all| all.iter().filter(|&&b| b == b'\n').count());
    let mut samples = Vec::new();
    while running.is_running() {
        samples.push((n_done(), taken_kib(running.child.id())));
        thread::sleep(Duration::from_millis(100));
    }
    running.finish().succeeds();
    assert_eq!(records(&place, "results.jsonl").len(), N);
    let peak = |of: std::ops::Range<usize>| samples.iter().filter(|(n, _)| of.contains(n)).map(|&(_, kib)| kib).max();
    let (early, late) = (peak(1000..N / 2), peak(N / 2..N));
    let grown = late.zip(early).map(|(late, early)| late.saturating_sub(early));
    // For runs with --nocapture.
    let told = format!("{arguments:?}: {early:?} KiB, then {late:?} KiB\n");
    std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
    assert!(grown.is_some_and(|kib| kib < most_kib), "{told}");
}

#[test]
fn the_oldest_messages_go_where_that_is_asked_for() {
    let place = Workplace::new();
    let long = "the rain in the station ".repeat(12);
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let (system, last) = (message("system", "be brief"), message("user", PROMPT));
    let full = json!([system, message("user", &long), message("assistant", &long), last]);
    let short = json!([system, last]);
    let line = |id: &str, messages: &Value| json!({"custom_id": id, "messages": messages}).to_string() + "\n";
    let answered = |flags: &[&str], lines: String| {
        place.write("prompts.jsonl", lines);
        let ran = batch(&place, &[&["-o", "-", "-c", "256", "-n", "20", "-q"], flags].concat());
        let records = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let text = |record: Value| {
            let content = &record["response"]["body"]["choices"][0]["message"]["content"];
            content.as_str().or(record["error"]["code"].as_str()).unwrap().to_owned()
        };
        (records.map(text).collect::<Vec<_>>(), ran)
    };
    let expected = answered(&[], line("q", &short)).0;
    let (texts, ran) = answered(&["--on-overflow", "drop-oldest"], line("a", &full));
    assert_eq!(texts, expected);
    ran.succeeds().notices("line 1: the messages do not fit into the context: the oldest 2 messages are left out");
    let (texts, ran) = answered(&[], line("a", &full));
    assert_eq!((texts, ran.code), (vec!["context_length_exceeded".to_owned()], Some(3)), "{ran:#?}");
    let one = answered(&["--on-overflow", "drop-oldest"], line("a", &json!([message("user", &long.repeat(3))])));
    assert_eq!(one.0, ["context_length_exceeded"], "the last message is never left out");
    batch(&place, &["--on-overflow", "summarize"]).fails(2, &["--on-overflow summarize"]).hints("drop-oldest");
}

#[test]
fn issue_13_12_an_array_is_refused_with_how_to_convert_it() {
    let place = Workplace::new();
    place.write("array.json", "[\n  {\"prompt\": \"a\"},\n  {\"prompt\": \"b\"}\n]\n");
    let ran = batch(&place, &["-i", "array.json"]);
    ran.fails(2, &["array.json: the file is a JSON array"]).hints("jq -c '.[]' array.json");
    assert!(!place.path("results.jsonl").exists());
}

#[test]
fn issue_13_12_lines_that_are_added_while_a_job_runs_are_told() {
    let place = Workplace::new();
    prompts(&place, 1500);
    let running = Running::start(&mut command(&place, &[]));
    wait_for_journal(&place, 1000);
    let mut file = fs::File::options().append(true).open(place.path("prompts.jsonl")).unwrap();
    std::io::Write::write_all(&mut file, b"{\"prompt\": \"x\"}\n{\"prompt\": \"y\"}\n").unwrap();
    let ran = running.finish();
    ran.succeeds();
    assert!(ran.stderr.contains("prompts.jsonl: 2 lines were added while the job ran"), "{ran:#?}");
    assert_eq!(answers(&place, "results.jsonl").len(), 1500);
}

#[test]
fn issue_13_7_an_assistants_message_at_the_end_is_continued() {
    let place = Workplace::new();
    let chat = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>";
    let line = |id: &str, messages: &str| {
        format!("{{\"custom_id\": \"{id}\", \"messages\": [{messages}], \"max_tokens\": 4}}\n")
    };
    let begun = line("begun", r#"{"role": "user", "content": "a"}, {"role": "assistant", "content": "the sun"}"#);
    place.write("prompts.jsonl", begun);
    place.write(
        "raw.jsonl",
        "{\"custom_id\": \"begun\", \"prompt\": \"<user>a</user><assistant>the sun\", \"max_tokens\": 4}\n",
    );
    batch(&place, &["--chat-template", chat]).succeeds();
    batch(&place, &["-i", "raw.jsonl", "-o", "raw-results.jsonl", "--raw"]).succeeds();
    assert_eq!(answers(&place, "results.jsonl"), answers(&place, "raw-results.jsonl"));
}

#[test]
fn issue_13_3_notices_stay_with_q() {
    let place = Workplace::new();
    place.write("prompts.jsonl", format!("{{\"prompt\": \"{PROMPT}\"}}\n\n{{\"prompt\": 3}}\n"));
    let arguments =
        ["batch", "-i", "prompts.jsonl", "-o", "results.jsonl", "-q", "-c", "40", "-n", "-1", "--ignore-eos"];
    let ran = finish(&mut place.command(&arguments));
    assert_eq!(ran.code, Some(3), "{ran:#?}");
    ran.notices("1 blank line is skipped").notices("line 3: ");
    ran.notices("line 1: the answer was cut off: the context of 40 tokens is full");
    assert!(ran.stderr.lines().all(|line| line.starts_with("notice: ")), "{ran:#?}");
    // If -n gives the length, an answer of that length is complete.
    let arguments = ["batch", "-i", "prompts.jsonl", "-o", "short.jsonl", "-q", "-c", "40", "-n", "3", "--ignore-eos"];
    assert!(!finish(&mut place.command(&arguments)).stderr.contains("cut off"));
}
