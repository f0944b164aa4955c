//! Tests processes that claim the shards of one job.

use std::fs;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use chaski::batch::claims::{End, claim_path, latest};
use chaski::batch::disk::Files;
use chaski::batch::input::shard::Shard;
use chaski::batch::merge::{MergeError, claimed_parts, merge};

use crate::place::{Place, Setup, lines};

const N_LINES: usize = 240;
const N_SHARDS: u64 = 12;

/// A job in a folder, and its records when one process does it.
fn job(place: &Place) -> (Setup, Vec<(String, serde_json::Value)>) {
    let mut setup = place.setup("a.jsonl", lines(N_LINES));
    setup.is_ordered = true;
    setup.run().unwrap();
    let expected = setup.names().into_iter().zip(setup.records().into_values()).collect();
    (Setup { output: place.path("all.jsonl"), claim: Some((N_SHARDS, 1000)), ..setup }, expected)
}

fn merged(setup: &Setup) -> Vec<(String, serde_json::Value)> {
    let parts = claimed_parts(&Files, &setup.output).unwrap().unwrap();
    assert_eq!(parts.len() as u64, N_SHARDS);
    merge(&Files, &setup.output, &parts, 5).unwrap();
    setup.names().into_iter().zip(setup.records().into_values()).collect()
}

/// The owner's process id and the state of each shard that was claimed.
fn claims(setup: &Setup) -> Vec<(u32, u64, Option<End>)> {
    let shards = (1..=N_SHARDS).map(|number| Shard { number, n_shards: N_SHARDS });
    let claims = shards.filter_map(|shard| latest(&Files, &setup.output, shard, 0).unwrap());
    claims.map(|(generation, content)| (content.owner.map_or(0, |owner| owner.pid), generation, content.end)).collect()
}

/// Waits until a child ends, and returns whether it succeeded. Its stdin stays open meanwhile: closing it would be an
/// interrupt, and `wait` closes it.
fn succeeds(mut child: Child) -> bool {
    let _lifeline = child.stdin.take();
    child.wait().unwrap().success()
}

/// Waits until this child has finished a shard and works on another one.
fn wait_for_work(setup: &Setup, child: &Child) {
    let is_own = |end: Option<End>| claims(setup).iter().any(|claim| claim.0 == child.id() && claim.2 == end);
    let deadline = Instant::now() + Duration::from_secs(180);
    while !(is_own(Some(End::Finished)) && is_own(None)) {
        assert!(Instant::now() < deadline, "waited in vain for a second shard: {:?}", claims(setup));
        thread::sleep(Duration::from_millis(2));
    }
    // In the middle of the shard.
    thread::sleep(Duration::from_millis(60));
}

#[test]
fn a_killed_process_is_replaced() {
    let place = Place::new();
    let (mut setup, expected) = job(&place);
    setup.step_us = 30_000;
    let (mut first, second) = (setup.spawn().unwrap(), setup.spawn().unwrap());
    let pids = [first.id(), second.id()];
    wait_for_work(&setup, &first);
    assert!(matches!(claimed_parts(&Files, &setup.output), Err(MergeError::Unfinished { n_shards: N_SHARDS, .. })));
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(succeeds(second));
    let claims = claims(&setup);
    assert!(claims.iter().all(|&(.., end)| end == Some(End::Finished)), "{claims:?}");
    let by = |pid: u32| claims.iter().filter(|claim| claim.0 == pid).count();
    assert!(pids.iter().all(|&pid| by(pid) > 0) && by(pids[0]) + by(pids[1]) == claims.len(), "{claims:?}");
    assert!(claims.iter().any(|claim| claim.1 > 1), "a shard is taken over: {claims:?}");
    assert_eq!(merged(&setup), expected);
}

/// The process is stopped for longer than its lease, and comes back when another one has done its shard.
#[cfg(target_os = "linux")]
#[test]
fn a_stopped_process_notices_and_goes_on_with_another_shard() {
    let place = Place::new();
    let (mut setup, expected) = job(&place);
    setup.step_us = 30_000;
    let first = setup.spawn().unwrap();
    wait_for_work(&setup, &first);
    let signal = |name: &str| {
        let pid = first.id().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    let second = setup.spawn().unwrap();
    let is_taken_over = || claims(&setup).iter().any(|claim| claim.1 == 2);
    while !is_taken_over() {
        thread::sleep(Duration::from_millis(5));
    }
    signal("-CONT");
    assert!(succeeds(first) && succeeds(second));
    assert_eq!(merged(&setup), expected);
}

#[test]
fn an_interrupted_process_releases_its_shard() {
    let place = Place::new();
    let (mut setup, expected) = job(&place);
    // Nobody could wait for this lease.
    (setup.step_us, setup.claim) = (30_000, Some((N_SHARDS, 3_600_000)));
    let mut first = setup.spawn().unwrap();
    wait_for_work(&setup, &first);
    drop(first.stdin.take());
    assert!(!first.wait().unwrap().success());
    assert!(claims(&setup).iter().any(|claim| claim.2 == Some(End::Released)));
    setup.step_us = 0;
    let done = setup.claim_shards(&AtomicBool::new(false)).unwrap();
    assert!((1..N_SHARDS).contains(&done.n_own) && done.n_shards == N_SHARDS, "{done:?}");
    assert_eq!(merged(&setup), expected);
    // There is nothing left to do.
    assert_eq!(setup.claim_shards(&AtomicBool::new(false)).unwrap().n_own, 0);
}

#[test]
fn all_shards_have_one_seed_and_one_job() {
    let place = Place::new();
    let (mut setup, expected) = job(&place);
    setup.claim_shards(&AtomicBool::new(false)).unwrap();
    // A process that gives no seed follows the plan; one that gives another is refused.
    setup.seed = None;
    assert_eq!(setup.claim_shards(&AtomicBool::new(false)).unwrap().n_own, 0);
    setup.seed = Some(8);
    let error = setup.claim_shards(&AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("another --seed: 7 then, 8 now"), "{error}");
    assert_eq!(merged(&setup), expected);
    let part = Shard { number: 1, n_shards: N_SHARDS }.claimed_output(&setup.output, 1);
    assert!(part.exists() && claim_path(&part).exists());
    assert!(fs::read_dir(place.path("")).unwrap().count() > 36);
}
