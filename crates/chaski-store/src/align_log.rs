//! A log of a model's output for `chaski drafter align`: the tokens, the most likely tokens of every row, and on demand
//! its hidden state. The file is append-only and survives being cut anywhere, so an interrupted run can continue.
//!
//! ```text
//! magic "chaski align\n"  version u32  │  frame: LogKey as JSON  │  frame: a piece  │  frame: a piece ...
//! frame: length u32  XXH3-64 u64 of the body  body                                  (little-endian throughout)
//! piece: text u64  n_before u32  before i32...  n_state u16
//!        then for each token: token i32  n_top u8  (token i32  p f32)...  n_state numbers f16
//! ```
//!
//! A cut or damaged frame ends the log; opening it for writing drops everything after the last sound frame. The log
//! does not know what its pieces are used for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use half::f16;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::draft::table::Successor;
use crate::gguf::ModelId;
use crate::lock::{LockKind, Locked, lock};
use crate::token::Token;

const MAGIC: &[u8; 13] = b"chaski align\n";

const VERSION: u32 = 2;

/// Magic and version.
const HEAD_BYTES: usize = MAGIC.len() + 4;

/// Maximum body of a frame in bytes; a longer one is treated as damage.
const MAX_FRAME_BYTES: usize = 8 << 20;

/// Maximum tokens before a piece: a prompt.
pub const MAX_BEFORE: usize = 1 << 16;

/// Tokens before a piece that continues a text: what a tri-gram needs.
const N_CONTINUED: usize = 2;

/// Maximum top tokens stored per row.
pub const MAX_TOP: usize = 8;

/// Maximum tokens in a piece; a long answer has several pieces.
pub const MAX_PIECE: usize = 4096;

/// The properties that all pieces of a log share. Another key needs another log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogKey {
    /// The model.
    pub model: ModelId,
    /// Which prompts.
    pub prompts: String,
    /// All other settings that affect the texts.
    pub settings: String,
}

/// A token of a text, with the model's most likely tokens in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedToken {
    /// The token.
    pub token: Token,
    /// The most likely tokens with their probabilities, likeliest first; at most [`MAX_TOP`].
    pub top: Vec<Successor>,
    /// The hidden state that the token was chosen from; empty in a log without states. All states have the same length.
    pub state: Vec<f16>,
}

/// A part of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Number of the prompt.
    pub text: u64,
    /// The tokens before the piece: at the start of a text its prompt, of which the last [`MAX_BEFORE`] tokens, else the
    /// last two.
    pub before: Vec<Token>,
    /// The tokens of the piece; at most [`MAX_PIECE`].
    pub said: Vec<LoggedToken>,
}

impl Piece {
    /// Turns this piece into the empty piece that follows it.
    pub fn advance(&mut self) {
        self.before.extend(self.said.drain(..).map(|said| said.token));
        self.before.drain(..self.before.len().saturating_sub(N_CONTINUED));
    }
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{0}: not a log of chaski drafter align, or written by another version")]
    Foreign(PathBuf),
    /// The log was started with another key.
    #[error("{path}: started with another {what}: {was:?} then, {is:?} now")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The part of the key that differs.
        what: &'static str,
        /// Its value in the log.
        was: String,
        /// Its value now.
        is: String,
    },
    /// Another process is writing to the log.
    #[error("{0}: another process is writing to it")]
    Busy(PathBuf),
}

/// An open log, locked against other writers.
#[derive(Debug)]
pub struct AlignLog {
    path: PathBuf,
    file: Locked,
    n_tokens: u64,
    texts: BTreeSet<u64>,
}

