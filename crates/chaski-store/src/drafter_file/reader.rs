//! An open drafter file: lookups of single rows while drafting, and an iterator over all rows.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use memmap2::Mmap;

use crate::draft::base::Base;
use crate::draft::table::{MAX_SUCCESSORS, Successor};
use crate::drafter_file::block::{BLOCK_BYTES, Block, token_bits};
use crate::drafter_file::codes::Codes;
use crate::drafter_file::error::DrafterFileError;
use crate::drafter_file::header::{Header, Totals, checksum, index_at};
use crate::drafter_file::index;
use crate::drafter_file::keys::KeySpace;
use crate::drafter_file::row::BaseRow;
use crate::token::Token;
use crate::vocabulary::Vocabulary;

/// Not used yet.
const UNKNOWN: u8 = 0;
/// The checksum was right.
const SOUND: u8 = 1;
/// The checksum was wrong, or the block contradicts itself. Its rows count as unknown.
const DAMAGED: u8 = 2;

/// A base tri-gram matrix on disk. Any number of threads may look up rows.
///
/// The file stays mapped: if another process truncates it, the next access raises SIGBUS.
#[derive(Debug)]
pub struct DrafterFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
    index_at: usize,
    keys: KeySpace,
    token_bits: u32,
    codes: Codes,
    /// The state of each block.
    states: Vec<AtomicU8>,
    is_damaged: AtomicBool,
}

impl DrafterFile {
    /// Opens a file for a model with this vocabulary.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or belongs to another vocabulary.
    pub fn open(path: &Path, vocabulary: &Vocabulary) -> Result<DrafterFile, DrafterFileError> {
        let file = DrafterFile::open_any(path)?;
        file.check_vocabulary(vocabulary)?;
        Ok(file)
    }

    /// Opens a file with any vocabulary, for tools.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open_any(path: &Path) -> Result<DrafterFile, DrafterFileError> {
        let named = DrafterFileError::io(path);
        // Check before opening: opening a pipe would wait for a writer.
        if !std::fs::metadata(path).map_err(&named)?.is_file() {
            return Err(DrafterFileError::NotAFile { path: path.to_owned() });
        }
        let map = File::open(path).and_then(|file| map(&file)).map_err(&named)?;
        let header = Header::decode(&map, path)?;
        // The cast is safe: the header has been checked against the length of the file.
        let index_at = index_at(header.n_blocks) as usize;
        if checksum(map.get(index_at..).unwrap_or_default()) != header.index_checksum {
            return Err(DrafterFileError::damaged(path, "the checksum of its index is wrong"));
        }
        let states = (0..header.n_blocks).map(|_| AtomicU8::new(UNKNOWN)).collect();
        Ok(DrafterFile {
            path: path.to_owned(),
            map,
            header,
            index_at,
            keys: KeySpace::new(header.vocabulary.n_tokens),
            token_bits: token_bits(header.vocabulary.n_tokens),
            codes: Codes::default(),
            states,
            is_damaged: AtomicBool::new(false),
        })
    }

    /// Checks that the file belongs to `vocabulary`.
    ///
    /// # Errors
    /// [`DrafterFileError::ForeignVocabulary`] if it does not.
    pub fn check_vocabulary(&self, vocabulary: &Vocabulary) -> Result<(), DrafterFileError> {
        if self.vocabulary() == *vocabulary {
            return Ok(());
        }
        let text = |vocabulary: Vocabulary| format!("{} tokens, hash {:016x}", vocabulary.n_tokens, vocabulary.hash);
        let (expected, found) = (text(*vocabulary), text(self.vocabulary()));
        Err(DrafterFileError::ForeignVocabulary { path: self.path.clone(), expected, found })
    }

    /// The path this file was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The vocabulary of the token ids.
    #[must_use]
    pub fn vocabulary(&self) -> Vocabulary {
        self.header.vocabulary
    }

    /// The number of rows and successors.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.header.totals
    }

    /// The size of the file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Whether a block used so far was damaged, for a single warning. Its rows count as unknown.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// All rows in key order. A damaged block gives one error instead of its rows. Weights are counts: share times
    /// total.
    #[must_use]
    pub fn rows(&self) -> Rows<'_> {
        Rows { file: self, block: 0, row: 0 }
    }

    /// The mapping from contexts to keys.
    #[must_use]
    pub fn keys(&self) -> KeySpace {
        self.keys
    }

    /// The number of blocks, each of which has a checksum.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.states.len()
    }

    fn index(&self) -> &[u8] {
        self.map.get(self.index_at..).unwrap_or_default()
    }

    /// A sound block, and its first key.
    fn block(&self, at: usize) -> Option<(Block<'_>, u64)> {
        let start = (1 + at) * BLOCK_BYTES;
        let bytes = self.map.get(start..start + BLOCK_BYTES)?;
        let entry = index::entry(self.index(), at);
        let state = self.states.get(at)?;
        match state.load(Ordering::Relaxed) {
            SOUND => {}
            UNKNOWN if checksum(bytes) == entry.checksum => state.store(SOUND, Ordering::Relaxed),
            UNKNOWN => return self.give_up(at),
            _ => return None,
        }
        let block = Block::new(bytes, entry.shape, self.token_bits).or_else(|| self.give_up(at))?;
        Some((block, entry.first_key))
    }

    /// Marks a block as damaged.
    #[cold]
    fn give_up<T>(&self, block: usize) -> Option<T> {
        self.states.get(block)?.store(DAMAGED, Ordering::Relaxed);
        self.is_damaged.store(true, Ordering::Relaxed);
        None
    }

    /// Fills `into` with shares and returns the total; `None` if the block contradicts itself.
    fn read_row(&self, block: &Block<'_>, row: usize, into: &mut Vec<Successor>) -> Option<f32> {
        into.clear();
        let successors = block.successors(row)?;
        if !(1..=MAX_SUCCESSORS).contains(&successors.len()) {
            return None;
        }
        let mut sum = 0.0;
        for (token, share) in successors {
            if token >= self.header.vocabulary.n_tokens {
                into.clear();
                return None;
            }
            let weight = self.codes.shares[usize::from(share)];
            sum += weight;
            into.push(Successor { token: Token(token as i32), weight });
        }
        if sum > 1.0 {
            // Rounding, or a forged file.
            into.iter_mut().for_each(|successor| successor.weight /= sum);
        }
        Some(self.codes.totals[usize::from(block.total(row))])
    }
}

