//! `chaski data`: what it shows, what each `delete` deletes, and the switch for learning.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use chaski::store::learned::{self, LearnedKey};
use serde_json::{Value, json};

use super::harness::{PROMPT, Ran, Workplace, finish};

fn command(place: &Workplace, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    command.env("XDG_DATA_HOME", place.path("data")).env("XDG_STATE_HOME", place.path("state"));
    command.env_remove("CHASKI_LEARN");
    command
}

fn data(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut command(place, &[&["data"], arguments].concat()))
}

fn show(place: &Workplace) -> Value {
    data(place, &["show", "--json"]).json()
}

fn run(place: &Workplace, prompt: &str) {
    finish(&mut command(place, &["run", "--curve-budget", "20", "--raw", "-p", prompt])).succeeds();
}

/// Saves data of every kind: one prompt, one model's learned state, curves, tuned settings and one chat.
fn fill(place: &Workplace) {
    finish(&mut command(place, &["tune", "--budget", "1"])).succeeds();
    run(place, &PROMPT.repeat(20));
    let input = place.write("input.txt", PROMPT);
    let mut chat = command(place, &["chat", "--curve-budget", "20", "rain"]);
    finish(chat.stdin(File::open(input).unwrap())).succeeds();
}

fn chat_file(place: &Workplace) -> PathBuf {
    place.path("data/chaski/sessions/rain.json")
}

fn learned_folder(place: &Workplace) -> PathBuf {
    place.path("data/chaski/learned")
}

/// Number of the files in a folder whose names have one of these extensions, and their size.
fn files(folder: &Path, extensions: &[&str]) -> (usize, u64) {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_meant = |path: &PathBuf| path.extension().is_some_and(|end| extensions.iter().any(|known| end == *known));
    let sizes: Vec<u64> = files.filter(is_meant).map(|path| fs::metadata(path).unwrap().len()).collect();
    (sizes.len(), sizes.iter().sum())
}

#[test]
fn show_lists_every_kind_with_its_count_and_size() {
    let place = Workplace::new();
    fill(&place);
    let report = show(&place);
    for (kind, folder) in [
        ("prompts", "cache/chaski/prompts"),
        ("curves", "cache/chaski/curves"),
        ("tuned", "cache/chaski/tuned"),
        ("chats", "data/chaski/sessions"),
    ] {
        assert_eq!(report[kind]["folder"], place.path(folder).to_str().unwrap(), "{report}");
        assert!(report[kind]["files"].as_u64() > Some(0) && report[kind]["bytes"].as_u64() > Some(0), "{report}");
    }
    let counted = |kind: &str| {
        let number = |name: &str| report[kind][name].as_u64().unwrap();
        (number("files") as usize, number("bytes"))
    };
    assert_eq!((counted("prompts").0, counted("tuned").0, counted("chats").0), (1, 1, 1));
    assert_eq!(counted("curves"), files(&place.path("cache/chaski/curves"), &["json"]));
    assert_eq!(counted("tuned"), files(&place.path("cache/chaski/tuned"), &["json"]));
    // A chat's size includes the model's state after it.
    assert_eq!(counted("chats").1, files(&place.path("data/chaski/sessions"), &["json", "state"]).1);
    let learned = &report["learned"];
    assert_eq!((&learned["learning"], learned["models"].as_array().unwrap().len()), (&json!(true), 1));
    let model = &learned["models"][0];
    assert_eq!((&model["model"], &model["learning"]), (&json!("model.gguf"), &json!(true)));
    assert_eq!((1, model["bytes"].as_u64().unwrap()), files(&learned_folder(&place), &["learned"]));

    let shown = data(&place, &["show"]);
    shown.succeeds();
    for kind in ["prompts", "learned", "curves", "tuned", "chats"] {
        let n_files = report[kind]["files"].as_u64().unwrap_or(1);
        let folder = report[kind]["folder"].as_str().unwrap();
        let start = format!("{kind:<8} {n_files:>5}  ");
        let is_it = |line: &str| line.starts_with(&start) && line.ends_with(&format!(" MiB  {folder}"));
        assert!(shown.stdout.lines().any(is_it), "{kind}: {shown:#?}");
    }
    for part in
        ["\nlearning: on\n  model.gguf: on, ", "Prompts and chats contain your texts.", "nothing leaves this machine"]
    {
        assert!(shown.stdout.contains(part), "{part:?}: {shown:#?}");
    }
    assert_eq!(shown.stderr, "");
}

