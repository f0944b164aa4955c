//! The first block of a file: format, vocabulary, and counts.
//!
//! ```text
//! 0     magic "CHASKIDF"           8     version u32           12    n_vocab u32
//! 16    hash of the vocabulary u64 24    n_blocks u64          32    checksum of the index u64
//! 40    rows by order 3 x u64      64    successors by order 3 x u64
//! 88    zeros                      4088  checksum of all before
//! ```
//!
//! All versions share the size, the magic, and the offsets of version and checksum, so that a newer file can be told
//! apart from a damaged one.

use std::path::Path;

use twox_hash::XxHash3_64;

use crate::drafter_file::block::BLOCK_BYTES;
use crate::drafter_file::error::DrafterFileError;
use crate::drafter_file::index::ENTRY_BYTES;
use crate::vocabulary::Vocabulary;

/// The format version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Number of context lengths: none, one and two tokens.
pub const N_ORDERS: usize = 3;

const MAGIC: &[u8; 8] = b"CHASKIDF";
const CHECKSUM_AT: usize = BLOCK_BYTES - 8;

/// Token ids have at most 21 bits, as in the check of model files.
pub(super) const MAX_VOCAB: u32 = 1 << 21;

/// 4 GiB: the index of a larger file would take too long to check.
pub(super) const MAX_BLOCKS: u64 = 1 << 20;

/// Counts by context length: none, one and two tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of contexts.
    pub n_rows: [u64; N_ORDERS],
    /// Number of successors; for two tokens these are the tri-grams.
    pub n_successors: [u64; N_ORDERS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) vocabulary: Vocabulary,
    pub(super) n_blocks: u64,
    pub(super) index_checksum: u64,
    pub(super) totals: Totals,
}

pub(super) fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

impl Header {
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut bytes = [0; BLOCK_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.vocabulary.n_tokens.to_le_bytes());
        let numbers = [self.vocabulary.hash, self.n_blocks, self.index_checksum];
        let numbers = numbers.into_iter().chain(self.totals.n_rows).chain(self.totals.n_successors);
        for (place, number) in bytes[16..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = checksum(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads and checks the header of a complete file.
    pub(super) fn decode(file: &[u8], path: &Path) -> Result<Header, DrafterFileError> {
        let path = || path.to_owned();
        let cut_short = |expected| DrafterFileError::CutShort { path: path(), expected, found: file.len() as u64 };
        if !file.starts_with(&MAGIC[..file.len().min(MAGIC.len())]) || file.is_empty() {
            return Err(DrafterFileError::NotADrafterFile { path: path() });
        }
        let Some(bytes) = file.first_chunk::<BLOCK_BYTES>() else { return Err(cut_short(BLOCK_BYTES as u64)) };
        let damaged = |what: &str| DrafterFileError::damaged(&path(), what);
        if number(bytes, CHECKSUM_AT) != checksum(&bytes[..CHECKSUM_AT]) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        let (version, n_tokens) = (number(bytes, 8) as u32, (number(bytes, 8) >> 32) as u32);
        match version {
            VERSION => {}
            0 => return Err(damaged("format version 0")),
            found => return Err(DrafterFileError::Newer { path: path(), found }),
        }
        let three = |at: usize| std::array::from_fn(|order| number(bytes, at + 8 * order));
        let header = Header {
            vocabulary: Vocabulary { hash: number(bytes, 16), n_tokens },
            n_blocks: number(bytes, 24),
            index_checksum: number(bytes, 32),
            totals: Totals { n_rows: three(40), n_successors: three(64) },
        };
        if !(1..=MAX_VOCAB).contains(&n_tokens) || header.n_blocks > MAX_BLOCKS {
            return Err(damaged("its header is invalid"));
        }
        match file_bytes(header.n_blocks) {
            expected if expected > file.len() as u64 => Err(cut_short(expected)),
            expected if expected < file.len() as u64 => Err(damaged("there is data after its end")),
            _ => Ok(header),
        }
    }
}

/// Offset of the index in a file of `n_blocks`.
pub(super) fn index_at(n_blocks: u64) -> u64 {
    (1 + n_blocks) * BLOCK_BYTES as u64
}

/// Size in bytes of a file of `n_blocks`.
pub(super) fn file_bytes(n_blocks: u64) -> u64 {
    index_at(n_blocks) + n_blocks * ENTRY_BYTES as u64
}

/// The 64-bit number at an offset; 0 past the end.
pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}
