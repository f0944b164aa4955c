//! `chaski chat` over pipes: what scripts see, and what is saved. The tiny model's draws depend on every earlier token,
//! so equal texts mean equal chats.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::harness::{PROMPT, Ran, Running, Workplace, finish};
use super::support::tiny::{CHATML, TinyOptions, tiny, tiny_llama};

/// A second message.
const SECOND: &str = "is it the station";

fn command(place: &Workplace, arguments: &[&str]) -> Command {
    let seed: &[&str] = if arguments.contains(&"-s") { &[] } else { &["-s", "7"] };
    let mut command = place.command(&[&["chat", "--curve-budget", "20"], seed, arguments].concat());
    command.env("XDG_DATA_HOME", place.path("data")).env("XDG_STATE_HOME", place.path("state"));
    command
}

fn chat(place: &Workplace, arguments: &[&str], input: &str) -> Ran {
    let input = place.write("input.txt", input);
    finish(command(place, arguments).stdin(fs::File::open(input).unwrap()))
}

/// The output of a chat that succeeds and prints nothing to stderr.
#[track_caller]
fn said(place: &Workplace, arguments: &[&str], input: &str) -> String {
    let ran = chat(place, arguments, input);
    ran.succeeds();
    assert_eq!(ran.stderr, "");
    ran.stdout
}

fn session_file(place: &Workplace, name: &str) -> PathBuf {
    place.path("data/chaski/sessions").join(format!("{name}.json"))
}

fn session(place: &Workplace, name: &str) -> Value {
    serde_json::from_slice(&fs::read(session_file(place, name)).unwrap()).unwrap()
}

