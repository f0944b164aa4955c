//! Runs what the user types in a chat. All messages here go to stderr: stdout is for answers.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustyline::completion::unescape;

use crate::chat::command::{self, Command, Line};
use crate::chat::session::{Session, Turn, next_seed};
use crate::cli::chat::conversation::Conversation;
use crate::cli::chat::editor;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::input::{join, read_all};
use crate::cli::output::{stats_line, stderr_line};
use crate::gguf::ModelId;
use crate::store::sessions::{Place, Sessions};
use crate::text::sanitize_for_terminal;

/// Longest part of a message that a notice quotes, in characters.
const MAX_TOLD: usize = 60;

/// Whether the chat continues after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The chat continues.
    GoOn,
    /// The user leaves the chat.
    Leave,
}

/// A running chat and the folder of saved chats.
pub struct Chat {
    /// The current conversation.
    pub conversation: Conversation,
    /// Saved chats; `None` if the system has no data folder.
    pub sessions: Option<Sessions>,
    /// Whether the input is a terminal.
    pub is_terminal: bool,
    /// Texts of `/read`, to be sent before the next message.
    pub reading: Vec<String>,
}

impl Chat {
    /// Answers a message, or runs a command.
    ///
    /// # Errors
    /// If that fails; the conversation is then unchanged.
    pub fn take(&mut self, typed: &str) -> Result<Flow, Failure> {
        let line = command::parse(typed).map_err(|error| Failure::usage(error.to_string()).with_hint(error.hint()))?;
        match line {
            Line::Empty => {}
            Line::Command(Command::Exit) => return Ok(Flow::Leave),
            Line::Command(command) => self.execute(command)?,
            Line::Message(message) => {
                let parts: Vec<&str> = self.reading.iter().map(String::as_str).chain([&*message]).collect();
                let asked = self.conversation.ask(&join(&parts).unwrap_or_default(), None);
                let is_too_long = asked.as_ref().is_err_and(|failure| failure.code == ExitCode::PromptTooLong);
                // Otherwise no later message would fit either.
                if is_too_long && !self.reading.is_empty() {
                    tell("notice: your next message goes without the files of /read");
                }
                if is_too_long || asked.is_ok() {
                    self.reading.clear();
                }
                asked?;
            }
        }
        Ok(Flow::GoOn)
    }

