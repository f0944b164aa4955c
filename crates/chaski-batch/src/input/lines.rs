//! Splits a file into lines of bounded length, whatever bytes the file contains.
//!
//! A carriage return at a line's end is dropped, and blank lines are skipped. A table row continues over line breaks
//! within quotes. [`crate::encoding`] has already removed a byte-order mark.

use std::io::{self, BufRead, Read as _};

use crate::input::format::Format;
use crate::refuse::{INVALID_CSV, INVALID_UTF8, LINE_TOO_LONG, Refusal, refuse};

/// Longest line. A million tokens fit into it.
pub const MAX_LINE_BYTES: usize = 4 << 20;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Position among all lines that are not blank, from 0; a header does not count.
    pub index: u64,
    /// Line number as an editor shows it, from 1.
    pub number: u64,
    /// The line's text, or why it is refused.
    pub text: Result<String, Refusal>,
}

/// Reads a file line by line.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    is_table: bool,
    max_bytes: usize,
    /// Line breaks read.
    n_read: u64,
    n_lines: u64,
    n_blank: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the lines of a file in this format.
    pub fn new(reader: R, format: Format) -> Lines<R> {
        let is_table = matches!(format, Format::Table(_));
        Lines { reader, is_table, max_bytes: MAX_LINE_BYTES, n_read: 0, n_lines: 0, n_blank: 0 }
    }

    /// Reads the first line as a header, which does not count as a line.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn header(&mut self) -> io::Result<Option<Line>> {
        let header = self.next_line()?;
        self.n_lines = 0;
        Ok(header)
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let number = self.n_read + 1;
            let Some(bytes) = self.next_bytes()? else { return Ok(None) };
            if bytes.as_ref().is_ok_and(|bytes| bytes.trim_ascii().is_empty()) {
                self.n_blank += 1;
                continue;
            }
            let text = bytes.and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| {
                    refuse(INVALID_UTF8, format!("not UTF-8 at byte {} of the line", error.utf8_error().valid_up_to()))
                })
            });
            let index = self.n_lines;
            self.n_lines += 1;
            return Ok(Some(Line { index, number, text }));
        }
    }

    /// Number of lines returned, without the header.
    #[must_use]
    pub fn n_lines(&self) -> u64 {
        self.n_lines
    }

    /// Number of blank lines skipped.
    #[must_use]
    pub fn n_blank(&self) -> u64 {
        self.n_blank
    }

    /// The underlying reader.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn next_bytes(&mut self) -> io::Result<Option<Result<Vec<u8>, Refusal>>> {
        let mut bytes = Vec::new();
        let mut is_open = false;
        loop {
            let n_before = bytes.len();
            let room = (self.max_bytes + 1).saturating_sub(n_before) as u64;
            let n = self.reader.by_ref().take(room).read_until(b'\n', &mut bytes)?;
            match n {
                0 if is_open => {
                    return Ok(Some(Err(refuse(INVALID_CSV, "a quote is opened here and never closed"))));
                }
                0 => return Ok(None),
                _ => {}
            }
            is_open ^= self.is_table && bytes[n_before..].iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            let is_whole = bytes.last() == Some(&b'\n');
            if bytes.len() > self.max_bytes && (is_open || !is_whole) {
                if !is_whole {
                    self.reader.skip_until(b'\n')?;
                }
                self.n_read += 1;
                let message = format!("longer than {} KiB", self.max_bytes >> 10);
                return Ok(Some(Err(refuse(LINE_TOO_LONG, message))));
            }
            self.n_read += 1;
            if !is_open {
                break;
            }
        }
        for end in [b'\n', b'\r'] {
            if bytes.last() == Some(&end) {
                bytes.pop();
            }
        }
        Ok(Some(Ok(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::encoding::Utf8;

    fn all(bytes: &[u8], format: Format, max_bytes: usize) -> (Vec<Line>, u64) {
        let mut lines = Lines::new(io::BufReader::new(Utf8::new(bytes)), format);
        lines.max_bytes = max_bytes;
        let all = std::iter::from_fn(|| lines.next_line().unwrap()).collect();
        (all, lines.n_blank())
    }

    /// Number of each line, and its text or error code.
    fn told(bytes: &[u8], format: Format) -> Vec<(u64, String)> {
        let (lines, _) = all(bytes, format, 100);
        assert!(lines.iter().enumerate().all(|(place, line)| line.index == place as u64));
        let text = |line: Line| line.text.unwrap_or_else(|refusal| refusal.code);
        lines.into_iter().map(|line| (line.number, text(line))).collect()
    }

    #[track_caller]
    fn check(bytes: &[u8], format: Format, expected: &[(u64, &str)]) {
        let expected: Vec<(u64, String)> = expected.iter().map(|&(n, text)| (n, text.to_owned())).collect();
        assert_eq!(told(bytes, format), expected);
    }

    #[test]
    fn marks_returns_and_blanks_are_no_part_of_a_line() {
        check(b"", Format::Text, &[]);
        check(b"a\nb", Format::Text, &[(1, "a"), (2, "b")]);
        check(b"\xef\xbb\xbfa\r\n\r\n \t\nb\r\n", Format::Text, &[(1, "a"), (4, "b")]);
        check(b"a\xef\xbb\xbf\n", Format::Text, &[(1, "a\u{feff}")]);
        assert_eq!(all(b"\n\na\n\n", Format::Text, 9).1, 3);
    }

    #[test]
    fn what_is_wrong_with_a_line_does_not_touch_the_next() {
        check(b"a\n\xff\nb\n", Format::Text, &[(1, "a"), (2, INVALID_UTF8), (3, "b")]);
        let long = [b"a\n".as_slice(), &[b'x'; 101], b"\nb\n", &[b'y'; 100], b"\n"].concat();
        let whole = "y".repeat(100);
        check(&long, Format::Text, &[(1, "a"), (2, LINE_TOO_LONG), (3, "b"), (4, &whole)]);
        check(&[b'x'; 1000], Format::Text, &[(1, LINE_TOO_LONG)]);
    }

    #[test]
    fn a_row_goes_on_within_quotes() {
        check(b"a,\"b\nc\"\nd\n", Format::CSV, &[(1, "a,\"b\nc\""), (3, "d")]);
        check(b"a,\"b\"\"\n\"\nd\n", Format::CSV, &[(1, "a,\"b\"\"\n\""), (3, "d")]);
        check(b"a\n\"b\nc\n", Format::CSV, &[(1, "a"), (2, INVALID_CSV)]);
        // An open quote takes up to the longest line, and then the rest of the current line.
        let open = [b"\"b\n".as_slice(), &[b'x'; 120], b"\nd\n"].concat();
        check(&open, Format::CSV, &[(1, LINE_TOO_LONG), (3, "d")]);
        check(b"\"\n", Format::Text, &[(1, "\"")]);
    }

    #[test]
    fn a_header_is_not_counted() {
        let mut lines = Lines::new(&b"h\na\n"[..], Format::CSV);
        assert_eq!(lines.header().unwrap().unwrap().text.unwrap(), "h");
        assert_eq!(lines.next_line().unwrap().unwrap(), Line { index: 0, number: 2, text: Ok("a".to_owned()) });
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'"'), Just(b'a'), any::<u8>()], 0..400)) {
            let naive: Vec<&[u8]> = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).split(|&byte| byte == b'\n').collect();
            let n_naive = naive.iter().filter(|line| !line.trim_ascii().is_empty()).count();
            prop_assert_eq!(all(&bytes, Format::Text, 1000).0.len(), n_naive);
            prop_assert!(all(&bytes, Format::CSV, 50).0.len() <= bytes.len());
        }
    }
}
