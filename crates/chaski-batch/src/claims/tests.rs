use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::disk::Files;
use crate::disk::shared::{Fates, World};
use crate::journal::Finished;
use crate::ledger::{Ledger, OpenOptions};
use crate::merge::{claimed_parts, merge};

const OUTPUT: &str = "results.jsonl";

/// In milliseconds.
const LEASE: u64 = 1000;

fn owner(name: &str) -> Owner {
    Owner { host: name.to_owned(), pid: 7, id: name.to_owned(), lease_ms: LEASE }
}

fn key(n_lines: u64, shard: Shard) -> Key {
    Key {
        input: "input".to_owned(),
        model: "m.gguf 7a".to_owned().into(),
        n_lines,
        n_own: shard.n_of(n_lines),
        seed: 7,
        parameters: BTreeMap::from([("--shard".to_owned(), shard.to_string())]),
        created_ms: 5,
    }
}

/// A process on one machine: it claims shards and answers their lines, one step at a time, until all are finished.
fn work(world: &Arc<World>, machine: usize, n_lines: u64, n_shards: u64) -> Result<(), LedgerError> {
    let (disk, output) = (world.disk(Some(machine)), Path::new(OUTPUT));
    let plan = Plan::agree(&disk, output, Some(n_shards), &key(n_lines, Shard::ALL), true)?;
    let mut claims = Claims::new(&disk, output, plan.n_shards, owner(&machine.to_string()));
    let clock = || world.clock(machine);
    loop {
        match claims.next(&clock)? {
            Next::Finished => return Ok(()),
            Next::Wait(_) => world.sleep(machine, LEASE / 8).map_err(at(output))?,
            Next::Claimed(mut claim) => {
                if do_shard(world, machine, &disk, n_lines, &mut claim)? {
                    claim.end(End::Finished)?;
                }
            }
        }
    }
}

/// False if the claim is lost.
fn do_shard(
    world: &Arc<World>,
    machine: usize,
    disk: &dyn Disk,
    n_lines: u64,
    claim: &mut Claim<'_>,
) -> Result<bool, LedgerError> {
    let (path, shard) = (claim.output(), claim.shard());
    let options = OpenOptions { ms: 1, after_crash: false, has_seed: true, retry_failed: false, is_claimed: true };
    let mut ledger = Ledger::open(disk, &path, &key(n_lines, shard), &options)?;
    for earlier in claim.earlier() {
        ledger.adopt(&earlier, 2)?;
    }
    let mut renewed = world.clock(machine);
    for line in (0..n_lines).filter(|&line| shard.has(line)) {
        if ledger.journal().is_done(line) {
            continue;
        }
        // The answer takes a while.
        world.sleep(machine, 40).map_err(at(&path))?;
        if world.clock(machine).saturating_sub(renewed).as_millis() as u64 >= LEASE / u64::from(RENEWALS) {
            renewed = world.clock(machine);
            if !claim.renew()? {
                return Ok(false);
            }
        }
        let finished = Finished { line, end: 0, n_prompt: 1, n_predicted: 1, error: None };
        ledger.record(finished, format!("{line} by {machine} as {}\n", claim.generation()).as_bytes())?;
        if line % 3 != 0 {
            ledger.sync(3)?;
        }
    }
    ledger.close(4, true)?;
    Ok(true)
}

/// The merged output as text, the crashes, and the takeovers.
fn run(n_machines: usize, n_lines: u64, n_shards: u64, fates: Fates) -> Result<(String, u64, u64), String> {
    let world = World::new(n_machines, fates);
    thread::scope(|scope| {
        for machine in 0..n_machines {
            let world = &world;
            scope.spawn(move || {
                while work(world, machine, n_lines, n_shards).is_err() && world.restart(machine) {}
                world.leave(machine);
            });
        }
    });
    let (violation, n_crashes) = world.verdict();
    if let Some(violation) = violation {
        return Err(violation);
    }
    let (disk, output) = (world.disk(None), Path::new(OUTPUT));
    let parts = claimed_parts(&disk, output).map_err(|error| error.to_string())?.ok_or("no plan")?;
    merge(&disk, output, &parts, 9).map_err(|error| error.to_string())?;
    let merged = read_all(&disk, output).map_err(|error| error.to_string())?.ok_or("no output")?;
    // Given the files of all owners, it takes one finished file of each shard.
    let shards = (1..=n_shards).map(|number| Shard { number, n_shards });
    let generations = shards.map(|shard| (shard, latest(&disk, output, shard, 0).unwrap().unwrap().0));
    let all = generations.flat_map(|(shard, n)| (1..=n).map(move |n| shard.claimed_output(Path::new(OUTPUT), n)));
    let all: Vec<PathBuf> = all.filter(|path| disk.read(path).unwrap().is_some()).collect();
    let totals = merge(&disk, Path::new("all.jsonl"), &all, 9).map_err(|error| error.to_string())?;
    if totals.n_done() != n_lines {
        return Err(format!("{} of {n_lines} lines are merged from all files", totals.n_done()));
    }
    let owners = |number| latest(&disk, output, Shard { number, n_shards }, 0).unwrap().unwrap().0;
    let n_taken_over = (1..=n_shards).map(|number| owners(number) - 1).sum();
    Ok((String::from_utf8(merged).map_err(|error| error.to_string())?, n_crashes, n_taken_over))
}