    fn execute(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Help => tell(&command::help()),
            Command::Regen => self.regen()?,
            Command::Undo => self.undo()?,
            Command::Edit => self.edit()?,
            Command::Read(path) => self.read(&path)?,
            Command::System(text) => self.system(text)?,
            Command::Set(key, value) => self.set(&key, &value)?,
            Command::Show => self.show(),
            Command::Stats => match &self.conversation.stats {
                Some((stats, seed)) => tell(&stats_line(stats, Some(*seed))),
                None => tell("there is no answer yet"),
            },
            Command::Save(name) => self.save(&name)?,
            Command::Load(name) => self.load(&name)?,
            Command::List => self.list()?,
            Command::Clear => self.clear(),
            // The caller handles it.
            Command::Exit => {}
        }
        Ok(())
    }

    fn last_turn(&mut self) -> Result<(Session, Turn), Failure> {
        let before = self.conversation.session.clone();
        let turn = self.conversation.session.undo();
        turn.map(|turn| (before, turn)).ok_or_else(|| Failure::new("there is no message yet"))
    }

    /// Asks in place of the last turn. Restores `before` if there is no answer.
    fn ask_anew(&mut self, before: Session, message: &str, seed: Option<u32>) -> Result<(), Failure> {
        let n_turns = self.conversation.session.turns.len();
        let asked = self.conversation.ask(message, seed);
        if self.conversation.session.turns.len() == n_turns {
            self.conversation.session = before;
        }
        asked
    }

    fn regen(&mut self) -> Result<(), Failure> {
        if self.conversation.settings.sampling.temperature <= 0.0 {
            tell("notice: at temperature 0 the answer will be the same again; hint: /set temp 0.8");
        }
        let (before, turn) = self.last_turn()?;
        self.ask_anew(before, &turn.user, Some(next_seed(turn.seed)))
    }

    fn undo(&mut self) -> Result<(), Failure> {
        let (_, turn) = self.last_turn()?;
        tell(&format!("removed: {}", beginning(&turn.user)));
        self.conversation.keep()
    }

    fn edit(&mut self) -> Result<(), Failure> {
        if !self.is_terminal {
            return Err(Failure::usage("/edit needs a terminal"));
        }
        let last = self.conversation.session.turns.last().map(|turn| turn.user.clone());
        let edited = editor::edit(last.as_deref().unwrap_or_default());
        // A terminal sends Ctrl-C to the editor and to chaski; this one was for the editor.
        self.conversation.engine.signals.take();
        let message = edited?;
        let message = message.trim();
        if message.is_empty() || last.as_deref() == Some(message) {
            tell("nothing changed");
            return Ok(());
        }
        let before = self.conversation.session.clone();
        self.conversation.session.undo();
        self.ask_anew(before, message, None)
    }

    fn read(&mut self, path: &str) -> Result<(), Failure> {
        let path = path_of(path);
        let file = File::open(&path).map_err(|error| Failure::io(&path, &error))?;
        let text = read_all(file, &path.display().to_string())?;
        tell(&format!("{}: {} bytes will go before your next message", path.display(), text.len()));
        self.reading.push(text);
        Ok(())
    }

    fn system(&mut self, text: String) -> Result<(), Failure> {
        tell(if text.is_empty() { "the system prompt is removed" } else { "the system prompt is set" });
        self.conversation.session.system = Some(text).filter(|text| !text.is_empty());
        self.conversation.keep()
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        self.conversation.settings = self.conversation.settings.with(key, value)?;
        let value = self.conversation.settings.shown.get(key).map(|values| values.join(" ")).unwrap_or_default();
        tell(&format!("{key} is now {value}"));
        self.conversation.keep()
    }

    fn show(&mut self) {
        let n_used = self.conversation.n_used();
        let chat = &self.conversation;
        let (session, engine) = (&chat.session, &chat.engine);
        let name = chat.place.as_ref().map_or("not saved; type /save NAME to save it", Place::name);
        let left_out = match session.n_left_out {
            0 => String::new(),
            n => format!("; the oldest {} no longer fit into the context", 2 * n),
        };
        let mut text = format!("model     {}\nchat      {name}\n", engine.model.name());
        let _ = writeln!(text, "context   {n_used} of {} tokens", engine.n_ctx);
        let _ = writeln!(text, "messages  {}{left_out}", 2 * session.turns.len());
        for (name, value) in [("system", &session.system), ("summary", &session.summary)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name:<9} {value}");
            }
        }
        for (key, values) in &chat.settings.shown {
            let _ = writeln!(text, "/set {key} {}", values.join(" "));
        }
        tell(&text);
    }

    fn sessions(&self) -> Result<&Sessions, Failure> {
        self.sessions.as_ref().ok_or_else(no_folder)
    }

    fn is_called(&self, name: &str) -> bool {
        self.conversation.place.as_ref().is_some_and(|place| place.name() == name)
    }

    fn save(&mut self, name: &str) -> Result<(), Failure> {
        if !self.is_called(name) {
            let place = self.sessions()?.create(name)?;
            let before = self.conversation.place.replace(place);
            if let Err(failure) = self.conversation.keep() {
                self.conversation.place = before;
                return Err(failure);
            }
        }
        tell(&format!("saved as {name}, from now on; to continue it later: chaski chat {name}"));
        Ok(())
    }

    fn load(&mut self, name: &str) -> Result<(), Failure> {
        if self.is_called(name) {
            tell(&format!("{name} is already open"));
            return Ok(());
        }
        if self.conversation.place.is_none() && !self.conversation.session.turns.is_empty() {
            return Err(Failure::new("this chat is not saved yet")
                .with_hint("type /save NAME to save it, or /clear to discard it"));
        }
        let (place, session) = self.sessions()?.resume(name)?;
        let settings = self.conversation.settings.of_other(session.settings.clone())?;
        tell(&format!("{name}: {} messages", 2 * session.turns.len()));
        tell_other_model(&session, &self.conversation.engine.model);
        let chat = &mut self.conversation;
        (chat.place, chat.session, chat.settings) = (Some(place), session, settings);
        chat.recall()
    }

    fn list(&self) -> Result<(), Failure> {
        let entries = self.sessions()?.list()?;
        if entries.is_empty() {
            tell("no saved chats; type /save NAME to save this one");
        }
        for entry in entries {
            let ago = entry.written.and_then(|time| SystemTime::now().duration_since(time).ok());
            let ago = ago.map(|ago| format!(", {}", in_words(ago.as_secs()))).unwrap_or_default();
            let what = entry.n_turns.map_or("unreadable".to_owned(), |n| format!("{} messages", 2 * n));
            tell(&format!("{:<16} {what}{ago}", entry.name));
        }
        Ok(())
    }

    fn clear(&mut self) {
        let chat = &mut self.conversation;
        chat.session = Session { system: chat.session.system.take(), ..Session::default() };
        match chat.place.take() {
            Some(place) => tell(&format!("new chat, not saved; {} keeps its messages", place.name())),
            None => tell("new chat"),
        }
    }
}

