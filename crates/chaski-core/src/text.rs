//! Turns token bytes into text that can be shown: UTF-8 assembly, stop strings, and terminal safety.
//!
//! A token is a run of bytes, not of characters, and one step can accept several tokens. The output is valid UTF-8 at
//! every flush and never contains part of a stop string, wherever the token borders fall.
//!
//! The module does no IO and knows nothing of tokens or vocabularies. End-of-generation tokens never reach it.

use std::borrow::Cow;

/// A list of stop strings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// An empty stop string would match before the first byte.
    #[error("stop string {number} is empty")]
    Empty {
        /// Its place in the list, counted from 1.
        number: usize,
    },
}

/// Assembles token bytes into text and cuts it at the first stop string.
///
/// The match that *completes* first wins; if two complete at the same byte, the longer one wins. With the stops `abcd`
/// and `bc`, the text `abcd` is cut before `bc`. Only this rule lets generation end as soon as a match ends, without
/// look-ahead.
///
/// Invalid bytes become U+FFFD, exactly where [`String::from_utf8_lossy`] would put them in the whole text. An
/// incomplete character at the end is dropped.
#[derive(Debug, Clone)]
pub struct TextAssembler {
    stops: Vec<String>,
    /// The bytes of an incomplete character: at most 3.
    partial: Vec<u8>,
    /// Decoded text withheld because it may begin a stop string: the longest such suffix.
    held: String,
    /// Text released by the latest call; a field so that its memory is reused.
    flushed: String,
    /// Index of the stop string that matched.
    met: Option<usize>,
}