impl AlignLog {
    /// Opens the log for `key`, or creates it. A cut or damaged end is removed.
    ///
    /// # Errors
    /// See [`LogError`]. After an error the file is unchanged.
    pub fn open(path: &Path, key: &LogKey) -> Result<AlignLog, LogError> {
        let io = |error| LogError::Io { path: path.to_owned(), error };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        // The answers are those of the user.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let open = || options.open(path);
        let file = lock(path, LockKind::Exclusive, Duration::ZERO, open).map_err(io)?;
        let file = file.ok_or_else(|| LogError::Busy(path.to_owned()))?;
        let mut log = AlignLog { path: path.to_owned(), file, n_tokens: 0, texts: BTreeSet::new() };
        let mut reader = Frames::open(log.file.try_clone().map_err(io)?, path)?;
        match reader.key(path)? {
            Some(found) => check_key(path, &found, key)?,
            None => {
                let json = serde_json::to_vec(key).map_err(|error| io(error.into()))?;
                let head = [&MAGIC[..], &VERSION.to_le_bytes(), &frame(&json)].concat();
                // Longer than an interrupted first write can leave behind: damaged, and not ours to overwrite.
                if log.file.metadata().map_err(io)?.len() >= head.len() as u64 {
                    return Err(LogError::Foreign(path.to_owned()));
                }
                log.file.set_len(0).map_err(io)?;
                log.file.rewind().and_then(|()| log.file.write_all(&head)).map_err(io)?;
                return Ok(log);
            }
        }
        while let Some(piece) = reader.piece().map_err(io)? {
            log.n_tokens += piece.said.len() as u64;
            log.texts.insert(piece.text);
        }
        log.file.set_len(reader.n_sound_bytes).map_err(io)?;
        log.file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(log)
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// When the file cannot be written; it keeps its previous content.
    ///
    /// # Panics
    /// When the piece exceeds one of its limits, or its states differ in length.
    pub fn append(&mut self, piece: &Piece) -> Result<(), LogError> {
        let frame = frame(&encode(piece));
        let before = self.file.stream_position();
        if let Err(error) = self.file.write_all(&frame) {
            // Nothing may follow a torn frame. If this fails too, the next opening removes it.
            let _ = before.and_then(|end| self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end))));
            return Err(LogError::Io { path: self.path.clone(), error });
        }
        self.n_tokens += piece.said.len() as u64;
        self.texts.insert(piece.text);
        Ok(())
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync_all().map_err(|error| LogError::Io { path: self.path.clone(), error })
    }

    /// Number of tokens in the log.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// A number that no text of the log has.
    #[must_use]
    pub fn next_text(&self) -> u64 {
        self.texts.last().map_or(0, |last| last + 1)
    }

    /// Whether the log has any piece of this text.
    #[must_use]
    pub fn has(&self, text: u64) -> bool {
        self.texts.contains(&text)
    }
}

/// Calls `each` for every piece of a log, until it fails.
///
/// # Errors
/// When the file is not a log, cannot be read, or `each` fails.
pub fn read(path: &Path, mut each: impl FnMut(&Piece) -> io::Result<()>) -> Result<LogKey, LogError> {
    let io = |error| LogError::Io { path: path.to_owned(), error };
    let mut frames = Frames::open(File::open(path).map_err(io)?, path)?;
    let key = frames.key(path)?.ok_or_else(|| LogError::Foreign(path.to_owned()))?;
    while let Some(piece) = frames.piece().map_err(io)? {
        each(&piece).map_err(io)?;
    }
    Ok(key)
}

fn check_key(path: &Path, was: &LogKey, is: &LogKey) -> Result<(), LogError> {
    let other = |what, was: &str, is: &str| {
        Err(LogError::OtherKey { path: path.to_owned(), what, was: was.to_owned(), is: is.to_owned() })
    };
    match (was, is) {
        _ if was.model != is.model => other("model", &was.model.to_string(), &is.model.to_string()),
        _ if was.prompts != is.prompts => other("set of prompts", &was.prompts, &is.prompts),
        _ if was.settings != is.settings => other("setting", &was.settings, &is.settings),
        _ => Ok(()),
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= MAX_FRAME_BYTES, "a frame of {} bytes", body.len());
    let length = u32::try_from(body.len()).expect("at most 2^20");
    [&length.to_le_bytes()[..], &XxHash3_64::oneshot(body).to_le_bytes(), body].concat()
}

fn encode(piece: &Piece) -> Vec<u8> {
    assert!(piece.before.len() <= MAX_BEFORE && piece.said.len() <= MAX_PIECE, "a piece has its bounds");
    let mut body = piece.text.to_le_bytes().to_vec();
    body.extend(u32::try_from(piece.before.len()).expect("at most 2^16").to_le_bytes());
    piece.before.iter().for_each(|token| body.extend(token.0.to_le_bytes()));
    let n_state = piece.said.first().map_or(0, |said| said.state.len());
    body.extend(u16::try_from(n_state).expect("no model is so wide").to_le_bytes());
    for said in &piece.said {
        assert!(said.state.len() == n_state, "{} numbers of {n_state}", said.state.len());
        assert!(said.top.len() <= MAX_TOP, "{} likeliest tokens", said.top.len());
        body.extend(said.token.0.to_le_bytes());
        body.push(said.top.len() as u8);
        for likely in &said.top {
            body.extend(likely.token.0.to_le_bytes());
            body.extend(likely.weight.to_le_bytes());
        }
        said.state.iter().for_each(|number| body.extend(number.to_le_bytes()));
    }
    body
}

