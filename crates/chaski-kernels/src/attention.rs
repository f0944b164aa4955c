//! Attention without flash attention for few rows: K·Q, softmax and V·P.
//!
//! ggml computes these as three operations, one dot product after another. Here a block of the cache is converted once
//! for all rows that use it: those of all tokens in the batch and of all query heads that share a key head.
//!
//! A row must not depend on the order of the cache's cells (drafts leave it out of order), nor on unused cells among
//! them:
//!
//! - *K·Q* is a sum over the columns of a head, in their order.
//! - *Softmax* sums integers: each `exp` is a multiple of 2^-24, so the sum is exact in any order. Probabilities are
//!   multiples of [`GRID`].
//! - *V·P* sums products of values and probabilities in f64. Values are multiples of 2^-24 (all f16 are; others are
//!   rounded), probabilities of 2^-22. The sum is exact for values below [`SMALL`]. Larger values are split in two, and
//!   the two sums are added last. The split does not affect the result: the exact sum is rounded once.
//!
//! All instruction sets give the same bits; see `simd`.

use std::arch::x86_64::*;

use crate::audit;
use crate::isa::Isa;
use crate::product::Team;
use crate::simd::{Avx2, Avx512, AvxVnni, Simd};
use crate::tensor::Tensor;

#[cfg(test)]
mod tests;

/// Probabilities are multiples of 2^-22.
const GRID: f32 = 1.0 / (1 << 22) as f32;

/// Adding and subtracting this rounds a number from 0 to 1 to a multiple of [`GRID`].
const TO_GRID: f32 = 1.5 * GRID * (1 << 23) as f32;

/// The longest head: a block of converted keys must fit into the L1 cache.
pub(crate) const MAX_COLUMNS: usize = 576;

/// How many cells of values are converted at a time.
const VALUE_CELLS: usize = 512;

/// Values (channels) computed together.
const CHANNELS: usize = 4;

/// Sums of values below this are exact in one part: 53 bits hold 64 in steps of 2^-46, with room for probabilities that
/// sum to slightly more than one.
const SMALL: f32 = 64.0;

/// Sums of values below this are exact in two parts.
const LARGEST: f32 = 65536.0;

/// Adding and subtracting this rounds to a multiple of 2^-24, the grid of values.
const TO_VALUE_GRID: f64 = 1.5 * (1u64 << 28) as f64;

/// Adding and subtracting this rounds to a multiple of 2^-8, the high part of a large value.
const TO_HIGH_PART: f64 = 1.5 * (1u64 << 44) as f64;

/// Rows that share a block of the cache: all pairs of query head and token.
#[derive(Clone, Copy)]
struct Rows {
    tokens: usize,
    heads: usize,
}

impl Rows {
    fn len(self) -> usize {
        self.tokens * self.heads
    }

    /// The address of the row's first float in `t`, whose first head is at `first`.
    fn at(self, row: usize, t: &Tensor, first: *mut u8) -> *mut f32 {
        let (head, token) = (row / self.tokens, row % self.tokens);
        first.wrapping_offset(head as isize * t.nb[2] as isize + token as isize * t.nb[1] as isize).cast()
    }
}

/// ggml's codes of the types a cache may have.
mod code {
    pub(super) const F32: i32 = 0;
    pub(super) const F16: i32 = 1;
    pub(super) const Q8_0: i32 = 8;
    pub(super) const BF16: i32 = 30;
}

/// Bytes per element (per block for Q8_0) of the supported types.
fn element_bytes(ty: i32) -> Option<i64> {
    match ty {
        code::F32 => Some(4),
        code::F16 | code::BF16 => Some(2),
        code::Q8_0 => Some(34),
        _ => None,
    }
}

/// Whether [`keys`] takes `MUL_MAT(k, q)`.
pub(crate) fn takes_keys(k: &Tensor, q: &Tensor) -> bool {
    let multiple = if k.ty == code::Q8_0 { 32 } else { 8 };
    let is_contiguous = element_bytes(k.ty) == Some(k.nb[0]) && k.ne[0] % multiple == 0;
    is_contiguous && k.ne[0] as usize <= MAX_COLUMNS && k.ne[1] % 16 == 0 && q.nb[0] == 4 && shares(k, q)
}

