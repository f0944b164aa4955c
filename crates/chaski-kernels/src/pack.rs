//! From a file's rows of blocks to the tiles of [`crate::format`].

use crate::weights::WeightType;

/// Writes rows of blocks as tiles of `tile_rows` rows. `to` is as long as `from`.
///
/// # Panics
///
/// If `from` is not a whole number of tiles with rows of `columns` weights, or `to` is of another length.
pub fn pack(ty: WeightType, columns: usize, tile_rows: usize, from: &[u8], to: &mut [u8]) {
    let row_bytes = ty.row_bytes(columns);
    let tile_bytes = tile_rows * row_bytes;
    assert!(
        columns.is_multiple_of(ty.block_columns()) && from.len().is_multiple_of(tile_bytes) && to.len() == from.len()
    );
    for (rows, tile) in from.chunks_exact(tile_bytes).zip(to.chunks_exact_mut(tile_bytes)) {
        if ty.is_float() {
            interleave(rows, row_bytes, ty.block_bytes(), tile);
        } else {
            for (block, out) in tile.chunks_exact_mut(tile_rows * ty.block_bytes()).enumerate() {
                let at = |r: usize| &rows[r * row_bytes + block * ty.block_bytes()..][..ty.block_bytes()];
                pack_block(ty, tile_rows, &at, out);
            }
        }
    }
}

/// Floats: element by element, one of each row.
fn interleave(rows: &[u8], row_bytes: usize, size: usize, tile: &mut [u8]) {
    let n_rows = rows.len() / row_bytes;
    for (column, out) in tile.chunks_exact_mut(n_rows * size).enumerate() {
        for (r, out) in out.chunks_exact_mut(size).enumerate() {
            out.copy_from_slice(&rows[r * row_bytes + column * size..][..size]);
        }
    }
}

fn pack_block<'a>(ty: WeightType, tile_rows: usize, block: &impl Fn(usize) -> &'a [u8], out: &mut [u8]) {
    let mut codes = [0u8; 256];
    let (bits, scale_bytes) = shape(ty);
    let (scales, planes) = out.split_at_mut(tile_rows * scale_bytes);
    for r in 0..tile_rows {
        let b = block(r);
        pack_scales(ty, b, r, tile_rows, scales);
        let codes = &mut codes[..ty.block_columns()];
        read_codes(ty, b, codes);
        for (group, codes) in codes.chunks_exact(32).enumerate() {
            let planes = &mut planes[group * tile_rows * bits * 4..];
            // Four columns at a time.
            let q: [u32; 8] = std::array::from_fn(|j| {
                u32::from_le_bytes([codes[4 * j], codes[4 * j + 1], codes[4 * j + 2], codes[4 * j + 3]])
            });
            let mut put = |vector: usize, value: u32| {
                planes[vector * 4 * tile_rows + 4 * r..][..4].copy_from_slice(&value.to_le_bytes());
            };
            let ones = |bit: u32| (0..8).map(|j| (q[j] >> bit & 0x0101_0101) << j).sum::<u32>();
            let twos = |j: usize, shift: u32| (0..4).map(|i| (q[j + i] >> shift & 0x0303_0303) << (2 * i)).sum::<u32>();
            match bits {
                8 => (0..8).for_each(|j| put(j, q[j])),
                4..=6 => {
                    (0..4).for_each(|j| put(j, q[j] & 0x0f0f_0f0f | (q[j + 4] & 0x0f0f_0f0f) << 4));
                    if bits == 5 {
                        put(4, ones(4));
                    } else if bits == 6 {
                        put(4, twos(0, 4));
                        put(5, twos(4, 4));
                    }
                }
                _ => {
                    put(0, twos(0, 0));
                    put(1, twos(4, 0));
                    if bits == 3 {
                        put(2, ones(2));
                    }
                }
            }
        }
    }
}

/// Bits of a code, bytes of a row's scales in a block.
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