/// Decodes a piece; `None` if the bytes are not one.
fn decode(mut body: &[u8]) -> Option<Piece> {
    let body = &mut body;
    let text = u64::from_le_bytes(take(body)?);
    let n_before = u32::from_le_bytes(take(body)?);
    let before = (0..n_before).map(|_| token(body)).collect::<Option<Vec<Token>>>()?;
    let n_state = u16::from_le_bytes(take(body)?);
    let mut said = Vec::new();
    while !body.is_empty() {
        let emitted = token(body)?;
        let [n_top] = take(body)?;
        let likely = |body: &mut &[u8]| Some(Successor { token: token(body)?, weight: probability(body)? });
        let top = (0..n_top).map(|_| likely(body)).collect::<Option<Vec<Successor>>>()?;
        if top.len() > MAX_TOP {
            return None;
        }
        let (numbers, rest) = body.split_at_checked(2 * usize::from(n_state))?;
        *body = rest;
        let state = numbers.as_chunks().0.iter().copied().map(f16::from_le_bytes).collect();
        said.push(LoggedToken { token: emitted, top, state });
    }
    (before.len() <= MAX_BEFORE && said.len() <= MAX_PIECE).then_some(Piece { text, before, said })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn token(bytes: &mut &[u8]) -> Option<Token> {
    let id = i32::from_le_bytes(take(bytes)?);
    (id >= 0).then_some(Token(id))
}

fn probability(bytes: &mut &[u8]) -> Option<f32> {
    let p = f32::from_le_bytes(take(bytes)?);
    // Rounding can make the highest probability a little more than 1. Logs from before December 2026 have larger ones too.
    (p.is_finite() && p >= 0.0).then_some(p.min(1.0))
}

/// Reads frames, up to the first incomplete one.
struct Frames {
    reader: BufReader<File>,
    /// Offset of the end of the last sound frame.
    n_sound_bytes: u64,
}

impl Frames {
    /// Checks the head. An empty file, or one that ends within the head, has no frames.
    fn open(file: File, path: &Path) -> Result<Frames, LogError> {
        let io = |error| LogError::Io { path: path.to_owned(), error };
        let mut reader = BufReader::new(file);
        reader.rewind().map_err(io)?;
        let mut head = Vec::new();
        reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(io)?;
        if ![&MAGIC[..], &VERSION.to_le_bytes()].concat().starts_with(&head) {
            return Err(LogError::Foreign(path.to_owned()));
        }
        Ok(Frames { reader, n_sound_bytes: head.len() as u64 })
    }

    /// The next frame's body; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(12).read_to_end(&mut bytes)?;
        let mut head = bytes.as_slice();
        let (Some(length), Some(sum)) = (take(&mut head), take(&mut head)) else { return Ok(None) };
        let (length, sum) = (u32::from_le_bytes(length) as usize, u64::from_le_bytes(sum));
        if length > MAX_FRAME_BYTES {
            return Ok(None);
        }
        let mut body = Vec::new();
        self.reader.by_ref().take(length as u64).read_to_end(&mut body)?;
        Ok((body.len() == length && XxHash3_64::oneshot(&body) == sum).then_some(body))
    }

    /// Reads the key; `None` if it was not completely written.
    fn key(&mut self, path: &Path) -> Result<Option<LogKey>, LogError> {
        let body = self.next().map_err(|error| LogError::Io { path: path.to_owned(), error })?;
        let Some(body) = body else { return Ok(None) };
        self.n_sound_bytes += 12 + body.len() as u64;
        serde_json::from_slice(&body).map(Some).map_err(|_| LogError::Foreign(path.to_owned()))
    }

    fn piece(&mut self) -> io::Result<Option<Piece>> {
        let Some(body) = self.next()? else { return Ok(None) };
        let piece = decode(&body);
        self.n_sound_bytes += if piece.is_some() { 12 + body.len() as u64 } else { 0 };
        Ok(piece)
    }
}

#[cfg(test)]
mod tests;
