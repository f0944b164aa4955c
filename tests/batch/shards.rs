//! Tests shards of one input and merging their results.

use std::fs;
use std::path::PathBuf;

use chaski::batch::disk::{Disk as _, Files};
use chaski::batch::ledger::journal_path;
use chaski::batch::merge::{MergeError, merge, parts_of};

use crate::place::{Place, Setup, lines};

/// Runs all shards of a job.
fn shards(place: &Place, n_lines: usize, n_shards: u64) -> Vec<Setup> {
    let setup = place.setup("a.jsonl", lines(n_lines));
    let shard = |number| {
        let mut setup = Setup { shard: (number, n_shards), ..setup.clone() };
        setup.output = setup.shard().output(&place.path("all.jsonl"));
        setup.run().unwrap();
        setup
    };
    (1..=n_shards).map(shard).collect()
}

fn outputs(shards: &[Setup]) -> Vec<PathBuf> {
    shards.iter().map(|shard| shard.output.clone()).collect()
}

#[test]
fn shards_together_are_the_whole_in_its_order() {
    let place = Place::new();
    let mut setup = place.setup("a.jsonl", lines(101));
    setup.is_ordered = true;
    setup.run().unwrap();
    let whole = (setup.records(), setup.names());
    let shards = shards(&place, 101, 4);
    assert_eq!(shards.iter().map(|shard| shard.names().len()).collect::<Vec<usize>>(), [26, 25, 25, 25]);
    setup.output = place.path("all.jsonl");
    let parts = parts_of(&setup.output, |path| path.exists(), 100);
    assert_eq!(parts, outputs(&shards));
    let totals = merge(&Files, &setup.output, &parts, 5).unwrap();
    assert_eq!((totals.n_ok, totals.n_failed), (81, 20));
    assert_eq!((setup.records(), setup.names()), whole);
    // Running the whole job on the merged output finds nothing left to do.
    setup.is_ordered = false;
    let ended = setup.run().unwrap();
    assert_eq!((ended.progress.n_done_now, ended.progress.totals.n_done()), (0, 101));
    assert!(fs::read_dir(place.path("")).unwrap().all(|entry| !entry.unwrap().path().ends_with(".new")));
}

#[test]
fn what_does_not_belong_together_is_not_joined() {
    let place = Place::new();
    let shards = shards(&place, 50, 3);
    let parts = outputs(&shards);
    let all = place.path("all.jsonl");
    let refused = |parts: &[PathBuf]| merge(&Files, &all, parts, 5).unwrap_err();
    let missing = refused(&parts[..2]);
    assert!(matches!(missing, MergeError::Missing { n_missing: 16, n_lines: 50 }), "{missing}");
    let twice = refused(&[parts[0].clone(), parts[1].clone(), parts[1].clone()]);
    assert!(matches!(twice, MergeError::Twice(_)), "{twice}");
    let nothing = refused(&[parts[0].clone(), place.path("nothing")]);
    assert!(matches!(nothing, MergeError::NoJournal(_)), "{nothing}");
    let mut other = Setup { seed: Some(8), output: place.path("other.jsonl"), ..shards[2].clone() };
    other.run().unwrap();
    let error = refused(&[parts[0].clone(), parts[1].clone(), other.output.clone()]).to_string();
    assert!(error.contains("other.jsonl: belongs to another job: its --seed is 8, not 7"), "{error}");
    // A shard that is not complete.
    let journal = fs::read_to_string(journal_path(&parts[1])).unwrap();
    let cut: String = journal.lines().take(8).flat_map(|line| [line, "\n"]).collect();
    fs::write(journal_path(&parts[1]), cut).unwrap();
    let incomplete = refused(&parts);
    assert!(matches!(incomplete, MergeError::Incomplete { .. }), "{incomplete}");
    fs::write(journal_path(&parts[1]), &journal).unwrap();
    // A shard whose output was cut off.
    let whole = fs::read(&parts[1]).unwrap();
    fs::write(&parts[1], &whole[..whole.len() - 5]).unwrap();
    assert!(refused(&parts).to_string().contains("2-of-3"));
    fs::write(&parts[1], &whole).unwrap();
    assert!(!all.exists() && !journal_path(&all).exists());
    fs::write(&all, "mine").unwrap();
    assert!(matches!(refused(&parts), MergeError::Exists(_)));
    fs::remove_file(&all).unwrap();
    merge(&Files, &all, &parts, 5).unwrap();
    other.output = all;
    assert_eq!(other.records().len(), 50);
}

/// A process that works on a shard may rewrite its output when it ends, which changes the offsets of records.
#[test]
fn what_others_write_is_not_joined_and_nobody_else_writes_what_is_joined() {
    let place = Place::new();
    let parts = outputs(&shards(&place, 50, 3));
    let all = place.path("all.jsonl");
    for busy in [&parts[1], &all] {
        let journal = Files.append_alone(&journal_path(busy)).unwrap().unwrap();
        let error = merge(&Files, &all, &parts, 5).unwrap_err().to_string();
        assert_eq!(error, format!("{}: another process is writing to it", busy.display()));
        drop(journal);
    }
    assert_eq!(merge(&Files, &all, &parts, 5).unwrap().n_done(), 50);
    assert!(matches!(merge(&Files, &all, &parts, 5).unwrap_err(), MergeError::Exists(_)));
}