/// The codes of a block, in the order of the columns. ggml's layouts: `dequantize_row_*` in `ggml-quants.c`.
fn read_codes(ty: WeightType, b: &[u8], codes: &mut [u8]) {
    // 16 bytes: the low halves are columns 0..16, the high ones columns 16..32.
    let nibbles = |from: &[u8], codes: &mut [u8]| {
        let half = codes.len() / 2;
        for (i, x) in from[..half].iter().enumerate() {
            codes[i] = x & 15;
            codes[half + i] = x >> 4;
        }
    };
    match ty {
        WeightType::Q4_0 | WeightType::Iq4Nl => nibbles(&b[2..], codes),
        WeightType::Q4_1 => nibbles(&b[4..], codes),
        WeightType::Mxfp4 => nibbles(&b[1..], codes),
        WeightType::Q5_0 | WeightType::Q5_1 => {
            let bits = if ty == WeightType::Q5_0 { 2 } else { 4 };
            nibbles(&b[bits + 4..], codes);
            for (i, code) in codes.iter_mut().enumerate() {
                *code |= (b[bits + i / 8] >> (i % 8) & 1) << 4;
            }
        }
        WeightType::Q8_0 => codes.copy_from_slice(&b[2..]),
        WeightType::Q2K | WeightType::Q3K => {
            let low = if ty == WeightType::Q2K { &b[16..80] } else { &b[32..96] };
            for (n, codes) in codes.chunks_exact_mut(128).enumerate() {
                for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
                    for (l, code) in codes.iter_mut().enumerate() {
                        *code = low[n * 32 + l] >> (2 * j) & 3;
                        if ty == WeightType::Q3K {
                            *code |= (b[l] >> (4 * n + j) & 1) << 2;
                        }
                    }
                }
            }
        }
        WeightType::Q4K => {
            b[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)).for_each(|(b, codes)| nibbles(b, codes))
        }
        WeightType::Q5K => {
            b[48..].chunks_exact(32).zip(codes.chunks_exact_mut(64)).for_each(|(b, codes)| nibbles(b, codes));
            for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
                for (code, high) in codes.iter_mut().zip(&b[16..48]) {
                    *code |= (high >> j & 1) << 4;
                }
            }
        }
        WeightType::Q6K => {
            for (n, codes) in codes.chunks_exact_mut(128).enumerate() {
                let (low, high) = (&b[n * 64..][..64], &b[128 + n * 32..][..32]);
                for (j, codes) in codes.chunks_exact_mut(32).enumerate() {
                    for (l, code) in codes.iter_mut().enumerate() {
                        let x = low[j % 2 * 32 + l];
                        *code = (if j < 2 { x & 15 } else { x >> 4 }) | (high[l] >> (2 * j) & 3) << 4;
                    }
                }
            }
        }
        WeightType::Iq4Xs => {
            b[8..].chunks_exact(16).zip(codes.chunks_exact_mut(32)).for_each(|(b, codes)| nibbles(b, codes))
        }
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("floats have no codes"),
    }
}

/// A row's scales, as `crate::format` describes them for each type.
fn pack_scales(ty: WeightType, b: &[u8], r: usize, tile_rows: usize, out: &mut [u8]) {
    // A row's half at index `i` of the halves that head the block.
    let put_half =
        |out: &mut [u8], i: usize, at: usize| out[(i * tile_rows + r) * 2..][..2].copy_from_slice(&b[at..at + 2]);
    match ty {
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 | WeightType::Iq4Nl => put_half(out, 0, 0),
        WeightType::Q4_1 | WeightType::Q5_1 => {
            put_half(out, 0, 0);
            put_half(out, 1, 2);
        }
        WeightType::Mxfp4 => out[r] = b[0],
        WeightType::Q2K => {
            put_half(out, 0, 80);
            put_half(out, 1, 82);
            (0..16).for_each(|g| out[(4 + g) * tile_rows + r] = b[g]);
        }
        WeightType::Q3K => {
            put_half(out, 0, 108);
            let s = &b[96..108];
            let low = |g: usize| if g < 8 { s[g] & 15 } else { s[g - 8] >> 4 };
            let high = |g: usize| s[8 + g % 4] >> (2 * (g / 4)) & 3;
            (0..8).for_each(|g| out[(2 + g) * tile_rows + r] = low(g) | low(g + 8) << 4);
            (0..4).for_each(|g| {
                out[(10 + g) * tile_rows + r] = high(g) | high(g + 4) << 2 | high(g + 8) << 4 | high(g + 12) << 6
            });
        }
        WeightType::Q4K | WeightType::Q5K => {
            put_half(out, 0, 0);
            put_half(out, 1, 2);
            let s = &b[4..16];
            let scale = |g: usize| if g < 4 { s[g] & 63 } else { s[g + 4] & 15 | s[g - 4] >> 6 << 4 };
            let minimum = |g: usize| if g < 4 { s[g + 4] & 63 } else { s[g + 4] >> 4 | s[g] >> 6 << 4 };
            (0..8).for_each(|g| out[(4 + g) * tile_rows + r] = scale(g) & 15 | (minimum(g) & 15) << 4);
            (0..4).for_each(|g| {
                out[(12 + g) * tile_rows + r] =
                    scale(g) >> 4 | scale(g + 4) >> 4 << 2 | minimum(g) >> 4 << 4 | minimum(g + 4) >> 4 << 6;
            });
        }
        WeightType::Q6K => {
            put_half(out, 0, 208);
            (0..16).for_each(|g| out[(2 + g) * tile_rows + r] = b[192 + g]);
        }
        WeightType::Iq4Xs => {
            put_half(out, 0, 0);
            let high = u16::from_le_bytes([b[2], b[3]]);
            let low = |g: usize| b[4 + g / 2] >> (4 * (g % 2)) & 15;
            let high = |g: usize| (high >> (2 * g) & 3) as u8;
            (0..4).for_each(|g| out[(2 + g) * tile_rows + r] = low(g) | low(g + 4) << 4);
            (0..2).for_each(|g| {
                out[(6 + g) * tile_rows + r] = high(g) | high(g + 2) << 2 | high(g + 4) << 4 | high(g + 6) << 6
            });
        }
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => unreachable!("floats have no scales"),
    }
}
