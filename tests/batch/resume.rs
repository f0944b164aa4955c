//! Tests killing, resuming and retrying a job.

use std::fs;
use std::thread;
use std::time::Duration;

use chaski::batch::ledger::journal_path;

use crate::place::{Place, lines};

/// A linear congruential generator, so that the kills are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn kills(is_ordered: bool, n_kills: usize) {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(600));
    setup.is_ordered = is_ordered;
    setup.run().unwrap();
    let expected = setup.records();
    assert_eq!(expected.len(), 600);

    setup.output = place.path("killed.jsonl");
    setup.step_us = 3000;
    let mut dice = Dice(5);
    let (mut n_killed, mut n_finished) = (0, 0);
    while n_killed < n_kills {
        let mut child = setup.spawn().unwrap();
        thread::sleep(Duration::from_millis(dice.roll(350)));
        child.kill().unwrap();
        let is_over = child.wait().unwrap().success();
        n_killed += usize::from(!is_over);
        n_finished += usize::from(is_over);
        // A finished job starts again from nothing.
        if is_over || setup.journal_if_any().is_some_and(|journal| journal.n_left() == 0) {
            assert_eq!(setup.records(), expected);
            fs::remove_file(&setup.output).unwrap();
            fs::remove_file(journal_path(&setup.output)).unwrap();
            n_finished += 1;
        }
    }
    setup.step_us = 0;
    setup.run().unwrap();
    assert_eq!(setup.records(), expected, "after {n_killed} kills, {n_finished} times finished between");
    if is_ordered {
        assert!(setup.journal().is_sorted());
    }
    let failed = setup.record_list().iter().filter(|record| record["error"]["code"] == "engine_crashed").count();
    assert_eq!(failed, 0, "a kill is nobody's fault");
}

#[test]
fn fifty_kills_lose_nothing_and_double_nothing() {
    kills(false, 50);
}

#[test]
fn kills_keep_the_order() {
    kills(true, 10);
}

#[test]
fn a_finished_job_is_finished() {
    let place = Place::new();
    let setup = place.setup("a.jsonl", lines(50));
    setup.run().unwrap();
    let before = fs::read(&setup.output).unwrap();
    let ended = setup.run().unwrap();
    assert_eq!((ended.progress.n_done_now, ended.progress.totals.n_done()), (0, 50));
    assert_eq!(fs::read(&setup.output).unwrap(), before);
}

#[test]
fn another_configuration_is_refused_by_name() {
    let place = Place::new();
    let setup = place.setup("a.jsonl", lines(20));
    setup.run().unwrap();
    let before = fs::read(&setup.output).unwrap();
    let mut other = setup.clone();
    other.is_ordered = true;
    assert!(other.run().unwrap_err().to_string().contains("another --ordered: false then, true now"));
    let mut other = setup.clone();
    other.seed = Some(8);
    assert!(other.run().unwrap_err().to_string().contains("another --seed: 7 then, 8 now"));
    let mut other = setup.clone();
    other.template = Some("{{prompt}}".to_owned());
    assert!(other.run().unwrap_err().to_string().contains("another --template: none then, "));
    fs::write(&setup.input, lines(21)).unwrap();
    assert!(setup.run().unwrap_err().to_string().contains("another input: 20 lines"));
    assert_eq!(fs::read(&setup.output).unwrap(), before);
}

#[test]
fn a_seed_that_was_drawn_is_kept() {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(20));
    setup.run().unwrap();
    let whole = setup.records();
    // As after a kill: the end of the journal is missing, and this process would draw another seed.
    let journal = fs::read_to_string(journal_path(&setup.output)).unwrap();
    let cut: String = journal.lines().take(30).flat_map(|line| [line, "\n"]).collect();
    assert!(cut.len() < journal.len());
    fs::write(journal_path(&setup.output), cut).unwrap();
    setup.seed = None;
    setup.run().unwrap();
    assert_eq!(setup.records(), whole);
}

#[test]
fn what_failed_is_tried_again_when_asked() {
    let place = Place::new();
    for is_ordered in [false, true] {
        let mut setup = place.setup("a.jsonl", lines(100));
        (setup.is_ordered, setup.output) = (is_ordered, place.path(&format!("{is_ordered}.jsonl")));
        setup.run().unwrap();
        let before = setup.records();
        setup.retry_failed = true;
        let ended = setup.run().unwrap();
        assert_eq!((ended.progress.n_done_now, ended.progress.totals.n_failed), (20, 20));
        assert_eq!(setup.records(), before);
        assert_eq!(setup.journal().is_sorted(), is_ordered);
        if is_ordered {
            let names = setup.names();
            assert_eq!((names[3].as_str(), names[6].as_str(), names[8].as_str()), ("?", "q6", "line-9"));
        }
    }
}

#[test]
fn two_processes_do_not_write_one_output() {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(300));
    // The job would take 15 seconds.
    setup.step_us = 50_000;
    let mut child = setup.spawn().unwrap();
    while setup.journal_if_any().is_none_or(|journal| journal.n_at_work() == 0) {
        thread::sleep(Duration::from_millis(2));
    }
    let error = setup.run().unwrap_err().to_string();
    assert!(error.contains("results.jsonl: another process is writing to it"), "{error}");
    // Closing the child's stdin stops it.
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    assert!(setup.journal().is_closed());
    setup.step_us = 0;
    setup.run().unwrap();
    assert_eq!(setup.records().len(), 300);
}
