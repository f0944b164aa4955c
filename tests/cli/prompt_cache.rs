//! The prompt cache: a cached prompt is not decoded again, and the text stays the same.

use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::Value;

use super::harness::{PROMPT, Running, Workplace, finish, timing};
use super::support::tiny;

/// Long enough to be cached.
fn document() -> String {
    PROMPT.repeat(20)
}

fn cached(answer: &Value) -> u64 {
    timing(answer, "cache_n")
}

fn states(place: &Workplace) -> Vec<PathBuf> {
    let files = fs::read_dir(place.path("cache/chaski/prompts")).unwrap().map(|file| file.unwrap().path());
    let mut states: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "state")).collect();
    states.sort();
    states
}

/// A repeated prompt is found except for its last token; a prompt with the same beginning is found in part.
#[test]
fn what_was_read_is_not_read_again_and_the_text_is_the_same() {
    let place = Workplace::new();
    let prompt = document();
    let plain = place.json(&["-p", &prompt, "-s", "7", "--no-prompt-cache"]);
    assert!(!place.path("cache/chaski/prompts").exists());
    let first = place.json(&["-p", &prompt, "-s", "7"]);
    let second = place.json(&["-p", &prompt, "-s", "7"]);
    let n_prompt = timing(&first, "prompt_n");
    assert!(n_prompt > 100, "{first}");
    assert_eq!((cached(&plain), cached(&first), cached(&second)), (0, 0, n_prompt - 1));
    assert_eq!((&first["tokens"], &second["tokens"]), (&plain["tokens"], &plain["tokens"]));
    assert_eq!(states(&place).len(), 1);

    let other = [&prompt, " in the station"].concat();
    let expected = place.json(&["-p", &other, "-s", "7", "--no-prompt-cache"]);
    let partly = place.json(&["-p", &other, "-s", "7"]);
    assert!((1..n_prompt).contains(&cached(&partly)) && cached(&partly) > n_prompt / 2, "{partly}");
    assert_eq!(partly["tokens"], expected["tokens"]);
    assert_eq!(states(&place).len(), 1, "what little is new is not worth a state of its own");

    let line = place.run(&["-p", &prompt, "-s", "7"]).stderr;
    assert!(line.contains(&format!("{} cached)", n_prompt - 1)), "{line}");
}

#[test]
fn a_longer_prompt_replaces_its_beginning() {
    let place = Workplace::new();
    let (short, long) = (document(), document().repeat(2));
    place.json(&["--raw", "-p", &short]);
    let before = states(&place);
    let n_short = cached(&place.json(&["--raw", "-p", &short]));
    assert_eq!(cached(&place.json(&["--raw", "-p", &long])), n_short);
    let after = states(&place);
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(cached(&place.json(&["--raw", "-p", &short])), n_short);
}

#[test]
fn a_recurrent_state_is_used_whole_or_not_at_all() {
    let place = Workplace::with_model(&tiny::tiny_mamba(3));
    let (short, long) = (document(), document().repeat(2));
    let plain = place.json(&["--raw", "-p", &long, "-s", "7", "--no-prompt-cache"]);
    place.json(&["--raw", "-p", &long, "-s", "7"]);
    let again = place.json(&["--raw", "-p", &long, "-s", "7"]);
    assert_eq!((cached(&again), &again["tokens"]), (timing(&plain, "prompt_n") - 1, &plain["tokens"]));
    assert_eq!(cached(&place.json(&["--raw", "-p", &short])), 0, "the long one cannot be cut back");
}

#[test]
fn other_settings_and_other_models_have_states_of_their_own() {
    let place = Workplace::new();
    let prompt = document();
    let run = |more: &[&str]| place.json(&[&["-p", &prompt], more].concat());
    run(&[]);
    for more in [&["-ctk", "f32"][..], &["-fa", "on"]] {
        assert_eq!(cached(&run(more)), 0, "{more:?}");
        assert!(cached(&run(more)) > 0, "{more:?}");
    }
    assert!(cached(&run(&["-t", "2"])) > 0, "threads change no numbers");
    place.write("model.gguf", tiny::tiny_llama(4));
    assert_eq!(cached(&run(&[])), 0, "other weights under the same name");
}

