//! Writes answers to stdout: styled and sanitized on a terminal, otherwise unchanged.

use std::env;
use std::io::{self, IsTerminal as _};

use clap::ValueEnum;

use crate::chat::markdown::{Markdown, Style};
use crate::chat::thinking::{Part, Reasoning, Thinking};
use crate::cli::failure::Failure;
use crate::cli::output::write_stdout;
use crate::text::sanitize_for_terminal;

/// When to use colors and styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal that supports them, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Properties of stdout.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    is_terminal: bool,
    is_styled: bool,
}

impl Screen {
    /// The stdout of this process.
    #[must_use]
    pub fn of_stdout(color: ColorWhen) -> Screen {
        let is_terminal = io::stdout().is_terminal();
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_styled = match color {
            ColorWhen::Auto => is_terminal && !is_dumb && !is_set("NO_COLOR"),
            ColorWhen::Always => true,
            ColorWhen::Never => false,
        };
        Screen { is_terminal, is_styled }
    }

    /// Starts the output of an answer. `is_thinking`: the prompt has opened the thinking.
    #[must_use]
    pub fn answer(self, is_thinking: bool, reasoning: Reasoning) -> AnswerOutput {
        AnswerOutput {
            screen: self,
            shows_thinking: reasoning == Reasoning::Show,
            thinking: Thinking::new(is_thinking),
            painter: Painter::default(),
            ends_line: false,
        }
    }
}

/// The output of one answer, written as it arrives.
#[derive(Debug)]
pub struct AnswerOutput {
    screen: Screen,
    shows_thinking: bool,
    thinking: Thinking,
    painter: Painter,
    ends_line: bool,
}

impl AnswerOutput {
    /// Writes a piece of text.
    ///
    /// # Errors
    /// If stdout fails.
    pub fn write(&mut self, piece: &str) -> Result<(), Failure> {
        let mut parts = Vec::new();
        self.thinking.push(piece, |part, text| parts.push((part, text.to_owned())));
        self.show(&parts)
    }

    /// Writes the rest and ends the line, so an answer with nothing to show is an empty line. Returns whether the
    /// answer ended within hidden thinking.
    ///
    /// # Errors
    /// If stdout fails.
    pub fn finish(mut self) -> Result<bool, Failure> {
        let mut parts = Vec::new();
        self.thinking.finish(|part, text| parts.push((part, text.to_owned())));
        self.show(&parts)?;
        let mut rest = String::new();
        if self.screen.is_styled {
            self.painter.finish(&mut rest);
        }
        // The painter can only hold back markers, which end no line.
        if !self.ends_line {
            rest.push('\n');
        }
        write_stdout(&rest)?;
        Ok(!self.shows_thinking && self.thinking.is_inside())
    }

    fn show(&mut self, parts: &[(Part, String)]) -> Result<(), Failure> {
        let mut shown = String::new();
        for (part, text) in parts.iter().filter(|(part, _)| self.shows_thinking || *part == Part::Answer) {
            let is_safe = !self.screen.is_terminal && !self.screen.is_styled;
            let text = if is_safe { text.into() } else { sanitize_for_terminal(text) };
            match self.screen.is_styled {
                true => self.painter.paint(*part, &text, &mut shown),
                false => shown.push_str(&text),
            }
            self.ends_line = if text.is_empty() { self.ends_line } else { text.ends_with('\n') };
        }
        if shown.is_empty() { Ok(()) } else { write_stdout(&shown) }
    }
}

/// Adds the escape sequences of styles to text.
#[derive(Debug, Default)]
struct Painter {
    markdown: Markdown,
    /// The active escape sequence; empty for none.
    sequence: String,
}

impl Painter {
    fn paint(&mut self, part: Part, text: &str, shown: &mut String) {
        if part == Part::Thinking {
            return self.put(DIM.to_owned(), text, shown);
        }
        let mut markdown = std::mem::take(&mut self.markdown);
        markdown.push(text, |style, text| self.put(sequence(style), text, shown));
        self.markdown = markdown;
    }

    fn finish(&mut self, shown: &mut String) {
        let mut markdown = std::mem::take(&mut self.markdown);
        markdown.finish(|style, text| self.put(sequence(style), text, shown));
        self.put(String::new(), "", shown);
    }

    fn put(&mut self, sequence: String, text: &str, shown: &mut String) {
        if sequence != self.sequence {
            shown.push_str(if self.sequence.is_empty() { "" } else { PLAIN });
            shown.push_str(&sequence);
            self.sequence = sequence;
        }
        shown.push_str(text);
    }
}

const PLAIN: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";

fn sequence(style: Style) -> String {
    let codes = [(style.bold, "1"), (style.marker, "2"), (style.italic, "3"), (style.code, "36")];
    let codes: Vec<&str> = codes.iter().filter(|(is_on, _)| *is_on).map(|(_, code)| *code).collect();
    if codes.is_empty() { String::new() } else { format!("\x1b[{}m", codes.join(";")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(pieces: &[&str]) -> String {
        let (mut painter, mut thinking, mut shown) = (Painter::default(), Thinking::new(false), String::new());
        for piece in pieces {
            thinking.push(piece, |part, text| painter.paint(part, text, &mut shown));
        }
        thinking.finish(|part, text| painter.paint(part, text, &mut shown));
        painter.finish(&mut shown);
        shown
    }

    #[test]
    fn styles_begin_and_end() {
        assert_eq!(painted(&["a **", "b**", " c\n"]), "a \x1b[2m**\x1b[0m\x1b[1mb\x1b[0m\x1b[2m**\x1b[0m c\n");
        assert_eq!(painted(&["`x"]), "\x1b[2m`\x1b[0m\x1b[36mx\x1b[0m");
        assert_eq!(painted(&["<think>*a*</think>\n\nb"]), "\x1b[2m<think>*a*</think>\n\n\x1b[0mb");
        assert_eq!(painted(&["plain\n"]), "plain\n");
    }
}
