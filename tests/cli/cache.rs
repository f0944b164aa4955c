//! The cache folder is optional: no fault in it changes an answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{PROMPT, Ran, Workplace, finish, skip};

fn run_with_cache(place: &Workplace, cache: &Path) -> Ran {
    finish(place.run_command(&["-p", PROMPT, "-s", "7"]).env("XDG_CACHE_HOME", cache))
}

fn curves(cache: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(cache.join("chaski/curves"));
    folder.map_or_else(|_| Vec::new(), |files| files.map(|file| file.unwrap().path()).collect())
}

#[test]
fn a_curve_is_kept_and_a_damaged_one_is_replaced() {
    let place = Workplace::new();
    let cache = place.path("cache");
    let first = run_with_cache(&place, &cache);
    first.succeeds();
    let kept = curves(&cache);
    assert_eq!(kept.len(), 1, "one curve, and no temporary file: {kept:?}");
    let good = fs::read(&kept[0]).unwrap();
    for bad in [&b""[..], &good[..good.len() / 2], b"{}", b"\xff\xfe", &[good.as_slice(), b"x"].concat()] {
        fs::write(&kept[0], bad).unwrap();
        let again = run_with_cache(&place, &cache);
        again.succeeds();
        assert_eq!((again.stdout, again.stderr.lines().count()), (first.stdout.clone(), 1));
        assert!(serde_json::from_slice::<serde_json::Value>(&fs::read(&kept[0]).unwrap()).is_ok());
    }
    finish(&mut place.run_command(&["-p", PROMPT, "-t", "2"])).succeeds();
    assert_eq!(curves(&cache).len(), 2, "other settings have a curve of their own");
}

#[test]
fn plain_decoding_keeps_no_curve() {
    let place = Workplace::new();
    place.run(&["-p", PROMPT, "--drafter", "none"]).succeeds();
    // The sandbox creates the folder; it is empty.
    assert_eq!(std::fs::read_dir(place.path("cache/chaski")).map_or(0, Iterator::count), 0);
}

#[test]
fn a_cache_folder_that_cannot_be_written_is_a_notice() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    let file = place.write("file", "in the way");
    for cache in [Path::new("/dev/null/x"), &file, Path::new("/proc/nowhere")] {
        let ran = run_with_cache(&place, cache);
        let is_below_a_file = cache != Path::new("/proc/nowhere");
        let told = if is_below_a_file { "XDG_CACHE_HOME is not a folder" } else { "could not save the cost curve" };
        ran.succeeds().notices(told).notices(cache.to_str().unwrap());
        assert_eq!(ran.stdout, text, "{}", cache.display());
    }
    assert_eq!(fs::read(file).unwrap(), b"in the way");
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_notice() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    let folder = place.path("full");
    fs::create_dir(&folder).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&folder).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return skip("a_full_disk_is_a_notice", "this user cannot mount a small disk");
    }
    let mounted = Mounted(folder);
    assert!(fs::write(mounted.0.join("filler"), [0; 1 << 17]).is_err());
    let ran = run_with_cache(&place, &mounted.0);
    ran.succeeds().notices("could not save the cost curve").notices("No space left on device");
    assert_eq!(ran.stdout, text);
    assert!(curves(&mounted.0).is_empty(), "nothing half written is left");
}
