//! Parses the lines typed into a chat: a message, a block of lines between `"""`, or a command that starts with `/`.
//!
//! It only parses; `cli::chat` executes the commands.

use std::fmt::Write as _;

/// Starts and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// The command whose text may be in quotes.
const QUOTABLE: &str = "/system";

/// A parsed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// An empty line.
    Empty,
    /// A message to answer.
    Message(String),
    /// A command to execute.
    Command(Command),
}

/// A chat command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Answer the last message again.
    Regen,
    /// Remove the last message and its answer.
    Undo,
    /// Change the last message in an editor, and answer it again.
    Edit,
    /// Put a file before the next message.
    Read(String),
    /// Set the system prompt; an empty text removes it.
    System(String),
    /// Set the value of a key.
    Set(String, String),
    /// Show the settings and the state of the chat.
    Show,
    /// Show how fast the last answer was.
    Stats,
    /// Save the chat under a name.
    Save(String),
    /// Continue a saved chat.
    Load(String),
    /// List the saved chats.
    List,
    /// Start a new chat.
    Clear,
    /// Leave the chat.
    Exit,
}

/// Why a line is not a valid command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no command with this name.
    #[error("there is no command /{0}")]
    Unknown(String),
    /// The argument is missing.
    #[error("/{0} needs {1}")]
    Missing(&'static str, &'static str),
    /// The command takes no argument.
    #[error("/{0} takes no argument, but got {1:?}")]
    Unwanted(&'static str, String),
}

impl CommandError {
    /// What to type instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            CommandError::Unknown(name) => match nearest(name) {
                Some(known) => format!(
                    "did you mean /{known}? /help lists all commands; to send a message that \
                                        starts with /, put it between \"\"\""
                ),
                None => {
                    "/help lists all commands; to send a message that starts with /, put it between \"\"\"".to_owned()
                }
            },
            CommandError::Missing(name, _) | CommandError::Unwanted(name, _) => {
                SPECS.iter().find(|spec| spec.name == *name).map_or_else(String::new, Spec::usage)
            }
        }
    }
}

/// A command's name, argument and help text.
struct Spec {
    name: &'static str,
    /// Placeholder of the argument; empty if the command takes none.
    argument: &'static str,
    help: &'static str,
    make: fn(String) -> Command,
}

impl Spec {
    fn usage(&self) -> String {
        format!("/{} {}", self.name, self.argument).trim_end().to_owned()
    }
}

const fn spec(name: &'static str, argument: &'static str, help: &'static str, make: fn(String) -> Command) -> Spec {
    Spec { name, argument, help, make }
}

/// All commands, in the order of `/help`.
const SPECS: [Spec; 14] = [
    spec("help", "", "list the commands (also /?)", |_| Command::Help),
    spec("regen", "", "answer the last message again, with another seed", |_| Command::Regen),
    spec("undo", "", "remove the last message and its answer", |_| Command::Undo),
    spec("edit", "", "change the last message in $VISUAL or $EDITOR, and answer it again", |_| Command::Edit),
    spec("read", "FILE", "put a file before your next message", Command::Read),
    spec("system", "TEXT", "set the system prompt; without TEXT, remove it", Command::System),
    spec("set", "KEY VALUE", "change a setting, as in /set temp 0.5; VALUE default resets it", set),
    spec("show", "", "show the settings and the state of the chat", |_| Command::Show),
    spec("stats", "", "show how fast the last answer was", |_| Command::Stats),
    spec("save", "NAME", "save this chat now and after each answer", Command::Save),
    spec("load", "NAME", "switch to another saved chat", Command::Load),
    spec("list", "", "list the saved chats", |_| Command::List),
    spec("clear", "", "start a new chat; a saved chat keeps its messages", |_| Command::Clear),
    spec("exit", "", "leave (also /quit, /bye, /q, or Ctrl-D)", |_| Command::Exit),
];

fn set(argument: String) -> Command {
    let (key, value) = argument.split_once(char::is_whitespace).unwrap_or((&argument, ""));
    Command::Set(key.to_owned(), value.trim().to_owned())
}

/// The commands' names, in the order of `/help`.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPECS.iter().map(|spec| spec.name)
}

/// The text of `/help`.
#[must_use]
pub fn help() -> String {
    let mut text = String::new();
    for spec in &SPECS {
        let _ = writeln!(text, "{:<15} {}", spec.usage(), spec.help);
    }
    text + "\"\"\"             starts and ends a message of several lines\nAlt-Enter       starts another line of \
            the same message\nCtrl-C          stops an answer and keeps what is there\nCtrl-R          searches what \
            you typed before\n"
}