impl Base for DrafterFile {
    fn row(&self, context: &[Token], row: &mut Vec<Successor>) -> Option<f32> {
        row.clear();
        let key = self.keys.key(context)?;
        let at = index::block_of(self.index(), key, self.keys.end())?;
        let (block, first_key) = self.block(at)?;
        let next_key =
            if at + 1 < self.n_blocks() { index::entry(self.index(), at + 1).first_key } else { self.keys.end() };
        // In a sound index neither subtraction can underflow.
        let found = block.find(key.checked_sub(first_key)?, next_key.saturating_sub(first_key))?;
        self.read_row(&block, found, row).or_else(|| self.give_up(at))
    }
}

/// An iterator over all rows; see [`DrafterFile::rows`].
#[derive(Debug)]
pub struct Rows<'f> {
    file: &'f DrafterFile,
    block: usize,
    row: usize,
}

impl Iterator for Rows<'_> {
    type Item = Result<BaseRow, DrafterFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.block < self.file.n_blocks() {
            let row = match self.file.block(self.block) {
                Some((block, _)) if self.row >= block.n_rows() => {
                    (self.block, self.row) = (self.block + 1, 0);
                    continue;
                }
                Some((block, first_key)) => self.read(&block, first_key),
                None => None,
            };
            if let Some(row) = row {
                self.row += 1;
                return Some(Ok(row));
            }
            let what = format!("block {} of {}", self.block + 1, self.file.n_blocks());
            let _: Option<()> = self.file.give_up(self.block);
            (self.block, self.row) = (self.block + 1, 0);
            return Some(Err(DrafterFileError::damaged(&self.file.path, what)));
        }
        None
    }
}

impl Rows<'_> {
    fn read(&self, block: &Block<'_>, first_key: u64) -> Option<BaseRow> {
        let context = self.file.keys.context(first_key.checked_add(block.key(self.row))?)?;
        let mut successors = Vec::with_capacity(MAX_SUCCESSORS);
        let total = self.file.read_row(block, self.row, &mut successors)?;
        successors.iter_mut().for_each(|successor| successor.weight *= total);
        Some(BaseRow { context, total, successors })
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: another process can change it while it is mapped")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private to `DrafterFile`, read-only, and never handed out, so this process never writes to it.
    // Another process may. All reads copy integers out of bounds-checked slices, and what they decide (places, counts,
    // token ids) is checked at each use, so changed bytes give other numbers, not invalid memory. A truncated file
    // raises SIGBUS, which ends the process and corrupts nothing; chaski itself replaces files by renaming only.
    unsafe { Mmap::map(file) }
}
