//! Packs rows of blocks, as in a GGUF file, into the tiles of [`crate::format`].
//!
//! Loading a model packs every weight, so speed matters. Types and tile heights become constants once everything is
//! inlined into [`pack_tiles`], and codes are moved four columns at a time, as words. Every helper must be
//! `inline(always)`: a call that is not inlined, such as an iterator or a closure, would be compiled without the
//! instruction set.

#![allow(clippy::needless_range_loop, reason = "an iterator may stay a call")]

use crate::isa::Isa;
use crate::weights::WeightType;

/// Packs rows of blocks into tiles for `isa`. `to` has the length of `from`.
///
/// # Panics
///
/// If the CPU lacks the instruction set, `from` is not a whole number of tiles with rows of `columns` weights, or `to`
/// has another length.
pub(crate) fn pack(ty: WeightType, isa: Isa, columns: usize, from: &[u8], to: &mut [u8]) {
    assert!(isa.is_supported(), "this CPU has no {isa}");
    let tile_bytes = isa.tile_rows() * ty.row_bytes(columns);
    assert!(
        columns.is_multiple_of(ty.block_columns()) && from.len().is_multiple_of(tile_bytes) && to.len() == from.len()
    );
    // SAFETY: every instruction set includes AVX2.
    unsafe {
        match isa.tile_rows() {
            8 => pack_tiles::<8>(ty, columns, from, to),
            16 => pack_tiles::<16>(ty, columns, from, to),
            rows => unreachable!("tiles of {rows} rows"),
        }
    }
}

/// Calls [`pack_type`] with the type as a constant.
#[target_feature(enable = "avx2")]
fn pack_tiles<const ROWS: usize>(ty: WeightType, columns: usize, from: &[u8], to: &mut [u8]) {
    macro_rules! specialized {
        ($($name:ident)*) => {
            match ty {
                $(WeightType::$name => pack_type::<ROWS>(WeightType::$name, columns, from, to),)*
            }
        };
    }
    specialized!(F32 F16 Bf16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4);
}

#[inline(always)]
fn pack_type<const ROWS: usize>(ty: WeightType, columns: usize, from: &[u8], to: &mut [u8]) {
    let (row_bytes, block_bytes) = (ty.row_bytes(columns), ty.block_bytes());
    for (rows, tile) in from.chunks_exact(ROWS * row_bytes).zip(to.chunks_exact_mut(ROWS * row_bytes)) {
        for (block, out) in tile.chunks_exact_mut(ROWS * block_bytes).enumerate() {
            fetch_from_next_tile(rows, block * ROWS * block_bytes, ROWS * block_bytes);
            for r in 0..ROWS {
                let b = &rows[r * row_bytes + block * block_bytes..][..block_bytes];
                if ty.is_float() {
                    for i in 0..block_bytes {
                        out[r * block_bytes + i] = b[i];
                    }
                } else {
                    pack_block::<ROWS>(ty, b, r, out);
                }
            }
        }
    }
}

/// Prefetches `bytes` at offset `at` of the tile behind `rows`. A tile's rows are read side by side, which the CPU's
/// own prefetcher does not recognize.
#[inline(always)]
fn fetch_from_next_tile(rows: &[u8], at: usize, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let next = rows.as_ptr().wrapping_add(rows.len() + at).cast::<i8>();
    let mut i = 0;
    while i < bytes {
        // SAFETY: a prefetch has no visible effect and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(i)) };
        i += 64;
    }
}

/// Packs row `r`'s part of one block of a tile.
#[inline(always)]
fn pack_block<const ROWS: usize>(ty: WeightType, b: &[u8], r: usize, out: &mut [u8]) {
    let (bits, scale_bytes) = shape(ty);
    let (scales, planes) = out.split_at_mut(ROWS * scale_bytes);
    pack_scales::<ROWS>(ty, b, r, scales);
    // A vector has one word per row.
    let planes = planes.as_chunks_mut::<4>().0;
    for group in 0..ty.block_columns() / 32 {
        let q = codes(ty, b, group);
        let first = group * bits * ROWS + r;
        match bits {
            8 => {
                for j in 0..8 {
                    planes[first + j * ROWS] = q[j].to_le_bytes();
                }
            }
            4..=6 => {
                for j in 0..4 {
                    planes[first + j * ROWS] = (q[j] & 0x0f0f_0f0f | (q[j + 4] & 0x0f0f_0f0f) << 4).to_le_bytes();
                }
                if bits == 5 {
                    planes[first + 4 * ROWS] = ones(&q, 4).to_le_bytes();
                } else if bits == 6 {
                    planes[first + 4 * ROWS] = twos(&q, 0, 4).to_le_bytes();
                    planes[first + 5 * ROWS] = twos(&q, 4, 4).to_le_bytes();
                }
            }
            _ => {
                planes[first] = twos(&q, 0, 0).to_le_bytes();
                planes[first + ROWS] = twos(&q, 4, 0).to_le_bytes();
                if bits == 3 {
                    planes[first + 2 * ROWS] = ones(&q, 2).to_le_bytes();
                }
            }
        }
    }
}

