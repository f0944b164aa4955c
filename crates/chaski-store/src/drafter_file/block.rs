//! Reads and writes blocks: rows in key order, packed to the bit.
//!
//! ```text
//! rows       n_rows       x (bits of a key, 12, 8)   key minus the block's first key; end of the row's successors,
//!                                                    which start at the previous row's end; code of the total
//! successors n_successors x (bits of a token, 8)     token, code of the share
//! ```
//!
//! All rows have one width, and so do successors, so offsets are computed. The index stores the counts and the width of
//! a key (`Shape`), so a lookup touches little more than the cache line of the row and that of its successors. The last
//! 8 bytes stay zero, so that a field can be read as the 64-bit word at its first byte.

/// Bytes of a block: the page size of most systems.
pub(super) const BLOCK_BYTES: usize = 4096;

const TAIL_BITS: usize = 64;
const END_BITS: u32 = 12;
const TOTAL_BITS: u32 = 8;
const SHARE_BITS: u32 = 8;

/// Bits available for rows and successors, for estimates.
pub(super) const BLOCK_BITS: f64 = (BLOCK_BYTES * 8 - TAIL_BITS) as f64;

/// The widest field that fits into a 64-bit word at any bit offset of its first byte.
const MAX_FIELD_BITS: u32 = 57;

/// Bits needed for numbers up to `max`.
fn bits_for(max: u64) -> u32 {
    (u64::BITS - max.leading_zeros()).max(1)
}

/// Bits of a token id.
pub(super) fn token_bits(n_vocab: u32) -> u32 {
    bits_for(u64::from(n_vocab.saturating_sub(1)))
}

/// The layout of a block, stored in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    n_rows: u16,
    n_successors: u16,
    key_bits: u8,
}

impl Shape {
    pub(super) fn encode(self) -> u64 {
        u64::from(self.n_rows) | u64::from(self.n_successors) << 16 | u64::from(self.key_bits) << 32
    }

    pub(super) fn decode(number: u64) -> Shape {
        Shape { n_rows: number as u16, n_successors: (number >> 16) as u16, key_bits: (number >> 32) as u8 }
    }

    fn row_bits(self) -> usize {
        usize::from(self.key_bits) + (END_BITS + TOTAL_BITS) as usize
    }

    fn successors_at(self) -> usize {
        usize::from(self.n_rows) * self.row_bits()
    }

    fn fits(self, token_bits: u32) -> bool {
        let end = self.successors_at() + usize::from(self.n_successors) * (token_bits + SHARE_BITS) as usize;
        end + TAIL_BITS <= BLOCK_BYTES * 8
            && self.n_successors < 1 << END_BITS
            && u32::from(self.key_bits) <= MAX_FIELD_BITS
    }
}

/// A block for reading. Every access is bounds-checked: the bytes may change while the file is mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    shape: Shape,
    token_bits: u32,
}

impl<'a> Block<'a> {
    /// `None` if a block cannot have this shape.
    pub(super) fn new(bytes: &'a [u8], shape: Shape, token_bits: u32) -> Option<Block<'a>> {
        shape.fits(token_bits).then_some(Block { bytes, shape, token_bits })
    }

    pub(super) fn n_rows(&self) -> usize {
        self.shape.n_rows.into()
    }

    /// The key of a row, minus the block's first key.
    pub(super) fn key(&self, row: usize) -> u64 {
        read_bits(self.bytes, row * self.shape.row_bits(), self.shape.key_bits.into())
    }

    /// The row with this key. `key` and `span`, the range of the block's keys, are relative to the block's first key.
    pub(super) fn find(&self, key: u64, span: u64) -> Option<usize> {
        let guess = scale(key, span, self.n_rows());
        last_not_above(self.n_rows(), key, guess, |row| self.key(row)).filter(|&row| self.key(row) == key)
    }

    /// The code of a row's total.
    pub(super) fn total(&self, row: usize) -> u8 {
        let at = row * self.shape.row_bits() + usize::from(self.shape.key_bits) + END_BITS as usize;
        read_bits(self.bytes, at, TOTAL_BITS) as u8
    }

    fn end(&self, row: usize) -> usize {
        read_bits(self.bytes, row * self.shape.row_bits() + usize::from(self.shape.key_bits), END_BITS) as usize
    }

    /// The tokens and share codes of a row; `None` if the block contradicts itself.
    pub(super) fn successors(&self, row: usize) -> Option<impl ExactSizeIterator<Item = (u32, u8)> + use<'a>> {
        let (start, end) = (row.checked_sub(1).map_or(0, |before| self.end(before)), self.end(row));
        if start > end || end > self.shape.n_successors.into() {
            return None;
        }
        let (bytes, token_bits, at) = (self.bytes, self.token_bits, self.shape.successors_at());
        let width = token_bits + SHARE_BITS;
        Some((start..end).map(move |number| {
            let field = read_bits(bytes, at + number * width as usize, width);
            ((field & ((1 << token_bits) - 1)) as u32, (field >> token_bits) as u8)
        }))
    }
}

