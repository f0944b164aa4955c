//! Styles Markdown while it streams: each piece of text comes out with the style to show it in.
//!
//! Nothing is removed, moved or wrapped. The pieces together are the whole text, with markers in a style of their own,
//! so text copied from the screen is what the model wrote, and an unclosed marker does no harm. At most a run of marker
//! characters is held back, until the next character decides what it is.
//!
//! It handles headings, emphasis, code, lists and quotes; tables, links and HTML pass through. Emphasis ends with its
//! line at the latest. The caller chooses the colours.

/// How to show a piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Strong emphasis, or a heading.
    pub bold: bool,
    /// Emphasis.
    pub italic: bool,
    /// Inline code or a code block.
    pub code: bool,
    /// A marker, such as the bullet of a list.
    pub marker: bool,
}

const MARKER: Style = Style { bold: false, italic: false, code: false, marker: true };
const CODE: Style = Style { bold: false, italic: false, code: true, marker: false };

/// A longer run is not a marker.
const MAX_RUN: usize = 64;

/// Position in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Only `held` so far: blanks and one kind of marker character.
    #[default]
    LineStart,
    /// In the text of the line.
    Text,
    /// After a code fence, on the same line.
    FenceLine,
    /// In a code block.
    CodeLine,
}

/// Parser state between two pieces.
#[derive(Clone, Debug, Default)]
pub struct Markdown {
    place: Place,
    /// The fence of the open code block: its character and length.
    fence: Option<(char, usize)>,
    is_heading: bool,
    bold: bool,
    italic: bool,
    /// Number of backticks that opened the inline code.
    code: usize,
    is_escaped: bool,
    /// The last character emitted; a newline at the start.
    last: Option<char>,
    /// An undecided run of marker characters, with the blanks before it at the start of a line.
    held: String,
}

impl Markdown {
    /// Takes a piece, and emits the text whose style is decided.
    pub fn push(&mut self, text: &str, mut each: impl FnMut(Style, &str)) {
        // Join neighbours with the same style.
        let (mut style, mut run) = (Style::default(), String::new());
        let mut join = |next: Style, piece: &str| {
            if next != style && !run.is_empty() {
                each(style, &run);
                run.clear();
            }
            style = next;
            run.push_str(piece);
        };
        text.chars().for_each(|c| self.take(c, &mut join));
        if !run.is_empty() {
            each(style, &run);
        }
    }

    /// Emits the held text at the end of the input.
    pub fn finish(&mut self, mut each: impl FnMut(Style, &str)) {
        if self.place == Place::LineStart {
            self.decide_line(None, &mut each);
        }
        self.decide_run(None, &mut each);
    }

    fn take(&mut self, c: char, each: &mut impl FnMut(Style, &str)) {
        if self.place == Place::LineStart {
            if self.is_held_at_start(c) {
                return self.held.push(c);
            }
            self.decide_line(Some(c), each);
            if c == '>' && self.place == Place::LineStart {
                return self.hand_on(MARKER, '>', each);
            }
        }
        if self.place == Place::Text {
            let extends = self.held.is_empty() || self.held.starts_with(c) && self.held.len() < MAX_RUN;
            if matches!(c, '*' | '_' | '`') && extends && !self.is_escaped {
                return self.held.push(c);
            }
            self.decide_run(Some(c), each);
            if matches!(c, '*' | '_' | '`') && !self.is_escaped {
                return self.held.push(c);
            }
        }
        let style = self.style();
        self.hand_on(style, c, each);
        if c == '\n' {
            let fence = self.fence;
            *self = Markdown { fence, last: Some('\n'), ..Markdown::default() };
        } else {
            self.is_escaped = c == '\\' && !self.is_escaped && self.place == Place::Text && self.code == 0;
        }
    }

    fn style(&self) -> Style {
        match self.place {
            Place::FenceLine => MARKER,
            Place::CodeLine => CODE,
            _ if self.code > 0 => Style { bold: self.is_heading, ..CODE },
            _ => Style { bold: self.bold || self.is_heading, italic: self.italic, ..Style::default() },
        }
    }

    fn hand_on(&mut self, style: Style, c: char, each: &mut impl FnMut(Style, &str)) {
        self.last = Some(c);
        each(style, c.encode_utf8(&mut [0; 4]));
    }

