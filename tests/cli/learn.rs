//! What chaski learns from answers: `chaski data learning` turns it on and off, `data show` shows it, and `data delete
//! learned` deletes it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chaski::draft::learned_state::Memory;
use chaski::store::learned::{self, LearnPolicy, LearnedKey};
use serde_json::Value;

use super::harness::{PROMPT, Ran, Running, Workplace, finish, wait_until};

fn command(place: &Workplace, arguments: &[&str]) -> Command {
    let mut command = place.command(&[&["data"], arguments].concat());
    command.env("XDG_DATA_HOME", place.path("data")).env_remove("CHASKI_LEARN");
    command
}

fn data(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut command(place, arguments))
}

fn folder(place: &Workplace) -> PathBuf {
    place.path("data/chaski/learned")
}

fn status(place: &Workplace) -> Value {
    data(place, &["show", "--json"]).json()["learned"].clone()
}

fn keep(folder: &Path, model: &str) -> LearnedKey {
    // A model is known by its hash, so each needs its own.
    let key = LearnedKey { model: format!("{model} {:016x}", model.len()).into(), vocabulary: 1, draft_model: None };
    learned::update(folder, &key, |_| b"something learned".to_vec()).unwrap();
    key
}

#[test]
fn on_without_a_word_and_nothing_is_left_behind() {
    let place = Workplace::new();
    let status = status(&place);
    assert_eq!((&status["learning"], status["models"].as_array().unwrap().len()), (&Value::Bool(true), 0));
    let ran = data(&place, &["show"]);
    ran.succeeds();
    for part in
        ["learned      0  ", "learning: on\n", "statistics of generated tokens only", "nothing leaves this machine"]
    {
        assert!(ran.stdout.contains(part), "{part}: {ran:#?}");
    }
    assert!(!folder(&place).exists());
}

#[test]
fn the_switch_is_remembered() {
    let place = Workplace::new();
    let key = keep(&folder(&place), "other.gguf");
    let is_on = |key| learned::policy(&folder(&place), key, None, false) == LearnPolicy::On;
    data(&place, &["learning", "off"]).succeeds();
    assert!(!is_on(&key) && status(&place)["learning"] == false);
    data(&place, &["learning", "on", "-m", "model.gguf"]).succeeds();
    assert!(!is_on(&key), "another model");
    data(&place, &["learning", "on"]).succeeds();
    assert!(is_on(&key) && status(&place)["models"][0]["learning"] == true);
    data(&place, &["learning", "off", "-m", "model.gguf"]).succeeds();
    assert!(is_on(&key) && status(&place)["learning"] == true);
    let told = finish(command(&place, &["show"]).env("CHASKI_LEARN", "off"));
    assert!(told.succeeds().stdout.contains("learning: off (CHASKI_LEARN is set)"), "{told:#?}");
    data(&place, &["learning", "off", "-m", "nowhere.gguf"]).fails(4, &["nowhere.gguf"]);
}

#[test]
fn status_names_files_and_forget_deletes_them() {
    let place = Workplace::new();
    let keys = ["a.gguf", "b c.gguf"].map(|model| keep(&folder(&place), model));
    let found = status(&place);
    let models = found["models"].as_array().unwrap();
    let mut names: Vec<&str> = models.iter().map(|model| model["model"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a.gguf", "b c.gguf"]);
    assert!(models.iter().all(|model| model["bytes"].as_u64() > Some(0) && model["written_unix_s"].is_u64()));
    data(&place, &["delete"]).fails(2, &["required"]);
    let none = data(&place, &["delete", "learned", "-m", "model.gguf"]);
    assert!(none.succeeds().stderr.contains("there was no learned state to delete"), "{none:#?}");
    let all = data(&place, &["delete", "learned"]);
    all.succeeds();
    for (key, name) in keys.iter().zip(["a.gguf", "b c.gguf"]) {
        let path = key.path(&folder(&place));
        assert!(!path.exists() && all.stderr.contains(&format!("deleted: {name} (")), "{all:#?}");
    }
    assert_eq!(all.stdout, "");
}

/// A chat that was running does not save it again.
#[test]
fn what_is_forgotten_while_a_model_is_at_work_stays_forgotten() {
    let place = Workplace::new();
    let file = || learned::list(&folder(&place)).unwrap_or_default().first().map(|entry| entry.path.clone());
    let mut command = place.command(&["chat", "-s", "7", "-n", "20", "--curve-budget", "0", "--no-prompt-cache"]);
    command.env("XDG_DATA_HOME", place.path("data")).env_remove("CHASKI_LEARN");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
    wait_until("what is learned", || file().is_some());
    data(&place, &["delete", "learned"]).succeeds();
    assert_eq!(file(), None);
    stdin.write_all(format!("/set n-predict 1\n{PROMPT}\n").as_bytes()).unwrap();
    drop(stdin);
    running.finish().succeeds();
    let entry = learned::list(&folder(&place)).unwrap().remove(0);
    let kept = learned::load(&folder(&place), &entry.key.unwrap()).unwrap().unwrap();
    // From the second answer, which is one token; nothing of the first.
    assert_eq!(Memory::from_bytes(&kept).unwrap().trigram.overlay().rows().count(), 1);
}

#[test]
fn settings_that_cannot_be_read_are_told_and_can_be_set_anew() {
    let place = Workplace::new();
    keep(&folder(&place), "a.gguf");
    fs::write(folder(&place).join("settings.json"), "{").unwrap();
    data(&place, &["show"]).fails(1, &["settings.json"]).hints("chaski data learning on");
    data(&place, &["learning", "off"]).succeeds();
    assert_eq!(status(&place)["learning"], false);
}

#[test]
fn eight_processes_share_what_is_learned() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT, "--no-learn"]);
    let start = || {
        let mut command = place.run_command(&["-p", PROMPT, "-s", "7", "-q"]);
        Running::start(command.env("XDG_DATA_HOME", place.path("data")).env_remove("CHASKI_LEARN"))
    };
    for round in 1..=3 {
        let running: Vec<Running> = (0..8).map(|_| start()).collect();
        for ran in running.into_iter().map(Running::finish) {
            ran.succeeds();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (text.as_str(), ""), "round {round}");
        }
    }
    let kept: Vec<_> = fs::read_dir(folder(&place)).unwrap().map(|file| file.unwrap().file_name()).collect();
    let files: Vec<&str> = kept.iter().filter_map(|name| name.to_str()?.rsplit_once('.')).map(|(_, end)| end).collect();
    assert!(files.len() == 2 && files.contains(&"learned") && files.contains(&"lock"), "{kept:?}");
    assert_eq!(status(&place)["models"].as_array().unwrap().len(), 1);
    // The saved state is complete: using it prints no notice.
    assert_eq!(start().finish().succeeds().stderr, "");
}
