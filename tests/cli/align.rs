//! `chaski drafter align`: builds a base from the model's own answers, and continues the log after a cut, a kill and
//! Ctrl-C.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use chaski::store::align_log::{Piece, read};

use super::harness::{Ran, Running, Workplace, finish, wait_until};
use super::support::tiny;

fn command(place: &Workplace, arguments: &[&str]) -> Command {
    place
        .command(&[&["drafter", "align", "-o", "base.chaski", "-np", "4", "-n", "24", "-c", "512"], arguments].concat())
}

fn align(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut command(place, arguments))
}

fn pieces(log: &Path) -> Vec<Piece> {
    let mut pieces = Vec::new();
    read(log, |piece| {
        pieces.push(piece.clone());
        Ok(())
    })
    .unwrap();
    pieces
}

fn n_tokens(log: &Path) -> usize {
    pieces(log).iter().map(|piece| piece.said.len()).sum()
}

fn prompts(place: &Workplace) {
    let lines = (0..60).map(|i| format!("{{\"prompt\": \"the rain {} in the station\"}}\n", "the ".repeat(i)));
    place.write("prompts.jsonl", lines.collect::<String>());
}

/// The report of `drafter inspect` on the base file.
fn inspect(place: &Workplace) -> serde_json::Value {
    finish(&mut place.command(&["drafter", "inspect", "-m", "model.gguf", "--json", "base.chaski"])).json()
}

#[test]
fn a_base_is_made_and_the_log_goes() {
    let place = Workplace::new();
    let ran = align(&place, &["--tokens", "300"]);
    ran.succeeds();
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("tokens/s") && ran.stderr.contains("tri-grams"), "{ran:#?}");
    assert!(!place.path("base.chaski.log").exists());
    inspect(&place);
}

#[test]
fn every_position_has_its_likeliest_tokens() {
    let place = Workplace::new();
    prompts(&place);
    align(&place, &["--tokens", "500", "--prompts", "prompts.jsonl", "--keep-log"]).succeeds();
    let log = place.path("base.chaski.log");
    assert_eq!(n_tokens(&log), 500);
    let mut n_likeliest = 0;
    for piece in pieces(&log) {
        assert!(piece.before.len() > 2, "the whole prompt");
        for said in &piece.said {
            assert_eq!(said.top.len(), 8);
            assert!(said.top.is_sorted_by(|a, b| a.weight >= b.weight));
            let sum: f32 = said.top.iter().map(|likely| likely.weight).sum();
            assert!(sum > 0.0 && sum < 1.01, "{sum}");
            n_likeliest += usize::from(said.top[0].token == said.token);
            assert!(piece.text % 4 == 3 || said.top[0].token == said.token, "greedy texts take the likeliest");
        }
    }
    assert!(n_likeliest < 500, "some texts are sampled");
}

#[test]
fn what_is_written_does_not_depend_on_how_many_at_a_time() {
    let place = Workplace::new();
    prompts(&place);
    // Greedy and exact, so the texts must be equal. Each is complete, since no prompts are left.
    let texts = |n_parallel: &str| {
        let arguments = ["--prompts", "prompts.jsonl", "--temp", "0", "--tokens", "100000", "--keep-log"];
        let mut command =
            place.command(&["drafter", "align", "-o", n_parallel, "-n", "24", "-c", "512", "-np", n_parallel]);
        let ran = finish(command.args(arguments));
        assert!(ran.succeeds().stderr.contains("no prompts are left"), "{ran:#?}");
        let mut texts: BTreeMap<u64, Vec<i32>> = BTreeMap::new();
        for piece in pieces(&place.path(&format!("{n_parallel}.log"))) {
            texts.entry(piece.text).or_default().extend(piece.said.iter().map(|said| said.token.0));
        }
        texts
    };
    let alone = texts("1");
    assert_eq!(alone.len(), 60);
    assert_eq!(texts("7"), alone);
    assert_eq!(texts("33"), alone);
}

#[test]
fn a_log_cut_anywhere_goes_on() {
    let place = Workplace::new();
    align(&place, &["--tokens", "400", "--keep-log"]).succeeds();
    let log = place.path("base.chaski.log");
    let whole = fs::read(&log).unwrap();
    for share in [1, 3, 7, 9] {
        let cut = whole.len() * share / 10;
        fs::write(&log, &whole[..cut]).unwrap();
        let ran = align(&place, &["--tokens", "400", "--keep-log"]);
        ran.succeeds();
        assert!(ran.stderr.contains(&format!("{} tokens in ", 400 - n_tokens_before(&whole, cut))), "{ran:#?}");
        assert_eq!(n_tokens(&log), 400, "cut at {cut}");
    }
    // There are enough tokens: nothing more is written.
    let ran = align(&place, &["--tokens", "400", "--keep-log"]);
    assert!(!ran.succeeds().stderr.contains("tokens/s"), "{ran:#?}");
    assert_eq!(n_tokens(&log), 400);
    // A larger target continues the log.
    align(&place, &["--tokens", "450", "--keep-log"]).succeeds();
    assert_eq!(n_tokens(&log), 450);
}