#[test]
fn show_works_before_anything_is_saved_and_makes_no_folder() {
    let place = Workplace::new();
    let report = show(&place);
    for kind in ["prompts", "curves", "tuned", "chats"] {
        assert_eq!((&report[kind]["files"], &report[kind]["bytes"]), (&json!(0), &json!(0)), "{report}");
    }
    assert_eq!((&report["learned"]["learning"], &report["learned"]["models"]), (&json!(true), &json!([])));
    data(&place, &["delete", "all"]).succeeds();
    assert!(!place.path("data").exists() && !place.path("cache").exists());
}

#[test]
fn delete_deletes_one_kind_alone_and_never_chats() {
    let place = Workplace::new();
    fill(&place);
    let chat = fs::read(chat_file(&place)).unwrap();
    let n_curves = show(&place)["curves"]["files"].clone();
    for (kind, told) in [
        ("prompts", "deleted: 1 prompts, ".to_owned()),
        ("learned", "deleted: model.gguf (".to_owned()),
        ("curves", format!("deleted: {n_curves} cost curves\n")),
        ("tuned", "deleted: 1 tuned settings\n".to_owned()),
    ] {
        let before = show(&place);
        let ran = data(&place, &["delete", kind]);
        assert_eq!(ran.succeeds().stdout, "");
        assert!(ran.stderr.starts_with(&told) && ran.stderr.lines().count() == 1, "{ran:#?}");
        let mut expected = before.clone();
        match kind {
            "learned" => expected[kind]["models"] = json!([]),
            _ => (expected[kind]["files"], expected[kind]["bytes"]) = (json!(0), json!(0)),
        }
        assert_ne!(before, expected, "{kind}");
        assert_eq!(show(&place), expected, "{kind}");
    }
    let again = data(&place, &["delete", "learned"]);
    assert_eq!(again.succeeds().stderr, "there was no learned state to delete\n");

    fill(&place);
    let before = show(&place);
    data(&place, &["delete", "curves", "tuned"]).succeeds();
    let now = show(&place);
    assert_eq!((&now["curves"]["files"], &now["tuned"]["files"]), (&json!(0), &json!(0)));
    assert_eq!((&now["prompts"], &now["learned"]), (&before["prompts"], &before["learned"]));
    data(&place, &["delete", "all"]).succeeds();
    let now = show(&place);
    assert_eq!((&now["prompts"]["files"], &now["learned"]["models"]), (&json!(0), &json!([])));
    assert_eq!(now["chats"], before["chats"]);
    // The chat has the first message, and that of the second `fill`.
    let kept = fs::read_to_string(chat_file(&place)).unwrap();
    assert!(kept.len() > chat.len() && kept.matches(PROMPT).count() == 2, "{kept}");

    data(&place, &["delete", "chats"]).fails(2, &["invalid value 'chats'"]);
    data(&place, &["delete"]).fails(2, &["required"]);
}

