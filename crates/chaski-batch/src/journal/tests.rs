use proptest::prelude::*;

use super::*;

fn key() -> Key {
    let parameters = [("--temp", "0.8"), ("-n", "32")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    Key {
        input: "input".to_owned(),
        model: "m.gguf 7a".to_owned().into(),
        n_lines: 10,
        n_own: 10,
        seed: 7,
        parameters: parameters.into(),
        created_ms: 5,
    }
}

fn finished(line: u64, end: u64) -> Entry {
    Entry::Finished(Finished { line, end, n_prompt: 5, n_predicted: 3, error: None })
}

fn failed(line: u64, end: u64) -> Entry {
    Entry::Finished(Finished { line, end, n_prompt: 0, n_predicted: 0, error: Some("invalid_json".to_owned()) })
}

fn opened(ms: u64, after_crash: bool) -> Entry {
    Entry::Opened { ms, after_crash }
}

#[track_caller]
fn run(entries: &[Entry]) -> Journal {
    let mut journal = Journal::new(key());
    for entry in entries {
        assert!(journal.apply(entry), "{entry:?}");
    }
    journal
}

#[test]
fn lines_are_counted_and_times_summed() {
    let first = [opened(1000, false), Entry::Begun { line: 0 }, Entry::Begun { line: 2 }, finished(2, 100)];
    let mut journal = run(&[&first[..], &[Entry::Synced { ms: 3000 }, failed(0, 150)]].concat());
    assert_eq!((journal.n_at_work(), journal.is_closed(), journal.is_sorted()), (0, false, false));
    // Killed, and resumed much later: the time between does not count.
    assert!(journal.apply(&opened(1_000_000, false)) && journal.apply(&Entry::Closed { ms: 1_000_500 }));
    let expected = Totals { n_ok: 1, n_failed: 1, n_prompt: 5, n_predicted: 3, n_bytes: 150, active_ms: 2500 };
    assert_eq!((journal.totals(), journal.n_left(), journal.is_closed()), (expected, 8, true));
    assert!(journal.is_done(0) && journal.is_done(2) && !journal.is_done(1));
}

#[test]
fn only_a_crash_is_held_against_the_lines_at_work() {
    let begun = |line| Entry::Begun { line };
    let mut journal = run(&[opened(0, false), begun(1), begun(2), opened(1, false), begun(1), begun(2)]);
    assert_eq!(journal.n_crashes(1), 0, "killed, not crashed");
    assert!(journal.apply(&opened(2, true)));
    assert_eq!((journal.n_crashes(1), journal.n_crashes(2), journal.n_crashes(3)), (1, 1, 0));
    // When they run alone, line 1 succeeds and line 2 is found to be the one that crashes.
    let entries = [begun(1), Entry::Answered { line: 1 }, begun(2), opened(3, true)];
    assert!(entries.iter().all(|entry| journal.apply(entry)));
    assert_eq!((journal.n_crashes(1), journal.n_crashes(2)), (0, MAX_CRASHES));
    // After a clean end, no line is blamed.
    let entries = [begun(3), Entry::Closed { ms: 4 }, opened(5, true)];
    assert!(entries.iter().all(|entry| journal.apply(entry)));
    assert_eq!(journal.n_crashes(3), 0);
}

#[test]
fn senseless_entries_change_nothing() {
    let journal = run(&[opened(0, false), finished(3, 100)]);
    let rewritten = Entry::Rewritten { ms: 0, active_ms: 0 };
    for entry in
        [finished(3, 200), finished(4, 99), finished(10, 200), Entry::Begun { line: 3 }, rewritten, Entry::Key(key())]
    {
        let mut same = journal.clone();
        assert!(!same.apply(&entry), "{entry:?}");
        assert_eq!(same, journal);
    }
}

#[test]
fn another_key_is_told_by_what_differs() {
    let told = |change: fn(&mut Key)| {
        let mut now = key();
        change(&mut now);
        key().difference(&now).map(|Difference { what, was, is }| (what, was, is))
    };
    let text = |what: &str, was: &str, is: &str| Some((what.to_owned(), was.to_owned(), is.to_owned()));
    assert_eq!(told(|_| ()), None);
    assert_eq!(told(|key| key.input = "other".to_owned()), text("input", "input", "other"));
    assert_eq!(told(|key| key.seed = 8), text("--seed", "7", "8"));
    assert_eq!(told(|key| drop(key.parameters.insert("-n".to_owned(), "64".to_owned()))), text("-n", "32", "64"));
    assert_eq!(told(|key| drop(key.parameters.remove("-n"))), text("-n", "32", "nothing"));
    assert_eq!(told(|key| drop(key.parameters.insert("-c".to_owned(), "9".to_owned()))), text("-c", "nothing", "9"));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (any::<u64>(), any::<bool>()).prop_map(|(ms, after_crash)| Entry::Opened { ms, after_crash }),
        (0..12u64).prop_map(|line| Entry::Begun { line }),
        (0..12u64).prop_map(|line| Entry::Answered { line }),
        (0..12u64, 0..2000u64).prop_map(|(line, end)| finished(line, end)),
        (0..12u64, 0..2000u64).prop_map(|(line, end)| failed(line, end)),
        any::<u64>().prop_map(|ms| Entry::Synced { ms }),
        any::<u64>().prop_map(|ms| Entry::Closed { ms }),
        (any::<u64>(), any::<u64>()).prop_map(|(ms, active_ms)| Entry::Rewritten { ms, active_ms }),
        Just(Entry::Key(key())),
    ]
}

proptest! {
    #[test]
    fn entries_come_back_and_any_other_byte_is_noticed(entry in any_entry(), place in any::<prop::sample::Index>(), flip in 1u8..) {
        let line = entry.encode();
        prop_assert_eq!(Entry::decode(line.as_bytes()), Some(entry));
        let mut damaged = line.clone().into_bytes();
        let place = place.index(damaged.len());
        damaged[place] ^= flip;
        let is_same_sum = place < 8 && damaged[place].eq_ignore_ascii_case(&line.as_bytes()[place]);
        prop_assert!(is_same_sum || Entry::decode(&damaged).is_none());
        prop_assert_eq!(Entry::decode(&line.as_bytes()[..place]), None);
    }

    #[test]
    fn any_entries_keep_the_sums(entries in prop::collection::vec(any_entry(), 0..60)) {
        let mut journal = Journal::new(key());
        let mut done = BTreeMap::new();
        for entry in &entries {
            let before = journal.clone();
            if !journal.apply(entry) {
                prop_assert_eq!(&journal, &before);
            } else if let Entry::Finished(finished) = entry {
                prop_assert!(done.insert(finished.line, finished.error.is_none()).is_none());
            }
        }
        prop_assert_eq!(journal.totals().n_ok, done.values().filter(|is_ok| **is_ok).count() as u64);
        prop_assert_eq!(journal.totals().n_done(), done.len() as u64);
        prop_assert!((0..10).all(|line| journal.is_done(line) == done.contains_key(&line)));
    }
}