fn lines_of(merged: &str) -> Vec<u64> {
    merged.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Machines crash, stop for long, come back, have wrong clocks, and see files late: every line is in the merged
    /// output once, no file has two writers, and all is finished as long as one machine lives.
    #[test]
    fn nothing_is_lost_and_nothing_is_double(
        seed in any::<u64>(),
        n_machines in 1..5_usize,
        n_lines in 0..25_u64,
        n_shards in 1..6_u64,
        n_crashes in prop_oneof![Just(0), 0..100_u64],
        n_stops in prop_oneof![Just(0), 0..200_u64],
        n_late in prop_oneof![Just(0), Just(0), 0..2000_u64],
    ) {
        let fates = Fates { seed, n_crashes, n_stops, max_stop: 6 * LEASE, n_late };
        let (merged, ..) = run(n_machines, n_lines, n_shards, fates).map_err(TestCaseError::fail)?;
        prop_assert_eq!(lines_of(&merged), (0..n_lines).collect::<Vec<u64>>(), "{}", merged);
    }
}

/// The machine that is left at the end sees the plan late, and ends with an error before that.
#[test]
fn a_plan_that_is_seen_late_stops_nobody_for_ever() {
    let fates = Fates { seed: 17_245_442_641_164_279_564, n_crashes: 29, n_stops: 0, max_stop: 6 * LEASE, n_late: 180 };
    assert_eq!(run(2, 0, 3, fates).unwrap().0, "");
}

/// The property above would hold if nothing ever happened; this counts what happens.
#[test]
fn shards_are_shared_taken_over_and_adopted() {
    let (mut n_crashes, mut n_taken_over, mut n_shared, mut n_adopted) = (0, 0, 0, 0);
    for seed in 0..40 {
        let fates = Fates { seed, n_crashes: 40, n_stops: 60, max_stop: 5 * LEASE, n_late: 0 };
        let (merged, crashes, taken_over) = run(4, 40, 5, fates).unwrap();
        assert_eq!(lines_of(&merged), (0..40).collect::<Vec<u64>>());
        n_crashes += crashes;
        n_taken_over += taken_over;
        let with = |what: &str| merged.lines().any(|line| line.contains(what));
        n_shared += u32::from((0..4).filter(|machine| with(&format!("by {machine} "))).count() > 1);
        // Records of a first owner in a shard that the second owner finished.
        let owners = |shard: usize| -> BTreeMap<&str, ()> {
            let of_shard = merged.lines().skip(shard).step_by(5);
            of_shard.map(|line| (line.rsplit(' ').next().unwrap(), ())).collect()
        };
        n_adopted += (0..5).filter(|&shard| owners(shard).len() > 1).count();
    }
    assert!(
        n_crashes > 20 && n_taken_over > 20 && n_shared > 30 && n_adopted > 5,
        "{n_crashes} {n_taken_over} {n_shared} {n_adopted}"
    );
}

/// Without stops and crashes no lease expires, however wrong the clocks are, unless one is twice as fast as another.
#[test]
fn a_lease_is_measured_by_the_watchers_clock_alone() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OUTPUT);
    let mut first = Claims::new(&Files, &output, 1, owner("a"));
    let mut second = Claims::new(&Files, &output, 1, owner("b"));
    let ms = Duration::from_millis;
    let Next::Claimed(mut claim) = first.next(&|| ms(9_000_000)).unwrap() else { panic!("it is free") };
    let waits = |second: &mut Claims<'_>, now: u64| matches!(second.next(&|| ms(now)).unwrap(), Next::Wait(1));
    assert!(waits(&mut second, 5) && waits(&mut second, 5 + LEASE - 1));
    assert!(claim.renew().unwrap());
    // The renewal is seen now, so the lease begins now.
    assert!(waits(&mut second, 5 + LEASE) && waits(&mut second, 5 + 2 * LEASE - 1));
    let Next::Claimed(taken) = second.next(&|| ms(5 + 2 * LEASE)).unwrap() else { panic!("it has expired") };
    assert_eq!((taken.generation(), taken.earlier()), (2, vec![claim.output()]));
    assert!(!claim.renew().unwrap(), "its owner notices");
    assert_ne!(claim.output(), taken.output());
    // The first owner has lost the shard, and now waits for the second.
    assert!(matches!(first.next(&|| ms(9_000_000)).unwrap(), Next::Wait(1)));
    taken.end(End::Finished).unwrap();
    assert!(matches!(first.next(&|| ms(9_000_001)).unwrap(), Next::Finished));
    assert!(matches!(second.next(&|| ms(1)).unwrap(), Next::Finished));
}

