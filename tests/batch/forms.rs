//! Tests the forms of input and output.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use chaski::batch::job::Output;
use chaski::batch::pipeline::{BatchError, Watcher};
use chaski::batch::progress::Progress;
use chaski::batch::refuse::Refusal;
use chaski::engine::{Engine, Event, Request};

use crate::fake::Fake;
use crate::place::{Place, Silent, lines, renderer};

#[test]
fn every_line_has_one_record_and_the_sum_is_right() {
    let place = Place::new();
    let setup = place.setup("a.jsonl", lines(500));
    let ended = setup.run().unwrap();
    let totals = ended.progress.totals;
    assert_eq!((totals.n_ok, totals.n_failed, ended.progress.n_lines), (400, 100, 500));
    assert!(!ended.is_interrupted && setup.journal().is_closed());
    let records = setup.record_list();
    assert_eq!(records.len(), 500);
    assert_eq!(setup.records().len(), 500);
    let n_failed = records.iter().filter(|record| record["response"].is_null() && record["error"].is_object()).count();
    let n_ok = records.iter().filter(|record| record["response"].is_object() && record["error"].is_null()).count();
    assert_eq!((n_ok, n_failed), (400, 100));
    assert_eq!(fs::metadata(&setup.output).unwrap().len(), setup.journal().totals().n_bytes);
}

#[test]
fn order_and_parallelism_change_nothing_but_the_order() {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(200));
    setup.run().unwrap();
    let expected = setup.records();
    for (n_lanes, is_ordered) in [(1, false), (1, true), (33, false), (33, true)] {
        (setup.n_lanes, setup.is_ordered) = (n_lanes, is_ordered);
        setup.output = place.path(&format!("{n_lanes} {is_ordered}"));
        setup.run().unwrap();
        assert_eq!(setup.records(), expected);
    }
    // Another seed gives other answers.
    (setup.seed, setup.output) = (Some(8), place.path("other seed"));
    setup.run().unwrap();
    let other = setup.records();
    assert_ne!(other["q0 null"], expected["q0 null"]);
}

#[test]
fn ordered_results_stand_in_the_order_of_their_lines() {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(300));
    (setup.is_ordered, setup.n_lanes) = (true, 16);
    setup.run().unwrap();
    let places: Vec<u64> = setup.record_list().iter().map(number).collect();
    assert_eq!(places, (1..=300).collect::<Vec<u64>>());
    assert!(setup.journal().is_sorted());
}

fn number(record: &serde_json::Value) -> u64 {
    record["id"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()
}

#[test]
fn text_is_one_line_an_answer() {
    let place = Place::new();
    let mut setup = place.setup("a.txt", "one\n\nREFUSE\ntwo\n");
    (setup.is_text, setup.is_ordered) = (true, true);
    let ended = setup.run().unwrap();
    assert_eq!((ended.progress.totals.n_ok, ended.progress.totals.n_failed), (2, 1));
    let text = fs::read_to_string(&setup.output).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("eno\\n[0.8 ") && lines[1].is_empty() && lines[2].starts_with("owt\\n["), "{text}");
}

#[test]
fn tables_need_a_template_and_go_through_it() {
    let place = Place::new();
    let mut setup = place.setup("a.csv", "custom_id,text\na,x\nb,\"y, z\"\n");
    assert!(setup.run().unwrap_err().to_string().contains("a.csv: a table needs a template"));
    setup.template = Some("{{ text".to_owned());
    assert!(setup.run().unwrap_err().to_string().contains("--template, line 1"));
    setup.template = Some("say {{text}}".to_owned());
    setup.run().unwrap();
    let records = setup.records();
    let content = |name: &str| records[name]["response"]["body"]["choices"][0]["message"]["content"].clone();
    assert!(content("a null").as_str().unwrap().starts_with("x yas"));
    assert!(content("b null").as_str().unwrap().starts_with("z ,y yas"));
}