/// Whether [`values`] takes `MUL_MAT(v, p)`.
pub(crate) fn takes_values(v: &Tensor, p: &Tensor) -> bool {
    v.ty != code::Q8_0
        && element_bytes(v.ty) == Some(v.nb[0])
        && v.ne[0] % 8 == 0
        && v.ne[1] % CHANNELS as i64 == 0
        && p.nb[0] == 4
        && shares(v, p)
}

/// Whether [`softmax`] takes `SOFT_MAX(x, mask)`.
pub(crate) fn takes_softmax(x: &Tensor, mask: Option<&Tensor>) -> bool {
    x.nb[0] == 4 && x.ne[0] % 8 == 0 && mask.is_none_or(|m| m.nb[0] == if m.ty == code::F16 { 2 } else { 4 })
}

fn shares(cache: &Tensor, rows: &Tensor) -> bool {
    cache.ne[2] > 0 && rows.ne[2] % cache.ne[2] == 0 && cache.ne[3] == rows.ne[3]
}

/// The eight numbers of a cell's head in columns `8 * j..`.
#[inline(always)]
unsafe fn eight(ty: i32, row: *const u8, j: usize) -> __m256 {
    unsafe {
        match ty {
            code::F16 => return _mm256_cvtph_ps(_mm_loadu_si128(row.add(16 * j).cast())),
            code::F32 => return _mm256_loadu_ps(row.add(32 * j).cast()),
            code::BF16 => return Avx2::bfloats(row.add(16 * j)),
            _ => {}
        }
        let block = row.add(j / 4 * 34);
        let scale =
            _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(block.cast::<u16>().read_unaligned()))));
        let q = _mm256_cvtepi8_epi32(_mm_loadl_epi64(block.add(2 + j % 4 * 8).cast()));
        _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q))
    }
}

/// Transposes eight cells by eight columns.
#[inline(always)]
unsafe fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    unsafe {
        let (a0, a1) = (_mm256_unpacklo_ps(r[0], r[1]), _mm256_unpackhi_ps(r[0], r[1]));
        let (a2, a3) = (_mm256_unpacklo_ps(r[2], r[3]), _mm256_unpackhi_ps(r[2], r[3]));
        let (a4, a5) = (_mm256_unpacklo_ps(r[4], r[5]), _mm256_unpackhi_ps(r[4], r[5]));
        let (a6, a7) = (_mm256_unpacklo_ps(r[6], r[7]), _mm256_unpackhi_ps(r[6], r[7]));
        let (b0, b1) = (_mm256_shuffle_ps::<0x44>(a0, a2), _mm256_shuffle_ps::<0xee>(a0, a2));
        let (b2, b3) = (_mm256_shuffle_ps::<0x44>(a1, a3), _mm256_shuffle_ps::<0xee>(a1, a3));
        let (b4, b5) = (_mm256_shuffle_ps::<0x44>(a4, a6), _mm256_shuffle_ps::<0xee>(a4, a6));
        let (b6, b7) = (_mm256_shuffle_ps::<0x44>(a5, a7), _mm256_shuffle_ps::<0xee>(a5, a7));
        [
            _mm256_permute2f128_ps::<0x20>(b0, b4),
            _mm256_permute2f128_ps::<0x20>(b1, b5),
            _mm256_permute2f128_ps::<0x20>(b2, b6),
            _mm256_permute2f128_ps::<0x20>(b3, b7),
            _mm256_permute2f128_ps::<0x31>(b0, b4),
            _mm256_permute2f128_ps::<0x31>(b1, b5),
            _mm256_permute2f128_ps::<0x31>(b2, b6),
            _mm256_permute2f128_ps::<0x31>(b3, b7),
        ]
    }
}