/// The answers in a saved session.
fn answers(place: &Workplace, name: &str) -> Vec<String> {
    let session = session(place, name);
    let messages = session["messages"].as_array().unwrap().iter();
    let answers = messages.filter(|message| message["role"] == "assistant");
    answers.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_first_answer_is_that_of_run() {
    let place = Workplace::new();
    let text = place.text_of(&["-p", PROMPT]);
    for arguments in [&[][..], &["--drafter", "none"], &["--color", "auto"]] {
        assert_eq!(said(&place, arguments, PROMPT), format!("{text}\n"), "{arguments:?}");
    }
    let text = place.text_of(&["-p", "the rain\nin the station", "-sys", "be brief"]);
    let block = "\"\"\"\nthe rain\nin the station\n\"\"\"\n";
    assert_eq!(said(&place, &["-sys", "be brief"], block), format!("{text}\n"));
    let typed = chat(&place, &[], &format!("\n/system be brief\n{block}"));
    assert_eq!((typed.stdout, typed.stderr.as_str()), (format!("{text}\n"), "the system prompt is set\n"));
}

#[test]
fn the_same_seed_gives_the_same_conversation() {
    let place = Workplace::new();
    let both = format!("{PROMPT}\n{SECOND}\n");
    let text = said(&place, &[], &both);
    assert_eq!(text, said(&place, &["--drafter", "none"], &both));
    let first = said(&place, &[], PROMPT);
    let second = text.strip_prefix(&first).expect("the first answer");
    assert_ne!(second, said(&place, &[], SECOND), "what was said before counts");
    assert_ne!(text, said(&place, &["-s", "8"], &both));
}

#[test]
fn a_file_goes_before_the_message() {
    let place = Workplace::new();
    place.write("my notes.txt", PROMPT);
    let text = place.text_of(&["-p", &format!("{PROMPT}\n\n{SECOND}")]);
    for path in ["my notes.txt", "my\\ notes.txt", "'my notes.txt'"] {
        let ran = chat(&place, &[], &format!("/read {path}\n{SECOND}\n"));
        assert_eq!(ran.succeeds().stdout, format!("{text}\n"));
        assert_eq!(ran.stderr, "my notes.txt: 23 bytes will go before your next message\n");
    }
    chat(&place, &[], "/read none.txt\n").fails(1, &["none.txt: no such file"]);
}

#[test]
fn without_input_it_ends_at_once() {
    let place = Workplace::new();
    finish(&mut command(&place, &["-m", "model.gguf"])).fails(2, &["there is no message"]).hints("chaski run -p");
    assert_eq!(said(&place, &[], "\n \n"), "", "empty lines are nothing to answer");
    assert_eq!(said(&place, &[], &format!("/exit\n{PROMPT}\n")), "");
    chat(&place, &[], "\"\"\"\nopen\n").fails(2, &["has no end"]);
}

#[test]
fn what_is_no_command_is_told_and_not_sent() {
    let place = Workplace::new();
    chat(&place, &[], &format!("/regne\n{PROMPT}\n")).fails(2, &["there is no command /regne"]).hints("/regen?");
    chat(&place, &[], "/set temp hot\n").fails(2, &["invalid value 'hot'"]);
    chat(&place, &[], "/set warmth 1\n").fails(2, &["there is no setting"]).hints("temp");
    chat(&place, &[], "/undo\n").fails(1, &["there is no message yet"]);
    chat(&place, &[], "/edit\n").fails(2, &["/edit needs a terminal"]);
    chat(&place, &["--reasoning", "loud"], PROMPT).fails(2, &["invalid value 'loud'"]);
    chat(&place, &["-c", "70000"], PROMPT)
        .succeeds()
        .notices("-c 70000 is more than the 65536 tokens that the model was trained for");
}

#[test]
fn what_is_told_never_goes_to_stdout() {
    let place = Workplace::new();
    let input = format!("/help\n/show\n/list\n/stats\n{PROMPT}\n/stats\n/set temp 0.5\n/save kept\n/list\n");
    let ran = chat(&place, &[], &input);
    assert_eq!(ran.succeeds().stdout, place.text_of(&["-p", PROMPT]) + "\n");
    for part in
        ["/regen", "messages  0", "no saved chats", "no answer yet", "; seed 7\n", "temp is now 0.5", "2 messages"]
    {
        assert!(ran.stderr.contains(part), "{part}: {ran:#?}");
    }
    let random = finish(command(&place, &["-s", "-1"]).stdin(fs::File::open(place.write("hi", PROMPT)).unwrap()));
    assert!(random.succeeds().stderr.starts_with("seed "), "{random:#?}");
    assert!(!ran.stdout.contains('\x1b'));
}

#[test]
fn a_session_goes_on_where_it_was_left() {
    let place = Workplace::new();
    let at_once = said(&place, &[], &format!("{PROMPT}\n{SECOND}\n"));
    let first = chat(&place, &["rain", "-sys", ""], PROMPT);
    assert_eq!(first.succeeds().stderr, "");
    let second = chat(&place, &["rain"], SECOND);
    assert_eq!(second.succeeds().stderr, "");
    assert_eq!(first.stdout + &second.stdout, at_once);
    let session = session(&place, "rain");
    assert_eq!((&session["chaski_session"], &session["settings"]["seed"][0]), (&Value::from(1), &Value::from("7")));
    assert_eq!(session["messages"][2]["content"], SECOND);
    assert_eq!(answers(&place, "rain").iter().map(|text| format!("{text}\n")).collect::<String>(), at_once);
    // The state file may be deleted.
    let _ = fs::remove_file(session_file(&place, "rain").with_extension("state"));
    chat(&place, &["rain"], SECOND).succeeds();
}

#[cfg(unix)]
#[test]
fn a_session_is_its_users_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Workplace::new();
    chat(&place, &["rain"], PROMPT).succeeds();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(session_file(&place, "rain")), 0o600);
    assert_eq!(mode(place.path("data/chaski/sessions")), 0o700);
}

#[test]
fn settings_stay_with_a_session_and_flags_win() {
    let place = Workplace::new();
    chat(&place, &["rain", "-n", "3"], &format!("/set temp 0\n/system be brief\n{PROMPT}\n")).succeeds();
    let kept = session(&place, "rain");
    assert_eq!((&kept["settings"]["temp"][0], &kept["settings"]["n-predict"][0]), (&"0".into(), &"3".into()));
    assert_eq!(kept["system"], "be brief");
    let shown = chat(&place, &["rain", "--temp", "0.5"], "/show\n");
    for part in ["/set temp 0.5\n", "/set n-predict 3\n", "/set top-k 40\n", "system    be brief\n", "chat      rain\n"]
    {
        assert!(shown.succeeds().stderr.contains(part), "{part}: {shown:#?}");
    }
}