#[test]
fn a_constrained_answer_must_be_able_to_end() {
    let place = Place::new();
    let line = |id: &str, more: &str| format!("{{\"custom_id\": \"{id}\", \"prompt\": \"x\"{more}}}\n");
    let form = r#", "grammar": "root ::= \"a\"""#;
    let input = [
        line("both", &format!(r#"{form}, "ignore_eos": true"#)),
        line("form", form),
        line("eos", r#", "ignore_eos": true"#),
    ];
    let setup = place.setup("a.jsonl", input.concat());
    setup.run().unwrap();
    let records = setup.records();
    assert_eq!(records["both 1"]["error"]["code"], "invalid_value");
    assert!(records["form null"]["error"].is_null() && records["eos null"]["error"].is_null(), "{records:?}");
}

#[test]
fn an_empty_input_is_done_at_once() {
    let place = Place::new();
    for bytes in ["", "\n\n", "\u{feff}\n"] {
        let mut setup = place.setup("a.jsonl", bytes);
        setup.output = place.path(&format!("out{}", bytes.len()));
        let ended = setup.run().unwrap();
        assert_eq!((ended.progress.n_lines, ended.progress.totals.n_done()), (0, 0));
        assert_eq!(fs::read(&setup.output).unwrap(), b"");
    }
}

#[test]
fn random_bytes_are_lines_too() {
    let place = Place::new();
    let mut state = 1u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        [b'\n', b'{', b'"', b'}', b'\r', b'a'].get((state >> 60) as usize).copied().unwrap_or((state >> 40) as u8)
    };
    let bytes: Vec<u8> = (0..20_000).map(|_| byte()).collect();
    let setup = place.setup("a.jsonl", bytes);
    let ended = setup.run().unwrap();
    assert_eq!(ended.progress.totals.n_done(), ended.progress.n_lines);
    assert_eq!(setup.record_list().len() as u64, ended.progress.n_lines);
}

#[test]
fn a_common_beginning_comes_together() {
    let place = Place::new();
    let line = |n: usize| format!("{{\"prompt\": \"{} and question {n}\"}}\n", "document ".repeat(20 + n % 4));
    // The last line fails. Its failure is reported once all lines before it are waiting.
    let setup = place.setup("a.jsonl", (0..200).map(line).chain(["{broken\n".to_owned()]).collect::<String>());
    let (order, (tell, are_all_at_hand)) = (Mutex::new(Vec::new()), mpsc::channel());
    let engine = Recorder {
        fake: Fake::new(1, Duration::ZERO),
        order: &order,
        are_all_at_hand: Mutex::new(Some(are_all_at_hand)),
    };
    setup.run_with(Box::new(engine), &AtomicBool::new(false), &mut OnFailure(|| tell.send(()).unwrap())).unwrap();
    let order = order.into_inner().unwrap();
    assert_eq!(order.len(), 200);
    let n_changes = order.windows(2).filter(|pair| pair[0] % 4 != pair[1] % 4).count();
    // In input order there would be 199 changes. Requests already on their way to the engine are still in that order.
    assert!(n_changes < 30, "{n_changes}");
}

/// Records the order of the requests, and answers none before all are waiting.
struct Recorder<'a> {
    fake: Fake,
    order: &'a Mutex<Vec<u64>>,
    are_all_at_hand: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Engine for Recorder<'_> {
    fn has_room(&self) -> bool {
        self.fake.has_room()
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        let id = request.id;
        self.fake.try_submit(request)?;
        self.order.lock().unwrap().push(id);
        Ok(())
    }

    fn next_event(&self) -> Result<Event, String> {
        if let Some(are_all_at_hand) = self.are_all_at_hand.lock().unwrap().take() {
            are_all_at_hand.recv().unwrap();
        }
        self.fake.next_event()
    }
}

/// Calls a function when a line fails.
struct OnFailure<F: FnMut()>(F);

impl<F: FnMut()> Watcher for OnFailure<F> {
    fn progress(&mut self, _progress: &Progress) {}

    fn failed(&mut self, _number: u64, _refusal: &Refusal) {
        (self.0)();
    }

    fn notice(&mut self, _text: &str) {}
}

#[test]
fn a_stream_gets_results_and_its_end_is_told() {
    let place = Place::new();
    let setup = place.setup("a.jsonl", lines(100));
    let mut bytes = Vec::new();
    let prepared = setup.job().prepare(Output::Stream(Box::new(&mut bytes))).unwrap();
    let engine = Box::new(setup.engine());
    prepared.run(engine, renderer(), &AtomicBool::new(false), &mut Silent).unwrap();
    assert_eq!(bytes.iter().filter(|&&byte| byte == b'\n').count(), 100);
    // A reader that closes the pipe while more lines are left than fit in flight.
    let mut setup = place.setup("b.jsonl", lines(5000));
    setup.is_ordered = true;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let prepared = setup.job().prepare(Output::Stream(Box::new(writer))).unwrap();
    let engine = Box::new(setup.engine());
    match prepared.run(engine, renderer(), &AtomicBool::new(false), &mut Silent) {
        Err(BatchError::Stream(error)) => assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe),
        other => panic!("{other:?}"),
    }
}