    /// Whether `c` is still part of the undecided start of a line: blanks, then one kind of marker character.
    fn is_held_at_start(&self, c: char) -> bool {
        if self.held.len() >= MAX_RUN {
            return false;
        }
        let run = self.held.trim_start();
        match run.chars().next_back() {
            None => matches!(c, ' ' | '\t' | '#' | '`' | '~' | '-' | '*' | '+') || c.is_ascii_digit(),
            Some(last) if last.is_ascii_digit() => c.is_ascii_digit() && run.len() < 9 || c == '.' || c == ')',
            Some(last) => last == c && matches!(c, '#' | '`' | '~' | '-' | '*'),
        }
    }

    /// Decides the kind of a line from `held` and the next character; `None` is the end of the text.
    fn decide_line(&mut self, next: Option<char>, each: &mut impl FnMut(Style, &str)) {
        let held = std::mem::take(&mut self.held);
        let run = held.trim_start();
        let (n, first) = (run.chars().count(), run.chars().next());
        let is_blank = next.is_none_or(char::is_whitespace);
        self.last = held.chars().next_back().or(self.last);
        let is_fence = n >= 3 && matches!(first, Some('`' | '~'));
        let mut hand_on = |style, text: &str| {
            if !text.is_empty() {
                each(style, text);
            }
        };
        if let Some((c, n_open)) = self.fence {
            let closes = is_fence && first == Some(c) && n >= n_open && is_blank;
            self.place = if closes { Place::FenceLine } else { Place::CodeLine };
            self.fence = if closes { None } else { self.fence };
            return hand_on(if closes { MARKER } else { CODE }, &held);
        }
        self.place = Place::Text;
        if is_fence {
            self.place = Place::FenceLine;
            self.fence = first.map(|c| (c, n));
            return hand_on(MARKER, &held);
        }
        let is_number = first.is_some_and(|c| c.is_ascii_digit()) && run.ends_with(['.', ')']);
        let is_rule = first == Some('-') && n >= 3;
        let is_bullet = matches!(first, Some('-' | '*' | '+')) && n == 1;
        self.is_heading = first == Some('#') && n <= 6 && is_blank;
        if self.is_heading || is_rule || is_blank && (is_number || is_bullet) {
            return hand_on(MARKER, &held);
        }
        if next == Some('>') && first.is_none() {
            // The text after a quote marker is parsed like a line of its own.
            self.place = Place::LineStart;
        }
        // Runs of emphasis and code are decided later.
        let n_marker = if matches!(first, Some('*' | '`')) { run.len() } else { 0 };
        let (text, marker) = held.split_at(held.len() - n_marker);
        hand_on(Style::default(), text);
        self.last = text.chars().next_back().or(Some('\n'));
        marker.clone_into(&mut self.held);
    }

