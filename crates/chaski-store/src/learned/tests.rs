use std::sync::atomic::{AtomicUsize, Ordering};

use std::thread;
use std::time::Instant;

use super::*;

fn key(name: &str) -> LearnedKey {
    LearnedKey { model: name.to_owned().into(), vocabulary: 7, draft_model: None }
}

fn keep(folder: &Path, key: &LearnedKey, payload: &[u8]) {
    assert_eq!(update(folder, key, |_| payload.to_vec()).unwrap(), Updated::Kept);
}

#[test]
fn what_is_kept_comes_back_for_its_own_model_only() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("made/on/demand");
    assert_eq!(load(&folder, &key("a")).unwrap(), None);
    keep(&folder, &key("a"), b"one");
    assert_eq!(load(&folder, &key("a")).unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(load(&folder, &key("b")).unwrap(), None);
    let updated = update(&folder, &key("a"), |old| [&old.unwrap()[..], b" two"].concat()).unwrap();
    assert_eq!(updated, Updated::Kept);
    assert_eq!(load(&folder, &key("a")).unwrap().as_deref(), Some(&b"one two"[..]));
    keep(&folder, &key("b"), b"");
    assert_eq!(load(&folder, &key("b")).unwrap().as_deref(), Some(&b""[..]));
    fs::rename(key("a").path(&folder), key("b").path(&folder)).unwrap();
    assert!(matches!(load(&folder, &key("b")), Err(LearnedError::Foreign(_))));
}

#[test]
#[cfg(unix)]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("learned");
    keep(&folder, &key("a"), b"secret");
    set_switch(&folder, None, true).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in files(&folder).unwrap() {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn damage_is_an_error_and_never_another_payload() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    keep(folder, &key("a"), b"a payload of some bytes");
    let path = key("a").path(folder);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(load(folder, &key("a")).is_err(), "cut at {length}");
    }
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            assert!(load(folder, &key("a")).is_err(), "byte {at}");
        }
    }
    fs::write(&path, [&whole[..], b"!"].concat()).unwrap();
    assert!(load(folder, &key("a")).is_err(), "something behind it");
    // The next update starts from nothing.
    assert_eq!(update(folder, &key("a"), |old| format!("{old:?}").into_bytes()).unwrap(), Updated::Kept);
    assert_eq!(load(folder, &key("a")).unwrap().as_deref(), Some(&b"None"[..]));
}

#[test]
fn a_newer_file_is_told_apart_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    keep(place.path(), &key("a"), b"x");
    let path = key("a").path(place.path());
    let mut newer = fs::read(&path).unwrap();
    newer[MAGIC.len()] = 9;
    fs::write(&path, &newer).unwrap();
    let error = load(place.path(), &key("a")).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
    assert!(update(place.path(), &key("a"), |_| vec![]).is_err());
    assert_eq!(fs::read(&path).unwrap(), newer);
}

#[test]
fn too_much_is_refused_and_the_old_stays() {
    let place = tempfile::tempdir().unwrap();
    keep(place.path(), &key("a"), b"old");
    let error = update(place.path(), &key("a"), |_| vec![0; MAX_PAYLOAD_BYTES + 1]).unwrap_err();
    assert!(matches!(error, LearnedError::TooLong { .. }));
    keep(place.path(), &key("b"), &vec![7; MAX_PAYLOAD_BYTES]);
    assert_eq!(load(place.path(), &key("b")).unwrap().map(|payload| payload.len()), Some(MAX_PAYLOAD_BYTES));
    assert_eq!(load(place.path(), &key("a")).unwrap().as_deref(), Some(&b"old"[..]));
}

#[test]
fn eight_writers_lose_only_what_they_skip() {
    let place = tempfile::tempdir().unwrap();
    let (n_kept, n_reads) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let add_one = |old: Option<Vec<u8>>| {
                        let n = old.map_or(0, |old| String::from_utf8(old).unwrap().parse::<usize>().unwrap());
                        (n + 1).to_string().into_bytes()
                    };
                    if update(place.path(), &key("a"), add_one).unwrap() == Updated::Kept {
                        n_kept.fetch_add(1, Ordering::Relaxed);
                    }
                    // Readers only see complete files.
                    load(place.path(), &key("a")).unwrap();
                    n_reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let kept = String::from_utf8(load(place.path(), &key("a")).unwrap().unwrap()).unwrap();
    assert_eq!(kept, n_kept.into_inner().to_string());
    assert_eq!(n_reads.into_inner(), 320);
    let left: Vec<PathBuf> = files(place.path()).unwrap();
    assert_eq!(left.len(), 2, "the state and its lock: {left:?}");
}