/// Prints a notice if another model wrote the answers so far.
pub fn tell_other_model(session: &Session, model: &ModelId) {
    if session.model != *model && !session.turns.is_empty() {
        tell(&format!(
            "notice: this chat was with another model ({}); this model reads its text again",
            session.model.name()
        ));
    }
}

/// The failure for a user without a home folder.
#[must_use]
pub fn no_folder() -> Failure {
    Failure::new("there is no folder for saved chats").with_hint("set HOME or XDG_DATA_HOME")
}

/// Writes lines to stderr, without control sequences.
pub fn tell(text: &str) {
    stderr_line(&sanitize_for_terminal(text.trim_end()));
}

/// Parses a path as typed or completed: in quotes, or with backslashes before blanks; `~` is the home folder.
fn path_of(typed: &str) -> PathBuf {
    let quoted = ['"', '\''].iter().find_map(|&quote| typed.strip_prefix(quote)?.strip_suffix(quote));
    let path = quoted.map_or_else(|| unescape(typed, Some('\\')), Into::into);
    match (path.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        _ => Path::new(&*path).to_owned(),
    }
}

/// The beginning of a message, on one line.
fn beginning(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(MAX_TOLD).collect();
    if shown.len() < text.trim_end().len() { format!("{shown}...") } else { shown }
}

fn in_words(ago_s: u64) -> String {
    match ago_s {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", ago_s / 60),
        3600..86400 => format!("{} h ago", ago_s / 3600),
        _ => format!("{} days ago", ago_s / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_what_was_typed() {
        assert_eq!(path_of("a\\ b.txt"), Path::new("a b.txt"));
        assert_eq!(path_of("'a b.txt'"), Path::new("a b.txt"));
        assert_eq!(path_of("\"a\\b\""), Path::new("a\\b"));
        assert!(!path_of("~/a").starts_with("~"));
    }

    #[test]
    fn a_message_is_told_in_a_line() {
        assert_eq!((beginning("a\n"), beginning("a\nb")), ("a".to_owned(), "a...".to_owned()));
        assert_eq!(beginning(&"é".repeat(61)), "é".repeat(60) + "...");
        assert_eq!((in_words(5), in_words(200_000)), ("just now".to_owned(), "2 days ago".to_owned()));
    }
}
