//! Drafters on hidden states: `drafter align --hidden` trains one, `run` and `bench` use it, and it changes no text.

use std::fs;

use super::harness::{Ran, Workplace, finish};
use super::support::tiny::{self, Arch, TinyOptions};

fn align(place: &Workplace, arguments: &[&str]) -> Ran {
    let command =
        ["drafter", "align", "-o", "base.chaski", "--hidden", "model.hidden", "-np", "8", "-n", "48", "-c", "512"];
    finish(&mut place.command(&[&command, arguments].concat()))
}

/// Answers greedily, unless `arguments` give a seed.
fn run(place: &Workplace, arguments: &[&str]) -> Ran {
    let temperature: &[&str] = if arguments.contains(&"-s") { &["--temp", "0.9"] } else { &["--temp", "0"] };
    let command =
        ["run", "-m", "model.gguf", "-n", "60", "-p", "the rain in the station", "--no-learn", "--base", "none"];
    finish(&mut place.command(&[&command, temperature, arguments].concat()))
}

fn trained() -> Workplace {
    let place = Workplace::new();
    let ran = align(&place, &["--tokens", "3000"]);
    assert!(ran.succeeds().stderr.contains("the next token is right for"), "{ran:#?}");
    place
}

#[test]
fn what_align_trains_is_used_and_changes_no_text() {
    let place = trained();
    assert!(!place.path("base.chaski.log").exists());
    // Beside the model it is found by itself.
    for arguments in [&[][..], &["--hidden", "model.hidden"], &["-s", "3"]] {
        let drafted = run(&place, &[arguments, &["-v"]].concat());
        assert!(drafted.succeeds().stderr.contains("drafter on hidden states: "), "{drafted:#?}");
        let plain = run(&place, &[arguments, &["--drafter", "none"]].concat());
        assert_eq!(drafted.stdout, plain.stdout, "{arguments:?}");
    }
    // What it learned in practice is about these sources, with a base and without.
    for base in ["base.chaski", "none"] {
        let ran =
            finish(&mut place.command(&["run", "-m", "model.gguf", "--base", base, "-n", "40", "-v", "a rainy day"]));
        assert!(ran.succeeds().stderr.contains("drafter on hidden states: "), "{ran:#?}");
    }
    let ran = run(&place, &["--hidden", "model.hidden", "--drafter", "aded"]);
    assert!(ran.succeeds().stderr.contains("only the drafter auto uses --hidden"), "{ran:#?}");
    let without = run(&place, &["--hidden", "none", "-v"]);
    assert!(!without.succeeds().stderr.contains("hidden states"), "{without:#?}");
    let bench = finish(&mut place.command(&[
        "bench",
        "-m",
        "model.gguf",
        "-n",
        "20",
        "-r",
        "1",
        "--drafters",
        "auto,auto-alone",
        "-o",
        "json",
    ]));
    assert!(bench.succeeds().stdout.contains("hidden-states"), "{bench:#?}");
}

#[test]
fn inspect_shows_what_it_is() {
    let place = trained();
    let ran = finish(&mut place.command(&["drafter", "inspect", "model.hidden", "-m", "model.gguf"]));
    assert!(
        ran.succeeds().stdout.contains("drafter on hidden states") && ran.stdout.contains("(this model)"),
        "{ran:#?}"
    );
    let report = finish(&mut place.command(&["drafter", "inspect", "model.hidden", "--json"])).json();
    assert_eq!((report["state"].as_u64(), report["trained_tokens"].as_u64()), (Some(64), Some(3000)), "{report}");
    place.write("model.gguf", tiny::tiny_llama(77));
    let ran = finish(&mut place.command(&["drafter", "inspect", "model.hidden", "-m", "model.gguf"]));
    ran.fails(1, &["trained for another model"]);
}

#[test]
fn an_unusable_drafter_gives_a_notice_and_is_not_used() {
    let place = trained();
    let plain = run(&place, &["--drafter", "none"]).stdout;
    let whole = fs::read(place.path("model.hidden")).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    place.write("damaged.hidden", damaged);
    place.write("cut.hidden", &whole[..whole.len() / 3]);
    place.write("text.hidden", "no drafter");
    for (file, why) in [
        ("damaged.hidden", "damaged"),
        ("cut.hidden", "cut off"),
        ("text.hidden", "not a hidden-state drafter"),
        ("missing.hidden", "missing.hidden"),
    ] {
        let ran = run(&place, &["--hidden", file]);
        assert!(ran.succeeds().stderr.contains(why) && ran.stderr.contains("notice: "), "{ran:#?}");
        assert_eq!(ran.stdout, plain, "{file}");
    }
    place.write("model.gguf", tiny::tiny_llama(77));
    let ran = run(&place, &[]);
    assert!(ran.succeeds().stderr.contains("trained for another model"), "{ran:#?}");
}