/// Whether more lines follow: quotes are open.
#[must_use]
pub fn is_open(text: &str) -> bool {
    quoted(text).is_some_and(|quoted| quoted.trim_end().strip_suffix(QUOTES).is_none())
}

/// Parses a complete line or block.
///
/// # Errors
/// When the text starts like a command but is not a valid one.
pub fn parse(text: &str) -> Result<Line, CommandError> {
    let trimmed = text.trim();
    if let Some(rest) = trimmed.strip_prefix('/').filter(|rest| is_command(rest)) {
        return command(rest).map(Line::Command);
    }
    let message = unquoted(trimmed);
    Ok(if message.trim().is_empty() { Line::Empty } else { Line::Message(message) })
}

/// Whether the text after a `/` can be meant as a command: a word of letters, or nearly a command's name. `// comment`,
/// `/usr/bin` and `/24` are messages.
fn is_command(rest: &str) -> bool {
    let name = rest.split(char::is_whitespace).next().unwrap_or_default();
    // Accept `/exit.`, and `/ help`.
    let word = name.trim_end_matches(|c: char| c.is_ascii_punctuation() && c != '/' && c != '*');
    match word {
        "" if name.is_empty() => rest.trim().is_empty() || names().any(|known| rest.trim() == known),
        "" => name == "?",
        word if word.chars().all(|c| c.is_ascii_alphabetic() || c == '-' || c == '_') => true,
        word => {
            word.len() > 3 && !word.contains('/') && names().any(|known| distance(&word.to_lowercase(), known) <= 1)
        }
    }
}

fn command(rest: &str) -> Result<Command, CommandError> {
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = unquoted(argument.trim());
    // Keyboards of phones capitalize the first letter.
    let lower = name.to_ascii_lowercase();
    // Names that other programs use.
    let name = match lower.as_str() {
        "quit" | "bye" | "q" => "exit",
        "?" => "help",
        _ if SPECS.iter().any(|spec| spec.name == lower) => &lower,
        _ => name,
    };
    let spec = SPECS.iter().find(|spec| spec.name == name).ok_or_else(|| CommandError::Unknown(name.to_owned()))?;
    match (spec.argument, argument.as_str()) {
        ("", "") | ("TEXT", _) => {}
        ("", _) => return Err(CommandError::Unwanted(spec.name, argument)),
        ("KEY VALUE", given) if given.split_whitespace().count() < 2 => {
            return Err(CommandError::Missing(spec.name, "a key and a value"));
        }
        (_, "") => return Err(CommandError::Missing(spec.name, if spec.name == "read" { "a file" } else { "a name" })),
        _ => {}
    }
    Ok((spec.make)(argument))
}

/// The text after opening quotes, if there are any.
fn quoted(text: &str) -> Option<&str> {
    let text = text.trim_start();
    text.strip_prefix(QUOTABLE).map_or(text, str::trim_start).strip_prefix(QUOTES)
}

/// The text without surrounding quotes and the line breaks next to them.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix(QUOTES) else { return text.to_owned() };
    let inner = inner.trim_end();
    let inner = inner.strip_suffix(QUOTES).unwrap_or(inner);
    let inner = inner.strip_prefix('\n').unwrap_or(inner);
    inner.strip_suffix('\n').unwrap_or(inner).to_owned()
}

/// The command that was probably meant: the only one with this prefix, or the closest by edit distance.
fn nearest(name: &str) -> Option<&'static str> {
    let name = &*name.trim_end_matches(|c: char| c.is_ascii_punctuation()).to_ascii_lowercase();
    let mut beginning = names().filter(|known| !name.is_empty() && known.starts_with(name));
    match (beginning.next(), beginning.next()) {
        (Some(known), None) => Some(known),
        _ => names().map(|known| (distance(name, known), known)).min().filter(|(n, _)| *n <= 2).map(|(_, known)| known),
    }
}