#[test]
fn figures_and_failures_are_told_on_the_way() {
    #[derive(Default)]
    struct Listener {
        n_told: usize,
        latest: Progress,
        failed: Vec<(u64, String)>,
    }
    impl Watcher for Listener {
        fn progress(&mut self, progress: &Progress) {
            self.n_told += 1;
            self.latest = *progress;
        }
        fn failed(&mut self, number: u64, refusal: &Refusal) {
            self.failed.push((number, refusal.code.clone()));
        }
        fn notice(&mut self, _text: &str) {}
    }
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(60));
    setup.step_us = 20_000;
    let mut listener = Listener::default();
    let ended = setup.run_with(Box::new(setup.engine()), &AtomicBool::new(false), &mut listener).unwrap();
    assert!(listener.n_told >= 5 && listener.latest.engine.n_predicted > 0, "{:?}", listener.latest);
    assert!(listener.latest.engine.n_running >= 1 && ended.progress.predicted_per_second() > 1.0);
    listener.failed.sort();
    assert_eq!(listener.failed.len(), 12);
    assert_eq!(listener.failed[0], (4, "invalid_json".to_owned()));
    assert_eq!(listener.failed[1], (7, "context_length_exceeded".to_owned()));
}

#[test]
fn an_engine_that_ends_is_an_error_and_what_was_done_is_kept() {
    let place = Place::new();
    let mut setup = place.setup("a.txt", format!("{}FAIL\n", "fine\n".repeat(100)));
    setup.is_ordered = true;
    setup.n_lanes = 1;
    match setup.run() {
        Err(BatchError::Engine(message)) => assert_eq!(message, "the engine is out of order"),
        other => panic!("{other:?}"),
    }
    let journal = setup.journal();
    assert!(journal.is_closed() && journal.totals().n_ok >= 99, "{:?}", journal.totals());
    assert_eq!(setup.record_list().len() as u64, journal.totals().n_ok);
}

#[test]
fn an_interrupt_ends_it_soon_and_it_goes_on() {
    let place = Place::new();
    let setup = place.setup("a.jsonl", lines(4000));
    let interrupt = AtomicBool::new(false);
    // The fourth line fails. After it, at most the lines in flight are done.
    let mut watcher = OnFailure(|| interrupt.store(true, Ordering::Relaxed));
    let ended = setup.run_with(Box::new(setup.engine()), &interrupt, &mut watcher).unwrap();
    assert!(ended.is_interrupted);
    let (n, journal) = (ended.progress.totals.n_done(), setup.journal());
    assert!(n > 0 && n < 2000 && journal.is_closed() && journal.totals().n_done() == n, "{n}");
    let ended = setup.run().unwrap();
    assert_eq!((ended.progress.totals.n_done(), ended.progress.n_done_now), (4000, 4000 - n));
    assert_eq!(setup.records().len(), 4000);
}

