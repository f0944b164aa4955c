use std::collections::BTreeMap;
use std::fs;

use tempfile::TempDir;

use super::*;
use crate::disk::Files;
use crate::disk::faulty::Faulty;

const N_LINES: u64 = 8;

fn key() -> Key {
    Key {
        input: "input".to_owned(),
        model: "m.gguf 7a".to_owned().into(),
        n_lines: N_LINES,
        n_own: N_LINES,
        seed: 7,
        parameters: BTreeMap::new(),
        created_ms: 5,
    }
}

const OPENING: OpenOptions =
    OpenOptions { ms: 1000, after_crash: false, has_seed: true, retry_failed: false, is_claimed: false };

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("results.jsonl");
    (folder, path)
}

fn finished(line: u64, is_ok: bool) -> Finished {
    Finished { line, end: 0, n_prompt: 3, n_predicted: 5, error: (!is_ok).then(|| "code".to_owned()) }
}

/// A job whose lines finish out of order and partly fail, sorted at the end.
fn job(disk: &dyn Disk, path: &Path, retry_failed: bool, fails: impl Fn(u64) -> bool) -> Result<Journal, LedgerError> {
    let mut ledger = Ledger::open(disk, path, &key(), &OpenOptions { retry_failed, ..OPENING })?;
    for line in [3, 1, 0, 7, 2, 6, 5, 4] {
        if ledger.journal().is_done(line) {
            continue;
        }
        ledger.engine_log().begin(line)?;
        let is_ok = !fails(line);
        ledger.record(finished(line, is_ok), format!("{line} {is_ok}\n").as_bytes())?;
        ledger.write()?;
        if line % 3 == 0 {
            ledger.sync(2000)?;
        }
    }
    ledger.close(3000, true)
}

fn expected(fails: impl Fn(u64) -> bool) -> String {
    (0..N_LINES).map(|line| format!("{line} {}\n", !fails(line))).collect()
}

#[test]
fn a_job_is_done_once_and_then_there_is_nothing_to_do() {
    let (_folder, path) = folder();
    let fails = |line| line == 2 || line == 5;
    let journal = job(&Files, &path, false, fails).unwrap();
    assert_eq!((journal.totals().n_ok, journal.totals().n_failed, journal.n_left()), (6, 2, 0));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected(fails));
    let again = job(&Files, &path, false, |_| panic!("it is done")).unwrap();
    assert_eq!(again.totals().n_done(), N_LINES);
    // Failed lines are done again, and their records are sorted into place.
    let retried = job(&Files, &path, true, |line| !fails(line)).unwrap();
    assert_eq!((retried.totals().n_ok, retried.totals().n_failed), (8, 0));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected(|_| false));
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "nothing else is left behind");
}

#[test]
fn whichever_change_fails_the_next_run_makes_it_whole() {
    let fails = |line| line == 2 || line == 5;
    let mut n_failures = 0;
    for retried in [false, true] {
        for n in 0.. {
            let (_folder, path) = folder();
            if retried {
                job(&Files, &path, false, fails).unwrap();
            }
            let first = job(&Faulty::after(n), &path, retried, |line| !retried && fails(line));
            let is_over = first.is_ok();
            if let Err(error) = first {
                assert!(error.to_string().contains("no space left"), "{error}");
                n_failures += 1;
            }
            let journal = job(&Files, &path, retried, |line| !retried && fails(line)).unwrap();
            assert_eq!(journal.totals().n_done(), N_LINES, "after {n} changes");
            let expected = expected(|line| !retried && fails(line));
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "after {n} changes");
            if is_over {
                break;
            }
        }
    }
    assert!(n_failures > 60, "{n_failures}");
}

#[test]
fn files_cut_anywhere_go_on() {
    let (_folder, path) = folder();
    let fails = |line| line == 2;
    job(&Files, &path, false, fails).unwrap();
    let (output, journal) = (fs::read(&path).unwrap(), fs::read(journal_path(&path)).unwrap());
    for cut in (0..=journal.len()).step_by(11) {
        let (_folder, path) = folder();
        // A power cut leaves a journal that is behind the output, and the output with a torn end.
        fs::write(&path, [&output[..], b"{\"torn"].concat()).unwrap();
        fs::write(journal_path(&path), &journal[..cut]).unwrap();
        match job(&Files, &path, false, fails) {
            Ok(_) => assert_eq!(fs::read_to_string(&path).unwrap(), expected(fails), "cut at {cut}"),
            // A journal without its head is unusable; the output must not change.
            Err(error) => {
                assert!(cut < 200 && matches!(error, LedgerError::Foreign(_)), "{error} at {cut}");
                assert!(fs::read(&path).unwrap().starts_with(&output));
            }
        }
    }
}

