//! Drafters on hidden states: `drafter align --hidden` trains one, `run` and `bench` use it, and it changes no text.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use chaski::store::align_log;
use chaski::store::hidden_file::HiddenFile;

use super::harness::{Ran, Running, Workplace, finish, wait_until};
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

/// Answers many messages in one chat, and records the answers.
fn chat(place: &Workplace, n_messages: usize) -> Ran {
    let messages: String = (0..n_messages).map(|i| format!("say {i} more things about the harbour\n")).collect();
    let flags = ["-n", "60", "-c", "8192", "--temp", "0.9", "-s", "5", "--hidden-learn"];
    let mut command = place.command(&[&["chat", "-m", "model.gguf"][..], &flags].concat());
    finish(command.stdin(fs::File::open(place.write("messages", messages)).unwrap()))
}

/// Writes the drafter of another model, as if it were this one's: there is much to learn, on every processor.
fn write_a_wrong_drafter(place: &Workplace) {
    align(place, &["--tokens", "600"]).succeeds();
    place.write("other.gguf", tiny::tiny_llama(77));
    let command = ["drafter", "align", "-m", "other.gguf", "-o", "other.chaski", "--hidden", "other.hidden"];
    let flags = ["-np", "8", "-n", "48", "-c", "512", "--tokens", "600"];
    finish(&mut place.command(&[&command[..], &flags].concat())).succeeds();
    let open = |name: &str| HiddenFile::open_any(&place.path(name)).unwrap();
    let file = HiddenFile { model: open("model.hidden").model, ..open("other.hidden") };
    file.write(&place.path("model.hidden")).unwrap();
}

#[test]
fn recorded_answers_refine_the_drafter() {
    let place = Workplace::new();
    write_a_wrong_drafter(&place);
    let ran = refine(&place, &[]);
    ran.fails(1, &["model.hidden.log: nothing is recorded"]);
    assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("--hidden-learn"), "{ran:#?}");

    let log = place.path("model.hidden.log");
    let command = ["run", "-m", "model.gguf", "-n", "60", "--temp", "0", "--json", "-p", "the rain in the station"];
    let plain = finish(&mut place.command(&[&command[..], &["--drafter", "none"]].concat())).json();
    let recorded = finish(&mut place.command(&[&command[..], &["--hidden-learn"]].concat())).json();
    assert_eq!(recorded["text"], plain["text"], "recording changes no text");
    let mut n_tokens = 0;
    align_log::read(&log, |piece| {
        assert!(piece.before.is_empty(), "no prompt");
        for said in &piece.said {
            assert_eq!(said.top[0].token, said.token, "a greedy answer has the likeliest tokens");
            assert_eq!(said.state.len(), 64);
            n_tokens += 1;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(n_tokens, 60);
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).unwrap().permissions()) & 0o777, 0o600);
    let before = fs::read(place.path("model.hidden")).unwrap();
    let ran = refine(&place, &[]);
    ran.fails(1, &["model.hidden.log", "expected at least"]);
    assert!(ran.stderr.contains("hint: record more answers with --hidden-learn"), "{ran:#?}");

    chat(&place, 60).succeeds();
    let learned = |place: &Workplace| finish(&mut place.command(&["data", "show", "--json"])).succeeds().stdout.clone();
    let known = learned(&place);
    let ran = refine(&place, &[]);
    assert!(ran.succeeds().stderr.contains("model.hidden: right for "), "{ran:#?}");
    assert!(!log.exists() && fs::read(place.path("model.hidden")).unwrap() != before, "{ran:#?}");
    let drafted = run(&place, &["-v"]);
    assert!(drafted.succeeds().stderr.contains("drafter on hidden states: "), "{drafted:#?}");
    assert_eq!(drafted.stdout, run(&place, &["--drafter", "none"]).stdout);
    // What was learned about it is still about it.
    finish(&mut place.command(&command)).succeeds();
    assert_eq!(learned(&place).matches("hidden-states").count(), known.matches("hidden-states").count(), "{known}");
}

