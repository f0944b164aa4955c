use std::fs::File;
use std::sync::Barrier;
use std::thread;

use tempfile::TempDir;

use super::file::seal;
use super::*;

const SLOW: u32 = 10_000;
const FIT: Fit = Fit { n_ctx: 10_000, can_truncate: true };

struct Place {
    folder: TempDir,
    config: PromptCacheConfig,
    seal: Seal,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().unwrap();
        let config = PromptCacheConfig { folder: folder.path().join("made/on/demand"), max_bytes: 10 << 20 };
        let seal = seal(&config.folder.join("seal")).unwrap();
        Place { folder, config, seal }
    }

    fn keep(&self, tokens: &[Token]) {
        self.keep_bytes(tokens, b"state");
    }

    fn keep_bytes(&self, tokens: &[Token], bytes: &[u8]) {
        let state = State { key: "m", tokens, us_per_token: SLOW, bytes };
        PromptCache(&self.config).keep(&state, true, &self.seal).unwrap();
    }

    fn find(&self, prefix: &[Token]) -> Found {
        PromptCache(&self.config).find("m", prefix, 0, FIT, &self.seal)
    }

    /// Tokens of the state found for `prefix`.
    fn n_found(&self, prefix: &[Token]) -> Option<usize> {
        let found = self.find(prefix);
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        found.state.map(|(head, _)| head.tokens.len())
    }

    fn n_entries(&self) -> usize {
        PromptCache(&self.config).entries().unwrap().len()
    }
}

fn text(start: i32, n: usize) -> Vec<Token> {
    (start..).map(Token).take(n).collect()
}

#[test]
fn what_was_kept_is_found_by_its_longest_prefix() {
    let place = Place::new();
    assert_eq!(place.n_found(&text(0, 500)), None);
    place.keep_bytes(&text(0, 200), b"two hundred");
    place.keep(&[text(0, 100), text(9000, 300)].concat());
    assert_eq!(place.n_found(&text(0, 500)), Some(200));
    assert_eq!(place.n_found(&[text(0, 100), text(9000, 100)].concat()), Some(400));
    assert_eq!(place.n_found(&text(1, 500)), None);
    let (head, bytes) = place.find(&text(0, 500)).state.unwrap();
    assert_eq!((head.tokens, head.us_per_token, bytes), (text(0, 200), SLOW, b"two hundred".to_vec()));
    assert!(PromptCache(&place.config).find("another model", &text(0, 500), 0, FIT, &place.seal).state.is_none());
}

#[test]
fn a_longer_text_replaces_its_beginnings_unless_the_model_is_recurrent() {
    let place = Place::new();
    let keep = |n, can_truncate| {
        let state = State { key: "m", tokens: &text(0, n), us_per_token: SLOW, bytes: b"state" };
        PromptCache(&place.config).keep(&state, can_truncate, &place.seal).unwrap();
    };
    keep(100, false);
    keep(200, false);
    keep(200, false);
    assert_eq!(place.n_entries(), 2);
    keep(300, true);
    assert_eq!((place.n_entries(), place.n_found(&text(0, 100))), (1, Some(300)));
}

