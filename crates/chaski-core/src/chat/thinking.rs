//! Separates a model's thinking from its answer: a block `<think>...</think>` at the start of the text.
//!
//! Tags later in the text are part of the answer. Only an incomplete tag is held back.

/// Opens the block.
pub const OPEN: &str = "<think>";
/// Closes the block.
pub const CLOSE: &str = "</think>";

/// How to handle a model's thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Reasoning {
    /// Show it before the answer, dimmed on a terminal
    Show,
    /// Do not show it
    Hide,
    /// Do not show it, and ask the model not to think, if its template allows that
    Off,
}

/// Whether an answer may begin with thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It does not.
    Never,
    /// The model may open the block.
    Possible,
    /// The prompt has opened the block already.
    Open,
}

impl Opening {
    /// How the answer to `prompt` begins; `is_known` says whether the model's template knows thinking.
    #[must_use]
    pub fn after(prompt: &str, is_known: bool) -> Opening {
        match () {
            () if opens_thinking(prompt) => Opening::Open,
            // Some templates close an empty block when thinking is unwanted.
            () if is_known && !prompt.trim_end().ends_with(CLOSE) => Opening::Possible,
            () => Opening::Never,
        }
    }
}

/// An answer split from its thinking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The content of the block, without tags and surrounding blanks.
    pub thinking: String,
    /// The text after the block.
    pub answer: String,
    /// Whether the text ended inside the block.
    pub is_cut: bool,
}

/// Splits a complete text; `is_open` says whether the prompt has opened the block.
#[must_use]
pub fn split(text: &str, is_open: bool) -> Split {
    let mut splitter = Thinking::new(is_open);
    let mut split = Split::default();
    let mut each = |part, piece: &str| match part {
        Part::Thinking => split.thinking.push_str(piece),
        Part::Answer => split.answer.push_str(piece),
    };
    splitter.push(text, &mut each);
    splitter.finish(&mut each);
    split.is_cut = splitter.is_inside();
    split.thinking = bare(&split.thinking).to_owned();
    split
}

/// The content of a block, without tags and surrounding blanks.
#[must_use]
pub fn bare(block: &str) -> &str {
    let block = block.trim();
    let block = block.strip_prefix(OPEN).unwrap_or(block);
    block.strip_suffix(CLOSE).unwrap_or(block).trim()
}

/// The part of the output that a text belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The block, with its tags and the blanks after it.
    Thinking,
    /// The answer itself.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Blanks, or text that may become the opening tag.
    Start,
    /// Inside the block.
    Inside,
    /// Blanks after the block.
    After,
    /// In the answer.
    Answer,
}

/// Splits a text that arrives in pieces.
#[derive(Clone, Debug)]
pub struct Thinking {
    state: State,
    held: String,
}

impl Thinking {
    /// A splitter at the start of a text; `is_open` says whether the prompt has opened the block.
    #[must_use]
    pub fn new(is_open: bool) -> Thinking {
        Thinking { state: if is_open { State::Inside } else { State::Start }, held: String::new() }
    }

    /// A splitter for a text without thinking.
    #[must_use]
    pub fn never() -> Thinking {
        Thinking { state: State::Answer, held: String::new() }
    }