#[test]
fn time_that_passes_while_a_claim_is_read_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OUTPUT);
    let mut first = Claims::new(&Files, &output, 1, owner("a"));
    let mut second = Claims::new(&Files, &output, 1, owner("b"));
    let _claim = first.next(&|| Duration::ZERO).unwrap();
    // Each look at the clock is nearly a lease after the one before.
    let now = Cell::new(0);
    let slow = || Duration::from_millis(now.replace(now.get() + LEASE - 1));
    assert!(matches!(second.next(&slow).unwrap(), Next::Wait(1)), "seen once");
    assert!(matches!(second.next(&slow).unwrap(), Next::Wait(1)), "less than a lease after the first look had ended");
    assert!(matches!(second.next(&slow).unwrap(), Next::Claimed(_)));
}

#[test]
fn a_released_or_own_shard_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OUTPUT);
    let claims = |name: &str| Claims::new(&Files, &output, 2, owner(name));
    let clock = || Duration::from_secs(1);
    let Next::Claimed(one) = claims("a").next(&clock).unwrap() else { panic!("it is free") };
    // The same process after a crash.
    let Next::Claimed(again) = claims("a").next(&clock).unwrap() else { panic!("it is its own") };
    assert!(again.is_resumed() && !one.is_resumed());
    assert_eq!((again.generation(), again.output()), (1, one.output()));
    again.end(End::Released).unwrap();
    let mut others = claims("b");
    let mut next = || match others.next(&clock).unwrap() {
        Next::Claimed(claim) => (claim.shard().number, claim.generation()),
        next => panic!("{next:?}"),
    };
    assert_eq!(next(), (2, 1), "a free shard first");
    // It is its own now; the next process gets the released one.
    let Next::Claimed(taken) = claims("c").next(&clock).unwrap() else { panic!("it is released") };
    assert_eq!((taken.shard().number, taken.generation(), taken.is_resumed()), (1, 2, false));
}

/// A process that died right after creating its claim leaves an empty file.
#[test]
fn a_claim_without_content_expires() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OUTPUT);
    std::fs::write(claim_path(&Shard::ALL.claimed_output(&output, 1)), "").unwrap();
    let mut claims = Claims::new(&Files, &output, 1, owner("a"));
    assert!(matches!(claims.next(&|| Duration::ZERO).unwrap(), Next::Wait(1)));
    let next = claims.next(&|| Duration::from_millis(LEASE)).unwrap();
    assert!(matches!(next, Next::Claimed(claim) if claim.generation() == 2));
}

#[test]
fn all_processes_follow_the_first_ones_plan() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join(OUTPUT);
    let agree = |n_shards, key: &Key, has_seed| Plan::agree(&Files, &output, n_shards, key, has_seed);
    let key = key(1000, Shard::ALL);
    let plan = agree(None, &key, false).unwrap();
    assert_eq!((plan.n_shards, plan.key.seed), (31, 7));
    let later = Key { created_ms: 99, seed: 8, ..key.clone() };
    assert_eq!(agree(None, &later, false).unwrap(), plan, "its seed and its time hold");
    assert_eq!(agree(Some(31), &key, true).unwrap(), plan);
    let seed = agree(None, &later, true).unwrap_err().to_string();
    assert!(seed.ends_with("started with another --seed: 7 then, 8 now"), "{seed}");
    let n_shards = agree(Some(8), &key, true).unwrap_err().to_string();
    assert!(n_shards.ends_with("started with another --shard: claim/31 then, claim/8 now"), "{n_shards}");
    let other = Key { input: "other".to_owned(), ..key.clone() };
    assert!(agree(None, &other, true).unwrap_err().to_string().contains("another input"));
    std::fs::write(Plan::path(&output), "{\"n_sh").unwrap();
    assert!(matches!(agree(None, &key, true), Err(LedgerError::BadPlan(_))));
}

#[test]
fn shards_are_small_but_not_tiny() {
    let n: Vec<u64> = [0, 1, 5, 100, 1000, 1_000_000].map(default_n_shards).to_vec();
    assert_eq!(n, [1, 1, 5, 8, 31, 64]);
}