/// Ends like llama.cpp's engine: between two steps, once it sees the interrupt.
struct Breaking<'a> {
    fake: Fake,
    interrupt: &'a AtomicBool,
    n_events: Mutex<usize>,
}

impl Engine for Breaking<'_> {
    fn has_room(&self) -> bool {
        self.fake.has_room()
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        self.fake.try_submit(request)
    }

    fn next_event(&self) -> Result<Event, String> {
        let mut n_events = self.n_events.lock().unwrap();
        *n_events += 1;
        if *n_events == 300 {
            self.interrupt.store(true, Ordering::Relaxed);
        }
        if *n_events > 310 { Err("broken off".to_owned()) } else { self.fake.next_event() }
    }
}

#[test]
fn issue_13_10_what_an_interrupt_loses_is_counted_and_what_is_done_is_kept() {
    let place = Place::new();
    let mut n_lost = 0;
    for (name, is_ordered, is_text) in [("a", false, false), ("b", true, false), ("c", true, true)] {
        let mut setup = place.setup("a.jsonl", lines(4000));
        setup.output = place.path(&format!("out-{name}"));
        (setup.is_ordered, setup.is_text) = (is_ordered, is_text);
        let interrupt = AtomicBool::new(false);
        let engine = Breaking { fake: Fake::new(4, Duration::ZERO), interrupt: &interrupt, n_events: Mutex::new(0) };
        let ended = setup.run_with(Box::new(engine), &interrupt, &mut Silent).unwrap();
        let n_done = ended.progress.totals.n_done();
        assert!(ended.is_interrupted && n_done > 0, "{name}: {ended:?}");
        // Four lanes: at most four answers are in flight, and none if all have just ended.
        let most = if is_text { 512 } else { 4 };
        assert!(ended.n_lost <= most, "{name}: {ended:?}");
        n_lost += ended.n_lost;
        let written = fs::read_to_string(&setup.output).unwrap();
        assert_eq!((written.lines().count() as u64, setup.journal().totals().n_done()), (n_done, n_done));
        let rest = setup.run().unwrap();
        assert_eq!((rest.progress.totals.n_done(), rest.n_lost), (4000, 0));
        let output = setup.output.clone();
        setup.output = place.path(&format!("whole-{name}"));
        setup.run().unwrap();
        let sorted = |path: &std::path::Path| {
            let text = fs::read_to_string(path).unwrap();
            // Jobs differ in the ids of their records.
            let of_record = |line: &str| {
                line.split_once("custom_id").map_or(line.to_owned(), |(_, rest)| {
                    rest.split("\"request_id\"").next().unwrap_or_default().to_owned()
                })
            };
            let mut lines: Vec<String> = text.lines().map(of_record).collect();
            if !is_ordered {
                lines.sort();
            }
            lines
        };
        assert_eq!(sorted(&output), sorted(&setup.output), "{name}");
    }
    assert!(n_lost > 0, "answers that wait for their turn are lost as text");
}

#[test]
fn issue_13_12_an_array_is_refused_whole() {
    let place = Place::new();
    let array = "[\n  {\"prompt\": \"a\"},\n  {\"prompt\": \"b\"}\n]\n";
    let setup = place.setup("a.json", array);
    assert!(setup.run().unwrap_err().to_string().contains("a.json: the file is a JSON array"));
    assert!(!setup.output.exists());
    let spread = place.setup("b.json", "{\n  \"prompt\": \"a\"\n}\n");
    assert!(spread.run().unwrap_err().to_string().contains("spans several lines"));
}