#[test]
fn the_limit_holds_and_what_was_used_last_stays() {
    let place = Place::new();
    let megabytes = vec![7; 3 << 20];
    for start in [0, 1000, 2000] {
        place.keep_bytes(&text(start, 100), &megabytes);
        let path = PromptCache(&place.config).path("m", &text(start, 100));
        let time = UNIX_EPOCH + Duration::from_secs(start as u64);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(place.n_found(&text(0, 100)), Some(100));
    place.keep_bytes(&text(3000, 100), &megabytes);
    assert_eq!(place.n_entries(), 3);
    assert_eq!((place.n_found(&text(0, 100)), place.n_found(&text(1000, 100))), (Some(100), None));
    place.keep_bytes(&text(4000, 100), &vec![7; 11 << 20]);
    assert_eq!((place.n_entries(), place.n_found(&text(4000, 100))), (3, None), "larger than all that may be kept");
}

#[test]
fn damaged_and_foreign_files_are_told_and_removed() {
    let place = Place::new();
    place.keep(&text(0, 100));
    let path = PromptCache(&place.config).path("m", &text(0, 100));
    let good = fs::read(&path).unwrap();
    let other = Seal::new([0; 16]);
    let put = |bytes: &[u8]| fs::write(&path, bytes).unwrap();
    for n in [0, 14, 40, good.len() / 2, good.len() - 5] {
        put(&good[..n]);
        let found = place.find(&text(0, 100));
        assert!(
            found.state.is_none() && matches!(&found.errors[..], [StateError::Damaged(_)]),
            "cut at {n}: {found:?}"
        );
        assert!(!path.exists());
    }
    write(&path, &State { key: "m", tokens: &text(0, 100), us_per_token: SLOW, bytes: b"hostile" }, &other).unwrap();
    assert!(place.find(&text(0, 100)).state.is_none() && !path.exists(), "sealed by somebody else");
    // The head can be sound when the state after it is not.
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for bad in [bad, good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat()] {
        put(&bad);
        let found = place.find(&text(0, 100));
        assert!(found.state.is_none() && matches!(&found.errors[..], [StateError::Damaged(_)]), "{found:?}");
        assert!(!path.exists());
    }
}

#[test]
fn what_others_left_half_written_goes_when_it_is_old() {
    let place = Place::new();
    let (old, new) = (place.config.folder.join(".writing-old"), place.config.folder.join(".writing-new"));
    fs::write(&new, "x").unwrap();
    File::create(&old).unwrap().set_modified(UNIX_EPOCH).unwrap();
    assert_eq!(place.n_entries(), 0);
    assert!(new.exists() && !old.exists());
}

#[test]
fn many_at_once_make_one_secret() {
    for before in [None, Some("cut off")] {
        for _ in 0..50 {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("seal");
            if let Some(before) = before {
                fs::write(&path, before).unwrap();
            }
            let start = Barrier::new(8);
            let make = || {
                start.wait();
                seal(&path).unwrap().of(b"text")
            };
            let made: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(made.iter().all(|seal| *seal == made[0]), "{made:?}");
        }
    }
}

#[test]
fn many_at_once_see_whole_files() {
    let place = Place::new();
    thread::scope(|scope| {
        for thread in 0..8 {
            let Place { config, seal, .. } = &place;
            scope.spawn(move || {
                for round in 0..20 {
                    let tokens = text(1000 * (round % 3), 100 + thread);
                    let state = State { key: "m", tokens: &tokens, us_per_token: SLOW, bytes: &[thread as u8; 9999] };
                    PromptCache(config).keep(&state, true, seal).unwrap();
                    let found = PromptCache(config).find("m", &tokens, 0, FIT, seal);
                    assert!(found.errors.is_empty(), "{:?}", found.errors);
                    if let Some((_, bytes)) = found.state {
                        assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                    }
                }
            });
        }
    });
}

#[cfg(unix)]
#[test]
fn only_this_user_can_read_what_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.keep(&text(0, 100));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.config.folder), 0o700);
    assert_eq!(mode(&place.config.folder.join("seal")), 0o600);
    assert_eq!(mode(&PromptCache(&place.config).path("m", &text(0, 100))), 0o600);
}

#[test]
fn a_folder_that_cannot_be_used_is_an_error_that_names_it() {
    let place = Place::new();
    let file = place.folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let config = PromptCacheConfig { folder: file.clone(), ..place.config.clone() };
    let state = State { key: "m", tokens: &text(0, 100), us_per_token: SLOW, bytes: b"" };
    let error = PromptCache(&config).keep(&state, true, &place.seal).unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    assert!(seal(&file.join("seal")).is_err());
    assert_eq!(PromptCache(&config).find("m", &text(0, 100), 0, FIT, &place.seal).errors.len(), 1);
}