#[test]
fn names_are_no_paths_and_nothing_is_replaced() {
    let place = Workplace::new();
    chat(&place, &["../rain"], PROMPT).fails(2, &["cannot be the name of a chat"]);
    chat(&place, &["rain"], PROMPT).succeeds();
    let kept = fs::read(session_file(&place, "rain")).unwrap();
    chat(&place, &[], "/save rain\n").fails(1, &["there is already a saved chat rain"]).hints("another name");
    chat(&place, &[], "/load none\n").fails(1, &["there is no saved chat none"]).hints("/list");
    let unsaved = chat(&place, &[], &format!("{PROMPT}\n/load rain\n"));
    assert!(unsaved.code == Some(1) && unsaved.stderr.contains("this chat is not saved yet"), "{unsaved:#?}");
    let loaded = chat(&place, &[], &format!("/load rain\n{SECOND}\n"));
    assert_eq!(
        loaded.succeeds().stdout,
        said(&place, &[], &format!("{PROMPT}\n{SECOND}\n")).split_off(answers(&place, "rain")[0].len() + 1)
    );
    chat(&place, &["rain"], "/undo\n").succeeds();
    chat(&place, &["rain"], &format!("/clear\n{PROMPT}\n")).succeeds();
    assert_eq!(fs::read(session_file(&place, "rain")).unwrap(), kept, "a new chat is another one");
    for damaged in ["", "{\"chaski_session\": 1", "{\"chaski_session\": 2}"] {
        fs::write(session_file(&place, "rain"), damaged).unwrap();
        chat(&place, &["rain"], PROMPT).fails(1, &["rain.json: "]).hints("chaski does not change it");
        chat(&place, &[], "/load rain\n").fails(1, &["rain.json: "]);
        assert_eq!(fs::read_to_string(session_file(&place, "rain")).unwrap(), damaged);
    }
}

#[test]
fn two_chats_do_not_write_one_session() {
    let place = Workplace::new();
    let mut first = Running::start(command(&place, &["rain"]).stdin(Stdio::piped()));
    first.child.stdin.as_mut().unwrap().write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
    first.wait_for_text();
    chat(&place, &["rain"], PROMPT).fails(1, &["the chat rain is open in another terminal"]).hints("leave it there");
    chat(&place, &[], "/load rain\n").fails(1, &["is open in another terminal"]);
    drop(first.child.stdin.take());
    first.finish().succeeds();
    chat(&place, &["rain"], SECOND).succeeds();
}

#[test]
fn another_model_goes_on_with_the_text() {
    let place = Workplace::new();
    chat(&place, &["rain"], PROMPT).succeeds();
    place.write("other.gguf", tiny_llama(4));
    let ran = chat(&place, &["rain", "-m", "other.gguf"], SECOND);
    ran.succeeds().notices("this chat was with another model (model.gguf); this model reads its text again");
    assert!(session(&place, "rain")["model"].as_str().unwrap().starts_with("other.gguf "));
    assert_eq!(answers(&place, "rain").len(), 2);
}

#[test]
fn answers_are_taken_back_and_made_again() {
    let place = Workplace::new();
    let input = format!("{PROMPT}\n{SECOND}\n/undo\n{SECOND}\n/regen\n/regen\n/save rain\n");
    let ran = chat(&place, &[], &input);
    ran.succeeds();
    assert!(ran.stderr.contains(&format!("removed: {SECOND}\n")), "{ran:#?}");
    let kept = answers(&place, "rain");
    let straight = said(&place, &[], &format!("{PROMPT}\n{SECOND}\n"));
    let (first, second) = (format!("{}\n", kept[0]), straight.strip_prefix(&format!("{}\n", kept[0])).unwrap());
    // The same message in the same place gets the same answer; each /regen gives a new one.
    let rest = ran.stdout.strip_prefix(&format!("{first}{second}{second}")).expect("taken back and said again");
    let (third, last) = rest.split_at(rest.len() - kept[1].len() - 1);
    assert!(third != second && third != last && last != second);
    assert_eq!((kept.len(), last), (2, format!("{}\n", kept[1]).as_str()));
    let greedy = chat(&place, &["--temp", "0"], &format!("{PROMPT}\n/regen\n"));
    greedy.succeeds().notices("at temperature 0");
    assert_eq!(greedy.stdout.len() % 2, 0);
}