/// Interpolates: the index among `n` at the fraction `part / whole`.
pub(super) fn scale(part: u64, whole: u64, n: usize) -> usize {
    (u128::from(part) * n as u128).checked_div(whole.into()).map_or(0, |at| (at as usize).min(n))
}

/// The index of the last of `n` ascending values that is at most `limit`. A linear search from `guess`, which should be
/// close.
pub(super) fn last_not_above(n: usize, limit: u64, guess: usize, value_at: impl Fn(usize) -> u64) -> Option<usize> {
    let mut above = guess.min(n);
    while above < n && value_at(above) <= limit {
        above += 1;
    }
    while above > 0 && value_at(above - 1) > limit {
        above -= 1;
    }
    above.checked_sub(1)
}

/// Reads `width` bits at bit `at`; zero past the end of `bytes`.
fn read_bits(bytes: &[u8], at: usize, width: u32) -> u64 {
    let word = bytes.get(at / 8..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word));
    (word >> (at % 8)) & ((1 << width) - 1)
}

/// Writes bits over zeros, at least 8 bytes before the end of `bytes`; returns the offset after them.
fn write_bits(bytes: &mut [u8], at: usize, width: u32, value: u64) -> usize {
    debug_assert!(value < 1 << width && width <= MAX_FIELD_BITS);
    if let Some(word) = bytes.get_mut(at / 8..).and_then(|rest| rest.first_chunk_mut()) {
        *word = (u64::from_le_bytes(*word) | value << (at % 8)).to_le_bytes();
    }
    at + width as usize
}

/// A block under construction.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    token_bits: u32,
    /// Key, end of successors and code of the total, per row.
    rows: Vec<(u64, usize, u8)>,
    successors: Vec<(u32, u8)>,
}

impl BlockBuilder {
    pub(super) fn new(n_vocab: u32) -> BlockBuilder {
        BlockBuilder { token_bits: token_bits(n_vocab), rows: Vec::new(), successors: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn shape(&self, n_rows: usize, n_successors: usize, last_key: u64) -> Option<Shape> {
        let first_key = self.rows.first().map_or(last_key, |row| row.0);
        let [n_rows, n_successors] = [n_rows, n_successors].map(|n| u16::try_from(n).ok());
        let key_bits = bits_for(last_key - first_key) as u8;
        let shape = Shape { n_rows: n_rows?, n_successors: n_successors?, key_bits };
        shape.fits(self.token_bits).then_some(shape)
    }

    /// Whether a row still fits. An empty block has room for any valid row.
    pub(super) fn has_room(&self, key: u64, n_successors: usize) -> bool {
        self.shape(self.rows.len() + 1, self.successors.len() + n_successors, key).is_some()
    }

    /// Adds a row, which must fit; keys must ascend.
    pub(super) fn push(&mut self, key: u64, total: u8, successors: impl Iterator<Item = (u32, u8)>) {
        self.successors.extend(successors);
        self.rows.push((key, self.successors.len(), total));
    }

    /// Returns the first key, shape and bytes of the block, and empties the builder. `None` if it is empty already.
    pub(super) fn take(&mut self) -> Option<(u64, Shape, [u8; BLOCK_BYTES])> {
        let (first, last) = (self.rows.first()?.0, self.rows.last()?.0);
        let shape = self.shape(self.rows.len(), self.successors.len(), last)?;
        let mut bytes = [0; BLOCK_BYTES];
        let mut at = 0;
        for (key, end, total) in self.rows.drain(..) {
            at = write_bits(&mut bytes, at, shape.key_bits.into(), key - first);
            at = write_bits(&mut bytes, at, END_BITS, end as u64);
            at = write_bits(&mut bytes, at, TOTAL_BITS, total.into());
        }
        for (token, share) in self.successors.drain(..) {
            at = write_bits(&mut bytes, at, self.token_bits, token.into());
            at = write_bits(&mut bytes, at, SHARE_BITS, share.into());
        }
        Some((first, shape, bytes))
    }
}
