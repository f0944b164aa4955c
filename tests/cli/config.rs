//! Settings files: precedence of the sources, and mistakes reported with their line.

use std::fs::{self, File};
use std::process::Command;

use super::harness::{PROMPT, Workplace, finish};

/// Tries every combination of sources, in `run` and in `chat`, which saves its own settings.
#[test]
fn flag_over_environment_over_profile_over_file_over_default() {
    let place = Workplace::new();
    for bits in 1..16u32 {
        let has = |bit: u32| bits & (1 << bit) != 0;
        let file = if has(0) { "n-predict = 1\n" } else { "" };
        let profile = if has(1) { "n-predict = 2\n" } else { "" };
        place.write("c.toml", format!("seed = 5\n{file}[profiles.p]\n{profile}"));
        let finished = |mut command: Command| {
            match has(2) {
                true => command.env("LLAMA_ARG_N_PREDICT", "3"),
                false => command.env_remove("LLAMA_ARG_N_PREDICT"),
            };
            finish(command.args(if has(3) { &["-n", "4"][..] } else { &[] }))
        };
        let config = ["--config", "c.toml", "--profile", "p"];
        let answer = finished(place.run_command(&[&config[..], &["-p", PROMPT, "--json"]].concat())).json();
        let strongest = (0..4).rev().find(|&bit| has(bit)).unwrap();
        assert_eq!(answer["tokens"].as_array().unwrap().len(), strongest as usize + 1, "{bits:04b}");
        assert_eq!(answer["seed"], 5);
        let mut chat = place.command(&[&["chat", "--curve-budget", "20"], &config[..]].concat());
        chat.stdin(File::open(place.write("input.txt", PROMPT)).unwrap());
        let said = finished(chat);
        assert_eq!(said.succeeds().stdout, answer["text"].as_str().unwrap().to_owned() + "\n", "{bits:04b}");
        assert_eq!(said.stderr, "", "the seed is given");
    }
}

#[test]
fn the_usual_file_is_read_and_shown() {
    let place = Workplace::new();
    let folder = place.path("home/.config/chaski");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "model = 'model.gguf'\nn-predict = 3\n\n[profiles.long]\nn-predict = 9\n")
        .unwrap();
    let tokens = |profile: Option<&str>| {
        let mut command = place.run_command(&["-p", PROMPT, "--json"]);
        command.env_remove("LLAMA_ARG_N_PREDICT").env_remove("LLAMA_ARG_MODEL");
        if let Some(profile) = profile {
            command.env("CHASKI_PROFILE", profile);
        }
        finish(&mut command).json()["tokens"].as_array().unwrap().len()
    };
    assert_eq!((tokens(None), tokens(Some("long"))), (3, 9));
    let mut show = place.command(&["config", "show", "--profile", "long"]);
    let shown = finish(show.env_remove("LLAMA_ARG_N_PREDICT"));
    shown.succeeds();
    assert_eq!(shown.stderr, "");
    assert!(shown.stdout.contains("n-predict = 9  # profile long, line 5"), "{shown:#?}");
    assert!(shown.stdout.contains("model = \"model.gguf\"  # LLAMA_ARG_MODEL"), "{shown:#?}");
    assert!(shown.stdout.contains("threads = 1  # LLAMA_ARG_THREADS"), "{shown:#?}");
}

#[test]
fn mistakes_are_told_where_they_stand_and_help_is_not_in_their_way() {
    let place = Workplace::new();
    place.write("c.toml", "n-predict = 3\ntempp = 1\n");
    let run = |arguments: &[&str]| place.run(&[&["--config", "c.toml", "-p", PROMPT], arguments].concat());
    run(&[]).fails(2, &["c.toml:2", "'tempp'"]).hints("temp");
    place.write("c.toml", "n-predict = 'many'\n");
    run(&[]).fails(2, &["c.toml:1", "'n-predict'", "many"]);
    place.write("c.toml", "n-predict = 3\n");
    run(&["--profile", "x"]).fails(2, &["no profile 'x'"]).hints("none");
    place.run(&["--config", "none.toml", "-p", PROMPT]).fails(1, &["none.toml"]);
    place.run(&["-p", PROMPT, "--profile", "x"]).fails(2, &["no profile 'x'"]);
    place.write("c.toml", "tempp = 1");
    assert!(run(&["--help"]).succeeds().stdout.contains("Usage"));
    // A command that takes no settings does not read the file.
    finish(place.command(&["data", "show"]).env("CHASKI_PROFILE", "x")).succeeds();
}
