//! What a model wrote for its own alignment: tokens, and the likeliest tokens of every row. An append-only file that
//! survives being cut anywhere: an interrupted run goes on where it was.
//!
//! ```text
//! magic "chaski align\n"  version u32  │  frame: LogKey as JSON  │  frame: a piece  │  frame: a piece ...
//! frame: length u32  XXH3-64 u64 of the body  body                                  (little-endian throughout)
//! piece: text u64  n_before u8  before i32...  then for each token: token i32  n_top u8  (token i32  p f32)...
//! ```
//!
//! A frame that is cut or damaged ends the log: what follows is dropped when it is opened for writing. It knows nothing
//! of what is made of the pieces.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::draft::table::Successor;
use crate::gguf::ModelId;
use crate::lock::{Beside, Locked, lock};
use crate::token::Token;

const MAGIC: &[u8; 13] = b"chaski align\n";

const VERSION: u32 = 1;

/// Magic and version.
const HEAD_BYTES: usize = MAGIC.len() + 4;

/// Longest body of a frame: a longer one is damage.
const MAX_FRAME_BYTES: usize = 1 << 20;

/// Tokens before a piece: what a tri-gram looks at.
pub const MAX_BEFORE: usize = 2;

/// Likeliest tokens kept of a row.
pub const MAX_TOP: usize = 8;

/// Tokens of a piece; a long answer has several.
pub const MAX_PIECE: usize = 4096;

/// What all pieces of a log have in common. Another key is another log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogKey {
    /// The model.
    pub model: ModelId,
    /// Which prompts.
    pub prompts: String,
    /// Everything else that shapes the texts.
    pub settings: String,
}

/// A token of a text and what the model held possible in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The token.
    pub token: Token,
    /// At most [`MAX_TOP`], likeliest first, with their probabilities.
    pub top: Vec<Successor>,
}

/// A part of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The number of the prompt.
    pub text: u64,
    /// The tokens before it, at most [`MAX_BEFORE`].
    pub before: Vec<Token>,
    /// The tokens, at most [`MAX_PIECE`].
    pub said: Vec<Said>,
}

impl Piece {
    /// Makes it the empty piece that follows.
    pub fn advance(&mut self) {
        self.before.extend(self.said.drain(..).map(|said| said.token));
        self.before.drain(..self.before.len().saturating_sub(MAX_BEFORE));
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
        /// Why.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{0}: not a log of chaski align, or written by another version")]
    Foreign(PathBuf),
    /// The log has another key.
    #[error("{path}: started with another {what}: {was:?} then, {is:?} now")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// In the log.
        was: String,
        /// Now.
        is: String,
    },
    /// Another process writes to it.
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
    /// Opens the log of `key`, or begins one. A torn end is cut off.
    ///
    /// # Errors
    /// See [`LogError`]; a file that is not used is not changed.
    pub fn open(path: &Path, key: &LogKey) -> Result<AlignLog, LogError> {
        let io = |error| LogError::Io { path: path.to_owned(), error };
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = lock(path, Beside::Nobody, Duration::ZERO, open).map_err(io)?;
        let file = file.ok_or_else(|| LogError::Busy(path.to_owned()))?;
        let mut log = AlignLog { path: path.to_owned(), file, n_tokens: 0, texts: BTreeSet::new() };
        let mut reader = Frames::open(log.file.try_clone().map_err(io)?, path)?;
        match reader.key(path)? {
            Some(found) => check_key(path, &found, key)?,
            None => {
                let json = serde_json::to_vec(key).map_err(|error| io(error.into()))?;
                let head = [&MAGIC[..], &VERSION.to_le_bytes(), &frame(&json)].concat();
                // Longer than what a first write can leave behind: damaged, and not ours to throw away.
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

    /// Adds a piece.
    ///
    /// # Errors
    /// When the file cannot be written; it holds what it held before.
    ///
    /// # Panics
    /// When the piece is longer than it may be.
    pub fn append(&mut self, piece: &Piece) -> Result<(), LogError> {
        let frame = frame(&encode(piece));
        let before = self.file.stream_position();
        if let Err(error) = self.file.write_all(&frame) {
            // Nothing may follow a torn frame. Where this fails as well, the next opening cuts it off.
            let _ = before.and_then(|end| self.file.set_len(end).and_then(|()| self.file.seek(SeekFrom::Start(end))));
            return Err(LogError::Io { path: self.path.clone(), error });
        }
        self.n_tokens += piece.said.len() as u64;
        self.texts.insert(piece.text);
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync_all().map_err(|error| LogError::Io { path: self.path.clone(), error })
    }

    /// Tokens in it.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Whether it has anything of this text.
    #[must_use]
    pub fn has(&self, text: u64) -> bool {
        self.texts.contains(&text)
    }
}

/// Gives every piece of a log to `each`, until that fails.
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
    body.push(piece.before.len() as u8);
    piece.before.iter().for_each(|token| body.extend(token.0.to_le_bytes()));
    for said in &piece.said {
        assert!(said.top.len() <= MAX_TOP, "{} likeliest tokens", said.top.len());
        body.extend(said.token.0.to_le_bytes());
        body.push(said.top.len() as u8);
        for likely in &said.top {
            body.extend(likely.token.0.to_le_bytes());
            body.extend(likely.weight.to_le_bytes());
        }
    }
    body
}

/// `None` where the bytes are no piece.
fn decode(mut body: &[u8]) -> Option<Piece> {
    let body = &mut body;
    let text = u64::from_le_bytes(take(body)?);
    let [n_before] = take(body)?;
    let before = (0..n_before).map(|_| token(body)).collect::<Option<Vec<Token>>>()?;
    let mut said = Vec::new();
    while !body.is_empty() {
        let emitted = token(body)?;
        let [n_top] = take(body)?;
        let likely = |body: &mut &[u8]| Some(Successor { token: token(body)?, weight: probability(body)? });
        let top = (0..n_top).map(|_| likely(body)).collect::<Option<Vec<Successor>>>()?;
        if top.len() > MAX_TOP {
            return None;
        }
        said.push(Said { token: emitted, top });
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
    // A sum that leaves out what is negligible can make the greatest a little more than 1.
    (0.0..=1.01).contains(&p).then_some(p)
}

/// Reads frames, up to the first that is not whole.
struct Frames {
    reader: BufReader<File>,
    /// Up to the end of the last sound frame.
    n_sound_bytes: u64,
}

impl Frames {
    /// An empty file, or the beginning of a head that was cut, has no frames.
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

    /// `None` at the end.
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

    /// `None` where not even the key was written whole.
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