/// One bit from each of 32 codes; the first word's bits are the lowest of each byte.
#[inline(always)]
fn ones(q: &[u32; 8], bit: u32) -> u32 {
    let mut all = 0;
    for j in 0..8 {
        all |= (q[j] >> bit & 0x0101_0101) << j;
    }
    all
}

/// Two bits from each of the 16 codes that start at word `from`.
#[inline(always)]
fn twos(q: &[u32; 8], from: usize, bit: u32) -> u32 {
    let mut all = 0;
    for i in 0..4 {
        all |= (q[from + i] >> bit & 0x0303_0303) << (2 * i);
    }
    all
}

/// Bits per code, and bytes of a row's scales in a block.
#[inline(always)]
fn shape(ty: WeightType) -> (usize, usize) {
    match ty {
        WeightType::Q4_0 | WeightType::Iq4Nl => (4, 2),
        WeightType::Q4_1 => (4, 4),
        WeightType::Q5_0 => (5, 2),
        WeightType::Q5_1 => (5, 4),
        WeightType::Q8_0 => (8, 2),
        WeightType::Mxfp4 => (4, 1),
        WeightType::Q2K => (2, 20),
        WeightType::Q3K => (3, 14),
        WeightType::Q4K => (4, 16),
        WeightType::Q5K => (5, 16),
        WeightType::Q6K => (6, 18),
        WeightType::Iq4Xs => (4, 8),
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("floats have no codes"),
    }
}

/// The codes of 32 columns in order, four per word. See `dequantize_row_*` in `ggml-quants.c` for ggml's layouts.
#[inline(always)]
fn codes(ty: WeightType, b: &[u8], group: usize) -> [u32; 8] {
    // In blocks of 256 columns, some bytes hold bits of two or four groups.
    let (n, j) = (group / 4, group % 4);
    match ty {
        WeightType::Q4_0 | WeightType::Iq4Nl => nibbles(b, 2),
        WeightType::Q4_1 => nibbles(b, 4),
        WeightType::Mxfp4 => nibbles(b, 1),
        WeightType::Q5_0 => with_bits(nibbles(b, 6), word(b, 2)),
        WeightType::Q5_1 => with_bits(nibbles(b, 8), word(b, 4)),
        WeightType::Q8_0 => part(b, 2, 0, 0xffff_ffff),
        WeightType::Q2K => part(b, 16 + 32 * n, 2 * j, 0x0303_0303),
        WeightType::Q3K => with(part(b, 32 + 32 * n, 2 * j, 0x0303_0303), part(b, 0, group, 0x0101_0101), 2),
        WeightType::Q4K => part(b, 16 + group / 2 * 32, group % 2 * 4, 0x0f0f_0f0f),
        WeightType::Q5K => {
            with(part(b, 48 + group / 2 * 32, group % 2 * 4, 0x0f0f_0f0f), part(b, 16, group, 0x0101_0101), 4)
        }
        WeightType::Q6K => {
            let low = part(b, 64 * n + j % 2 * 32, j / 2 * 4, 0x0f0f_0f0f);
            with(low, part(b, 128 + 32 * n, 2 * j, 0x0303_0303), 4)
        }
        WeightType::Iq4Xs => nibbles(b, 8 + 16 * group),
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("floats have no codes"),
    }
}

#[inline(always)]
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Shifts and masks 32 bytes.
#[inline(always)]
fn part(b: &[u8], at: usize, shift: usize, mask: u32) -> [u32; 8] {
    let mut q = [0; 8];
    for j in 0..8 {
        q[j] = word(b, at + 4 * j) >> shift & mask;
    }
    q
}