/// Computes this thread's cells of `out = k · q`.
///
/// # Safety
///
/// `takes_keys` must have returned true, the tensors' memory must be valid, and the CPU must have the instruction set.
#[inline(always)]
unsafe fn keys<S: Simd>(k: &Tensor, q: &Tensor, out: &Tensor, team: Team) {
    let columns = k.ne[0] as usize;
    let rows = Rows { tokens: q.ne[1] as usize, heads: (q.ne[2] / k.ne[2]) as usize };
    let blocks = team.share(k.ne[1] as usize / S::ROWS);
    // `[column][cell]`
    let mut block = std::mem::MaybeUninit::<[f32; MAX_COLUMNS * 16]>::uninit();
    let block = block.as_mut_ptr().cast::<f32>();
    unsafe {
        for i in 0..(k.ne[2] * k.ne[3]) {
            let (head, stream) = (i % k.ne[2], i / k.ne[2]);
            let first_q = q.head(head * rows.heads as i64, stream);
            let first_out = out.head(head * rows.heads as i64, stream);
            for b in blocks.clone() {
                let cells = k.head(head, stream).wrapping_add(b * S::ROWS * k.nb[1] as usize);
                let mut c = 0;
                while c < S::ROWS {
                    let row = cells.wrapping_add(c * k.nb[1] as usize);
                    let step = k.nb[1] as usize;
                    let mut j = 0;
                    while j < columns / 8 {
                        let turned = transposed([
                            eight(k.ty, row, j),
                            eight(k.ty, row.add(step), j),
                            eight(k.ty, row.add(2 * step), j),
                            eight(k.ty, row.add(3 * step), j),
                            eight(k.ty, row.add(4 * step), j),
                            eight(k.ty, row.add(5 * step), j),
                            eight(k.ty, row.add(6 * step), j),
                            eight(k.ty, row.add(7 * step), j),
                        ]);
                        let mut d = 0;
                        while d < 8 {
                            _mm256_storeu_ps(block.add((8 * j + d) * S::ROWS + c), turned[d]);
                            d += 1;
                        }
                        j += 1;
                    }
                    c += 8;
                }
                let mut r = 0;
                while r < rows.len() {
                    macro_rules! some {
                        ($n:literal) => {{
                            key_rows::<S, $n>(
                                block,
                                columns,
                                rows,
                                r,
                                (q, first_q),
                                (out, first_out.wrapping_add(b * S::ROWS * 4)),
                            );
                            r += $n;
                        }};
                    }
                    match rows.len() - r {
                        1 => some!(1),
                        2 => some!(2),
                        3 => some!(3),
                        4 | 5 => some!(4),
                        6 | 7 => some!(6),
                        _ => some!(8),
                    }
                }
            }
        }
    }
}

/// Computes rows `r..r + N` for one block of cells.
#[inline(always)]
unsafe fn key_rows<S: Simd, const N: usize>(
    block: *const f32,
    columns: usize,
    rows: Rows,
    r: usize,
    (q, first_q): (&Tensor, *mut u8),
    (out, first_out): (&Tensor, *mut u8),
) {
    unsafe {
        let mut x = [std::ptr::null_mut::<f32>(); N];
        let mut sums = [S::zero(); N];
        let mut m = 0;
        while m < N {
            x[m] = rows.at(r + m, q, first_q);
            m += 1;
        }
        let mut d = 0;
        while d < columns {
            let k = S::load_floats(block.add(d * S::ROWS));
            let mut m = 0;
            while m < N {
                sums[m] = S::fma(k, S::splat_float(*x[m].add(d)), sums[m]);
                m += 1;
            }
            d += 1;
        }
        let mut m = 0;
        while m < N {
            S::store_floats(rows.at(r + m, out, first_out), sums[m]);
            m += 1;
        }
    }
}