/// Levenshtein distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().take(32).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Result<Line, CommandError> {
        Ok(Line::Message(text.to_owned()))
    }

    #[test]
    fn messages_stay_as_they_are() {
        assert_eq!(parse("  what is 1/2? "), message("what is 1/2?"));
        assert_eq!(parse("a\n/exit"), message("a\n/exit"));
        assert_eq!((parse(""), parse(" \n ")), (Ok(Line::Empty), Ok(Line::Empty)));
    }

    #[test]
    fn a_block_is_one_message_whatever_it_holds() {
        assert_eq!(parse("\"\"\"\n/exit\n  two\n\"\"\""), message("/exit\n  two"));
        assert_eq!(parse("\"\"\"one\"\"\""), message("one"));
        assert_eq!(parse("\"\"\"\"\"\""), Ok(Line::Empty));
        let system = Command::System("be brief\nbe kind".to_owned());
        assert_eq!(parse("/system \"\"\"\nbe brief\nbe kind\n\"\"\""), Ok(Line::Command(system)));
    }

    #[test]
    fn a_block_is_open_until_it_is_closed() {
        for open in ["\"\"\"", "\"\"\"a", "\"\"\"\na\n", " \"\"\"a\n\"\"\" b", "/system \"\"\"a"] {
            assert!(is_open(open), "{open:?}");
        }
        for closed in ["", "a", "a \"\"\"", "\"\"\"a\"\"\"", "\"\"\"\na\n\"\"\" ", "/read \"\"\"a", "/system a"] {
            assert!(!is_open(closed), "{closed:?}");
        }
    }

    #[test]
    fn commands_take_what_they_should() {
        assert_eq!(parse("/regen"), Ok(Line::Command(Command::Regen)));
        assert_eq!(parse(" /quit "), Ok(Line::Command(Command::Exit)));
        assert_eq!(parse("/read  my notes.txt "), Ok(Line::Command(Command::Read("my notes.txt".to_owned()))));
        assert_eq!(parse("/set temp 0.5"), Ok(Line::Command(Command::Set("temp".to_owned(), "0.5".to_owned()))));
        assert_eq!(parse("/system"), Ok(Line::Command(Command::System(String::new()))));
    }

    #[test]
    fn mistakes_are_told_with_what_to_type() {
        let mistake = |text| {
            let error = parse(text).unwrap_err();
            format!("{error}; {}", error.hint())
        };
        assert!(
            mistake("/imagine a cat")
                .starts_with("there is no command /imagine; /help lists all commands; to send a message")
        );
        assert!(mistake("/exti").contains("; did you mean /exit? "));
        assert!(mistake("/exit.").contains("; did you mean /exit? "));
        assert!(mistake("/hel1").contains("; did you mean /help? "));
        assert!(mistake("/ help").contains("there is no command /;"));
        assert!(mistake("/regne").contains("; did you mean /regen? "));
        assert!(mistake("/sy").contains("; did you mean /system? "));
        assert_eq!(mistake("/read"), "/read needs a file; /read FILE");
        assert_eq!(mistake("/set temp"), "/set needs a key and a value; /set KEY VALUE");
        assert_eq!(mistake("/undo all"), "/undo takes no argument, but got \"all\"; /undo");
        assert!(mistake("/").contains("there is no command /;"));
    }

    #[test]
    fn issue_13_14_paths_and_comments_are_messages() {
        for text in [
            "// comment",
            "//exit",
            "/usr/bin is full",
            "/etc/passwd",
            "/home/me/notes.txt: what is this?",
            "/* a comment */",
            "/24 is how many addresses?",
            "/[a-z]+/ matches what?",
            "/ 2 = ?",
            "/r/rust, what is it?",
            "/dev/null",
            "/",
        ] {
            match text {
                "/" => assert!(parse(text).is_err()),
                text => assert_eq!(parse(text), message(text), "{text}"),
            }
        }
        assert_eq!(parse("/EXIT"), Ok(Line::Command(Command::Exit)));
        assert_eq!(parse("/?"), Ok(Line::Command(Command::Help)));
    }

    proptest! {
        #[test]
        fn no_word_after_a_slash_is_a_message(word in "[A-Za-z]+", rest in "( .*)?") {
            let parsed = parse(&format!("/{word}{rest}"));
            prop_assert!(!matches!(parsed, Ok(Line::Message(_))), "{:?}", parsed);
        }

        #[test]
        fn issue_13_14_what_begins_with_a_slash_is_a_message_or_not_one_but_never_lost(rest in "\\PC*") {
            let typed = format!("/{rest}");
            if let Ok(Line::Message(text)) = parse(&typed) {
                prop_assert_eq!(text, typed.trim());
            }
        }

        #[test]
        fn what_is_quoted_comes_back(text in "[a-z/\n ]{0,20}[a-z]") {
            let typed = format!("\"\"\"\n{text}\n\"\"\"");
            prop_assert!(!is_open(&typed) && is_open(&typed[..typed.len() - 1]));
            prop_assert_eq!(parse(&typed), message(&text));
        }

        #[test]
        fn the_distance_is_a_metric(a in "[ab]{0,6}", b in "[ab]{0,6}", c in "[ab]{0,6}") {
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }
    }
}
