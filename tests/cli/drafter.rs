//! `chaski drafter`, on small texts.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;

use super::harness::{Ran, Running, Workplace, finish};

const TEXT: &str = "the rain in the station, the rain in the train, the rain in the rain\n";

fn drafter(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut place.command(&[&["drafter"], arguments].concat()))
}

fn inspect(place: &Workplace, file: &str) -> Value {
    drafter(place, &["inspect", "--json", file]).json()
}

fn n_trigrams(place: &Workplace, file: &str) -> u64 {
    inspect(place, file)["trigrams"]["successors"].as_u64().unwrap()
}

/// A workplace with `base.chaski`, built from a text.
fn place_with_file() -> Workplace {
    let place = Workplace::new();
    place.write("text.txt", TEXT);
    drafter(&place, &["build", "-o", "base.chaski", "text.txt"]).succeeds();
    place
}

#[test]
fn a_file_is_built_and_inspected() {
    let place = place_with_file();
    let ran = drafter(&place, &["inspect", "base.chaski", "-m", "model.gguf"]);
    ran.succeeds();
    assert_eq!(ran.stderr, "");
    for part in [
        "vocabulary: 384 tokens, hash ",
        "checksums: all 1 blocks are correct",
        "fits the model",
        "most frequent:\n  \"",
    ] {
        assert!(ran.stdout.contains(part), "{part:?}: {ran:#?}");
    }
    let report = inspect(&place, "base.chaski");
    assert_eq!(
        (&report["version"], &report["n_vocab"], &report["damaged_blocks"]),
        (&1.into(), &384.into(), &0.into())
    );
    assert_eq!(report["bytes"].as_u64().unwrap(), fs::metadata(place.path("base.chaski")).unwrap().len());
    assert_eq!(report["unigrams"]["contexts"], 1);
    assert!(n_trigrams(&place, "base.chaski") > 5, "{report}");
}

#[test]
fn every_way_to_give_a_text_counts_the_same() {
    let place = place_with_file();
    let expected = fs::read(place.path("base.chaski")).unwrap();
    fs::create_dir_all(place.path("folder/inner/.hidden")).unwrap();
    place.write("folder/inner/a.txt", TEXT);
    place.write("folder/.b.txt", "hidden");
    place.write("folder/inner/.hidden/c.txt", "hidden");
    place.write("lines.jsonl", format!("\n{}\n", serde_json::json!({"id": 1, "text": TEXT})));
    place.write("chat.jsonl", serde_json::json!({"messages": [{"role": "user", "content": TEXT}]}).to_string());
    place.write("pair.jsonl", serde_json::json!({"prompt": TEXT, "response": ""}).to_string());
    for text in ["folder", "lines.jsonl", "chat.jsonl", "pair.jsonl"] {
        drafter(&place, &["build", "-o", "other.chaski", text]).succeeds();
        assert!(fs::read(place.path("other.chaski")).unwrap() == expected, "{text}");
    }
    let mut build = place.command(&["drafter", "build", "-o", "piped.chaski", "-"]);
    let mut running = Running::start(build.stdin(Stdio::piped()));
    running.child.stdin.take().unwrap().write_all(TEXT.as_bytes()).unwrap();
    running.finish().succeeds();
    assert!(fs::read(place.path("piped.chaski")).unwrap() == expected);
}

#[test]
fn what_cannot_be_read_in_a_folder_is_skipped_with_a_notice() {
    let place = Workplace::new();
    fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/a.txt", TEXT);
    place.write("folder/b.bin", b"\0\x01binary");
    place.write("folder/c.txt", b"the rain \xff");
    place.write("folder/d.jsonl", "{}\n");
    let ran = drafter(&place, &["build", "-o", "x.chaski", "folder"]);
    ran.succeeds().notices("3 of 4 files skipped, the first: folder/b.bin: a binary file");
    for (file, code, message) in [
        ("folder/b.bin", 1, "folder/b.bin: a binary file"),
        ("folder/c.txt", 1, "folder/c.txt: not UTF-8 at byte 9"),
        ("folder/d.jsonl", 1, "folder/d.jsonl:1: no \"text\""),
        ("none", 1, "none: no such file"),
    ] {
        drafter(&place, &["build", "-o", "y.chaski", file]).fails(code, &[message]);
    }
    assert!(!place.path("y.chaski").exists());
}

