//! Decodes the user's text files to UTF-8 without a byte-order mark. Everything that reads a user's text goes through
//! [`Utf8`] or [`read_text`], so no mark reaches a model or a parser.
//!
//! The input is UTF-8 with or without a mark, or UTF-16 with one. Other encodings are not guessed: they are errors,
//! with a hint that names the command to convert them.

use std::io::{self, Read};

/// The byte-order mark as a character.
const MARK: char = '\u{feff}';

/// Bytes examined to detect UTF-16 without a mark: four characters.
const N_SNIFFED: usize = 8;

/// Bytes of UTF-16 converted per read.
const CHUNK_BYTES: usize = 8 << 10;

/// Why the bytes are not the expected text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A byte that is not valid UTF-8.
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 {
        /// Byte offset in the file, from 0.
        at: u64,
    },
    /// Half a surrogate pair, or half a code unit, after a UTF-16 mark.
    #[error("not UTF-16 at byte {at}, although it starts with the byte-order mark of UTF-16")]
    NotUtf16 {
        /// Byte offset in the file, from 0.
        at: u64,
    },
    /// The file starts with a UTF-32 mark.
    #[error("UTF-32 is not supported")]
    Utf32,
    /// Every second byte is zero.
    #[error("looks like UTF-16 without a byte-order mark")]
    Unmarked {
        /// Whether the zero comes first in each pair.
        is_big_endian: bool,
    },
    /// The text exceeds the limit.
    #[error("longer than {n_max} bytes")]
    TooLong {
        /// The limit, in bytes of UTF-8.
        n_max: u64,
    },
}

