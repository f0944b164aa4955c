//! The index of a file: 24 bytes per block, with its first key, shape and checksum.

use crate::drafter_file::block::{Shape, last_not_above, scale};
use crate::drafter_file::header::number;

pub(super) const ENTRY_BYTES: usize = 24;

/// The index entry of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) first_key: u64,
    pub(super) shape: Shape,
    pub(super) checksum: u64,
}

impl Entry {
    pub(super) fn encode(&self) -> [[u8; 8]; 3] {
        [self.first_key, self.shape.encode(), self.checksum].map(u64::to_le_bytes)
    }
}

/// The entry of a block; zeros past the end.
pub(super) fn entry(index: &[u8], block: usize) -> Entry {
    let [first_key, shape, checksum] = [0, 8, 16].map(|offset| number(index, ENTRY_BYTES * block + offset));
    Entry { first_key, shape: Shape::decode(shape), checksum }
}

/// The block that may hold `key`; `None` if all keys are greater. Keys are below `end`.
pub(super) fn block_of(index: &[u8], key: u64, end: u64) -> Option<usize> {
    let n_blocks = index.len() / ENTRY_BYTES;
    let first_key = |block: usize| number(index, ENTRY_BYTES * block);
    last_not_above(n_blocks, key, scale(key, end, n_blocks), first_key)
}