#[test]
fn a_writer_that_holds_on_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    keep(place.path(), &key("a"), b"old");
    let held = lock(&key("a").lock_path(place.path()), PATIENCE).unwrap().unwrap();
    let start = Instant::now();
    let updated = update(place.path(), &key("a"), |_| unreachable!("without the lock nothing is changed")).unwrap();
    assert_eq!(updated, Updated::Skipped);
    // Not forever: the lock is never released here.
    assert!(start.elapsed() >= PATIENCE);
    assert_eq!(load(place.path(), &key("a")).unwrap().as_deref(), Some(&b"old"[..]));
    drop(held);
    keep(place.path(), &key("a"), b"new");
}

#[test]
fn what_is_forgotten_is_gone() {
    let place = tempfile::tempdir().unwrap();
    assert!(list(&place.path().join("nowhere")).unwrap().is_empty());
    ["a", "b", "c"].iter().for_each(|name| keep(place.path(), &key(name), name.as_bytes()));
    fs::write(place.path().join("notes.txt"), "the user's").unwrap();
    fs::write(place.path().join("broken.learned"), "not sound").unwrap();
    let entries = list(place.path()).unwrap();
    assert_eq!((entries.len(), entries.iter().filter(|entry| entry.key.is_none()).count()), (4, 1));
    assert!(entries.iter().all(|entry| entry.n_bytes > 0 && entry.written.is_some()));
    assert_eq!(forget(place.path(), Some(&key("b"))).unwrap(), [key("b").path(place.path())]);
    assert_eq!(forget(place.path(), Some(&key("b"))).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(forget(place.path(), None).unwrap().len(), 3);
    assert!(list(place.path()).unwrap().is_empty() && place.path().join("notes.txt").exists());
}

#[test]
fn switches_are_remembered() {
    let place = tempfile::tempdir().unwrap();
    let folder = &place.path().join("learned");
    let is_on = |name: &str| policy(folder, &key(name), None, false) == LearnPolicy::On;
    assert!(is_on("a"), "on without a word");
    assert!(!folder.exists(), "asking leaves nothing behind");
    set_switch(folder, Some(&key("a")), false).unwrap();
    assert!(!is_on("a") && is_on("b"));
    set_switch(folder, None, false).unwrap();
    set_switch(folder, Some(&key("b")), true).unwrap();
    assert!(!is_on("a") && is_on("b"));
    set_switch(folder, None, true).unwrap();
    assert!(is_on("a") && is_on("b"));
    for (variable, no_learn, expected) in [
        (Some("off"), false, LearnPolicy::Off),
        (Some("0"), false, LearnPolicy::Off),
        (Some("on"), false, LearnPolicy::On),
        (None, true, LearnPolicy::Off),
        (None, false, LearnPolicy::On),
    ] {
        assert_eq!(policy(folder, &key("a"), variable, no_learn), expected, "{variable:?} {no_learn}");
    }
}

#[test]
fn settings_that_cannot_be_read_turn_learning_off() {
    let place = tempfile::tempdir().unwrap();
    set_switch(place.path(), None, true).unwrap();
    fs::write(place.path().join("settings.json"), "{\"all\": tr").unwrap();
    assert_eq!(policy(place.path(), &key("a"), None, false), LearnPolicy::Off);
    assert!(set_switch(place.path(), Some(&key("a")), true).is_err());
    set_switch(place.path(), None, true).unwrap();
    assert_eq!(policy(place.path(), &key("a"), None, false), LearnPolicy::On);
}

#[test]
fn what_was_learned_with_a_draft_model_is_apart_and_belongs_to_the_model() {
    let place = tempfile::tempdir().unwrap();
    let folder = &place.path().join("learned");
    let with = key("a").with_draft_model(Some("d".to_owned().into()));
    keep(folder, &key("a"), b"alone");
    assert_eq!(load(folder, &with).unwrap(), None);
    keep(folder, &with, b"with");
    keep(folder, &key("b"), b"other");
    assert_eq!(load(folder, &key("a")).unwrap().as_deref(), Some(&b"alone"[..]));
    assert_eq!(load(folder, &with).unwrap().as_deref(), Some(&b"with"[..]));
    set_switch(folder, Some(&key("a")), false).unwrap();
    assert_eq!(policy(folder, &with, None, false), LearnPolicy::Off, "the setting is the model's");
    let mut forgotten = vec![key("a").path(folder), with.path(folder)];
    forgotten.sort();
    assert_eq!(forget(folder, Some(&key("a"))).unwrap(), forgotten);
    assert_eq!(list(folder).unwrap().len(), 1);
}
