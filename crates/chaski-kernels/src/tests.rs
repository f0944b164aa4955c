//! Compares every kernel with a plain version that reads the file's blocks, and with itself for other numbers of rows.

use crate::activation::{Activation, Halves, Lanes, quantize, quantize_fast};
use crate::matrix::Matrix;
use crate::{Isa, WeightType};

/// Deterministic random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() % 20001) as f32 / 10000.0 - 1.0
    }
}

fn half_to_float(bits: u16) -> f32 {
    let magnitude = match (bits >> 10 & 31, bits & 1023) {
        (0, m) => f32::from(m) * 2f32.powi(-24),
        (e, m) => (1.0 + f32::from(m) / 1024.0) * 2f32.powi(i32::from(e) - 15),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Blocks with random codes and scales, some of them negative, and one row of zeros.
fn random_blocks(ty: WeightType, columns: usize, rows: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    let mut blocks: Vec<u8> = (0..rows * ty.row_bytes(columns)).map(|_| (random.next() >> 24) as u8).collect();
    for block in blocks.chunks_mut(ty.block_bytes()) {
        let mut half = |at: usize| {
            let bits = (random.next() % 2) << 15 | (8 + random.next() % 5) << 10 | (random.next() % 1024);
            block[at..at + 2].copy_from_slice(&(bits as u16).to_le_bytes());
        };
        match ty {
            WeightType::F16
            | WeightType::Q4_0
            | WeightType::Q5_0
            | WeightType::Q8_0
            | WeightType::Iq4Nl
            | WeightType::Iq4Xs => half(0),
            WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => {
                half(0);
                half(2);
            }
            WeightType::Q2K => {
                half(80);
                half(82);
            }
            WeightType::Q3K => half(108),
            WeightType::Q6K => half(208),
            WeightType::Mxfp4 => block[0] = 120 + block[0] % 8,
            WeightType::Bf16 => block.copy_from_slice(&random.float().to_le_bytes()[2..]),
            WeightType::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
        }
    }
    blocks[..ty.row_bytes(columns)].fill(0);
    blocks
}

/// The weights of a block, as `dequantize_row_*` in `ggml-quants.c` computes them.
fn dequantize(ty: WeightType, b: &[u8]) -> Vec<f64> {
    const IQ4: [f64; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];
    const FP4: [f64; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];
    let half = |at: usize| f64::from(half_to_float(u16::from_le_bytes([b[at], b[at + 1]])));
    let nibble = |at: usize, i: usize| (if i < 16 { b[at + i] & 15 } else { b[at + i - 16] >> 4 }) as usize;
    let fifth = |at: usize, i: usize| ((b[at + i / 8] >> (i % 8) & 1) as usize) << 4;
    let six_bits = |s: &[u8], j: usize| {
        if j < 4 {
            (f64::from(s[j] & 63), f64::from(s[j + 4] & 63))
        } else {
            (f64::from((s[j + 4] & 15) | (s[j - 4] >> 6) << 4), f64::from((s[j + 4] >> 4) | (s[j] >> 6) << 4))
        }
    };
    let weight = |i: usize| -> f64 {
        let two = |at: usize| f64::from(b[at + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3);
        let four = |at: usize| {
            let x = b[at + i / 64 * 32 + i % 32];
            f64::from(if i % 64 < 32 { x & 15 } else { x >> 4 })
        };
        match ty {
            WeightType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            WeightType::F16 => half(0),
            WeightType::Bf16 => f64::from(f32::from_le_bytes([0, 0, b[0], b[1]])),
            WeightType::Q4_0 => half(0) * (nibble(2, i) as f64 - 8.0),
            WeightType::Q4_1 => half(0) * nibble(4, i) as f64 + half(2),
            WeightType::Q5_0 => half(0) * ((nibble(6, i) | fifth(2, i)) as f64 - 16.0),
            WeightType::Q5_1 => half(0) * (nibble(8, i) | fifth(4, i)) as f64 + half(2),
            WeightType::Q8_0 => half(0) * f64::from(b[2 + i] as i8),
            WeightType::Iq4Nl => half(0) * IQ4[nibble(2, i)],
            WeightType::Mxfp4 => 2f64.powi(i32::from(b[0]) - 128) * FP4[nibble(1, i)],
            WeightType::Q2K => half(80) * f64::from(b[i / 16] & 15) * two(16) - half(82) * f64::from(b[i / 16] >> 4),
            WeightType::Q3K => {
                let (s, g) = (&b[96..108], i / 16);
                let low = if g < 8 { s[g] & 15 } else { s[g - 8] >> 4 };
                let scale = f64::from(low | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32.0;
                let high = if b[i % 32] >> (i / 32) & 1 == 1 { 0.0 } else { 4.0 };
                half(108) * scale * (two(32) - high)
            }
            WeightType::Q4K => {
                let (scale, minimum) = six_bits(&b[4..16], i / 32);
                half(0) * scale * four(16) - half(2) * minimum
            }
            WeightType::Q5K => {
                let (scale, minimum) = six_bits(&b[4..16], i / 32);
                half(0) * scale * (four(48) + 16.0 * f64::from(b[16 + i % 32] >> (i / 32) & 1)) - half(2) * minimum
            }
            WeightType::Q6K => {
                let (n, j, l) = (i / 128, i % 128 / 32, i % 32);
                let low = b[n * 64 + j % 2 * 32 + l];
                let low = if j < 2 { low & 15 } else { low >> 4 };
                let high = b[128 + n * 32 + l] >> (2 * j) & 3;
                half(208) * f64::from(b[192 + i / 16] as i8) * (f64::from(low | high << 4) - 32.0)
            }
            WeightType::Iq4Xs => {
                let g = i / 32;
                let low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
                let high = (u16::from_le_bytes([b[2], b[3]]) >> (2 * g) & 3) as u8;
                half(0) * (f64::from(low | high << 4) - 32.0) * IQ4[nibble(8 + g * 16, i % 32)]
            }
        }
    };
    (0..ty.block_columns()).map(weight).collect()
}

fn isas() -> Vec<Isa> {
    let isas: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.is_supported()).collect();
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_supported()) {
        eprintln!("not run: this CPU has no {isa}");
    }
    isas
}

fn columns_of(ty: WeightType) -> Vec<usize> {
    match ty.block_columns() {
        1 => vec![1, 7, 96, 257],
        32 => vec![32, 96, 576, 1536],
        _ => vec![256, 768, 2048],
    }
}

fn random_rows(n: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..n * columns).map(|i| random.float() * [1.0, 30.0, 0.01][i / columns % 3]).collect()
}

fn product(m: &Matrix, x: &[f32], n: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; n * m.rows()];
    m.multiply(x, &m.quantize(x), &mut out);
    out
}