#[test]
fn compiled_shaders_are_shown_and_deleted() {
    let place = Workplace::new();
    fill(&place);
    assert_eq!(show(&place)["shaders"], json!(null));
    let folder = place.path("cache/chaski/shaders");
    fs::create_dir_all(folder.join("mesa_shader_cache/0a")).unwrap();
    fs::write(folder.join("mesa_shader_cache/index"), "12").unwrap();
    fs::write(folder.join("mesa_shader_cache/0a/1b"), "345").unwrap();
    let before = show(&place);
    assert_eq!((&before["shaders"]["files"], &before["shaders"]["bytes"]), (&json!(2), &json!(5)), "{before}");
    assert_eq!(data(&place, &["delete", "shaders"]).succeeds().stderr, "deleted: the compiled shaders\n");
    assert!(!folder.exists());
    assert_eq!(data(&place, &["delete", "shaders"]).succeeds().stderr, "there were no compiled shaders to delete\n");
    let mut expected = before;
    expected["shaders"] = json!(null);
    assert_eq!(show(&place), expected);
    fs::create_dir_all(&folder).unwrap();
    data(&place, &["delete", "all"]).succeeds();
    assert!(!folder.exists());
}

#[test]
fn one_model_can_be_given_with_learned_only() {
    let place = Workplace::new();
    run(&place, PROMPT);
    let other = LearnedKey { model: "other.gguf 0011".to_owned().into(), vocabulary: 1, draft_model: None };
    learned::update(&learned_folder(&place), &other, |_| b"something learned".to_vec()).unwrap();
    let before = show(&place);
    assert_eq!(before["learned"]["models"].as_array().unwrap().len(), 2, "{before}");
    for what in [&["prompts"][..], &["curves"], &["tuned"], &["all"], &["learned", "prompts"]] {
        data(&place, &[&["delete"], what, &["-m", "model.gguf"]].concat())
            .fails(2, &["-m works with `learned` only"])
            .hints("chaski data delete learned -m MODEL");
    }
    assert_eq!(show(&place), before);
    let ran = data(&place, &["delete", "learned", "-m", "model.gguf"]);
    assert!(ran.succeeds().stderr.starts_with("deleted: model.gguf ("), "{ran:#?}");
    let left = show(&place);
    let models = left["learned"]["models"].as_array().unwrap();
    assert!(models.len() == 1 && models[0]["model"] == "other.gguf", "{left}");
    data(&place, &["delete", "learned", "-m", "none.gguf"]).fails(4, &["none.gguf"]);
}

#[test]
fn learning_is_turned_on_and_off_for_all_models_or_for_one() {
    let place = Workplace::new();
    let off = data(&place, &["learning", "off"]);
    let stays = "the learned state stays on disk; to delete it: chaski data delete learned\n";
    assert_eq!(off.succeeds().stderr, format!("learning is off for all models\n{stays}"));
    run(&place, PROMPT);
    let report = show(&place);
    assert_eq!((&report["learned"]["learning"], &report["learned"]["models"]), (&json!(false), &json!([])));

    let on = data(&place, &["learning", "on", "-m", "model.gguf"]);
    assert_eq!(on.succeeds().stderr, "learning is on for model.gguf\n");
    run(&place, PROMPT);
    let report = show(&place);
    assert_eq!(
        (&report["learned"]["learning"], &report["learned"]["models"][0]["learning"]),
        (&json!(false), &json!(true))
    );
    let shown = data(&place, &["show"]).stdout;
    assert!(shown.contains("\nlearning: off\n  model.gguf: on, "), "{shown}");

    data(&place, &["learning", "on"]).succeeds();
    data(&place, &["learning", "off", "-m", "model.gguf"]).succeeds();
    let report = show(&place);
    assert_eq!(
        (&report["learned"]["learning"], &report["learned"]["models"][0]["learning"]),
        (&json!(true), &json!(false))
    );
    let file = report["learned"]["models"][0]["file"].as_str().unwrap();
    let before = fs::read(file).unwrap();
    run(&place, PROMPT);
    assert_eq!(fs::read(file).unwrap(), before, "nothing is learned for this model");

    data(&place, &["learning", "perhaps"]).fails(2, &["invalid value 'perhaps'"]);
    data(&place, &["learning", "off", "-m", "none.gguf"]).fails(4, &["none.gguf"]);
}
