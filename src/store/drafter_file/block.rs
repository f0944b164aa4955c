//! A block: rows in order of their keys, packed to the bit. Four sections follow the block's own header:
//!
//! ```text
//! bytes 0-7  n_rows u16, n_successors u16, bits of a key u8, 3 zero bytes
//! keys       n_rows       x (bits of a key)          less the block's first key, which the index holds
//! ends       n_rows       x 12 bits                  where a row's successors end; they begin where the row before ends
//! totals     n_rows       x 8 bits                   codes.rs
//! successors n_successors x (bits of a token + 8)    token in the low bits, the code of its share above
//! ```
//!
//! Equal widths within a section make any row a matter of arithmetic. The last 8 bytes stay zero, so that a field can be
//! read as the 64-bit word at its first byte wherever it lies.

/// Bytes of a block: a page of most systems.
pub(super) const BLOCK_BYTES: usize = 4096;

const HEADER_BITS: usize = 64;
const TAIL_BITS: usize = 64;
const END_BITS: u32 = 12;
const TOTAL_BITS: u32 = 8;
const SHARE_BITS: u32 = 8;

/// Room for rows, for estimates.
pub(super) const BLOCK_BITS: f64 = (BLOCK_BYTES * 8 - HEADER_BITS - TAIL_BITS) as f64;

/// The widest field that a 64-bit word holds at any bit of its first byte.
const MAX_FIELD_BITS: u32 = 57;

/// Bits that numbers up to `max` need.
pub(super) fn bits_for(max: u64) -> u32 {
    (u64::BITS - max.leading_zeros()).max(1)
}

/// Where the sections of a block begin, in bits.
#[derive(Clone, Copy, Debug)]
struct Layout {
    n_rows: usize,
    n_successors: usize,
    key_bits: u32,
    token_bits: u32,
    ends_at: usize,
    totals_at: usize,
    successors_at: usize,
}

impl Layout {
    /// `None` where it does not fit into a block.
    fn new(n_rows: usize, n_successors: usize, key_bits: u32, token_bits: u32) -> Option<Layout> {
        let ends_at = HEADER_BITS + n_rows * key_bits as usize;
        let totals_at = ends_at + n_rows * END_BITS as usize;
        let successors_at = totals_at + n_rows * TOTAL_BITS as usize;
        let end = successors_at + n_successors * (token_bits + SHARE_BITS) as usize;
        let fits = end + TAIL_BITS <= BLOCK_BYTES * 8 && n_successors < 1 << END_BITS;
        let layout = Layout { n_rows, n_successors, key_bits, token_bits, ends_at, totals_at, successors_at };
        (fits && key_bits <= MAX_FIELD_BITS).then_some(layout)
    }
}

/// A block to be read. Every access is checked against the bytes, which may change under a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl<'a> Block<'a> {
    /// `None` where the sections do not fit into the block.
    pub(super) fn parse(bytes: &'a [u8], token_bits: u32) -> Option<Block<'a>> {
        let header: [u8; 8] = *bytes.first_chunk()?;
        let [n_rows, n_successors] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_le_bytes);
        let layout = Layout::new(n_rows.into(), n_successors.into(), header[4].into(), token_bits)?;
        Some(Block { bytes, layout })
    }

    pub(super) fn n_rows(&self) -> usize {
        self.layout.n_rows
    }

    /// The key of a row, less the block's first.
    pub(super) fn key(&self, row: usize) -> u64 {
        read_bits(self.bytes, HEADER_BITS + row * self.layout.key_bits as usize, self.layout.key_bits)
    }

    /// The row of a key less the block's first.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        last_not_above(self.n_rows(), key, |row| self.key(row)).filter(|&row| self.key(row) == key)
    }

    /// The code of a row's total.
    pub(super) fn total(&self, row: usize) -> u8 {
        read_bits(self.bytes, self.layout.totals_at + row * TOTAL_BITS as usize, TOTAL_BITS) as u8
    }

    /// Tokens and codes of shares of a row; `None` where the block contradicts itself.
    pub(super) fn successors(&self, row: usize) -> Option<impl ExactSizeIterator<Item = (u32, u8)> + use<'a>> {
        let end = |row: usize| read_bits(self.bytes, self.layout.ends_at + row * END_BITS as usize, END_BITS) as usize;
        let (start, end) = (row.checked_sub(1).map_or(0, end), end(row));
        if start > end || end > self.layout.n_successors {
            return None;
        }
        let Block { bytes, layout } = *self;
        let width = layout.token_bits + SHARE_BITS;
        Some((start..end).map(move |number| {
            let field = read_bits(bytes, layout.successors_at + number * width as usize, width);
            ((field & ((1 << layout.token_bits) - 1)) as u32, (field >> layout.token_bits) as u8)
        }))
    }
}