impl TextError {
    /// What the user can do.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        match self {
            TextError::NotUtf8 { .. } => Some("convert it, as in: iconv -f latin1 -t utf-8"),
            TextError::NotUtf16 { .. } => Some("the file is damaged: save it again as UTF-8"),
            TextError::Utf32 => Some("convert it: iconv -f utf-32 -t utf-8"),
            TextError::Unmarked { is_big_endian: false } => Some("convert it: iconv -f utf-16le -t utf-8"),
            TextError::Unmarked { is_big_endian: true } => Some("convert it: iconv -f utf-16be -t utf-8"),
            TextError::TooLong { .. } => None,
        }
    }

    /// The [`TextError`] inside an IO error, if there is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<TextError> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<TextError> for io::Error {
    fn from(error: TextError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// `text` without a leading byte-order mark.
#[must_use]
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Reads all of a source as text of at most `n_max` bytes.
///
/// # Errors
/// When reading fails, or with a [`TextError`] when the bytes are not valid text or exceed `n_max`.
pub fn read_text(source: impl Read, n_max: u64) -> io::Result<String> {
    let mut source = Utf8::new(source);
    let mut bytes = Vec::new();
    source.by_ref().take(n_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > n_max {
        return Err(TextError::TooLong { n_max }.into());
    }
    let not_text = |error: std::string::FromUtf8Error| TextError::NotUtf8 {
        at: source.n_mark as u64 + error.utf8_error().valid_up_to() as u64,
    };
    Ok(String::from_utf8(bytes).map_err(not_text)?)
}

/// Reads UTF-8 or UTF-16 and returns UTF-8 without a mark. It does not validate input that is UTF-8 already.
///
/// It reads no further ahead than it needs to detect the encoding, so one line of a pipe can be read before the next
/// one is written.
#[derive(Debug)]
pub struct Utf8<R> {
    source: R,
    form: Encoding,
    n_mark: usize,
    /// Bytes that do not form a whole character yet.
    raw: Vec<u8>,
    /// Offset of `raw` in the source.
    n_converted: u64,
    /// Converted bytes; those before `n_given` have been returned.
    ready: Vec<u8>,
    n_given: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Unknown,
    Utf8,
    Utf16 { is_big_endian: bool },
}

impl<R: Read> Utf8<R> {
    /// A reader that starts at the source's current position.
    pub fn new(source: R) -> Utf8<R> {
        Utf8 {
            source,
            form: Encoding::Unknown,
            n_mark: 0,
            raw: Vec::new(),
            n_converted: 0,
            ready: Vec::new(),
            n_given: 0,
        }
    }

    /// The underlying source.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// Reads until the encoding is known.
    fn look(&mut self) -> io::Result<()> {
        let mut is_end = false;
        let (form, n_mark) = loop {
            if let Some(known) = known(&self.raw, is_end)? {
                break known;
            }
            let mut bytes = [0; N_SNIFFED];
            let n = self.source.read(&mut bytes[self.raw.len()..])?;
            is_end = n == 0;
            self.raw.extend_from_slice(&bytes[self.raw.len()..][..n]);
        };
        (self.form, self.n_mark, self.n_converted) = (form, n_mark, n_mark as u64);
        self.raw.drain(..n_mark);
        if form == Encoding::Utf8 {
            self.ready = std::mem::take(&mut self.raw);
        }
        Ok(())
    }

    /// Converts more bytes into `ready`; returns `false` at the end.
    fn convert(&mut self, is_big_endian: bool) -> io::Result<bool> {
        let mut bytes = [0; CHUNK_BYTES];
        let n = self.source.read(&mut bytes)?;
        self.raw.extend_from_slice(&bytes[..n]);
        let is_end = n == 0;
        let n_whole = self.raw.len() & !1;
        let unit = |pair: &[u8]| match is_big_endian {
            true => u16::from_be_bytes([pair[0], pair[1]]),
            false => u16::from_le_bytes([pair[0], pair[1]]),
        };
        self.ready.clear();
        self.n_given = 0;
        let mut n_done = 0;
        for decoded in char::decode_utf16(self.raw.chunks_exact(2).map(unit)) {
            match decoded {
                Ok(character) => {
                    n_done += 2 * character.len_utf16();
                    self.ready.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                // The other half of the pair may come with the next read.
                Err(_) if !is_end && n_done + 2 == n_whole => break,
                Err(_) => return Err(TextError::NotUtf16 { at: self.n_converted + n_done as u64 }.into()),
            }
        }
        self.raw.drain(..n_done);
        self.n_converted += n_done as u64;
        if is_end && !self.raw.is_empty() {
            return Err(TextError::NotUtf16 { at: self.n_converted }.into());
        }
        Ok(!is_end || !self.ready.is_empty())
    }
}

impl<R: Read> Read for Utf8<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let ready = &self.ready[self.n_given..];
            if !ready.is_empty() || buffer.is_empty() {
                let n = ready.len().min(buffer.len());
                buffer[..n].copy_from_slice(&ready[..n]);
                self.n_given += n;
                return Ok(n);
            }
            match self.form {
                Encoding::Unknown => self.look()?,
                Encoding::Utf8 => return self.source.read(buffer),
                Encoding::Utf16 { is_big_endian } => {
                    if !self.convert(is_big_endian)? {
                        return Ok(0);
                    }
                }
            }
        }
    }
}

