//! Splits a text stream into pieces of bounded length, cut at lines or spaces, where tokens end.
//!
//! A tokenizer's time and stack grow with the longest run it sees, and a file may not fit into memory.

use std::io::{self, Read};

/// Length limit of a piece, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Why reading a stream failed.
#[derive(Debug)]
pub(super) enum PieceError<E> {
    /// Reading failed.
    Io(io::Error),
    /// The stream is not UTF-8 from this byte on.
    NotText(u64),
    /// The taker of the pieces failed.
    Taker(E),
}

/// Passes all text of `source` to `take`, piece by piece.
pub(super) fn each_piece<E>(source: impl Read, take: impl FnMut(&str) -> Result<(), E>) -> Result<(), PieceError<E>> {
    each_piece_of(source, PIECE_BYTES, take)
}

fn each_piece_of<E>(
    mut source: impl Read,
    n_max: usize,
    mut take: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), PieceError<E>> {
    let mut buffer = Vec::with_capacity(n_max);
    let mut n_before = 0;
    loop {
        let missing = (n_max - buffer.len()) as u64;
        source.by_ref().take(missing).read_to_end(&mut buffer).map_err(PieceError::Io)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let n = if buffer.len() < n_max { buffer.len() } else { cut(&buffer) };
        match std::str::from_utf8(&buffer[..n]) {
            Ok(text) => take(text).map_err(PieceError::Taker)?,
            Err(error) => return Err(PieceError::NotText(n_before + error.valid_up_to() as u64)),
        }
        n_before += n as u64;
        buffer.drain(..n);
    }
}

/// Where to cut a full buffer: before the last line that starts with a non-blank, else before the last space that
/// follows a non-blank (tokens start with their space), else before the last character, which may be incomplete.
fn cut(bytes: &[u8]) -> usize {
    let before = |is_border: fn(u8, u8) -> bool| (1..bytes.len()).rev().find(|&at| is_border(bytes[at - 1], bytes[at]));
    let line = before(|last, next| last == b'\n' && !next.is_ascii_whitespace());
    let space = || before(|last, next| next == b' ' && !last.is_ascii_whitespace());
    let character = || (1..bytes.len()).rev().find(|&at| bytes[at] & 0xc0 != 0x80);
    line.or_else(space).or_else(character).unwrap_or(bytes.len())
}

/// The texts of one JSON line: `text`, `prompt`, `response`, and the `content` of each of the `messages`.
pub(super) fn json_texts(line: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Line {
        text: Option<String>,
        prompt: Option<String>,
        response: Option<String>,
        #[serde(default)]
        messages: Vec<Message>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        content: Option<String>,
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let contents = line.messages.into_iter().map(|message| message.content);
    let texts: Vec<String> = [line.text, line.prompt, line.response].into_iter().chain(contents).flatten().collect();
    match texts.len() {
        0 => Err("no \"text\", \"prompt\", \"response\" or \"messages\"".to_owned()),
        _ => Ok(texts),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(text: &[u8], n_max: usize) -> Result<Vec<String>, PieceError<()>> {
        let mut all = Vec::new();
        each_piece_of(text, n_max, |piece| {
            all.push(piece.to_owned());
            Ok(())
        })?;
        Ok(all)
    }

    proptest! {
        #[test]
        fn pieces_are_short_and_make_up_the_text(text in "[a-c \n\tß€😀]{0,200}", n_max in 4usize..50) {
            let pieces = pieces(text.as_bytes(), n_max).unwrap();
            prop_assert!(pieces.iter().all(|piece| (1..=n_max).contains(&piece.len())), "{:?}", pieces);
            prop_assert_eq!(pieces.concat(), text);
        }
    }

    #[test]
    fn lines_are_preferred_to_spaces_and_spaces_to_characters() {
        assert_eq!(pieces(b"one two\nthree four five", 16).unwrap(), ["one two\n", "three four five"]);
        assert_eq!(pieces(b"one two\n\n  three", 12).unwrap(), ["one", " two\n\n  thr", "ee"]);
        assert_eq!(pieces(b"abcdefgh", 5).unwrap(), ["abcd", "efgh"]);
    }

    #[test]
    fn what_is_not_text_is_named_by_its_place() {
        let text = [&b"a b c d e f g h "[..], b"\xff"].concat();
        assert!(matches!(pieces(&text, 8), Err(PieceError::NotText(16))));
        assert!(matches!(pieces("aß".as_bytes().split_last().unwrap().1, 8), Err(PieceError::NotText(1))));
        assert!(matches!(pieces(&[0x80; 20], 8), Err(PieceError::NotText(0))));
    }

    #[test]
    fn texts_of_a_line() {
        let texts = |line: &str| json_texts(line.as_bytes());
        assert_eq!(texts(r#"{"text": "a", "id": 3}"#).unwrap(), ["a"]);
        assert_eq!(texts(r#"{"response": "b", "prompt": "a"}"#).unwrap(), ["a", "b"]);
        let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": null}]}"#;
        assert_eq!(texts(chat).unwrap(), ["a"]);
        for wrong in ["", "[]", "3", r#"{"texts": "a"}"#, r#"{"text": 3}"#, "{", &"[".repeat(10_000)] {
            assert!(texts(wrong).is_err(), "{wrong}");
        }
    }
}
