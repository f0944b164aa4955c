//! Writes a drafter file from rows in key order. The complete file appears at its path, or none at all.

use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::draft::table::MAX_SUCCESSORS;
use crate::drafter_file::block::{BLOCK_BYTES, BlockBuilder};
use crate::drafter_file::codes::{share_code, total_code};
use crate::drafter_file::error::DrafterFileError;
use crate::drafter_file::header::{Header, MAX_BLOCKS, MAX_VOCAB, Totals, checksum, file_bytes};
use crate::drafter_file::index::Entry;
use crate::drafter_file::keys::KeySpace;
use crate::drafter_file::prune::prune;
use crate::drafter_file::reader::DrafterFile;
use crate::drafter_file::row::BaseRow;
use crate::output_file;
use crate::vocabulary::Vocabulary;

/// A drafter file under construction. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct DrafterWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    vocabulary: Vocabulary,
    keys: KeySpace,
    block: BlockBuilder,
    /// One entry per written block.
    index: Vec<Entry>,
    last_key: Option<u64>,
    totals: Totals,
}

impl DrafterWriter {
    /// Starts a file that will be at `path`.
    ///
    /// # Errors
    /// When the folder cannot be written to, or the vocabulary is too large.
    pub fn create(path: &Path, vocabulary: Vocabulary) -> Result<DrafterWriter, DrafterFileError> {
        let named = DrafterFileError::io(path);
        if !(1..=MAX_VOCAB).contains(&vocabulary.n_tokens) {
            let what = format!("a vocabulary of {} tokens, expected 1 to {MAX_VOCAB}", vocabulary.n_tokens);
            return Err(DrafterFileError::Unwritable { path: path.to_owned(), what });
        }
        let file = output_file::create(path).map_err(&named)?;
        let mut file = BufWriter::with_capacity(64 * BLOCK_BYTES, file);
        // Space for the header, which is written last.
        file.write_all(&[0; BLOCK_BYTES]).map_err(&named)?;
        Ok(DrafterWriter {
            path: path.to_owned(),
            file,
            vocabulary,
            keys: KeySpace::new(vocabulary.n_tokens),
            block: BlockBuilder::new(vocabulary.n_tokens),
            index: Vec::new(),
            last_key: None,
            totals: Totals::default(),
        })
    }

    /// Adds a row; rows must come in key order. Keeps the `MAX_SUCCESSORS` successors with the highest counts. A row
    /// without successors is skipped.
    ///
    /// # Errors
    /// When the disk is full, the row is out of order, or a token is not in the vocabulary.
    pub fn push(&mut self, row: &mut BaseRow) -> Result<(), DrafterFileError> {
        row.keep_top(MAX_SUCCESSORS, f32::MIN_POSITIVE);
        if row.successors.is_empty() {
            return Ok(());
        }
        let key = self.key_of(row)?;
        if !self.block.has_room(key, row.successors.len()) {
            self.flush_block()?;
        }
        let counted: f32 = row.successors.iter().map(|successor| successor.weight).sum();
        let total = row.total.max(counted);
        let code = |weight: f32| share_code(weight / total);
        let successors = row.successors.iter().map(|successor| (successor.token.0 as u32, code(successor.weight)));
        self.block.push(key, total_code(total), successors);
        self.last_key = Some(key);
        let order = row.context.tokens().len();
        self.totals.n_rows[order] += 1;
        self.totals.n_successors[order] += row.successors.len() as u64;
        Ok(())
    }

    /// The key of the next row, checked for order and vocabulary.
    fn key_of(&self, row: &BaseRow) -> Result<u64, DrafterFileError> {
        let unwritable = |what: String| DrafterFileError::Unwritable { path: self.path.clone(), what };
        let n_vocab = u64::from(self.vocabulary.n_tokens);
        let is_known = |token: i32| u64::try_from(token).is_ok_and(|id| id < n_vocab);
        let key = self.keys.key(row.context.tokens());
        let key = key.filter(|_| row.successors.iter().all(|successor| is_known(successor.token.0)));
        let key = key.ok_or_else(|| unwritable(format!("a token beyond the vocabulary of {n_vocab}")))?;
        if self.last_key.is_some_and(|last| last >= key) {
            return Err(unwritable(format!("the row of {:?} is out of order", row.context.tokens())));
        }
        Ok(key)
    }

    fn flush_block(&mut self) -> Result<(), DrafterFileError> {
        if let Some((first_key, shape, bytes)) = self.block.take() {
            if self.index.len() as u64 >= MAX_BLOCKS {
                let what = format!("more than {MAX_BLOCKS} blocks");
                return Err(DrafterFileError::Unwritable { path: self.path.clone(), what });
            }
            self.index.push(Entry { first_key, shape, checksum: checksum(&bytes) });
            self.file.write_all(&bytes).map_err(DrafterFileError::io(&self.path))?;
        }
        Ok(())
    }

    /// The size of the file if no more rows are added.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let n_blocks = self.index.len() as u64 + u64::from(!self.block.is_empty());
        file_bytes(n_blocks)
    }

    /// Completes the file, flushes it to the disk, and renames it to its path, replacing an older file. Returns its
    /// size.
    ///
    /// # Errors
    /// When the disk is full, or the file cannot be renamed.
    pub fn finish(mut self) -> Result<u64, DrafterFileError> {
        let bytes = self.complete()?;
        let named = DrafterFileError::io(&self.path);
        let file = self.file.into_inner().map_err(|error| named(error.into_error()))?;
        output_file::finish(file, &self.path).map_err(&named)?;
        Ok(bytes)
    }

    /// As [`DrafterWriter::finish`], but prunes a file that would exceed `max_bytes`. `go_on` is called at each row of
    /// that; false cancels.
    ///
    /// # Errors
    /// As [`DrafterWriter::finish`] and [`prune`].
    pub fn finish_within(mut self, max_bytes: u64, go_on: impl FnMut() -> bool) -> Result<u64, DrafterFileError> {
        if self.file_bytes() <= max_bytes {
            return self.finish();
        }
        self.complete()?;
        let whole = DrafterFile::open_any(self.file.get_ref().path())?;
        prune(&whole, &self.path, max_bytes, go_on)
    }

    /// Writes the remaining rows, the index and the header. Returns the size.
    fn complete(&mut self) -> Result<u64, DrafterFileError> {
        self.flush_block()?;
        let index: Vec<u8> = self.index.iter().flat_map(|entry| entry.encode()).flatten().collect();
        let header = Header {
            vocabulary: self.vocabulary,
            n_blocks: self.index.len() as u64,
            index_checksum: checksum(&index),
            totals: self.totals,
        };
        let mut write = || {
            self.file.write_all(&index)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header.encode())?;
            self.file.flush()
        };
        write().map_err(DrafterFileError::io(&self.path))?;
        Ok(file_bytes(header.n_blocks))
    }
}