#[test]
fn a_flipped_byte_ends_a_journal_there() {
    let (_folder, path) = folder();
    job(&Files, &path, false, |_| false).unwrap();
    let journal = fs::read(journal_path(&path)).unwrap();
    let head = head(&key()).len();
    for place in (head..journal.len()).step_by(17) {
        let mut damaged = journal.clone();
        damaged[place] ^= 0x10;
        fs::write(journal_path(&path), &damaged).unwrap();
        let ledger = Ledger::open(&Files, &path, &key(), &OPENING).unwrap();
        assert!(ledger.n_dropped_bytes() > 0);
        drop(ledger);
        job(&Files, &path, false, |_| false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected(|_| false), "flipped at {place}");
        // Restore the journal for the next cut.
        fs::write(journal_path(&path), &journal).unwrap();
    }
}

#[test]
fn what_is_not_this_jobs_is_refused_and_not_touched() {
    let (_folder, path) = folder();
    let open = |key: &Key, options: &OpenOptions| Ledger::open(&Files, &path, key, options).map(drop);
    fs::write(&path, "precious\n").unwrap();
    assert!(matches!(open(&key(), &OPENING), Err(LedgerError::NoJournal(_))));
    assert!(!journal_path(&path).exists());
    fs::write(journal_path(&path), "dear diary, ...............\n").unwrap();
    assert!(matches!(open(&key(), &OPENING), Err(LedgerError::Foreign(_))));
    assert_eq!(fs::read_to_string(journal_path(&path)).unwrap(), "dear diary, ...............\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious\n");
    fs::remove_file(&path).unwrap();
    fs::remove_file(journal_path(&path)).unwrap();

    job(&Files, &path, false, |_| false).unwrap();
    let other = Key { model: "m.gguf 7b".to_owned().into(), ..key() };
    let error = open(&other, &OPENING).unwrap_err().to_string();
    assert!(error.contains("another model: m.gguf 7a then, m.gguf 7b now"), "{error}");
    let seeded = Key { seed: 8, ..key() };
    assert!(open(&seeded, &OPENING).unwrap_err().to_string().contains("another --seed: 7 then, 8 now"));
    // If the user sets no seed, the first run's seed is used.
    let ledger = Ledger::open(&Files, &path, &seeded, &OpenOptions { has_seed: false, ..OPENING }).unwrap();
    assert_eq!(ledger.journal().key().seed, 7);
    assert!(matches!(open(&key(), &OPENING), Err(LedgerError::Busy(_))), "two processes");
    assert_eq!(is_running(&path).unwrap(), Some(true));
    drop(ledger);
    assert_eq!(is_running(&path).unwrap(), Some(false));
    fs::write(&path, "0").unwrap();
    let error = open(&key(), &OPENING).unwrap_err().to_string();
    assert!(error.contains("it has 1 bytes"), "{error}");
}

#[test]
fn an_earlier_owners_records_are_adopted_as_far_as_they_are_whole() {
    let (folder, path) = folder();
    job(&Files, &path, false, |line| line == 2).unwrap();
    let (output, journal) = (fs::read(&path).unwrap(), fs::read(journal_path(&path)).unwrap());
    let claimed = OpenOptions { is_claimed: true, ..OPENING };
    let (mut n_all, mut n_none) = (0, 0);
    for cut in (0..=journal.len()).step_by(7).flat_map(|cut| [(cut, output.len()), (journal.len(), cut)]) {
        fs::write(journal_path(&path), &journal[..cut.0]).unwrap();
        fs::write(&path, &output[..cut.1.min(output.len())]).unwrap();
        let own = folder.path().join(format!("own-{}-{}", cut.0, cut.1));
        let mut ledger = Ledger::open(&Files, &own, &key(), &claimed).unwrap();
        let Adopted { n_lines: n_adopted, unread } = ledger.adopt(&path, 5).unwrap();
        // A journal that ends early is one that was read while it grew. An output that ends early was damaged.
        let n_bytes = cut.1.min(output.len()) as u64;
        match unread {
            None => assert_eq!(n_bytes, output.len() as u64, "{cut:?}"),
            Some(LedgerError::Shortened { n_bytes: found, n_expected, .. }) => {
                assert_eq!((found, n_expected), (n_bytes, output.len() as u64), "{cut:?}");
                assert!(n_bytes < n_expected, "{cut:?}");
            }
            unread => panic!("{cut:?}: {unread:?}"),
        }
        assert_eq!(ledger.adopt(&path, 5).unwrap().n_lines, 0, "each line once");
        let journal = ledger.close(6, true).unwrap();
        assert_eq!(journal.totals().n_done(), n_adopted);
        assert!(output.starts_with(&fs::read(&own).unwrap()), "{cut:?}");
        (n_all, n_none) = (n_all + u32::from(n_adopted == N_LINES), n_none + u32::from(n_adopted == 0));
    }
    assert!(n_all > 1 && n_none > 1, "{n_all} {n_none}");
    // Records of another job are not adopted.
    fs::write(journal_path(&path), &journal).unwrap();
    fs::write(&path, &output).unwrap();
    let mut ledger = Ledger::open(&Files, &folder.path().join("other"), &Key { seed: 9, ..key() }, &claimed).unwrap();
    assert_eq!(ledger.adopt(&path, 5).unwrap().n_lines, 0);
}