#[test]
fn a_full_context_leaves_out_the_oldest_and_says_so() {
    let place = Workplace::new();
    let input: String = (0..8).map(|n| format!("{PROMPT} {n}\n")).collect();
    let arguments = ["-c", "200", "-n", "24", "-sys", "be brief"];
    let ran = chat(&place, &[&["rain"], &arguments[..]].concat(), &input);
    ran.succeeds().notices("the context of 200 tokens is full: the oldest ");
    let kept = session(&place, "rain");
    let n_left_out = kept["turns_left_out"].as_u64().unwrap() as usize;
    assert!((1..8).contains(&n_left_out));
    assert_eq!(kept["messages"].as_array().unwrap().len(), 16, "all of them are in the session");
    // A larger context has room for the whole chat again.
    chat(&place, &["rain", "-c", "2000"], SECOND).succeeds();
    assert_eq!(session(&place, "rain")["turns_left_out"], 0);

    let refused = chat(&place, &[&["--on-overflow", "error"], &arguments[..]].concat(), &input);
    assert_eq!(refused.code, Some(6), "{refused:#?}");
    assert!(refused.stderr.contains("error: the chat has ") && refused.stderr.contains("hint: "), "{refused:#?}");
    chat(&place, &["-c", "32", "-n", "24"], PROMPT)
        .fails(6, &["error: the message has ", "of which 24 are reserved for the answer"]);
}

#[test]
fn issue_13_14_the_hint_names_what_helps_and_it_does() {
    let place = Workplace::new();
    let long = PROMPT.repeat(12);
    // The oldest turns are already left out, so dropping them does not help; nor does a context above the trained
    // length.
    let refused = chat(&place, &["-c", "128", "-n", "100"], &long);
    refused.fails(6, &["error: the message has "]).hints("start chaski chat with -c ");
    assert!(!refused.stderr.contains("drop-oldest"), "{refused:#?}");
    let n_ctx = refused.stderr.split("-c ").nth(1).unwrap().split(',').next().unwrap();
    chat(&place, &["-c", n_ctx, "-n", "100"], &long).succeeds();
    let refused = chat(&place, &["-c", "65536", "-n", "65500"], &long);
    refused.fails(6, &[]).hints("/set n-predict ");
    assert!(!refused.stderr.contains("-c "), "{refused:#?}");
    // A chat that is too long, though its last message is not.
    let input = format!("{PROMPT}\n").repeat(12);
    let refused = chat(&place, &["-c", "200", "-n", "24", "--on-overflow", "error"], &input);
    assert!(refused.stderr.contains("hint: /set on-overflow drop-oldest"), "{refused:#?}");
}

#[test]
fn issue_13_14_a_path_or_a_comment_is_a_message() {
    let place = Workplace::new();
    for message in ["// the rain", "/usr/bin is the station"] {
        let text = place.text_of(&["-p", message]);
        assert_eq!(said(&place, &[], message), format!("{text}\n"));
    }
    chat(&place, &[], "/exti\n").fails(2, &["there is no command /exti"]).hints("/exit?");
}

#[test]
fn issue_13_14_a_file_that_is_too_long_does_not_stay_in_the_way() {
    let place = Workplace::new();
    place.write("long.txt", PROMPT.repeat(1000));
    let refused = chat(&place, &["-c", "256"], &format!("/read long.txt\n{PROMPT}\n"));
    assert_eq!(refused.code, Some(6), "{refused:#?}");
    refused.notices("your next message goes without the files of /read");
}