    /// Whether the text is inside the block.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.state == State::Inside
    }

    /// Takes a piece, and emits the text whose part is decided.
    pub fn push(&mut self, piece: &str, mut each: impl FnMut(Part, &str)) {
        self.held.push_str(piece);
        while let Some((n, next)) = self.next() {
            let text: String = self.held.drain(..n).collect();
            if n > 0 {
                each(self.part(), &text);
            }
            if next == self.state {
                break;
            }
            self.state = next;
        }
    }

    /// Emits the held text at the end of the input.
    pub fn finish(&mut self, mut each: impl FnMut(Part, &str)) {
        if !self.held.is_empty() {
            each(self.part(), &std::mem::take(&mut self.held));
        }
    }

    /// An unfinished opening tag is an answer that starts with `<`.
    fn part(&self) -> Part {
        match self.state {
            State::Inside | State::After => Part::Thinking,
            State::Start | State::Answer => Part::Answer,
        }
    }

    /// How many held bytes belong to the current state, and the state after them; `None` if that is undecided.
    fn next(&self) -> Option<(usize, State)> {
        let held = self.held.as_str();
        let n_blank = held.len() - held.trim_start().len();
        match self.state {
            State::Start if held[n_blank..].starts_with(OPEN) => Some((0, State::Inside)),
            State::Start if OPEN.starts_with(&held[n_blank..]) => None,
            State::Start => Some((0, State::Answer)),
            State::Inside => Some(match held.find(CLOSE) {
                Some(at) => (at + CLOSE.len(), State::After),
                None => (held.len() - partial_len(held, CLOSE), State::Inside),
            }),
            State::After if n_blank < held.len() => Some((n_blank, State::Answer)),
            State::After => Some((n_blank, State::After)),
            State::Answer => Some((held.len(), State::Answer)),
        }
    }
}

/// Whether the prompt itself opens the block, as some templates do.
#[must_use]
pub fn opens_thinking(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// The answer without its thinking.
#[must_use]
pub fn without_thinking(answer: &str) -> String {
    let mut text = String::new();
    let mut keep = |part, piece: &str| {
        if part == Part::Answer {
            text.push_str(piece);
        }
    };
    let mut thinking = Thinking::new(false);
    thinking.push(answer, &mut keep);
    thinking.finish(&mut keep);
    text
}

/// Length of the longest suffix of `text` that is a proper prefix of `tag`, which is ASCII.
fn partial_len(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts after each piece, and the text still held.
    fn split(prompt: &str, pieces: &[&str]) -> (String, String) {
        let (mut thinking, mut answer) = (String::new(), String::new());
        let mut each = |part, text: &str| match part {
            Part::Thinking => thinking.push_str(text),
            Part::Answer => answer.push_str(text),
        };
        let mut splitter = Thinking::new(opens_thinking(prompt));
        pieces.iter().for_each(|piece| splitter.push(piece, &mut each));
        splitter.finish(&mut each);
        (thinking, answer)
    }

    #[test]
    fn a_block_at_the_beginning_is_thinking() {
        let parts = |thinking: &str, answer: &str| (thinking.to_owned(), answer.to_owned());
        assert_eq!(split("", &["\n<thi", "nk>a</thi", "nk>\n", "\nb"]), parts("\n<think>a</think>\n\n", "b"));
        assert_eq!(split("", &["a <think>b</think>"]), parts("", "a <think>b</think>"));
        assert_eq!(split("x<think>\n", &["a</thin", "g></think>b</think>"]), parts("a</thing></think>", "b</think>"));
        assert_eq!(split("", &["<thin", "g>"]), parts("", "<thing>"));
        assert_eq!(split("", &["<think>cut of"]), parts("<think>cut of", ""));
        assert_eq!(split("", &[" <th"]), parts("", " <th"));
        assert_eq!(without_thinking("<think>a</think>\n\nb "), "b ");
    }

    proptest! {
        #[test]
        fn pieces_are_as_the_whole_and_nothing_is_held_in_vain(
            text in prop::collection::vec(prop::sample::select(vec!["<", "think", ">", "</think>", " ", "\n", "é"]), 0..12),
            prompt in prop::sample::select(vec!["", "<think>"]),
        ) {
            let whole = text.concat();
            let chars: Vec<String> = whole.chars().map(String::from).collect();
            let by_chars = split(prompt, &chars.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(&by_chars, &split(prompt, &[&whole]));
            prop_assert_eq!(by_chars.0 + &by_chars.1, whole.clone());
            let mut splitter = Thinking::new(opens_thinking(prompt));
            splitter.push(&whole, |_, _| {});
            prop_assert!(splitter.held.trim_start().len() < CLOSE.len());
        }
    }
}