    /// Decides whether a run of marker characters is a marker, from the characters around it.
    fn decide_run(&mut self, next: Option<char>, each: &mut impl FnMut(Style, &str)) {
        let run = std::mem::take(&mut self.held);
        let Some(c) = run.chars().next() else { return };
        let n = run.len();
        let is_text = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let style = self.style();
        let is_marker = if self.code > 0 || c == '`' {
            let toggles = c == '`' && (self.code == 0 || self.code == n);
            if toggles {
                self.code = if self.code == 0 { n } else { 0 };
            }
            toggles
        } else {
            let (italic, bold) = (n == 1 || n == 3, n == 2 || n == 3);
            let closes = is_text(self.last) && (!italic || self.italic) && (!bold || self.bold);
            // Inside a word it is multiplication, or part of a name.
            let opens = is_text(next) && !is_word(self.last) && (!italic || !self.italic) && (!bold || !self.bold);
            let is_marker = n <= 3 && (closes || opens);
            if is_marker {
                (self.italic, self.bold) = (self.italic ^ italic, self.bold ^ bold);
            }
            is_marker
        };
        self.last = Some(c);
        each(if is_marker { MARKER } else { style }, &run);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each piece with its style: `b`old, `i`talic, `c`ode, `m`arker.
    fn pieces(texts: &[&str]) -> Vec<(String, String)> {
        let mut pieces: Vec<(String, String)> = Vec::new();
        let mut each = |style: Style, text: &str| {
            let flags = [(style.bold, 'b'), (style.italic, 'i'), (style.code, 'c'), (style.marker, 'm')];
            let name: String = flags.iter().filter(|(is_on, _)| *is_on).map(|(_, letter)| *letter).collect();
            match pieces.last_mut() {
                Some((last, before)) if *last == name => before.push_str(text),
                _ => pieces.push((name, text.to_owned())),
            }
        };
        let mut markdown = Markdown::default();
        texts.iter().for_each(|text| markdown.push(text, &mut each));
        markdown.finish(&mut each);
        pieces
    }

    /// `style:text` for each piece, separated by bars.
    fn shown(text: &str) -> String {
        pieces(&[text]).iter().map(|(style, text)| format!("{style}:{text}")).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn lines_are_what_they_begin_with() {
        assert_eq!(shown("# A b\nc"), "m:#|b: A b\n|:c");
        assert_eq!(shown("#a\n"), ":#a\n");
        assert_eq!(shown("####### a"), ":####### a");
        assert_eq!(shown("- a\n  * b\n12. c"), "m:-|: a\n|m:  *|: b\n|m:12.|: c");
        assert_eq!(shown("-a 1.5\n1.5 b\n---\n"), ":-a 1.5\n1.5 b\n|m:---|:\n");
        assert_eq!(shown("> > # a\n> b"), "m:>|: |m:> #|b: a\n|m:>|: b");
    }

    #[test]
    fn emphasis_needs_a_word_at_its_side() {
        assert_eq!(shown("a **b *c* d** e"), ":a |m:**|b:b |m:*|bi:c|m:*|b: d|m:**|: e");
        assert_eq!(shown("**b**\n*i*"), "m:**|b:b|m:**|:\n|m:*|i:i|m:*");
        assert_eq!(shown("***x*** _y_"), "m:***|bi:x|m:***|: |m:_|i:y|m:_");
        assert_eq!(shown("2 * 3 * 4, 5*6*7, a_b_c, ** x"), ":2 * 3 * 4, 5*6*7, a_b_c, ** x");
        assert_eq!(shown("\\*a* and *open\nnext"), ":\\*a* and |m:*|i:open\n|:next");
    }

    #[test]
    fn code_is_left_alone() {
        assert_eq!(shown("a `b *c*` d"), ":a |m:`|c:b *c*|m:`|: d");
        assert_eq!(shown("``a`b``"), "m:``|c:a`b|m:``");
        assert_eq!(shown("```rust\n# a *b*\n- c\n````\nd"), "m:```rust\n|c:# a *b*\n- c\n|m:````\n|:d");
        assert_eq!(shown("~~~\n```\n~~~x\n~~~\n*e*"), "m:~~~\n|c:```\n~~~x\n|m:~~~\n*|i:e|m:*");
        assert_eq!(shown("`open\nnext"), "m:`|c:open\n|:next");
    }

    fn text() -> impl Strategy<Value = String> {
        let unit = prop::sample::select(vec![
            "*", "**", "_", "`", "```", "~~~", "#", "# ", "- ", "1", ". ", "> ", " ", "\n", "a", "é", "\\", "+", ")",
        ]);
        prop::collection::vec(unit, 0..24).prop_map(|units| units.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nothing_is_lost_and_borders_change_nothing(text in text(), border in any::<prop::sample::Index>()) {
            let borders: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let (a, b) = text.split_at(borders[border.index(borders.len())]);
            let whole = pieces(&[&text]);
            prop_assert_eq!(&whole, &pieces(&[a, b]));
            let joined: String = whole.iter().map(|(_, text)| text.as_str()).collect();
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn only_markers_are_held(text in text()) {
            let mut shown = String::new();
            let mut markdown = Markdown::default();
            for (at, c) in text.char_indices() {
                markdown.push(c.encode_utf8(&mut [0; 4]), |_, piece| shown.push_str(piece));
                let held = &text[shown.len()..at + c.len_utf8()];
                prop_assert!(held.len() <= MAX_RUN && !held.contains(['a', 'é', '\n', '\\', '>']), "{:?}", held);
            }
        }
    }
}