/// The encoding of a text that begins with `start`, and the length of its mark; `None` if more bytes are needed.
fn known(start: &[u8], is_end: bool) -> Result<Option<(Encoding, usize)>, TextError> {
    const UTF_8: &[u8] = b"\xef\xbb\xbf";
    const UTF_16_LE: &[u8] = b"\xff\xfe";
    const UTF_16_BE: &[u8] = b"\xfe\xff";
    const UTF_32_LE: &[u8] = b"\xff\xfe\0\0";
    const UTF_32_BE: &[u8] = b"\0\0\xfe\xff";
    let marks = [UTF_8, UTF_16_LE, UTF_16_BE, UTF_32_LE, UTF_32_BE];
    let is_open = marks.iter().any(|mark| mark.len() > start.len() && mark.starts_with(start));
    // A line feed may be a whole (empty) line with nothing after it, so do not wait for more.
    let is_alternating = (0..start.len()).all(|at| (start[at] == 0) == (at % 2 == 1)) && !start.starts_with(b"\n")
        || (0..start.len()).all(|at| (start[at] == 0) == (at % 2 == 0));
    if !is_end && (is_open || is_alternating && start.len() < N_SNIFFED) {
        return Ok(None);
    }
    match start {
        _ if start.starts_with(UTF_32_LE) || start.starts_with(UTF_32_BE) => Err(TextError::Utf32),
        _ if start.starts_with(UTF_8) => Ok(Some((Encoding::Utf8, UTF_8.len()))),
        _ if start.starts_with(UTF_16_LE) => Ok(Some((Encoding::Utf16 { is_big_endian: false }, UTF_16_LE.len()))),
        _ if start.starts_with(UTF_16_BE) => Ok(Some((Encoding::Utf16 { is_big_endian: true }, UTF_16_BE.len()))),
        [first, ..] if is_alternating && start.len() == N_SNIFFED => {
            Err(TextError::Unmarked { is_big_endian: *first == 0 })
        }
        _ => Ok(Some((Encoding::Utf8, 0))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns at most this many bytes per read.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(buffer.len());
            Read::read(&mut self.0, &mut buffer[..n])
        }
    }

    fn utf16(text: &str, is_big_endian: bool) -> Vec<u8> {
        let bytes = |unit: u16| if is_big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() };
        format!("{MARK}{text}").encode_utf16().flat_map(bytes).collect()
    }

    fn error_of(bytes: &[u8]) -> TextError {
        TextError::of(&read_text(bytes, u64::MAX).unwrap_err()).unwrap()
    }

    proptest! {
        #[test]
        fn issue_13_5_text_is_the_same_with_and_without_a_mark(text in "(\\PC|[a\n😀ß€]){0,40}", n in 1_usize..20) {
            // The text's own leading mark would be taken for the file's.
            prop_assume!(!text.starts_with(MARK));
            let marked = format!("{MARK}{text}");
            for bytes in [text.as_bytes(), marked.as_bytes(), &utf16(&text, false), &utf16(&text, true)] {
                prop_assert_eq!(read_text(Slow(bytes, n), u64::MAX).unwrap(), &text[..]);
            }
        }

        #[test]
        fn whatever_it_is_is_read_or_refused(bytes in proptest::collection::vec(prop_oneof![Just(0), Just(0xff), Just(0xfe), any::<u8>()], 0..30)) {
            let mut read = Vec::new();
            if Utf8::new(&bytes[..]).read_to_end(&mut read).is_ok() && !bytes.starts_with(b"\xff\xfe") && !bytes.starts_with(b"\xfe\xff") {
                prop_assert_eq!(&read[..], bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes));
            }
        }
    }

    #[test]
    fn issue_13_5_what_cannot_be_read_is_named() {
        assert_eq!(error_of(b"ab\xff"), TextError::NotUtf8 { at: 2 });
        assert_eq!(error_of(b"\xef\xbb\xbfab\xff"), TextError::NotUtf8 { at: 5 });
        assert_eq!(error_of(b"\xff\xfea\0b"), TextError::NotUtf16 { at: 4 });
        assert_eq!(error_of(b"\xfe\xff\xd8\x3d\0a"), TextError::NotUtf16 { at: 2 });
        assert_eq!(error_of(b"\xfe\xff\0a\xd8\x3d"), TextError::NotUtf16 { at: 4 });
        assert_eq!(error_of(b"\xff\xfe\0\0a\0\0\0"), TextError::Utf32);
        assert_eq!(error_of(b"a\0b\0c\0d\0"), TextError::Unmarked { is_big_endian: false });
        assert_eq!(error_of(b"\0a\0b\0c\0d"), TextError::Unmarked { is_big_endian: true });
        assert_eq!(read_text(&b"a\0b"[..], 9).unwrap(), "a\0b");
        assert_eq!(read_text(&b"\xef\xbb\xbfabc"[..], 3).unwrap(), "abc");
        assert_eq!(TextError::of(&read_text(&b"abcd"[..], 3).unwrap_err()), Some(TextError::TooLong { n_max: 3 }));
    }

    #[test]
    fn a_line_is_read_before_the_next_is_written() {
        /// Fails where a real source would block.
        struct Waits<'a>(&'a [u8]);
        impl Read for Waits<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                assert!(!self.0.is_empty(), "nothing else comes yet");
                Read::read(&mut self.0, buffer)
            }
        }
        for line in ["\n", "a\n", "ab\n", "\u{feff}a\n"] {
            let mut source = io::BufReader::new(Utf8::new(Waits(line.as_bytes())));
            let mut read = String::new();
            io::BufRead::read_line(&mut source, &mut read).unwrap();
            assert_eq!(read, without_mark(line));
        }
    }
}
