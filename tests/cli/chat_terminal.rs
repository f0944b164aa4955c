//! `chaski chat` on a terminal: keys in, a screen out. The answers on the screen must be the saved ones.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};
use serde_json::Value;

use super::harness::{CHASKI, PATIENCE, PROMPT, Workplace, real_model};

/// Only while it waits for keys is the editor silent for this long: it redraws the prompt with every change of a line.
const PAUSE: Duration = Duration::from_millis(400);

/// A chat on a terminal. Its output is read without escape sequences.
struct Screen {
    session: PtySession,
}

impl Screen {
    fn start(command: Command) -> Screen {
        let options = Options::new().strip_ansi_escape_codes(true);
        Screen { session: spawn_with_options(command, options).unwrap() }
    }

    fn keys(&mut self, keys: &str) {
        self.session.send(keys).unwrap();
        self.session.flush().unwrap();
    }

    /// Reads output until there is enough and nothing more arrives for `pause`.
    fn read_until(&mut self, is_enough: impl Fn(&[u8]) -> bool, pause: Duration) -> String {
        let (mut shown, start) = (Vec::new(), Instant::now());
        let mut newest = start;
        while newest.elapsed() < pause || !is_enough(&shown) {
            match self.session.try_read() {
                // rexpect turns each byte into a character.
                Some(byte) => {
                    shown.push(byte as u8);
                    newest = Instant::now();
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
            let text = || String::from_utf8_lossy(&shown).into_owned();
            assert!(start.elapsed() < PATIENCE, "waited in vain; shown: {:?}", text());
        }
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// The lines up to the next prompt, and the number of used tokens that the prompt shows.
    fn prompt(&mut self) -> (Vec<String>, usize) {
        let shown = self.read_until(
            |shown| {
                let shown = String::from_utf8_lossy(shown);
                shown.contains("\r\n") && used(&shown).is_some()
            },
            PAUSE,
        );
        let (before, _) = shown.rsplit_once("\r\n").unwrap();
        (lines(before), used(&shown).unwrap())
    }

    /// Types keys and Enter, and returns the output after the typed line.
    fn line(&mut self, keys: &str) -> String {
        self.keys(&format!("{keys}\r"));
        self.prompt().0[1..].join("\n")
    }

    /// Types the keys that end the chat, and waits for its end.
    fn leave(mut self, keys: &str) {
        self.keys(keys);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            // Unread output would keep the chat from ending.
            while self.session.try_read().is_some() {}
            match self.session.process().status().map(|status| format!("{status:?}")) {
                Some(status) if status != "StillAlive" => break status,
                _ => thread::sleep(Duration::from_millis(2)),
            }
            assert!(Instant::now() < deadline, "the chat does not end");
        };
        assert!(status.starts_with("Exited(") && status.ends_with(", 0)"), "{status}");
    }
}

/// The lines as finally shown: text after a carriage return overwrites the line.
fn lines(shown: &str) -> Vec<String> {
    let at_last = |line: &str| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned();
    shown.split('\n').map(at_last).collect()
}

/// The number of used tokens in a prompt at the end of the output.
fn used(shown: &str) -> Option<usize> {
    let (_, prompt) = shown.trim_end_matches('\r').rsplit_once("\r[")?;
    let (n_used, n_ctx) = prompt.strip_suffix("] > ")?.split_once('/')?;
    n_ctx.parse::<usize>().ok()?;
    n_used.parse().ok()
}

/// The command without the harness's streams, which would replace the terminal.
fn command(place: &Workplace, model: &Path, arguments: &[&str]) -> Command {
    let usual = place.command(&["chat", "--curve-budget", "20", "--color", "never"]);
    let mut command = Command::new(usual.get_program());
    command.args(usual.get_args()).args(arguments).current_dir(usual.get_current_dir().unwrap());
    for (name, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("XDG_DATA_HOME", place.path("data")).env("XDG_STATE_HOME", place.path("state"));
    command.env("LLAMA_ARG_MODEL", model).env("TERM", "xterm").env_remove("VISUAL").env("EDITOR", "sed -i s/rain/sun/");
    command
}

/// The saved messages and answers; answers as a screen shows them.
fn kept(place: &Workplace) -> Vec<(String, String)> {
    let session = fs::read(place.path("data/chaski/sessions/rain.json")).unwrap();
    let session: Value = serde_json::from_slice(&session).unwrap();
    let text = |message: &Value| message["content"].as_str().unwrap().to_owned();
    let shown = |text: String| text.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect::<String>();
    let pairs = session["messages"].as_array().unwrap().chunks(2);
    pairs.map(|pair| (text(&pair[0]), shown(text(&pair[1])).trim_end_matches('\n').to_owned())).collect()
}

/// A chat that uses every feature, and its continuation on another day.
fn play(model: &Path, n_ctx: &str, n_endless: &str) {
    let place = Workplace::new();
    let mut screen = Screen::start(command(&place, model, &["-s", "7", "-n", "16", "-c", n_ctx]));
    let (greeting, n_used) = screen.prompt();
    assert!(
        greeting.join("\n").contains("seed 7; type /help for the commands, Ctrl-D to leave") && n_used == 0,
        "{greeting:?}"
    );
    screen.keys("\x03");
    assert_eq!(screen.prompt().0.last().map(String::as_str), Some("hint: press Ctrl-D or type /exit to leave"));

    // A corrected typo, a paste of two lines, a block, a history search, a completed command.
    let mut answers = vec![screen.line("the raim\x7fn in the station")];
    answers.push(screen.line("\x1b[200~is it\rthe station\x1b[201~"));
    screen.keys("\"\"\"\rhe said\r\"\"\"");
    let third = screen.line("");
    let undone = screen.line("/undo");
    assert!(undone.starts_with("removed: he said"), "{undone:?} after {third:?}, {answers:?}");
    let again = screen.line("\x12rain");
    // The answers of a real model may begin alike.
    let is_random = model == Path::new("model.gguf");
    assert!(again != third || !is_random, "the same message at another place: {again:?}");
    answers.push(screen.line("/reg\t"));
    assert!(answers[2] != again || !is_random, "another seed: {again:?}");
    let told = screen.line("/nope");
    assert!(
        told.contains("error: there is no command /nope") && told.contains("hint: /help lists all commands"),
        "{told}"
    );
    assert!(screen.line("/save rain").contains("saved as rain"));
    answers.push(screen.line("/edit"));

    // A very long answer, interrupted.
    assert_eq!(screen.line(&format!("/set n-predict {n_endless}")), format!("n-predict is now {n_endless}"));
    assert_eq!(screen.line("/set ignore-eos true"), "ignore-eos is now true");
    screen.keys("he said\r");
    // The spinner is not ASCII.
    let is_bar = |line: &str| line.starts_with("read") || line.starts_with(|first: char| !first.is_ascii());
    let has_text = |shown: &[u8]| {
        lines(&String::from_utf8_lossy(shown)).get(1).is_some_and(|line| line.len() > 4 && !is_bar(line))
    };
    let mut stopped = screen.read_until(has_text, Duration::ZERO);
    screen.keys("\x03");
    stopped += &screen.read_until(|shown| used(&String::from_utf8_lossy(shown)).is_some(), PAUSE);
    assert!(stopped.contains("notice: interrupted; the chat keeps this part of the answer"), "{stopped}");
    answers.push(lines(&stopped).join("\n").replace("^C", ""));
    screen.leave("\x04");

    // Another day; one key up is the newest message in the history.
    let mut screen = Screen::start(command(&place, model, &["rain", "-n", "16", "-c", n_ctx]));
    let (greeting, n_used) = screen.prompt();
    assert!(greeting.join("\n").contains("rain: 8 messages") && n_used > 0, "{greeting:?}");
    answers.push(screen.line("\x1b[A"));
    screen.leave("/exit\r");

    let kept = kept(&place);
    let messages: Vec<&str> = kept.iter().map(|(message, _)| message.as_str()).collect();
    assert_eq!(messages, [PROMPT, "is it\nthe station", "the sun in the station", "he said", "he said"]);
    answers.remove(2);
    for (n, ((_, answer), shown)) in kept.iter().zip(&answers).enumerate() {
        // On Ctrl-C, a terminal discards output that it has not shown yet. So only the start of the interrupted answer
        // is sure to be on the screen.
        let n_sure = if n == 3 { 4 } else { usize::MAX };
        let sure: String = answer.chars().take(n_sure).collect();
        assert!(!answer.is_empty() && shown.contains(&sure), "{answer:?} is not in {shown:?}");
    }
}

#[test]
fn a_chat_from_its_first_message_to_another_day() {
    play(Path::new("model.gguf"), "60000", "50000");
}

#[test]
fn the_same_with_a_real_model() {
    if let Some(model) = real_model("the_same_with_a_real_model") {
        play(&model, "2048", "1500");
    }
}

#[test]
fn alt_enter_begins_another_line() {
    let place = Workplace::new();
    let mut screen = Screen::start(command(&place, Path::new("model.gguf"), &["-s", "7"]));
    screen.prompt();
    screen.line("is it\x1b\rthe station");
    assert!(screen.line("/save rain").contains("saved as rain"));
    screen.leave("\x04");
    assert_eq!(kept(&place)[0].0, "is it\nthe station");
}

#[test]
fn a_prompt_is_no_data() {
    let place = Workplace::new();
    let chaski = command(&place, Path::new("model.gguf"), &["-s", "7"]);
    let words: Vec<_> = std::iter::once(chaski.get_program()).chain(chaski.get_args()).collect();
    let line = words.join(" ".as_ref()).into_string().unwrap() + " >answers.txt";
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).current_dir(chaski.get_current_dir().unwrap());
    shell.envs(chaski.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut screen = Screen::start(shell);
    screen.prompt();
    assert_eq!(screen.line(PROMPT), "");
    screen.leave("\x04");
    assert_eq!(fs::read_to_string(place.path("answers.txt")).unwrap(), place.text_of(&["-p", PROMPT]) + "\n");
}

/// A terminal, but not a chat: `run` tells the user what it waits for.
#[test]
fn issue_13_1_a_terminal_is_told_that_stdin_is_waited_for() {
    let place = Workplace::new();
    let mut shell = Command::new("sh");
    let script = format!("(sleep 5; echo {PROMPT}) | \"$0\" run -q -n 2 -p rain; echo; echo over");
    shell.args(["-c", &script, CHASKI]).current_dir(place.path(""));
    for (name, value) in place.command(&[]).get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let shown = Screen::start(shell).read_until(|shown| String::from_utf8_lossy(shown).contains("over"), PAUSE);
    let waiting = "notice: reading stdin until it ends; hint: use --no-stdin if there is nothing to read";
    assert_eq!(shown.matches(waiting).count(), 1, "{shown:?}");
}