#[test]
fn a_summary_stands_for_what_is_left_out() {
    let place = Workplace::new();
    let input: String = (0..12).map(|n| format!("{PROMPT} {n}\n")).collect();
    let ran = chat(&place, &["rain", "-c", "400", "-n", "24", "--on-overflow", "summarize"], &input);
    ran.succeeds().notices("summarizing ");
    let kept = session(&place, "rain");
    assert!(!kept["summary"].as_str().unwrap().is_empty(), "{kept}");
    assert_eq!(kept["messages"].as_array().unwrap().len(), 24);
    assert!(ran.stderr.contains("and a summary replaces them"), "{ran:#?}");
    assert!(!ran.stdout.contains("Summarize"));
}

#[test]
fn thinking_is_shown_hidden_or_not_asked_for() {
    let opening = "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}{% else %}<think>\n{% endif %}{% endif %}";
    let thinking =
        tiny(&TinyOptions { seed: 3, chat_template: Some(CHATML.to_owned() + opening), ..TinyOptions::default() });
    let place = Workplace::with_model(&thinking);
    let shown = said(&place, &["--reasoning", "show"], PROMPT);
    // `run` writes thinking to stderr.
    let run = place.run(&["-p", PROMPT, "-s", "7", "-q", "--reasoning", "show"]);
    assert_eq!((shown, ""), (run.stderr, run.stdout.as_str()));
    let hidden = chat(&place, &["--reasoning", "hide"], PROMPT);
    hidden.succeeds().notices("ended within the model's thinking");
    assert_eq!(hidden.stdout, "\n", "the block never ends");
    let off = said(&place, &["--reasoning", "off"], PROMPT);
    assert_eq!(off, Workplace::new().text_of(&["-p", PROMPT]) + "\n", "as without thinking");
    // Thinking is not part of the next prompt.
    let both = format!("{PROMPT}\n{SECOND}\n");
    assert_ne!(chat(&place, &["--reasoning", "hide"], &both).stdout, said(&place, &["--reasoning", "off"], &both));
}

#[test]
fn an_interrupt_keeps_what_was_written() {
    let place = Workplace::new();
    for signal in ["INT", "TERM"] {
        let arguments = [signal, "-n", "50000", "-c", "60000", "--temp", "0", "--drafter", "none"];
        let mut running = Running::start(command(&place, &arguments).stdin(Stdio::piped()));
        running.child.stdin.as_mut().unwrap().write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
        running.wait_for_text();
        running.signal(signal);
        running.wait_for_stderr("the chat keeps this part of the answer");
        let ran = running.finish();
        assert_eq!(ran.code, Some(130), "{ran:#?}");
        assert_eq!(format!("{}\n", answers(&place, signal)[0]), ran.stdout);
    }
}

#[test]
fn a_signal_while_it_waits_ends_it() {
    let place = Workplace::new();
    for signal in ["INT", "TERM"] {
        let mut running = Running::start(command(&place, &["rain"]).stdin(Stdio::piped()));
        running.child.stdin.as_mut().unwrap().write_all(format!("{PROMPT}\n").as_bytes()).unwrap();
        running.wait_for_text();
        std::thread::sleep(std::time::Duration::from_millis(500));
        running.signal(signal);
        assert_eq!(running.finish().code, Some(130));
    }
    assert_eq!(answers(&place, "rain").len(), 2);
}

#[test]
fn a_model_without_a_template_is_told() {
    let place = Workplace::with_model(&tiny(&TinyOptions { chat_template: None, ..TinyOptions::default() }));
    chat(&place, &[], PROMPT).fails(2, &["the model has no chat template"]).hints("--chat-template chatml");
}

#[test]
fn issue_13_6_hidden_thinking_leaves_a_line_and_a_notice() {
    let place = Workplace::new();
    let template = ["--chat-template", "{{ messages[0].content }}<think>\n", "-n", "5", "--ignore-eos"];
    for reasoning in ["hide", "off"] {
        let ran = chat(&place, &[&template[..], &["--reasoning", reasoning]].concat(), "the rain\nthe train\n");
        assert_eq!(ran.succeeds().stdout, "\n\n", "{ran:#?}");
        assert_eq!(ran.stderr.matches("ended within the model's thinking").count(), 2, "{ran:#?}");
    }
    let shown = chat(&place, &template, "the rain\n");
    assert!(shown.succeeds().stdout.len() > 1 && shown.stderr.is_empty(), "{shown:#?}");
}