#[test]
fn an_earlier_owners_missing_and_damaged_records_are_named() {
    let (folder, path) = folder();
    let claimed = OpenOptions { is_claimed: true, ..OPENING };
    let adopt =
        |own: &str| Ledger::open(&Files, &folder.path().join(own), &key(), &claimed).unwrap().adopt(&path, 5).unwrap();
    // An owner that has not finished a line may have no output yet.
    Ledger::open(&Files, &path, &key(), &claimed).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(adopt("nothing").unread.is_none());
    job(&Files, &path, false, |_| false).unwrap();
    // The second record, of line 1, has a line break in its middle.
    let output = fs::read_to_string(&path).unwrap();
    fs::write(&path, output.replacen("1 true", "1\ntrue", 1)).unwrap();
    let Adopted { n_lines, unread } = adopt("damaged");
    let expected = format!("{}: the record of line 2 is damaged", path.display());
    assert_eq!((n_lines, unread.unwrap().to_string()), (1, expected));
    fs::write(&path, output).unwrap();
    assert_eq!(adopt("all").n_lines, N_LINES);
    fs::remove_file(&path).unwrap();
    assert!(adopt("all").unread.is_none(), "they are copied already");
    let Adopted { n_lines, unread } = adopt("missing");
    assert!(unread.unwrap().to_string().starts_with(&format!("{}: ", path.display())));
    assert_eq!(n_lines, 0);
}

/// A dead owner's file that nobody can read costs time, but must not stop the next owner.
#[test]
fn an_earlier_owners_unreadable_file_is_left_out_and_named() {
    for is_journal in [true, false] {
        let (folder, path) = folder();
        job(&Files, &path, false, |_| false).unwrap();
        let unreadable = if is_journal { journal_path(&path) } else { path.clone() };
        // Opening a folder succeeds; reading from it fails.
        fs::remove_file(&unreadable).unwrap();
        fs::create_dir(&unreadable).unwrap();
        let own = folder.path().join("own");
        let claimed = OpenOptions { is_claimed: true, ..OPENING };
        let mut ledger = Ledger::open(&Files, &own, &key(), &claimed).unwrap();
        let Adopted { n_lines, unread } = ledger.adopt(&path, 5).unwrap();
        assert!(unread.unwrap().to_string().starts_with(&format!("{}: ", unreadable.display())));
        assert_eq!(n_lines, 0);
        ledger.record(finished(0, true), b"0 true\n").unwrap();
        assert_eq!(ledger.close(6, true).unwrap().totals().n_ok, 1);
    }
    let (folder, path) = folder();
    fs::write(&path, "x\n").unwrap();
    fs::write(journal_path(&path), "not a journal\n").unwrap();
    let claimed = OpenOptions { is_claimed: true, ..OPENING };
    let mut ledger = Ledger::open(&Files, &folder.path().join("own"), &key(), &claimed).unwrap();
    assert!(matches!(ledger.adopt(&path, 5).unwrap().unread, Some(LedgerError::Foreign(_))));
    // Its own disk being full is an error still.
    let (folder, path) = self::folder();
    job(&Files, &path, false, |_| false).unwrap();
    let fails = |n_changes: &u64| {
        let disk = Faulty::after(*n_changes);
        let own = folder.path().join(format!("own-{n_changes}"));
        let Ok(mut ledger) = Ledger::open(&disk, &own, &key(), &claimed) else { return false };
        match ledger.adopt(&path, 5) {
            Ok(Adopted { n_lines, unread }) => {
                assert!(n_lines == N_LINES && unread.is_none(), "{n_lines} {unread:?}");
                false
            }
            Err(error) => matches!(error, LedgerError::Io { .. }),
        }
    };
    let n_failed = (0..30_u64).filter(fails).count();
    assert!((1..29).contains(&n_failed), "{n_failed}");
}
