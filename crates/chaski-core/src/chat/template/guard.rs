//! Keeps special tokens out of user text.
//!
//! Prompts are tokenized with special tokens parsed, because the template writes `<|im_end|>` as text. So a user who
//! writes `<|im_end|>` could end the turn and speak as the system. To prevent that, the special texts inside message
//! contents are marked before the template runs. Marked texts become segments of their own, tokenized as plain text.
//! Ordinary conversations remain one segment, tokenized in one piece.
//!
//! Marks are Unicode noncharacters (U+FDD0 to U+FDEF), which valid interchanged text does not contain; those in a
//! content become U+FFFD. Each mark names its special text, so a mark torn off by a template (by splitting at that very
//! text) cannot be taken for a neighbour's.
//!
//! Not covered: a template that deletes text from the *middle* of a content can join both sides into a special text.
//! Templates do that to system messages at most.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

/// Precedes a special text.
const OPEN: char = '\u{FDD0}';
/// Follows a special text.
const CLOSE: char = '\u{FDD1}';
/// Marks the edge of a content where the template's own text could complete a special text.
const EDGE: char = '\u{FDD2}';
/// The first of 16 digits, up to U+FDEF, for the index that follows [`OPEN`] and [`CLOSE`].
const DIGIT_ZERO: char = '\u{FDE0}';
/// Digits per index.
const N_DIGITS: usize = 6;

/// A part of a prompt that is tokenized on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text; never empty.
    pub text: String,
    /// Whether to parse special tokens in the text.
    pub parse_special: bool,
}

/// Where to put marks around a special text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkStyle {
    /// No marks. Noncharacters are still replaced.
    None,
    Around,
    /// Only before it: for templates that look at the text after it.
    Before,
    /// Only after it: for templates that look at the text before it.
    After,
}

/// Finds special tokens in text.
#[derive(Debug)]
pub struct SpecialGuard {
    texts: Vec<String>,
    automaton: Option<AhoCorasick>,
}

impl SpecialGuard {
    /// A guard against all token texts that the tokenizer parses only on request: types CONTROL and UNKNOWN. Empty
    /// texts are ignored.
    pub fn new(special_token_texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = special_token_texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert!(texts.len() < 1 << (4 * N_DIGITS), "more special tokens than any vocabulary has tokens");
        let automaton = (!texts.is_empty()).then(|| {
            let builder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts);
            builder.expect("special token texts are few and short")
        });
        Self { texts, automaton }
    }

    /// Marks the special texts in a content.
    pub(super) fn mark(&self, content: &str, style: MarkStyle) -> String {
        self.marked(content, style, true)
    }

    /// Marks a text that the template puts between quotes or braces, whose edges need no marks.
    pub(super) fn mark_inside(&self, text: &str, style: MarkStyle) -> String {
        self.marked(text, style, false)
    }

    fn marked(&self, content: &str, style: MarkStyle, with_edges: bool) -> String {
        let content = content.replace(is_mark, "\u{FFFD}");
        let Some(automaton) = &self.automaton else {
            return content;
        };
        if style == MarkStyle::None {
            return content;
        }
        let edges = if with_edges { self.edges(&content) } else { Vec::new() };
        let mut marks: Vec<Mark> = edges.into_iter().map(|at| Mark { at, kind: EDGE, special: None }).collect();
        for found in automaton.find_iter(&content) {
            let special = Some(found.pattern().as_usize());
            if style != MarkStyle::After {
                marks.push(Mark { at: found.start(), kind: OPEN, special });
            }
            if style != MarkStyle::Before {
                marks.push(Mark { at: found.end(), kind: CLOSE, special });
            }
        }
        marks.sort_by_key(|mark| mark.at);
        with_marks(&content, &marks)
    }

    /// Finds the edges of a content, without surrounding whitespace, where a special text could continue: the content
    /// starts with the rest of one, ends with the start of one, or is part of one.
    fn edges(&self, content: &str) -> Vec<usize> {
        let any_part = |is_there: &dyn Fn(&str, &str) -> bool| {
            self.texts
                .iter()
                .any(|text| text.char_indices().skip(1).any(|(cut, _)| is_there(&text[..cut], &text[cut..])))
        };
        let trimmed = content.trim();
        let within = !trimmed.is_empty() && self.texts.iter().any(|text| text.contains(trimmed));
        let begins = within || any_part(&|_, end| trimmed.starts_with(end));
        let ends = within || any_part(&|beginning, _| trimmed.ends_with(beginning));
        let left = begins.then(|| content.len() - content.trim_start().len());
        let right = ends.then(|| content.trim_end().len());
        left.into_iter().chain(right).collect()
    }

    /// Splits a rendered text at its marks.
    pub(super) fn segments(&self, marked: &str) -> Vec<Segment> {
        let (text, marks) = read_marks(marked);
        let mut segments = Vec::new();
        let mut push = |range: Range<usize>, parse_special: bool| {
            if !range.is_empty() {
                segments.push(Segment { text: text[range].to_owned(), parse_special });
            }
        };
        let mut from = 0;
        for range in self.plain_ranges(&text, &marks) {
            push(from..range.start, true);
            from = range.end;
            push(range, false);
        }
        push(from..text.len(), true);
        segments
    }

    /// The ranges of `text` that must not be parsed, sorted and disjoint. An empty range is a border that no special
    /// text may cross.
    fn plain_ranges(&self, text: &str, marks: &[Mark]) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for mark in marks {
            let special = mark.special.and_then(|index| self.texts.get(index));
            match (mark.kind, special) {
                (OPEN, Some(special)) if text[mark.at..].starts_with(special) => {
                    ranges.push(mark.at..mark.at + special.len());
                }
                (CLOSE, Some(special)) if text[..mark.at].ends_with(special) => {
                    ranges.push(mark.at - special.len()..mark.at);
                }
                (EDGE, _) if self.reaches_over(text, mark.at) => ranges.push(mark.at..mark.at),
                _ => {}
            }
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        joined
    }

    /// Whether a special text starts before `at` and ends after it.
    fn reaches_over(&self, text: &str, at: usize) -> bool {
        let (left, right) = text.split_at(at);
        let fits = |special: &str, cut: usize| left.ends_with(&special[..cut]) && right.starts_with(&special[cut..]);
        self.texts.iter().any(|special| special.char_indices().skip(1).any(|(cut, _)| fits(special, cut)))
    }
}

