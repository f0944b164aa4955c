//! Where chat messages come from: a line editor on a terminal, otherwise lines of stdin.

use std::env;
use std::fs;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Stdin};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::{Behavior, CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{FileHistory, History as _};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Context, Editor, Helper, KeyCode, KeyEvent, Modifiers};

use crate::chat::command;
use crate::cli::chat::settings;
use crate::cli::failure::Failure;
use crate::cli::folders;
use crate::cli::input::{MAX_BYTES, read_file};
use crate::cli::output::stderr_line;
use crate::encoding::{Utf8, without_mark};
use crate::store::private;
use crate::store::sessions::Sessions;

/// Number of messages kept in the input history.
const MAX_HISTORY: usize = 1000;

/// One unit of input.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A message or a command; a block in `"""` is complete.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of stdin.
    End,
}

/// Source of messages.
pub enum Source {
    /// A terminal.
    Terminal(Box<Terminal>),
    /// Lines of stdin.
    Piped(BufReader<Utf8<Stdin>>),
}

impl Source {
    /// Opens the stdin of this process.
    ///
    /// # Errors
    /// If the terminal cannot be used, or stdin is empty.
    pub fn of_stdin(sessions: Option<Sessions>, keeps_history: bool) -> Result<Source, Failure> {
        if io::stdin().is_terminal() {
            return Terminal::new(sessions, keeps_history).map(|terminal| Source::Terminal(Box::new(terminal)));
        }
        let mut stdin = BufReader::new(Utf8::new(io::stdin()));
        let is_at_end = stdin.fill_buf().map_err(|error| Failure::io(Path::new("stdin"), &error))?.is_empty();
        if is_at_end {
            return Err(Failure::usage("there is no message: stdin is empty")
                .with_hint("for a single prompt, use chaski run -p TEXT"));
        }
        Ok(Source::Piped(stdin))
    }

    /// Whether the source is a terminal.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Source::Terminal(_))
    }

    /// The next message or command.
    ///
    /// # Errors
    /// If the source fails, or is not UTF-8.
    pub fn next(&mut self, prompt: &str) -> Result<Typed, Failure> {
        match self {
            Source::Terminal(terminal) => terminal.next(prompt),
            Source::Piped(stdin) => next_piped(stdin),
        }
    }
}

/// Reads a line, or all lines of a block.
fn next_piped(stdin: &mut impl io::BufRead) -> Result<Typed, Failure> {
    let mut text = String::new();
    loop {
        let mut line = Vec::new();
        let room = MAX_BYTES.saturating_sub(text.len() as u64);
        let n = stdin.by_ref().take(room + 1).read_until(b'\n', &mut line);
        let n = n.map_err(|error| Failure::io(Path::new("stdin"), &error))?;
        if n as u64 > room {
            return Err(Failure::new(format!("stdin: a message has at most {} MiB", MAX_BYTES >> 20)));
        }
        let line = str::from_utf8(&line).map_err(|error| {
            Failure::new(format!("stdin: not UTF-8 at byte {} of a line", error.valid_up_to()))
                .with_hint("convert it, as in: iconv -f latin1 -t utf-8")
        })?;
        // A byte-order mark can start any line, as when files were concatenated.
        text.push_str(if text.is_empty() { without_mark(line) } else { line });
        match (command::is_open(&text), n) {
            (false, 0) if text.is_empty() => return Ok(Typed::End),
            (false, _) => return Ok(Typed::Text(text)),
            (true, 0) => {
                return Err(Failure::usage("stdin: a message that starts with \"\"\" has no end")
                    .with_hint("end it with a line that contains only \"\"\""));
            }
            (true, _) => {}
        }
    }
}

/// A line editor with its history.
pub struct Terminal {
    editor: Editor<Typing, FileHistory>,
    history: Option<PathBuf>,
}