impl TextAssembler {
    /// Creates an assembler. The list may be empty.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        if let Some(index) = stops.iter().position(String::is_empty) {
            return Err(StopError::Empty { number: index + 1 });
        }
        Ok(Self { stops, partial: Vec::new(), held: String::new(), flushed: String::new(), met: None })
    }

    /// Takes the bytes of one or more tokens and returns the text that may be shown now, often empty.
    ///
    /// After a stop string matched, everything is dropped.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.flushed.clear();
        if self.met.is_none() {
            let n_known = self.held.len();
            self.decode(bytes);
            if !self.cut_at_stop(n_known) {
                let n_free = self.held.len() - self.stop_prefix_len();
                self.flushed.push_str(&self.held[..n_free]);
                self.held.drain(..n_free);
            }
        }
        &self.flushed
    }

    /// Releases the withheld text when generation ended without a stop string. An incomplete last character is dropped.
    ///
    /// Do not push after this. A second call returns the empty string.
    pub fn finish(&mut self) -> &str {
        self.flushed.clear();
        if self.met.is_none() {
            // `held` contains no complete stop, and the dropped bytes cannot complete one.
            self.partial.clear();
            std::mem::swap(&mut self.held, &mut self.flushed);
        }
        &self.flushed
    }

    /// The stop string that ended the text, if any.
    pub fn stopped(&self) -> Option<&str> {
        self.met.map(|index| self.stops[index].as_str())
    }

    /// Appends the characters of `partial + bytes` to `held`, and keeps an incomplete last character in `partial`.
    fn decode(&mut self, bytes: &[u8]) {
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            joined = [self.partial.as_slice(), bytes].concat();
            self.partial.clear();
            joined.as_slice()
        };
        loop {
            let error = match str::from_utf8(rest) {
                Ok(valid) => return self.held.push_str(valid),
                Err(error) => error,
            };
            let (valid, bad) = rest.split_at(error.valid_up_to());
            self.held.push_str(str::from_utf8(valid).expect("checked just above"));
            match error.error_len() {
                Some(n_bad) => {
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[n_bad..];
                }
                None => return self.partial.extend_from_slice(bad),
            }
        }
    }

    /// Finds the stop that completes first after `held[..n_known]`, which contains no whole stop. If there is one,
    /// releases the text before it, drops the rest and returns true.
    fn cut_at_stop(&mut self, n_known: usize) -> bool {
        let ends = self.held[n_known..].char_indices().map(|(at, c)| n_known + at + c.len_utf8());
        for end in ends {
            let text = &self.held[..end];
            let longest = (0..self.stops.len())
                .filter(|&index| text.ends_with(self.stops[index].as_str()))
                .max_by_key(|&index| self.stops[index].len());
            if let Some(index) = longest {
                self.flushed.push_str(&text[..end - self.stops[index].len()]);
                self.held.clear();
                self.partial.clear();
                self.met = Some(index);
                return true;
            }
        }
        false
    }

    /// Length in bytes of the longest suffix of `held` that is a proper prefix of a stop string.
    fn stop_prefix_len(&self) -> usize {
        let longest_of = |stop: &String| {
            let beginnings = stop.char_indices().map(|(at, _)| at).rev();
            beginnings.into_iter().find(|&n| self.held.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.stops.iter().map(longest_of).max().unwrap_or(0)
    }
}

/// Removes the characters that a terminal obeys: C0 controls except newline and tab, DEL, and C1 controls.
///
/// An escape sequence without its ESC is harmless visible text, so no state is needed between flushes. Do not use this
/// for data written to a file or a pipe.
pub fn sanitize_for_terminal(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(obeyed) { Cow::Owned(text.chars().filter(|&c| !obeyed(c)).collect()) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Number of bytes of an incomplete character at the end.
    fn n_open(bytes: &[u8]) -> usize {
        (0..=bytes.len().min(3))
            .rev()
            .find(|&n| {
                str::from_utf8(&bytes[bytes.len() - n..])
                    .is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
            })
            .unwrap_or(0)
    }

    /// Reference implementation: decodes the whole text, tries every end from the left, and prefers the longest stop
    /// there.
    fn naive(bytes: &[u8], stops: &[String]) -> (String, Option<String>) {
        let text = String::from_utf8_lossy(&bytes[..bytes.len() - n_open(bytes)]).into_owned();
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let mut here: Vec<&String> = stops.iter().filter(|stop| text[..end].ends_with(*stop)).collect();
            here.sort_by_key(|stop| stop.len());
            if let Some(stop) = here.last() {
                return (text[..end - stop.len()].to_owned(), Some((*stop).clone()));
            }
        }
        (text, None)
    }

    /// The text that may have been shown after exactly these bytes: all but an incomplete character and the longest
    /// suffix that is a prefix of a stop.
    fn naive_shown(bytes: &[u8], stops: &[String]) -> String {
        let (text, stop) = naive(bytes, stops);
        if stop.is_some() {
            return text;
        }
        let is_beginning = |suffix: &str| stops.iter().any(|stop| stop.starts_with(suffix));
        let at = text.char_indices().map(|(at, _)| at).find(|&at| is_beginning(&text[at..])).unwrap_or(text.len());
        text[..at].to_owned()
    }

    fn assembled(pieces: &[&[u8]], stops: &[&str]) -> (Vec<String>, Option<String>) {
        let mut assembler = TextAssembler::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
        let mut flushes: Vec<String> = pieces.iter().map(|piece| assembler.push(piece).to_owned()).collect();
        flushes.push(assembler.finish().to_owned());
        (flushes, assembler.stopped().map(str::to_owned))
    }

    #[test]
    fn holds_back_an_incomplete_character() {
        let (flushes, _) = assembled(&[b"a\xf0\x9f", b"\x8d", b"\x83b", b"\xe2\x82"], &[]);
        assert_eq!(flushes, ["a", "", "🍃b", "", ""]);
    }

    #[test]
    fn replaces_invalid_bytes() {
        let (flushes, _) = assembled(&[b"\xff\xc3", b"(", b"\x80"], &[]);
        assert_eq!(flushes, ["\u{fffd}", "\u{fffd}(", "\u{fffd}", ""]);
    }

    #[test]
    fn a_stop_never_leaks_over_token_borders() {
        let (flushes, stop) = assembled(&[b"one\nUs", b"er", b": two", b"three"], &["\nUser:"]);
        assert_eq!(flushes, ["one", "", "", "", ""]);
        assert_eq!(stop.as_deref(), Some("\nUser:"));
    }

    #[test]
    fn what_was_held_in_vain_is_released() {
        let (flushes, stop) = assembled(&[b"one\nUs", b"ual", b"\nUse"], &["\nUser:"]);
        assert_eq!(flushes, ["one", "\nUsual", "", "\nUse"]);
        assert_eq!(stop, None);
    }

    #[test]
    fn the_stop_that_completes_first_wins_and_then_the_longer() {
        assert_eq!(assembled(&[b"xabcd"], &["abcd", "bc"]), (vec!["xa".into(), String::new()], Some("bc".into())));
        assert_eq!(assembled(&[b"xabc"], &["bc", "abc"]), (vec!["x".into(), String::new()], Some("abc".into())));
    }

    #[test]
    fn issue_13_13_a_character_that_is_cut_off_is_left_out() {
        let (flushes, stop) = assembled(&[b"ab\xf0\x9f"], &["b\u{fffd}"]);
        assert_eq!((flushes.concat().as_str(), stop), ("ab", None));
        assert_eq!(assembled(&[b"\xf0\x9f\x8d"], &[]).0.concat(), "");
    }

    #[test]
    fn refuses_an_empty_stop() {
        let error = TextAssembler::new(vec!["a".into(), String::new()]).unwrap_err();
        assert_eq!(error.to_string(), "stop string 2 is empty");
    }

    #[test]
    fn sanitizes_for_terminals() {
        assert_eq!(sanitize_for_terminal("\x1b[31mred\x1b]0;title\x07"), "[31mred]0;title");
        assert_eq!(sanitize_for_terminal("a\r\nb\tc\x7f\u{9b}2J\u{85}"), "a\nb\tc2J");
        assert!(matches!(sanitize_for_terminal("plain\n\ttext 🍃"), Cow::Borrowed(_)));
    }

    /// A small alphabet, so that stops, their prefixes and broken characters occur often.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let unit = prop_oneof![
            6 => prop::sample::select(vec!["a", "b", "ab", "é", "🍃", "\u{fffd}"]).prop_map(|s| s.as_bytes().to_vec()),
            2 => prop::sample::select(b"\xc3\xa9\xf0\x9f\x8d\xe2\xed\xa0\xff".to_vec()).prop_map(|b| vec![b]),
            1 => any::<u8>().prop_map(|b| vec![b]),
        ];
        prop::collection::vec(unit, 0..24).prop_map(|units| units.concat())
    }

    fn stops() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec("[abé🍃\u{fffd}]{1,4}", 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn equals_the_naive_twin_for_any_partition(
            bytes in bytes(),
            stops in stops(),
            borders in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut borders: Vec<usize> = borders.iter().map(|border| border.index(bytes.len() + 1)).collect();
            borders.push(bytes.len());
            borders.sort_unstable();
            let mut assembler = TextAssembler::new(stops.clone()).unwrap();
            let (mut shown, mut from) = (String::new(), 0);
            for border in borders {
                shown.push_str(assembler.push(&bytes[from..border]));
                from = border;
                // No text may come too early, and none may be withheld longer than needed.
                prop_assert_eq!(&shown, &naive_shown(&bytes[..border], &stops));
            }
            shown.push_str(assembler.finish());
            let (text, stop) = naive(&bytes, &stops);
            prop_assert_eq!(shown, text);
            prop_assert_eq!(assembler.stopped(), stop.as_deref());
            if stop.is_some() {
                prop_assert_eq!(assembler.push(b"more"), "");
            }
        }

        #[test]
        fn sanitized_text_keeps_everything_else(text in any::<String>()) {
            let clean = sanitize_for_terminal(&text);
            prop_assert!(!clean.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
            let kept: String = text.chars().filter(|&c| !c.is_control() || c == '\n' || c == '\t').collect();
            prop_assert_eq!(clean, kept);
        }
    }
}