/// Number of tokens in the complete frames of a log's first `cut` bytes.
fn n_tokens_before(whole: &[u8], cut: usize) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.log");
    fs::write(&path, &whole[..cut]).unwrap();
    n_tokens(&path)
}

#[test]
fn another_model_or_setting_is_refused() {
    let place = Workplace::new();
    align(&place, &["--tokens", "100", "--keep-log"]).succeeds();
    let before = fs::read(place.path("base.chaski.log")).unwrap();
    place.write("other.gguf", tiny::tiny_llama(4));
    align(&place, &["-m", "other.gguf", "--tokens", "200"]).fails(1, &["base.chaski.log", "another model"]).hints("-o");
    align(&place, &["--seed", "5", "--tokens", "200"]).fails(1, &["another setting"]).hints("as before");
    prompts(&place);
    align(&place, &["--prompts", "prompts.jsonl", "--tokens", "200"]).fails(1, &["another set of prompts"]);
    assert_eq!(fs::read(place.path("base.chaski.log")).unwrap(), before);
}

#[test]
fn ctrl_c_keeps_what_is_done() {
    let place = Workplace::new();
    for round in 0..2 {
        let running = Running::start(&mut command(&place, &["--tokens", "1000000"]));
        let log = place.path("base.chaski.log");
        let n_before = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let n_bytes = || fs::metadata(&log).map_or(0, |metadata| metadata.len());
        wait_until("what is written", || n_bytes() > n_before + 5000);
        running.signal("INT");
        let ran = running.finish();
        ran.fails(130, &["interrupted"]).hints("run the same command again to continue");
        let told = ran.stderr.split(" of 1000000 tokens").next().unwrap().rsplit(' ').next().unwrap();
        assert_eq!(told.parse::<usize>().unwrap(), n_tokens(&log), "round {round}: {ran:#?}");
    }
    assert!(!place.path("base.chaski").exists());
}

#[test]
fn a_kill_loses_little_and_nothing_twice() {
    let place = Workplace::new();
    let mut running = Running::start(&mut command(&place, &["--tokens", "1000000"]));
    let log = place.path("base.chaski.log");
    wait_until("what is written", || fs::metadata(&log).is_ok_and(|metadata| metadata.len() >= 20_000));
    running.child.kill().unwrap();
    running.finish();
    let n = n_tokens(&log);
    assert!(n > 100);
    align(&place, &["--tokens", &(n + 200).to_string(), "--keep-log"]).succeeds();
    assert_eq!(n_tokens(&log), n + 200);
    let mut seen = std::collections::BTreeSet::new();
    for piece in pieces(&log) {
        // An answer of 24 tokens is one piece.
        assert!(seen.insert(piece.text), "text {} twice", piece.text);
    }
}

#[test]
fn prompts_that_do_not_fit_are_left_out_and_mistakes_are_named() {
    let place = Workplace::new();
    place.write("prompts.jsonl", format!("{{\"prompt\": \"{}\"}}\n{{\"prompt\": \"rain\"}}\n", "rain ".repeat(600)));
    let ran = align(&place, &["--prompts", "prompts.jsonl", "--tokens", "1000"]);
    ran.succeeds().notices("is skipped").notices("no prompts are left");
    place.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"p\": 1}\n");
    align(&place, &["--prompts", "bad.jsonl"]).fails(1, &["bad.jsonl:2"]).hints("prompt");
    align(&place, &["-np", "0"]).fails(2, &["--parallel"]);
    align(&place, &["--tokens", "0"]).fails(2, &["--tokens"]);
    align(&place, &["-m", "nowhere.gguf"]).fails(4, &["nowhere.gguf"]);
}

#[test]
fn no_file_of_another_kind_is_overwritten() {
    let place = Workplace::new();
    place.write("base.chaski", "notes");
    align(&place, &["--tokens", "50"]).fails(1, &["base.chaski"]);
    assert_eq!(fs::read(place.path("base.chaski")).unwrap(), b"notes");
    fs::remove_file(place.path("base.chaski")).unwrap();
    place.write("base.chaski.log", "a log of someone else");
    align(&place, &["--tokens", "50"]).fails(1, &["base.chaski.log", "not a log of chaski drafter align"]);
    assert_eq!(fs::read(place.path("base.chaski.log")).unwrap(), b"a log of someone else");
}