#[test]
fn too_little_text_is_an_error_and_keeps_the_log() {
    let place = Workplace::new();
    let ran = align(&place, &["--tokens", "40"]);
    ran.fails(1, &["base.chaski.log", "expected at least"]);
    assert!(ran.stderr.contains("hint: write more text with a larger --tokens"), "{ran:#?}");
    assert!(place.path("base.chaski.log").exists() && !place.path("model.hidden").exists());
    align(&place, &["--tokens", "3000"]).succeeds();
    assert!(place.path("model.hidden").exists());
}

#[test]
fn a_drafter_is_not_written_over_the_base_or_its_log() {
    let place = Workplace::new();
    for hidden in ["base.chaski", "./base.chaski.log", "model.gguf"] {
        let command = ["drafter", "align", "-o", "base.chaski", "--hidden", hidden, "--tokens", "300"];
        let ran = finish(&mut place.command(&command));
        ran.fails(2, &[hidden.trim_start_matches("./")]);
        assert!(ran.stderr.contains("--hidden") && !place.path("base.chaski").exists(), "{ran:#?}");
    }
}

#[test]
fn a_model_without_a_drafter_on_hidden_states_is_refused_before_it_writes() {
    let model = |arch| tiny::tiny(&TinyOptions { seed: 3, arch, ..TinyOptions::default() });
    for arch in [Arch::Lfm2, Arch::Mamba] {
        let place = Workplace::with_model(&model(arch));
        let ran = align(&place, &["--tokens", "300"]);
        ran.fails(1, &["model.gguf"]);
        assert!(ran.stderr.contains("hint: leave out --hidden") && !place.path("base.chaski.log").exists(), "{ran:#?}");
    }
}

#[test]
fn a_log_without_states_is_not_trained_on() {
    let place = Workplace::new();
    let command =
        ["drafter", "align", "-o", "base.chaski", "-np", "8", "-n", "48", "-c", "512", "--tokens", "300", "--keep-log"];
    finish(&mut place.command(&command)).succeeds();
    let ran = align(&place, &["--tokens", "300"]);
    ran.fails(1, &["started with another setting"]);
}

fn refine(place: &Workplace, arguments: &[&str]) -> Ran {
    finish(&mut place.command(&[&["drafter", "refine", "-m", "model.gguf"], arguments].concat()))
}

#[test]
fn recorded_answers_refine_the_drafter() {
    let place = trained();
    let ran = refine(&place, &[]);
    ran.fails(1, &["model.hidden.log: nothing is recorded"]);
    assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("--hidden-learn"), "{ran:#?}");
    let before = fs::read(place.path("model.hidden")).unwrap();
    let plain = run(&place, &["-s", "0"]).stdout;
    let recorded = run(&place, &["-s", "0", "--hidden-learn"]);
    assert_eq!(recorded.succeeds().stdout, plain, "recording changes no text");
    let ran = refine(&place, &[]);
    ran.fails(1, &["model.hidden.log", "expected at least"]);
    assert!(ran.stderr.contains("hint: record more answers with --hidden-learn"), "{ran:#?}");
    let log = fs::metadata(place.path("model.hidden.log")).unwrap();
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&log.permissions()) & 0o777, 0o600);
    assert!(log.len() > 60 * 2 * 64, "{log:?}");

    // A chat records every answer.
    let messages: String = (0..16).map(|i| format!("say {i} more things about the harbour\n")).collect();
    let mut chat =
        place.command(&["chat", "-m", "model.gguf", "-n", "60", "-c", "2048", "--temp", "0.9", "--hidden-learn"]);
    finish(chat.stdin(fs::File::open(place.write("messages", messages)).unwrap())).succeeds();
    let ran = refine(&place, &["--keep-log"]);
    assert!(ran.succeeds().stderr.contains("right for the next token of other answers: "), "{ran:#?}");
    assert!(place.path("model.hidden.log").exists());
    let after = fs::read(place.path("model.hidden")).unwrap();
    let is_better = !ran.stderr.contains("stays as it is");
    assert_eq!(after != before, is_better, "{ran:#?}");
    let again = refine(&place, &[]);
    let is_kept = again.succeeds().stderr.contains("stays as it is");
    assert_eq!(place.path("model.hidden.log").exists(), is_kept, "{again:#?}");
    let drafted = run(&place, &["-v"]);
    assert!(drafted.succeeds().stderr.contains("drafter on hidden states: "), "{drafted:#?}");
    assert_eq!(drafted.stdout, run(&place, &["--drafter", "none"]).stdout);
}

#[test]
fn nothing_is_recorded_without_a_drafter_or_for_another_model() {
    let place = trained();
    let ran = run(&place, &["--hidden", "none", "--hidden-learn"]);
    assert!(ran.succeeds().stderr.contains("notice: --hidden-learn has no effect"), "{ran:#?}");
    assert!(!place.path("model.hidden.log").exists());
    run(&place, &["--hidden-learn"]).succeeds();
    place.write("other.gguf", tiny::tiny_llama(77));
    let ran = finish(&mut place.command(&["drafter", "refine", "-m", "other.gguf", "--hidden", "model.hidden"]));
    ran.fails(1, &["trained for another model"]);
}