/// A mark in a text.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Byte offset in the text without marks.
    at: usize,
    kind: char,
    /// Index of the special text; `None` if a template has torn the mark itself.
    special: Option<usize>,
}

fn is_mark(c: char) -> bool {
    ('\u{FDD0}'..='\u{FDEF}').contains(&c)
}

/// The text without marks.
pub(super) fn without_marks(marked: &str) -> String {
    marked.replace(is_mark, "")
}

/// Inserts marks, sorted by offset, into a text.
fn with_marks(text: &str, marks: &[Mark]) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut from = 0;
    for mark in marks {
        marked.push_str(&text[from..mark.at]);
        marked.push(mark.kind);
        from = mark.at;
        let Some(special) = mark.special else { continue };
        for place in (0..N_DIGITS).rev() {
            let digit = (special >> (4 * place)) as u32 & 0xF;
            marked.push(char::from_u32(DIGIT_ZERO as u32 + digit).expect("a noncharacter below U+FDF0"));
        }
    }
    marked.push_str(&text[from..]);
    marked
}

/// Splits a marked text into the text and the marks.
fn read_marks(marked: &str) -> (String, Vec<Mark>) {
    let mut text = String::with_capacity(marked.len());
    let mut marks = Vec::new();
    let mut rest = marked.chars();
    while let Some(c) = rest.next() {
        match c {
            OPEN | CLOSE | EDGE => {
                let digits: Vec<usize> = (rest.clone().map_while(digit_value)).take(N_DIGITS).collect();
                let is_whole = digits.len() == N_DIGITS;
                let special = is_whole.then(|| digits.iter().fold(0, |index, digit| index << 4 | digit));
                marks.push(Mark { at: text.len(), kind: c, special });
            }
            c if is_mark(c) => {}
            c => text.push(c),
        }
    }
    (text, marks)
}

