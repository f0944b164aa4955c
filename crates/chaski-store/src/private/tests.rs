//! Makes every change to the disk fail once, for every kind of file that [`super`] writes, and checks file permissions.

use super::*;
use crate::chat::session::{Session, Turn};
use crate::cost::CostCurve;
use crate::curves::{self, CurveKey};
use crate::engine::PromptCacheConfig;
use crate::learned::{self, LearnedKey};
use crate::prompt_cache::PromptCache;
use crate::prompt_cache::choice::Fit;
use crate::prompt_cache::file::{State, seal};
use crate::sessions::Sessions;
use crate::token::Token;
use crate::tune::{BySpan, FlashAttention, KvType, Settings};
use crate::tuned;

/// Stores version `n` of something in a folder. Errors are messages.
type Keep<'a> = &'a dyn Fn(&Path, u32) -> Result<(), String>;

/// The stored version; `None` if there is none. An unreadable one is an error message.
type Kept<'a> = &'a dyn Fn(&Path) -> Result<Option<u32>, String>;

/// For every n: on a disk with or without an old version, the n-th change and all after it fail while a new version is
/// stored. Storing takes at least `n_least` changes.
#[track_caller]
fn every_change_fails_once(n_least: u64, keep: Keep<'_>, kept: Kept<'_>) {
    for old in [None, Some(1)] {
        for n_changes in 0.. {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path().join("made/on/demand");
            if let Some(old) = old {
                keep(&folder, old).unwrap();
            }
            let (result, is_hit) = faults::after(n_changes, || keep(&folder, 2));
            let now = kept(&folder).unwrap_or_else(|torn| panic!("{old:?}, {n_changes}: {torn}"));
            assert!(now == old || now == Some(2), "{old:?}, {n_changes}: {now:?}");
            assert!(is_hit || result.is_ok() && now == Some(2), "{old:?}, {n_changes}: {result:?}");
            if let Err(told) = result {
                let is_named = told.contains(place.path().to_str().unwrap()) && told.contains("no space left");
                assert!(is_named, "{old:?}, {n_changes}: {told}");
            }
            keep(&folder, 2).unwrap();
            assert_eq!(kept(&folder), Ok(Some(2)), "{old:?}, {n_changes}: the next run");
            let left = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with(WRITING)), "{n_changes}");
            if !is_hit {
                assert!(n_changes >= n_least, "only {n_changes} changes");
                break;
            }
        }
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[test]
fn of_sessions() {
    let session = |n: u32| {
        let turn = |seed| Turn { user: "a".repeat(100), assistant: "b".to_owned(), seed };
        Session { turns: (0..n).map(turn).collect(), ..Session::default() }
    };
    let keep = |folder: &Path, n| {
        let (place, _) = Sessions::new(folder.to_owned()).open("a").map_err(words)?;
        place.save(&session(n)).map_err(words)
    };
    let kept = |folder: &Path| {
        let (_, found) = Sessions::new(folder.to_owned()).open("a").map_err(words)?;
        let found = found.map(|found| (found.turns.len() as u32, found));
        found.map(|(n, found)| if found == session(n) { Ok(n) } else { Err(format!("{found:?}")) }).transpose()
    };
    every_change_fails_once(6, &keep, &kept);
}

#[test]
fn of_what_was_learned() {
    let key = LearnedKey { model: "m".to_owned().into(), vocabulary: 7, draft_model: None };
    let payload = |n: u32| n.to_le_bytes().repeat(1000);
    let keep = |folder: &Path, n| learned::update(folder, &key, |_| payload(n)).map(drop).map_err(words);
    let kept = |folder: &Path| {
        let found = learned::load(folder, &key).map_err(words)?;
        let version = |bytes: Vec<u8>| (1..3).find(|&n| bytes == payload(n)).ok_or_else(|| format!("{bytes:?}"));
        found.map(version).transpose()
    };
    every_change_fails_once(4, &keep, &kept);
}

#[test]
fn of_the_switch_of_learning() {
    let keep = |folder: &Path, n| learned::set_switch(folder, None, n == 2).map_err(words);
    let kept = |folder: &Path| Ok(learned::switch(folder).map_err(words)?.all.map(|is_on| 1 + u32::from(is_on)));
    every_change_fails_once(4, &keep, &kept);
}

fn curve_key() -> CurveKey {
    CurveKey { model: "m".to_owned().into(), settings: "s".to_owned(), machine: "x".to_owned() }
}

#[test]
fn of_curves() {
    let curve = |n: u32| CostCurve::exact([(1, f64::from(n)), (4, 20.0)]);
    let keep = |folder: &Path, n| curves::save(folder, &curve_key(), &curve(3 - n), 1000).map_err(words);
    let kept = |folder: &Path| {
        let found = curves::load(folder, &curve_key(), 1000);
        Ok(found.and_then(|(found, _)| (1..3).find(|&n| found == curve(3 - n))))
    };
    every_change_fails_once(3, &keep, &kept);
}

#[test]
fn of_tuned_settings() {
    let settings = |n_threads| {
        let settings =
            Settings { flash_attention: FlashAttention::Off, n_threads, n_threads_batch: 3, kv_type: KvType::F16 };
        BySpan { short: settings, long: settings }
    };
    let keep = |folder: &Path, n| tuned::save(folder, &curve_key(), settings(n as _), 1000).map_err(words);
    let kept = |folder: &Path| {
        let found = tuned::load(folder, &curve_key());
        Ok(found.and_then(|found| (1..3).find(|&n| found == settings(n as _))))
    };
    every_change_fails_once(3, &keep, &kept);
}

#[test]
fn of_prompts_that_were_read() {
    let tokens: Vec<Token> = (0..200).map(Token).collect();
    let keep = |folder: &Path, n: u32| {
        let config = PromptCacheConfig { folder: folder.to_owned(), max_bytes: 10 << 20 };
        let seal = seal(&folder.join("secret")).map_err(words)?;
        let state = State { key: "m", tokens: &tokens, us_per_token: 10_000, bytes: &n.to_le_bytes().repeat(100) };
        PromptCache(&config).keep(&state, true, &seal).map_err(words)
    };
    let kept = |folder: &Path| {
        let config = PromptCacheConfig { folder: folder.to_owned(), max_bytes: 10 << 20 };
        let Ok(seal) = seal(&folder.join("secret")) else { return Ok(None) };
        let found = PromptCache(&config).find("m", &tokens, 0, Fit { n_ctx: 1000, can_truncate: true }, &seal);
        if let Some(error) = found.errors.first() {
            return Err(error.to_string());
        }
        let version = |bytes: Vec<u8>| (1..3u32).find(|n| bytes == n.to_le_bytes().repeat(100));
        Ok(found.state.and_then(|(_, bytes)| version(bytes)))
    };
    every_change_fails_once(4, &keep, &kept);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed_and_only_the_owner_reads() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let place = tempfile::tempdir().unwrap();
    let (victim, path) = (place.path().join("victim"), place.path().join("new/kept"));
    fs::write(&victim, "as it was").unwrap();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    for durability in [Durability::Expendable, Durability::Unique] {
        make_folder(path.parent().unwrap()).unwrap();
        symlink(&victim, &path).unwrap();
        replace(&path, &[b"new", b"er"], durability).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), ("newer".to_owned(), 0o600));
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }
    symlink(&victim, &path).unwrap();
    assert!(lock(&path, Duration::ZERO).is_err());
    fs::remove_file(&path).unwrap();
    symlink(place.path().join("not there"), &path).unwrap();
    assert!(lock(&path, Duration::ZERO).is_err() && !place.path().join("not there").exists());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
}