impl Terminal {
    fn new(sessions: Option<Sessions>, keeps_history: bool) -> Result<Terminal, Failure> {
        let is_stdout = io::stdout().is_terminal();
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)
            .and_then(|config| config.history_ignore_dups(true))
            .map_err(|error| unusable(&error))?
            .completion_type(CompletionType::List)
            // The prompt is not data: if stdout is redirected, it still goes to the terminal.
            .behavior(if is_stdout { Behavior::Stdio } else { Behavior::PreferTerm })
            .build();
        let mut editor = Editor::with_config(config).map_err(|error| unusable(&error))?;
        editor.set_helper(Some(Typing { files: FilenameCompleter::new(), sessions }));
        // Terminals send Esc and Enter for Alt-Enter.
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        let history = history_path().filter(|_| keeps_history);
        if let Some(path) = history.as_deref().filter(|path| path.exists())
            && let Err(error) = editor.load_history(path)
        {
            stderr_line(&format!("notice: {}: {error}; the input history starts empty", path.display()));
        }
        Ok(Terminal { editor, history })
    }

    fn next(&mut self, prompt: &str) -> Result<Typed, Failure> {
        match self.editor.readline(prompt) {
            Ok(text) => {
                self.remember(&text);
                Ok(Typed::Text(without_mark(&text).to_owned()))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Typed::Interrupt),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(unusable(&error)),
        }
    }

    /// Adds a message to the history, on disk too: a chat may end at any time.
    fn remember(&mut self, text: &str) {
        let is_new = !text.trim().is_empty() && self.editor.add_history_entry(text).unwrap_or(false);
        let Some(path) = self.history.as_deref().filter(|_| is_new) else { return };
        let folder = path.parent().unwrap_or(Path::new("."));
        // rustyline creates the file with owner-only permissions.
        let kept = private::make_folder(folder).map_err(ReadlineError::from);
        if let Err(error) = kept.and_then(|()| self.editor.history_mut().append(path)) {
            stderr_line(&format!("notice: {}: {error}; the input history is not saved", path.display()));
            self.history = None;
        }
    }
}

fn unusable(error: &ReadlineError) -> Failure {
    Failure::new(format!("cannot use the terminal: {error}"))
}

/// The history is state, not cache: it cannot be regenerated.
fn history_path() -> Option<PathBuf> {
    Some(folders::state()?.join("history"))
}

/// Completion, and input of blocks.
struct Typing {
    files: FilenameCompleter,
    sessions: Option<Sessions>,
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let Some((name, argument)) = typed.split_once(' ') else {
            let names = command::names().map(|name| format!("/{name}"));
            return Ok((0, beginning(names, typed, typed.starts_with('/'))));
        };
        let start = pos - argument.len();
        match name {
            "/read" => self.files.complete_path(line, pos),
            "/save" | "/load" => {
                let names = self.sessions.as_ref().and_then(|sessions| sessions.names().ok()).unwrap_or_default();
                Ok((start, beginning(names, argument, true)))
            }
            "/set" => Ok((start, beginning(settings::keys(), argument, true))),
            _ => Ok((pos, Vec::new())),
        }
    }
}

/// Names that start with what is typed.
fn beginning(names: impl IntoIterator<Item = String>, typed: &str, is_wanted: bool) -> Vec<Pair> {
    let names = names.into_iter().filter(|name| is_wanted && name.starts_with(typed));
    names.map(|name| Pair { display: name.clone(), replacement: name }).collect()
}

impl Validator for Typing {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let is_open = command::is_open(context.input());
        Ok(if is_open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Hinter for Typing {
    type Hint = String;
}

impl Highlighter for Typing {}

impl Helper for Typing {}

/// Lets the user edit a text in `$VISUAL` or `$EDITOR`.
///
/// # Errors
/// If there is no editor, or it fails.
pub fn edit(text: &str) -> Result<String, Failure> {
    let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR"));
    let editor = editor.ok_or_else(|| Failure::new("there is no editor").with_hint("set VISUAL or EDITOR"))?;
    let failure = |error: &dyn std::fmt::Display| Failure::new(format!("{editor}: {error}"));
    // Temporary files of this crate are readable by the owner only.
    let file = tempfile::Builder::new().prefix("chaski-").suffix(".md").tempfile().map_err(|error| failure(&error))?;
    fs::write(file.path(), text).map_err(|error| Failure::io(file.path(), &error))?;
    // The variable may contain arguments, as in `code --wait`, so a shell splits it.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(file.path()).status();
    let status = status.map_err(|error| failure(&error))?;
    if !status.success() {
        return Err(failure(&status).with_hint("the message is unchanged"));
    }
    read_file(file.path(), MAX_BYTES, "a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut input: &[u8]) -> Result<Vec<String>, String> {
        let mut messages = Vec::new();
        loop {
            match next_piped(&mut input).map_err(|failure| failure.to_string())? {
                Typed::Text(text) => messages.push(text),
                _ => return Ok(messages),
            }
        }
    }

    #[test]
    fn each_line_or_block_is_one() {
        assert_eq!(all(b"a\n\nb").unwrap(), ["a\n", "\n", "b"]);
        assert_eq!(all(b"\"\"\"\na\nb\n\"\"\"\nc\n").unwrap(), ["\"\"\"\na\nb\n\"\"\"\n", "c\n"]);
        assert!(all(b"\"\"\"\na\n").unwrap_err().contains("has no end"));
        assert!(all(b"a\xff\n").unwrap_err().contains("not UTF-8 at byte 1"));
        assert!(all(b"").unwrap().is_empty());
        assert_eq!(all("a\n\u{feff}/system b\n\u{feff}".as_bytes()).unwrap(), ["a\n", "/system b\n", ""]);
    }
}