#[test]
fn a_damaged_state_is_told_removed_and_read_anew() {
    let place = Workplace::new();
    let prompt = document();
    let text = place.text_of(&["-p", &prompt]);
    let path = states(&place).remove(0);
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [Vec::new(), good[..good.len() / 2].to_vec(), flipped, b"chaski state 1\n\xff\xff\xff\xff".to_vec()] {
        fs::write(&path, &bad).unwrap();
        let ran = place.run(&["-p", &prompt, "-s", "7"]);
        ran.succeeds().notices("damaged").notices("the model reads the prompt again");
        assert_eq!(ran.stdout, text);
        assert_eq!(fs::read(&path).unwrap().len(), good.len(), "written anew");
    }
    // State sealed with another secret is not used.
    fs::write(place.path("cache/chaski/prompts/secret"), [7; 16]).unwrap();
    place.run(&["-p", &prompt]).succeeds().notices("damaged");
    assert_eq!(states(&place).len(), 1);
}

#[test]
fn a_folder_that_cannot_be_used_is_a_notice() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", &document(), "--no-prompt-cache"]);
    fs::create_dir_all(place.path("cache/chaski")).unwrap();
    place.write("cache/chaski/prompts", "in the way");
    let ran = place.run(&["-p", &document(), "-s", "7"]);
    ran.succeeds().notices("cache/chaski/prompts");
    assert_eq!(ran.stdout, text);
}

#[test]
fn the_size_is_a_limit_and_the_command_tells_and_clears() {
    let place = Workplace::new();
    let status = |place: &Workplace| finish(&mut place.command(&["data", "show", "--json"])).json()["prompts"].clone();
    assert_eq!(status(&place)["files"], 0);
    for start in ["a", "b", "c"] {
        place.json(&["--raw", "-p", &[start, &document()].concat()]);
    }
    assert_eq!(status(&place)["files"], 3);
    let bytes = status(&place)["bytes"].as_u64().unwrap();
    let limit = (bytes + (100 << 10)).to_string();
    place.json(&["--raw", "-p", &["d", &document()].concat(), "--prompt-cache-size", &limit]);
    assert_eq!(status(&place)["files"], 3);
    place.json(&["--raw", "-p", &["e", &document()].concat(), "--prompt-cache-size", "1k"]);
    assert_eq!(status(&place)["files"], 3, "larger than everything that may be kept");
    let told = finish(&mut place.command(&["data", "show"]));
    assert!(told.succeeds().stdout.starts_with("prompts      3  "), "{told:#?}");
    let cleared = finish(&mut place.command(&["data", "delete", "prompts"]));
    assert_eq!((cleared.succeeds().stdout.as_str(), status(&place)["files"].as_u64()), ("", Some(0)));
    finish(&mut place.run_command(&["-p", "x", "--prompt-cache-size", "much"])).fails(2, &["--prompt-cache-size"]);
}

#[test]
fn many_processes_share_a_folder() {
    let place = Workplace::new();
    let prompts: Vec<String> = (0..3).map(|n| document().repeat(n + 1)).collect();
    let texts: Vec<String> =
        prompts.iter().map(|prompt| place.text_of(&["--raw", "-p", prompt, "--no-prompt-cache"])).collect();
    for _ in 0..2 {
        thread::scope(|scope| {
            for (prompt, text) in prompts.iter().zip(&texts).cycle().take(6) {
                let place = &place;
                scope.spawn(move || {
                    let ran = place.run(&["--raw", "-p", prompt, "-s", "7", "-q"]);
                    assert_eq!((&ran.succeeds().stdout, ran.stderr.as_str()), (text, ""));
                });
            }
        });
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_prompt_goes_on_where_it_was() {
    let Some(model) = super::harness::real_model("an_interrupted_prompt_goes_on_where_it_was") else { return };
    let place = Workplace::new();
    let prompt = "The rain in the station falls on the plain. ".repeat(150);
    let arguments = ["-m", model.to_str().unwrap(), "--raw", "-p", &prompt, "-n", "4"];
    let running = Running::start(&mut place.run_command(&[&arguments[..], &["--jsonl"]].concat()));
    running.wait_for_stdout("\"processed\":256");
    running.signal("INT");
    assert_eq!(running.finish().code, Some(130));
    let answer = place.json(&arguments);
    assert!(cached(&answer) >= 256 && timing(&answer, "prompt_n") > 256, "{answer}");
}