#[test]
fn every_type_agrees_with_its_plain_twin() {
    for isa in isas() {
        for ty in WeightType::ALL {
            for columns in columns_of(ty) {
                let (rows, n) = (2 * isa.tile_rows(), 7);
                let blocks = random_blocks(ty, columns, rows, 7);
                let x = random_rows(n, columns, 11);
                let out = product(&Matrix::new(ty, isa, columns, &blocks), &x, n);
                for m in 0..n {
                    // The kernels multiply with the quantized row.
                    let row: Vec<f64> = if ty.is_float() {
                        x[m * columns..][..columns].iter().map(|v| f64::from(*v)).collect()
                    } else {
                        let blocks = x[m * columns..][..columns].as_chunks::<32>().0.iter();
                        let quantized = blocks.map(|x| quantize(x, Halves::Unused, Lanes::One32));
                        quantized.flat_map(|a| a.q.map(|q| f64::from(a.scale) * f64::from(q))).collect()
                    };
                    for r in 0..rows {
                        let bytes = &blocks[r * ty.row_bytes(columns)..][..ty.row_bytes(columns)];
                        let weights: Vec<f64> =
                            bytes.chunks(ty.block_bytes()).flat_map(|b| dequantize(ty, b)).collect();
                        let want: f64 = weights.iter().zip(&row).map(|(w, x)| w * x).sum();
                        let size: f64 = weights.iter().zip(&row).map(|(w, x)| (w * x).abs()).sum();
                        let got = f64::from(out[m * rows + r]);
                        assert!(
                            (got - want).abs() <= 4e-6 * size,
                            "{isa} {ty:?} {columns} columns, row {m}, weight row {r}: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch_and_on_every_instruction_set() {
    for ty in WeightType::ALL {
        let columns = *columns_of(ty).last().unwrap();
        let (rows, n) = (32, 64);
        let blocks = random_blocks(ty, columns, rows, 3);
        let x = random_rows(n, columns, 5);
        let mut first: Option<Vec<u32>> = None;
        for isa in isas() {
            let matrix = Matrix::new(ty, isa, columns, &blocks);
            for n in (1..=n).rev() {
                let out: Vec<u32> = product(&matrix, &x[..n * columns], n).iter().map(|v| v.to_bits()).collect();
                let first = first.get_or_insert_with(|| out.clone());
                assert!(out == first[..out.len()], "{isa} {ty:?}: a batch of {n} has other bits");
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    for isa in isas() {
        for ty in WeightType::ALL.into_iter().filter(|ty| !ty.is_float()) {
            for byte in [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0] {
                let columns = 256;
                let rows = isa.tile_rows();
                let mut blocks = random_blocks(ty, columns, rows, 9);
                let scales: Vec<u8> = blocks.clone();
                blocks.fill(byte);
                // Restore the half-precision scales of `random_blocks`, so that none is infinite.
                for (b, s) in blocks.chunks_mut(ty.block_bytes()).zip(scales.chunks(ty.block_bytes())) {
                    for at in match ty {
                        WeightType::Q2K => 80..84,
                        WeightType::Q3K => 108..110,
                        WeightType::Q6K => 208..210,
                        WeightType::Mxfp4 => 0..1,
                        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => 0..4,
                        _ => 0..2,
                    } {
                        b[at] = s[at];
                    }
                }
                for x in [
                    vec![1.0; columns],
                    vec![-1.0; columns],
                    (0..columns).map(|i| [1.0, -1.0][i % 2]).collect::<Vec<f32>>(),
                ] {
                    let out = product(&Matrix::new(ty, isa, columns, &blocks), &x, 1);
                    for r in 0..rows {
                        let bytes = &blocks[r * ty.row_bytes(columns)..][..ty.row_bytes(columns)];
                        let weights: Vec<f64> =
                            bytes.chunks(ty.block_bytes()).flat_map(|b| dequantize(ty, b)).collect();
                        let want: f64 = weights.iter().zip(&x).map(|(w, x)| w * f64::from(*x)).sum();
                        let size: f64 = weights.iter().map(|w| w.abs()).sum();
                        assert!(
                            (f64::from(out[r]) - want).abs() <= 4e-6 * size,
                            "{isa} {ty:?} {byte:#x}: {} not {want}",
                            out[r]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_reaches_the_result() {
    for isa in isas() {
        for ty in WeightType::ALL {
            let (columns, rows) = (256, isa.tile_rows());
            let blocks = random_blocks(ty, columns, rows, 1);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![0.5; 2 * columns];
                x[100] = bad;
                let out = product(&Matrix::new(ty, isa, columns, &blocks), &x, 2);
                assert!(out[1..rows].iter().all(|v| !v.is_finite()), "{isa} {ty:?}: {bad} was lost");
                assert!(out[rows..].iter().all(|v| v.is_finite()), "{isa} {ty:?}: {bad} reached another row");
            }
        }
    }
}

#[test]
fn quantizing_fast_is_quantizing() {
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fast(x: &[f32; 32], halves: Halves, lanes: Lanes) -> Activation {
        unsafe { quantize_fast(x, halves, lanes) }
    }
    if !Isa::Avx2.is_supported() {
        return eprintln!("not run: this CPU has no AVX2");
    }
    let mut random = Random(17);
    let mut rows: Vec<[f32; 32]> =
        (0..2000).map(|i| std::array::from_fn(|_| random.float() * [1.0, 1e-30, 1e30][i % 3])).collect();
    // Ties between two integers, and extreme values.
    rows.push(std::array::from_fn(|i| i as f32 * 0.5 - 8.0));
    rows.push(std::array::from_fn(|i| if i == 3 { 127.0 } else { i as f32 + 0.5 }));
    rows.push([0.0; 32]);
    for x in &rows {
        for halves in [Halves::Unused, Halves::Whole(16), Halves::Each(32), Halves::Sums] {
            for lanes in [Lanes::One32, Lanes::Two16] {
                // SAFETY: checked above.
                let (a, b) = (unsafe { fast(x, halves, lanes) }, quantize(x, halves, lanes));
                let bits = |a: &Activation| (a.q, a.halves, a.sum.to_bits(), a.scale.to_bits());
                assert_eq!(bits(&a), bits(&b), "{x:?}");
            }
        }
    }
}

/// `len` bytes of memory that begin or end beside an unmapped page.
#[cfg(target_os = "linux")]
struct Guarded {
    mapping: *mut u8,
    mapped: usize,
    from: *mut u8,
}

#[cfg(target_os = "linux")]
impl Guarded {
    const PAGE: usize = 4096;

    fn new(len: usize, at_end: bool) -> Self {
        let mapped = len.next_multiple_of(Self::PAGE) + 2 * Self::PAGE;
        // SAFETY: our own mapping; its first and last page become inaccessible.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapping = libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            let mapping = mapping.cast::<u8>();
            assert_eq!(libc::mprotect(mapping.cast(), Self::PAGE, libc::PROT_NONE), 0);
            assert_eq!(libc::mprotect(mapping.add(mapped - Self::PAGE).cast(), Self::PAGE, libc::PROT_NONE), 0);
            let from = if at_end { mapping.add(mapped - Self::PAGE - len) } else { mapping.add(Self::PAGE) };
            Self { mapping, mapped, from }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.mapping.cast(), self.mapped) };
    }
}

#[test]
#[cfg(target_os = "linux")]
fn kernels_stay_within_their_memory() {
    use crate::gemm::{self, Tiles};
    for isa in isas() {
        for ty in WeightType::ALL {
            for columns in columns_of(ty) {
                let rows = 2 * isa.tile_rows();
                let matrix = Matrix::new(ty, isa, columns, &random_blocks(ty, columns, rows, 3));
                for n in [1, 2, 3, 4, 5, 16] {
                    let x = random_rows(n, columns, 5);
                    let acts = matrix.quantize(&x);
                    let want = product(&matrix, &x, n);
                    for at_end in [false, true] {
                        let weights = Guarded::new(matrix.bytes(), at_end);
                        let floats = Guarded::new(size_of_val(&x[..]), at_end);
                        let guarded_acts = Guarded::new(size_of_val(&acts[..]).max(1), at_end);
                        let out = Guarded::new(size_of_val(&want[..]), at_end);
                        let (x_at, out_at) = (floats.from.cast::<f32>(), out.from.cast::<f32>());
                        // SAFETY: within the lengths passed to `Guarded::new`.
                        unsafe {
                            weights.from.copy_from(matrix.tiles().as_ptr(), matrix.bytes());
                            x_at.copy_from(x.as_ptr(), x.len());
                            guarded_acts.from.cast::<Activation>().copy_from(acts.as_ptr(), acts.len());
                            let tiles = Tiles {
                                weights: weights.from,
                                n_tiles: 2,
                                columns,
                                acts: guarded_acts.from.cast(),
                                acts_stride: n,
                                floats: &(0..n).map(|m| x_at.add(m * columns).cast_const()).collect::<Vec<_>>(),
                                out: &(0..n).map(|m| out_at.add(m * rows)).collect::<Vec<_>>(),
                            };
                            (gemm::kernel(isa, ty).run)(&tiles);
                            let got = std::slice::from_raw_parts(out_at, want.len());
                            assert!(
                                got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()),
                                "{isa} {ty:?} {n} rows"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn ggml_computes_with_the_hook() {
    let Some(isa) = Isa::best() else { return eprintln!("not run: this CPU has no AVX2") };
    assert_eq!(crate::install(isa), Ok(isa));
    assert_eq!(crate::install(isa), Ok(isa), "a second time changes nothing");
    assert_eq!(crate::audit(), [], "the self-test counts for nobody");
    // SAFETY: `install` just registered the hook, and this process loads no model.
    assert_eq!(unsafe { crate::hook::misfit(3) }, None);
    assert_eq!(crate::audit(), [], "attention and products are exact");
}