/// The last of `n` ascending values that is not above `limit`.
pub(super) fn last_not_above(n: usize, limit: u64, value_at: impl Fn(usize) -> u64) -> Option<usize> {
    if n == 0 || value_at(0) > limit {
        return None;
    }
    // Without a branch that depends on the values: half of those would be guessed wrong.
    let (mut at, mut n_left) = (0, n);
    while n_left > 1 {
        let half = n_left / 2;
        at = if value_at(at + half) <= limit { at + half } else { at };
        n_left -= half;
    }
    Some(at)
}

/// Zero past the end of `bytes`.
fn read_bits(bytes: &[u8], at: usize, width: u32) -> u64 {
    let word = bytes.get(at / 8..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word));
    (word >> (at % 8)) & ((1 << width) - 1)
}

/// Sets bits that are zero. `at` lies at least 8 bytes before the end of `bytes`.
fn write_bits(bytes: &mut [u8], at: usize, width: u32, value: u64) {
    debug_assert!(value < 1 << width && width <= MAX_FIELD_BITS);
    if let Some(word) = bytes.get_mut(at / 8..).and_then(|rest| rest.first_chunk_mut()) {
        *word = (u64::from_le_bytes(*word) | value << (at % 8)).to_le_bytes();
    }
}

/// A block to be written.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    token_bits: u32,
    /// Key, end and code of the total of each row.
    rows: Vec<(u64, usize, u8)>,
    successors: Vec<(u32, u8)>,
}

impl BlockBuilder {
    pub(super) fn new(n_vocab: u32) -> BlockBuilder {
        BlockBuilder { token_bits: token_bits(n_vocab), rows: Vec::new(), successors: Vec::new() }
    }

    /// The first key in it.
    pub(super) fn first_key(&self) -> Option<u64> {
        self.rows.first().map(|row| row.0)
    }

    /// Whether there is room for a row. An empty block has room for any that a file may have.
    pub(super) fn has_room(&self, key: u64, n_successors: usize) -> bool {
        let key_bits = bits_for(key - self.first_key().unwrap_or(key));
        Layout::new(self.rows.len() + 1, self.successors.len() + n_successors, key_bits, self.token_bits).is_some()
    }

    /// Adds a row that there is room for; keys ascend.
    pub(super) fn push(&mut self, key: u64, total: u8, successors: impl Iterator<Item = (u32, u8)>) {
        self.successors.extend(successors);
        self.rows.push((key, self.successors.len(), total));
    }

    /// The bytes of the block and its first key; leaves an empty one. `None` if it is.
    pub(super) fn take(&mut self) -> Option<(u64, [u8; BLOCK_BYTES])> {
        let (first, last) = (self.first_key()?, self.rows.last()?.0);
        let key_bits = bits_for(last - first);
        let layout = Layout::new(self.rows.len(), self.successors.len(), key_bits, self.token_bits)?;
        let mut bytes = [0; BLOCK_BYTES];
        bytes[..2].copy_from_slice(&(layout.n_rows as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&(layout.n_successors as u16).to_le_bytes());
        bytes[4] = key_bits as u8;
        for (number, &(key, end, total)) in self.rows.iter().enumerate() {
            write_bits(&mut bytes, HEADER_BITS + number * key_bits as usize, key_bits, key - first);
            write_bits(&mut bytes, layout.ends_at + number * END_BITS as usize, END_BITS, end as u64);
            write_bits(&mut bytes, layout.totals_at + number * TOTAL_BITS as usize, TOTAL_BITS, total.into());
        }
        let width = self.token_bits + SHARE_BITS;
        for (number, &(token, share)) in self.successors.iter().enumerate() {
            let field = u64::from(token) | u64::from(share) << self.token_bits;
            write_bits(&mut bytes, layout.successors_at + number * width as usize, width, field);
        }
        self.rows.clear();
        self.successors.clear();
        Some((first, bytes))
    }
}

/// Bits of a token id.
pub(super) fn token_bits(n_vocab: u32) -> u32 {
    bits_for(u64::from(n_vocab.saturating_sub(1)))
}