/// `e^x` for `x <= 0`. Zero below -87, and for minus infinity.
#[inline(always)]
unsafe fn exp8(x: __m256) -> __m256 {
    unsafe {
        let low = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(-87.0));
        // maxps returns its second operand if either is NaN, so `x` comes second to keep a NaN.
        let x = _mm256_max_ps(_mm256_set1_ps(-87.0), x);
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let n = _mm256_round_ps::<NEAREST>(_mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E)));
        // ln 2 in two parts keeps the low bits of the remainder.
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693_359_4), x);
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.121_944_4e-4), r);
        let mut p = _mm256_set1_ps(1.0 / 720.0);
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0 / 120.0));
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0 / 24.0));
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0 / 6.0));
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5));
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0));
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0));
        let power = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
        _mm256_andnot_ps(low, _mm256_mul_ps(p, _mm256_castsi256_ps(power)))
    }
}

/// One row: `out = softmax(x * scale + slope * mask)`. A `sink` is a further logit that takes its share but is not
/// written. `out` may be `x`.
#[inline(always)]
unsafe fn softmax_row(
    x: *const f32,
    mask: *const u8,
    half: bool,
    sink: Option<f32>,
    n: usize,
    [scale, slope]: [f32; 2],
    out: *mut f32,
) {
    unsafe {
        let (scale, slope) = (_mm256_set1_ps(scale), _mm256_set1_ps(slope));
        let mut largest = _mm256_set1_ps(f32::NEG_INFINITY);
        let mut i = 0;
        while i < n {
            let mut v = _mm256_mul_ps(_mm256_loadu_ps(x.add(i)), scale);
            if !mask.is_null() {
                let m = if half {
                    _mm256_cvtph_ps(_mm_loadu_si128(mask.add(i * 2).cast()))
                } else {
                    _mm256_loadu_ps(mask.add(i * 4).cast())
                };
                v = _mm256_add_ps(v, _mm256_mul_ps(slope, m));
            }
            _mm256_storeu_ps(out.add(i), v);
            // maxps returns its second operand if either is NaN. A NaN in `v` stays in `out` whatever the maximum is.
            largest = _mm256_max_ps(largest, v);
            i += 8;
        }
        let mut lanes = [0f32; 8];
        _mm256_storeu_ps(lanes.as_mut_ptr(), largest);
        let largest = lanes.iter().chain(&sink).fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b });
        let shift = _mm256_set1_ps(largest);
        let steps = _mm256_set1_ps((1 << 24) as f32);
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        let low = _mm256_set1_epi64x(0xffff_ffff);
        let mut i = 0;
        while i < n {
            let e = exp8(_mm256_sub_ps(_mm256_loadu_ps(out.add(i)), shift));
            _mm256_storeu_ps(out.add(i), e);
            let k = _mm256_cvtps_epi32(_mm256_mul_ps(e, steps));
            even = _mm256_add_epi64(even, _mm256_and_si256(k, low));
            odd = _mm256_add_epi64(odd, _mm256_srli_epi64::<32>(k));
            i += 8;
        }
        let mut sums = [0u64; 4];
        _mm256_storeu_si256(sums.as_mut_ptr().cast(), _mm256_add_epi64(even, odd));
        let mut sum: u64 = sums.iter().sum();
        if let Some(sink) = sink {
            let mut lanes = [0f32; 8];
            _mm256_storeu_ps(lanes.as_mut_ptr(), exp8(_mm256_sub_ps(_mm256_set1_ps(sink), shift)));
            sum += (lanes[0] * (1 << 24) as f32) as u64;
        }
        let inverse = _mm256_set1_ps((f64::from(1 << 24) / sum as f64) as f32);
        let grid = _mm256_set1_ps(TO_GRID);
        let mut i = 0;
        while i < n {
            let p = _mm256_mul_ps(_mm256_loadu_ps(out.add(i)), inverse);
            _mm256_storeu_ps(out.add(i), _mm256_sub_ps(_mm256_add_ps(p, grid), grid));
            i += 8;
        }
    }
}

/// `out = softmax(x * scale + mask)`, with ggml's parameters.
pub(crate) struct Softmax<'a> {
    pub x: &'a Tensor,
    pub mask: Option<&'a Tensor>,
    pub sinks: Option<&'a Tensor>,
    pub scale: f32,
    /// ALiBi: the mask holds distances, which each head multiplies by its own slope. 0 means no ALiBi.
    pub max_bias: f32,
    pub out: &'a Tensor,
}

