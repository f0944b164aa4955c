//! What drafting starts from and what it saves: base files and learned state. They change the speed, never the text.

use std::fs;
use std::path::PathBuf;

use chaski::draft::learned_state::Memory;
use chaski::store::learned;

use super::harness::{PROMPT, Ran, Workplace, finish};

const TEXT: &str = "the rain in the station, the rain in the train, the rain in the rain\n";

/// Folder of the learned state; the harness sets a home and no data folder.
fn folder(place: &Workplace) -> PathBuf {
    place.path("home/.local/share/chaski/learned")
}

fn kept(place: &Workplace) -> Vec<learned::Entry> {
    learned::list(&folder(place)).unwrap_or_default()
}

fn build(place: &Workplace, file: &str) {
    place.write("text.txt", TEXT);
    finish(&mut place.command(&["drafter", "build", "-o", file, "text.txt"])).succeeds();
}

/// Runs with a fixed seed and returns the text; stderr must have a notice that contains `notice`.
fn text_with_notice(place: &Workplace, arguments: &[&str], notice: &str) -> String {
    let ran: Ran = place.run(&[&["-s", "7", "-q", "-p", PROMPT], arguments].concat());
    ran.succeeds();
    assert!(ran.stderr.contains("notice: ") && ran.stderr.contains(notice), "{notice:?}: {ran:#?}");
    ran.stdout
}

#[test]
fn generated_tokens_are_learned_and_nothing_of_the_prompt() {
    let place = Workplace::new();
    place.run(&["-p", PROMPT, "-n", "1", "--temp", "0"]).succeeds();
    let [entry] = &kept(&place)[..] else { panic!("one file: {:?}", kept(&place)) };
    let key = entry.key.clone().unwrap();
    let memory = Memory::from_bytes(&learned::load(&folder(&place), &key).unwrap().unwrap()).unwrap();
    // The first generated token has no token before it that may be saved.
    assert_eq!(memory.trigram.overlay().rows().count(), 1);
    place.run(&["-p", PROMPT, "-n", "20", "--temp", "0"]).succeeds();
    let memory = Memory::from_bytes(&learned::load(&folder(&place), &key).unwrap().unwrap()).unwrap();
    assert!(memory.trigram.overlay().rows().count() > 1, "it is added to");
}

#[test]
fn nothing_is_learned_where_that_is_not_wanted() {
    let place = Workplace::new();
    place.run(&["-p", PROMPT, "--no-learn"]).succeeds();
    finish(place.run_command(&["-p", PROMPT]).env("CHASKI_LEARN", "off")).succeeds();
    finish(&mut place.command(&["data", "learning", "off"])).succeeds();
    place.run(&["-p", PROMPT]).succeeds();
    place.run(&["-p", PROMPT, "--drafter", "none"]).succeeds();
    assert_eq!(kept(&place).len(), 0);
}

#[test]
fn damaged_learned_state_costs_a_notice_and_never_the_text() {
    let place = Workplace::new();
    let plain = place.text_of(&["-p", PROMPT, "--drafter", "none"]);
    assert_eq!(place.text_of(&["-p", PROMPT]), plain);
    let path = kept(&place)[0].path.clone();
    let good = fs::read(&path).unwrap();
    for at in [0, 8, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(&path, bad).unwrap();
        assert_eq!(text_with_notice(&place, &[], "without the learned state"), plain, "byte {at}");
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_base_beside_the_model_or_given_never_changes_the_text() {
    let place = Workplace::new();
    let plain = place.text_of(&["-p", PROMPT, "--drafter", "none"]);
    build(&place, "model.chaski");
    assert_eq!(place.text_of(&["-p", PROMPT]), plain);
    let good = fs::read(place.path("model.chaski")).unwrap();
    for (bad, notice) in
        [(&good[..good.len() / 2], "model.chaski"), (&b"GGUF"[..], "model.chaski"), (&b""[..], "model.chaski")]
    {
        place.write("model.chaski", bad);
        assert_eq!(text_with_notice(&place, &[], notice), plain);
        place.run(&["-p", PROMPT, "--base", "none", "-q"]).succeeds();
    }
    let mut newer = good.clone();
    newer[8] = newer[8].wrapping_add(1);
    place.write("newer.chaski", newer);
    assert_eq!(text_with_notice(&place, &["--base", "newer.chaski"], "newer.chaski"), plain);
    assert_eq!(text_with_notice(&place, &["--base", "missing.chaski"], "missing.chaski"), plain);
}