#[test]
fn a_log_of_align_refines_too_and_stays() {
    let place = Workplace::new();
    write_a_wrong_drafter(&place);
    let command = ["drafter", "align", "-o", "more.chaski", "--hidden", "more.hidden", "--seed", "4", "--keep-log"];
    let flags = ["-np", "8", "-n", "48", "-c", "512", "--tokens", "3000"];
    finish(&mut place.command(&[&command[..], &flags].concat())).succeeds();
    let before = fs::read(place.path("model.hidden")).unwrap();
    let ran = refine(&place, &["--log", "more.chaski.log"]);
    assert!(ran.succeeds().stderr.contains("model.hidden: right for "), "{ran:#?}");
    assert_ne!(fs::read(place.path("model.hidden")).unwrap(), before);
    assert!(place.path("more.chaski.log").exists());
}

#[test]
fn a_gain_by_chance_changes_nothing() {
    let place = trained();
    let before = fs::read(place.path("model.hidden")).unwrap();
    // The sixth answer is held out. Of the four tokens after its first not even four more right ones are more than chance.
    chat(&place, 5).succeeds();
    let command =
        ["run", "-m", "model.gguf", "-n", "5", "--temp", "0", "--hidden-learn", "-p", "the rain in the station"];
    finish(&mut place.command(&command)).succeeds();
    let ran = refine(&place, &[]);
    assert!(ran.succeeds().stderr.contains("model.hidden is unchanged: right for "), "{ran:#?}");
    assert!(place.path("model.hidden.log").exists() && fs::read(place.path("model.hidden")).unwrap() == before);
}

#[test]
fn where_nothing_can_be_recorded_a_notice_says_why_and_the_answer_is_there() {
    let place = trained();
    let plain = run(&place, &[]).stdout;
    let answer = |arguments: &[&str], why: &str| {
        let command = ["run", "-m", "model.gguf", "-n", "60", "--temp", "0", "-p", "the rain in the station"];
        let flags = ["--base", "none", "--hidden-learn"];
        let ran = finish(&mut place.command(&[&command[..], &flags, arguments].concat()));
        assert!(ran.succeeds().stderr.contains(why) && ran.stderr.contains("notice: "), "{why}: {ran:#?}");
        assert_eq!(ran.stdout, plain, "{why}");
    };
    answer(&["--hidden", "none"], "no --hidden file is in use");
    answer(&["--no-learn"], "learning is off");
    assert!(!place.path("model.hidden.log").exists());
    place.write(
        "model.hidden.log",
        "something else, and long enough to be no torn beginning of a log that was never finished",
    );
    answer(&[], "hint: delete the file, or move it");
    fs::remove_file(place.path("model.hidden.log")).unwrap();

    // While a chat records.
    let mut chat = place.command(&["chat", "-m", "model.gguf", "-n", "8", "--hidden-learn"]);
    let mut chat = Running::start(chat.stdin(Stdio::piped()));
    wait_until("the log of the chat", || place.path("model.hidden.log").exists());
    answer(&[], "hint: end the other chaski first");
    refine(&place, &[]).fails(1, &["another process is writing to it"]);
    chat.child.stdin.take().unwrap().write_all(b"say something\n").unwrap();
    chat.finish().succeeds();

    place.write("other.gguf", tiny::tiny_llama(77));
    let ran = finish(&mut place.command(&["drafter", "refine", "-m", "other.gguf", "--hidden", "model.hidden"]));
    ran.fails(1, &["trained for another model"]);
    // The log of another model.
    let command = ["drafter", "align", "-m", "other.gguf", "-o", "other.chaski", "--hidden", "other.hidden"];
    let flags = ["-np", "8", "-n", "48", "-c", "512", "--tokens", "600", "--keep-log"];
    finish(&mut place.command(&[&command[..], &flags].concat())).succeeds();
    let ran = refine(&place, &["--log", "other.chaski.log"]);
    ran.fails(1, &["other.chaski.log: written by another model"]);
    assert!(ran.stderr.contains("hint: --log takes a log of"), "{ran:#?}");
    // A new model and its drafter under the old names, with the old log.
    fs::rename(place.path("other.gguf"), place.path("model.gguf")).unwrap();
    align(&place, &["--tokens", "600"]).succeeds();
    refine(&place, &[]).fails(1, &["model.hidden.log: started with another model"]);
}