impl Softmax<'_> {
    /// The factor of a head on its mask.
    fn slope(&self, head: i64) -> f32 {
        if self.max_bias <= 0.0 {
            return 1.0;
        }
        let n = 1 << self.x.ne[2].ilog2();
        // Powers of the first slope. Heads beyond the largest power of two take the powers in between.
        let steps = if head < n { (head + 1) as f64 } else { (head - n) as f64 + 0.5 };
        (-f64::from(self.max_bias) * steps / n as f64).exp2() as f32
    }
}

/// Computes this thread's rows of a softmax.
#[inline(always)]
unsafe fn softmax(softmax: &Softmax<'_>, team: Team) {
    let Softmax { x, mask, sinks, scale, out, .. } = *softmax;
    for row in team.share((x.ne[1] * x.ne[2] * x.ne[3]) as usize) {
        let (token, head, stream) =
            (row as i64 % x.ne[1], row as i64 / x.ne[1] % x.ne[2], row as i64 / (x.ne[1] * x.ne[2]));
        let at = |t: &Tensor| t.head(head, stream).wrapping_offset((token * t.nb[1]) as isize);
        unsafe {
            let m = mask.map_or(std::ptr::null(), |m| {
                m.head(head % m.ne[2], stream % m.ne[3]).wrapping_offset((token * m.nb[1]) as isize).cast_const()
            });
            let sink = sinks.map(|s| s.data.cast::<f32>().offset(head as isize).read());
            let half = mask.is_some_and(|m| m.ty == code::F16);
            let factors = [scale, softmax.slope(head)];
            softmax_row(at(x).cast(), m, half, sink, x.ne[0] as usize, factors, at(out).cast());
        }
    }
}

/// The f64 operations of an instruction set. The sums are exact, so the number of lanes does not matter.
trait Doubles: Copy {
    type V: Copy;
    const LANES: usize;
    unsafe fn zero() -> Self::V;
    unsafe fn load(p: *const f64) -> Self::V;
    unsafe fn store(p: *mut f64, v: Self::V);
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Adds and subtracts `large`, which rounds to a multiple of its last bit.
    unsafe fn rounded(v: Self::V, large: f64) -> Self::V;
    /// Converts `LANES` floats.
    unsafe fn from_floats(p: *const f32) -> Self::V;
    /// Converts `LANES` half-precision floats.
    unsafe fn from_halves(p: *const u8) -> Self::V;
    /// Converts `LANES` bfloat16.
    unsafe fn from_bfloats(p: *const u8) -> Self::V;
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn sum(v: Self::V) -> f64;
}

macro_rules! four_doubles {
    ($simd:ty) => {
        impl Doubles for $simd {
            type V = __m256d;
            const LANES: usize = 4;
            #[inline(always)]
            unsafe fn zero() -> __m256d {
                unsafe { _mm256_setzero_pd() }
            }
            #[inline(always)]
            unsafe fn load(p: *const f64) -> __m256d {
                unsafe { _mm256_loadu_pd(p) }
            }
            #[inline(always)]
            unsafe fn store(p: *mut f64, v: __m256d) {
                unsafe { _mm256_storeu_pd(p, v) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m256d, b: __m256d) -> __m256d {
                unsafe { _mm256_sub_pd(a, b) }
            }
            #[inline(always)]
            unsafe fn rounded(v: __m256d, large: f64) -> __m256d {
                unsafe { _mm256_sub_pd(_mm256_add_pd(v, _mm256_set1_pd(large)), _mm256_set1_pd(large)) }
            }
            #[inline(always)]
            unsafe fn from_floats(p: *const f32) -> __m256d {
                unsafe { _mm256_cvtps_pd(_mm_loadu_ps(p)) }
            }
            #[inline(always)]
            unsafe fn from_halves(p: *const u8) -> __m256d {
                unsafe { _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(p.cast()))) }
            }
            #[inline(always)]
            unsafe fn from_bfloats(p: *const u8) -> __m256d {
                unsafe {
                    let bits = _mm_slli_epi32::<16>(_mm_cvtepu16_epi32(_mm_loadl_epi64(p.cast())));
                    _mm256_cvtps_pd(_mm_castsi128_ps(bits))
                }
            }
            #[inline(always)]
            unsafe fn fma(a: __m256d, b: __m256d, c: __m256d) -> __m256d {
                unsafe { _mm256_fmadd_pd(a, b, c) }
            }
            #[inline(always)]
            unsafe fn sum(v: __m256d) -> f64 {
                unsafe {
                    let mut lanes = [0f64; 4];
                    _mm256_storeu_pd(lanes.as_mut_ptr(), v);
                    lanes[0] + lanes[1] + (lanes[2] + lanes[3])
                }
            }
        }
    };
}