#[test]
fn limits_drop_the_least_frequent() {
    let place = Workplace::new();
    // Many tri-grams that occur once, few that occur often.
    let letters: Vec<char> = "etaoinsrhldcumfpgwyb".chars().collect();
    let once: String = (0_usize..30_000).map(|i| letters[(i * i + i / 7) * 7919 % 9973 % letters.len()]).collect();
    place.write("text.txt", TEXT.repeat(20) + &once);
    drafter(&place, &["build", "-o", "all.chaski", "text.txt"]).succeeds();
    drafter(&place, &["build", "-o", "often.chaski", "--min-count", "20", "text.txt"]).succeeds();
    drafter(&place, &["build", "-o", "small.chaski", "--max-size", "20K", "text.txt"]).succeeds();
    drafter(&place, &["prune", "-o", "pruned.chaski", "--max-size", "20K", "all.chaski"]).succeeds();
    let [all, often, small] = ["all.chaski", "often.chaski", "small.chaski"].map(|file| n_trigrams(&place, file));
    assert!(0 < often && often < all && 0 < small && small < all, "{often} {small} {all}");
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("small.chaski").len() <= 20 << 10 && read("small.chaski") == read("pruned.chaski"));
    drafter(&place, &["prune", "-o", "x", "--max-size", "100", "all.chaski"]).fails(1, &["as small as 100 bytes"]);
    drafter(&place, &["prune", "-o", "x", "--max-size", "5X", "all.chaski"]).fails(2, &["5X"]);
}

#[test]
fn merged_files_hold_both() {
    let place = place_with_file();
    place.write("more.txt", "that is it, that is it\n");
    drafter(&place, &["build", "-o", "more.chaski", "more.txt"]).succeeds();
    drafter(&place, &["merge", "-o", "both.chaski", "base.chaski", "more.chaski", "--weights", "1,3"]).succeeds();
    let [base, more, both] = ["base.chaski", "more.chaski", "both.chaski"].map(|file| n_trigrams(&place, file));
    assert!(both > base.max(more) && both <= base + more, "{base} {more} {both}");
    drafter(&place, &["merge", "-o", "x", "base.chaski", "--weights", "1,3"])
        .fails(2, &["--weights has 2 numbers, but there are 1 files"]);
    drafter(&place, &["merge", "-o", "x", "base.chaski", "--weights", "0"]).fails(2, &["more than 0"]);
}

#[test]
fn nothing_that_is_read_is_overwritten() {
    let place = place_with_file();
    fs::hard_link(place.path("model.gguf"), place.path("link")).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    place.write("folder/a.txt", TEXT);
    for (output, text) in [("text.txt", "text.txt"), ("link", "text.txt"), ("folder/a.txt", "folder")] {
        let before = fs::read(place.path(output)).unwrap();
        drafter(&place, &["build", "-o", output, text]).fails(2, &["would overwrite"]).hints("-o");
        assert!(fs::read(place.path(output)).unwrap() == before);
    }
    drafter(&place, &["merge", "-o", "base.chaski", "base.chaski"]).fails(2, &["would overwrite"]);
    drafter(&place, &["prune", "-o", "base.chaski", "--max-size", "1M", "base.chaski"]).fails(2, &["would overwrite"]);
}

#[test]
fn broken_files_are_told_apart() {
    let place = place_with_file();
    let good = fs::read(place.path("base.chaski")).unwrap();
    let broken = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        place.write(name, bytes);
        drafter(&place, &["inspect", name])
    };
    broken("cut", &|bytes| bytes.truncate(5000)).fails(1, &["cut: the file is cut off: expected"]).hints("again");
    broken("header", &|bytes| bytes[20] ^= 1).fails(1, &["header: damaged"]).hints("again");
    broken("other", &|bytes| bytes[0] ^= 1).fails(1, &["other: not a drafter file"]).hints("drafter build");
    let ran = broken("block", &|bytes| bytes[4100] ^= 1);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("checksums: 1 of 1 blocks are damaged"), "{ran:#?}");
    assert!(ran.stderr.contains("error: block: damaged: block 1 of 1\n"), "{ran:#?}");
    drafter(&place, &["merge", "-o", "x", "block"]).fails(1, &["block: damaged"]);
    assert!(!place.path("x").exists());
}

#[test]
fn an_interrupted_build_leaves_no_file() {
    let place = Workplace::new();
    let mut build = place.command(&["drafter", "build", "-o", "x.chaski", "-"]);
    let mut running = Running::start(build.stdin(Stdio::piped()));
    let mut stdin = running.child.stdin.take().unwrap();
    // More than a pipe holds, so chaski must be reading it.
    stdin.write_all(TEXT.repeat(8000).as_bytes()).unwrap();
    running.signal("INT");
    // Keep writing until chaski handles the signal.
    while stdin.write_all(TEXT.as_bytes()).is_ok() {}
    running.finish().fails(130, &["interrupted"]);
    let names: Vec<_> = fs::read_dir(place.path(".")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["model.gguf"], "nothing half written is left");
}