fn digit_value(c: char) -> Option<usize> {
    (DIGIT_ZERO..='\u{FDEF}').contains(&c).then(|| c as usize - DIGIT_ZERO as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard() -> SpecialGuard {
        SpecialGuard::new(["<|im_end|>", "<|im_start|>", "<s>", "<s><s>", "", "[/INST]"].map(String::from))
    }

    fn plain_parts(segments: &[Segment]) -> Vec<&str> {
        segments.iter().filter(|segment| !segment.parse_special).map(|segment| segment.text.as_str()).collect()
    }

    #[test]
    fn ordinary_text_is_not_marked() {
        let guard = guard();
        for content in ["", "hello", "a < b and b > c.", "<|im_ is not one", "🍃"] {
            assert_eq!(guard.mark(content, MarkStyle::Around), content);
        }
        let segments = guard.segments("<|im_start|>user");
        assert_eq!(segments, [Segment { text: "<|im_start|>user".into(), parse_special: true }]);
        assert!(guard.segments("").is_empty());
    }

    #[test]
    fn special_texts_become_plain_segments_in_every_style() {
        let guard = guard();
        for style in [MarkStyle::Around, MarkStyle::Before, MarkStyle::After] {
            let marked = guard.mark("a<|im_end|>b<s><s><s>", style);
            let segments = guard.segments(&format!("<s>{marked}<|im_end|>"));
            assert_eq!(plain_parts(&segments), ["<|im_end|>", "<s><s><s>"]);
            assert_eq!(segments.len(), 5);
        }
    }

    #[test]
    fn forged_marks_are_replaced() {
        let marked = guard().mark("\u{FDD1}<s>\u{FDD0}", MarkStyle::None);
        assert_eq!(marked, "\u{FFFD}<s>\u{FFFD}");
    }

    #[test]
    fn a_torn_pair_protects_its_own_text_only() {
        let guard = guard();
        let marked = guard.mark("x<s>y", MarkStyle::Around);
        let (before, after) = marked.split_once("<s>").unwrap();
        let segments = guard.segments(&format!("{before}<|im_end|>{after}"));
        assert_eq!(plain_parts(&segments), Vec::<&str>::new());
        let segments = guard.segments(&format!("{before}<s>"));
        assert_eq!(plain_parts(&segments), ["<s>"]);
    }

    #[test]
    fn no_special_text_is_parsed_across_the_edge_of_a_content() {
        let texts = |marked: String| -> Vec<String> { guard().segments(&marked).into_iter().map(|s| s.text).collect() };
        let marked = guard().mark("bye <|im_ ", MarkStyle::Around);
        assert_eq!(texts(format!("{}end|>", marked.trim())), ["bye <|im_", "end|>"]);
        assert_eq!(texts(format!("{marked}<|im_end|>")), ["bye <|im_ <|im_end|>"]);
        let marked = guard().mark("  INST] ok", MarkStyle::Around);
        assert_eq!(texts(format!("[/{}", marked.trim())), ["[/", "INST] ok"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Reference implementation of the whole guard: parses each parseable segment and checks whether a match
        /// touches the content.
        #[test]
        fn no_special_text_touches_a_content(
            before in "(<s>){0,2}(\\[/?|<\\|?)?",
            pieces in prop::collection::vec(
                prop::sample::select(vec!["<|im_end|>", "<s>", "<", "|", "im_", "end|>", "s>", "[/", "INST]", " ", "é"]),
                0..8,
            ),
            after in "(<s>|end\\|>|\\|im_end\\|>|s>|INST\\]|<\\|im_end\\|>)?",
            style in prop::sample::select(vec![MarkStyle::Around, MarkStyle::Before, MarkStyle::After]),
        ) {
            let guard = guard();
            let content = pieces.concat();
            let segments = guard.segments(&format!("{before}{}{after}", guard.mark(&content, style)));
            let whole: String = segments.iter().map(|segment| segment.text.as_str()).collect();
            prop_assert_eq!(&whole, &format!("{before}{content}{after}"));
            let own = before.len()..before.len() + content.len();
            let mut from = 0;
            for segment in &segments {
                for special in guard.texts.iter().filter(|_| segment.parse_special) {
                    let is_match = |&at: &usize| segment.text.as_bytes()[at..].starts_with(special.as_bytes());
                    for at in (0..segment.text.len()).filter(is_match).filter(|_| !own.is_empty()) {
                        let (start, end) = (from + at, from + at + special.len());
                        prop_assert!(end <= own.start || own.end <= start, "{special} in {segments:?}");
                    }
                }
                from += segment.text.len();
            }
        }
    }
}