four_doubles!(Avx2);
four_doubles!(AvxVnni);

impl Doubles for Avx512 {
    type V = __m512d;
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> __m512d {
        unsafe { _mm512_setzero_pd() }
    }
    #[inline(always)]
    unsafe fn load(p: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f64, v: __m512d) {
        unsafe { _mm512_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_sub_pd(a, b) }
    }
    #[inline(always)]
    unsafe fn rounded(v: __m512d, large: f64) -> __m512d {
        unsafe { _mm512_sub_pd(_mm512_add_pd(v, _mm512_set1_pd(large)), _mm512_set1_pd(large)) }
    }
    #[inline(always)]
    unsafe fn from_floats(p: *const f32) -> __m512d {
        unsafe { _mm512_cvtps_pd(_mm256_loadu_ps(p)) }
    }
    #[inline(always)]
    unsafe fn from_halves(p: *const u8) -> __m512d {
        unsafe { _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn from_bfloats(p: *const u8) -> __m512d {
        unsafe { _mm512_cvtps_pd(Avx2::bfloats(p)) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        unsafe { _mm512_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512d) -> f64 {
        unsafe { _mm512_reduce_add_pd(v) }
    }
}

/// Bytes of sums per thread for `rows` rows: one set for values below [`SMALL`] and low parts, one for high parts.
fn sums_bytes(rows: usize) -> usize {
    2 * rows * CHANNELS * 64
}

/// The largest magnitude among `n` values.
#[inline(always)]
unsafe fn magnitude(ty: i32, row: *const u8, n: usize) -> f32 {
    // The bits of non-negative floats sort like their values.
    unsafe {
        if ty == code::F32 {
            let bits = (0..n).fold(0, |max: u32, i| max.max(row.cast::<u32>().add(i).read_unaligned() & 0x7fff_ffff));
            return f32::from_bits(bits);
        }
        let bits = (0..n).fold(0, |max: u16, i| max.max(row.cast::<u16>().add(i).read_unaligned() & 0x7fff));
        if ty == code::BF16 {
            return f32::from_bits(u32::from(bits) << 16);
        }
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
}

/// Bytes of work buffer that [`values`] needs on `threads` threads.
pub(crate) fn values_work_size(v: &Tensor, p: &Tensor, threads: usize) -> usize {
    threads * sums_bytes((p.ne[1] * p.ne[2] / v.ne[2]) as usize) + 64
}

/// Computes this thread's channels of `out = v · p`.
#[inline(always)]
unsafe fn values<D: Doubles>(v: &Tensor, p: &Tensor, out: &Tensor, team: Team, work: *mut u8) {
    let cells = v.ne[0] as usize;
    let rows = Rows { tokens: p.ne[1] as usize, heads: (p.ne[2] / v.ne[2]) as usize };
    // `[cell / LANES][channel][lane]`
    let mut block = std::mem::MaybeUninit::<[f64; VALUE_CELLS * CHANNELS]>::uninit();
    let block = block.as_mut_ptr().cast::<f64>();
    let mut high_block = std::mem::MaybeUninit::<[f64; VALUE_CELLS * CHANNELS]>::uninit();
    let high_block = high_block.as_mut_ptr().cast::<f64>();
    let groups = v.ne[1] as usize / CHANNELS;
    unsafe {
        let work = work.add(work.align_offset(64) + team.index * sums_bytes(rows.len()));
        // `[row][channel]`
        let sums = work.cast::<D::V>();
        let high_sums = sums.add(rows.len() * CHANNELS);
        for item in team.share(groups * (v.ne[2] * v.ne[3]) as usize) {
            let (group, i) = (item % groups, (item / groups) as i64);
            let (head, stream) = (i % v.ne[2], i / v.ne[2]);
            let first_p = p.head(head * rows.heads as i64, stream);
            let first_out = out.head(head * rows.heads as i64, stream);
            let channels = v.head(head, stream).wrapping_offset((group * CHANNELS) as isize * v.nb[1] as isize);
            let clear = |sums: *mut D::V| (0..rows.len() * CHANNELS).for_each(|i| sums.add(i).write(D::zero()));
            clear(sums);
            let mut is_split = false;
            let mut from = 0;
            while from < cells {
                let n = VALUE_CELLS.min(cells - from);
                let mut largest = 0f32;
                for c in 0..CHANNELS {
                    let row = channels.wrapping_add(c * v.nb[1] as usize + v.nb[0] as usize * from);
                    // With a NaN the block may stay unsplit; the result is NaN anyway.
                    let m = magnitude(v.ty, row, n);
                    largest = if largest.is_nan() || m < largest { largest } else { m };
                    for l in 0..n / D::LANES {
                        let cells = row.add(v.nb[0] as usize * l * D::LANES);
                        let converted = match v.ty {
                            code::F16 => D::from_halves(cells),
                            code::F32 => D::rounded(D::from_floats(cells.cast()), TO_VALUE_GRID),
                            _ => D::rounded(D::from_bfloats(cells), TO_VALUE_GRID),
                        };
                        D::store(block.add((l * CHANNELS + c) * D::LANES), converted);
                    }
                }
                let p = (p, first_p.wrapping_add(4 * from));
                if largest.is_nan() || largest >= SMALL {
                    if largest.is_nan() || largest >= LARGEST {
                        audit::note_large();
                    }
                    if !is_split {
                        clear(high_sums);
                        is_split = true;
                    }
                    split_off_high::<D>(block, high_block, n * CHANNELS);
                    all_value_rows::<D>(high_block, n, rows, p, high_sums);
                }
                all_value_rows::<D>(block, n, rows, p, sums);
                from += n;
            }
            for r in 0..rows.len() {
                let to = rows.at(r, out, first_out).add(group * CHANNELS);
                for c in 0..CHANNELS {
                    let at = r * CHANNELS + c;
                    let high = if is_split { D::sum(high_sums.add(at).read()) } else { 0.0 };
                    to.add(c).write((high + D::sum(sums.add(at).read())) as f32);
                }
            }
        }
    }
}

/// Moves the high parts of `n` values into a separate block.
#[inline(always)]
unsafe fn split_off_high<D: Doubles>(block: *mut f64, high: *mut f64, n: usize) {
    for at in (0..n).step_by(D::LANES) {
        unsafe {
            let v = D::load(block.add(at));
            let h = D::rounded(v, TO_HIGH_PART);
            D::store(high.add(at), h);
            D::store(block.add(at), D::sub(v, h));
        }
    }
}

/// Adds a block of cells to the sums of all rows.
#[inline(always)]
unsafe fn all_value_rows<D: Doubles>(
    block: *const f64,
    cells: usize,
    rows: Rows,
    p: (&Tensor, *mut u8),
    sums: *mut D::V,
) {
    unsafe {
        let mut r = 0;
        while r < rows.len() {
            macro_rules! some {
                ($n:literal) => {{
                    value_rows::<D, $n>(block, cells, rows, r, p, sums);
                    r += $n;
                }};
            }
            match (rows.len() - r, D::LANES) {
                (1, _) => some!(1),
                (2, _) => some!(2),
                (3, _) | (_, 4) => some!(3),
                _ => some!(4),
            }
        }
    }
}

/// Adds a block of cells to the sums of rows `r..r + N`.
#[inline(always)]
unsafe fn value_rows<D: Doubles, const N: usize>(
    block: *const f64,
    cells: usize,
    rows: Rows,
    r: usize,
    (p, first_p): (&Tensor, *mut u8),
    sums: *mut D::V,
) {
    unsafe {
        let mut x = [std::ptr::null_mut::<f32>(); N];
        let mut acc = [[D::zero(); CHANNELS]; N];
        let mut m = 0;
        while m < N {
            x[m] = rows.at(r + m, p, first_p);
            let mut c = 0;
            while c < CHANNELS {
                acc[m][c] = sums.add((r + m) * CHANNELS + c).read();
                c += 1;
            }
            m += 1;
        }
        let mut l = 0;
        while l < cells / D::LANES {
            let v = block.add(l * CHANNELS * D::LANES);
            let v = [D::load(v), D::load(v.add(D::LANES)), D::load(v.add(2 * D::LANES)), D::load(v.add(3 * D::LANES))];
            let mut m = 0;
            while m < N {
                let p = D::from_floats(x[m].add(l * D::LANES));
                let mut c = 0;
                while c < CHANNELS {
                    acc[m][c] = D::fma(p, v[c], acc[m][c]);
                    c += 1;
                }
                m += 1;
            }
            l += 1;
        }
        let mut m = 0;
        while m < N {
            let mut c = 0;
            while c < CHANNELS {
                sums.add((r + m) * CHANNELS + c).write(acc[m][c]);
                c += 1;
            }
            m += 1;
        }
    }
}

/// Defines functions that enable an instruction set.
macro_rules! entries {
    ($name:ident, $simd:ty, $features:literal) => {
        mod $name {
            use super::*;
            #[target_feature(enable = $features)]
            pub(super) unsafe fn keys(k: &Tensor, q: &Tensor, out: &Tensor, team: Team) {
                unsafe { super::keys::<$simd>(k, q, out, team) }
            }
            #[target_feature(enable = $features)]
            pub(super) unsafe fn softmax(softmax: &Softmax<'_>, team: Team) {
                unsafe { super::softmax(softmax, team) }
            }
            #[target_feature(enable = $features)]
            pub(super) unsafe fn values(v: &Tensor, p: &Tensor, out: &Tensor, team: Team, work: *mut u8) {
                unsafe { super::values::<$simd>(v, p, out, team, work) }
            }
        }
    };
}

entries!(narrow, Avx2, "avx2,fma,f16c");
entries!(wide, Avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl");

/// Computes this thread's cells of `out = k · q`.
///
/// # Safety
///
/// `takes_keys` must have returned true, the tensors' memory must be valid, and the CPU must have the instruction set.
pub(crate) unsafe fn run_keys(isa: Isa, k: &Tensor, q: &Tensor, out: &Tensor, team: Team) {
    unsafe {
        match isa {
            Isa::Avx2 | Isa::AvxVnni => narrow::keys(k, q, out, team),
            Isa::Avx512 => wide::keys(k, q, out, team),
        }
    }
}

/// Computes this thread's rows of a softmax.
///
/// # Safety
///
/// As for [`run_keys`], with `takes_softmax`.
pub(crate) unsafe fn run_softmax(isa: Isa, softmax: &Softmax<'_>, team: Team) {
    unsafe {
        match isa {
            Isa::Avx2 | Isa::AvxVnni => narrow::softmax(softmax, team),
            Isa::Avx512 => wide::softmax(softmax, team),
        }
    }
}

/// Computes this thread's channels of `out = v · p`. `work` has `values_work_size` bytes.
///
/// # Safety
///
/// As for [`run_keys`], with `takes_values`.
pub(crate) unsafe fn run_values(isa: Isa, v: &Tensor, p: &Tensor, out: &Tensor, team: Team, work: *mut u8) {
    unsafe {
        match isa {
            Isa::Avx2 | Isa::AvxVnni => narrow::values(v, p, out, team, work),
            Isa::Avx512 => wide::values(v, p, out, team, work),
        }
    }
}