/// Splits 16 bytes: the low nibbles are columns 0..16, the high ones columns 16..32.
#[inline(always)]
fn nibbles(b: &[u8], at: usize) -> [u32; 8] {
    let mut q = [0; 8];
    for j in 0..4 {
        let w = word(b, at + 4 * j);
        q[j] = w & 0x0f0f_0f0f;
        q[j + 4] = w >> 4 & 0x0f0f_0f0f;
    }
    q
}

/// Combines codes with their higher bits.
#[inline(always)]
fn with(mut q: [u32; 8], high: [u32; 8], shift: u32) -> [u32; 8] {
    for j in 0..8 {
        q[j] |= high[j] << shift;
    }
    q
}

/// Adds a fifth bit to each code; the bits are in the order of the columns.
#[inline(always)]
fn with_bits(mut q: [u32; 8], bits: u32) -> [u32; 8] {
    for j in 0..8 {
        // The multiplication by 2^0 + 2^7 + 2^14 + 2^21 moves bit `i` of four to bit `8 * i`.
        q[j] |= (((bits >> (4 * j) & 15) * 0x0020_4081) & 0x0101_0101) << 4;
    }
    q
}

/// Packs a row's scales, as `crate::format` describes for each type.
#[inline(always)]
fn pack_scales<const ROWS: usize>(ty: WeightType, b: &[u8], r: usize, out: &mut [u8]) {
    match ty {
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 | WeightType::Iq4Nl => {
            pack_halves::<ROWS, 1>(b, 0, r, out)
        }
        WeightType::Q4_1 | WeightType::Q5_1 => pack_halves::<ROWS, 2>(b, 0, r, out),
        WeightType::Mxfp4 => out[r] = b[0],
        WeightType::Q2K => {
            pack_halves::<ROWS, 2>(b, 80, r, out);
            for g in 0..16 {
                out[(4 + g) * ROWS + r] = b[g];
            }
        }
        WeightType::Q3K => {
            pack_halves::<ROWS, 1>(b, 108, r, out);
            for g in 0..12 {
                out[(2 + g) * ROWS + r] = b[96 + g];
            }
        }
        WeightType::Q4K | WeightType::Q5K => {
            pack_halves::<ROWS, 2>(b, 0, r, out);
            for g in 0..4 {
                // Each byte has six bits of group `g`'s scale or minimum, and two upper bits of those of `g + 4`;
                // `rest` has the lower bits of `g + 4`.
                let (scale, minimum, rest) = (b[4 + g], b[8 + g], b[12 + g]);
                out[(4 + g) * ROWS + r] = scale & 15 | (minimum & 15) << 4;
                out[(8 + g) * ROWS + r] = rest;
                out[(12 + g) * ROWS + r] =
                    scale >> 4 & 3 | scale >> 6 << 2 | (minimum >> 4 & 3) << 4 | minimum >> 6 << 6;
            }
        }
        WeightType::Q6K => {
            pack_halves::<ROWS, 1>(b, 208, r, out);
            for g in 0..16 {
                out[(2 + g) * ROWS + r] = b[192 + g];
            }
        }
        WeightType::Iq4Xs => {
            pack_halves::<ROWS, 1>(b, 0, r, out);
            let high = u16::from_le_bytes([b[2], b[3]]);
            for g in 0..4 {
                let (first, second) = (b[4 + g / 2] >> (4 * (g % 2)) & 15, b[6 + g / 2] >> (4 * (g % 2)) & 15);
                out[(2 + g) * ROWS + r] = first | second << 4;
            }
            for g in 0..2 {
                let mut bits = 0;
                for i in 0..4 {
                    bits |= (high >> (2 * (g + 2 * i)) & 3) << (2 * i);
                }
                out[(6 + g) * ROWS + r] = bits as u8;
            }
        }
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("floats have no scales"),
    }
}

/// Packs `N` half-precision numbers of row `r`. They start a block of the tile: the first of all rows, then the next.
#[inline(always)]
fn pack_halves<const ROWS: usize, const N: usize>(b: &[u8], at: usize, r: usize, out: &mut [u8]) {
    for i in 0..N {
        out[(i * ROWS + r) * 2] = b[at + 2 * i];
        out[(i * ROWS + r) * 2 + 1] = b[at + 2 * i + 1];
    }
}
