//! The vector operations the kernels need, for three instruction sets.
//!
//! All three agree bit for bit: sums of products are exact integers, and floats are rounded by the same operations in
//! the same order in each lane.
//!
//! The functions are `inline(always)` and have no target feature of their own. They become vector instructions inside
//! the functions of the `entries!` macros in `gemm` and `attention`, which enable the features.

use std::arch::x86_64::*;

use crate::activation::{Activation, Lanes};

/// Vectors over `ROWS` weight rows: an integer vector holds four bytes per row, a float vector one float.
///
/// # Safety
///
/// The CPU must support the instruction set, and pointers must be valid for as many bytes as a method reads or writes.
pub(crate) trait Simd: Copy {
    /// Four bytes per row: `vector[4 * row + i]`.
    type Int: Copy;
    /// One float per row.
    type Float: Copy;
    /// Weight rows in a tile.
    const ROWS: usize;
    /// How products are summed; see [`Lanes`].
    const LANES: Lanes;
    /// The byte that signed codes are xored with for `dot_signed`. 0x80 makes them unsigned with an offset of 128.
    const SIGN_FLIP: u8;

    /// Reads `4 * ROWS` bytes.
    unsafe fn load(p: *const u8) -> Self::Int;
    unsafe fn splat(byte: u8) -> Self::Int;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shifts 16-bit lanes.
    unsafe fn shl<const N: i32>(a: Self::Int) -> Self::Int;
    unsafe fn shr<const N: i32>(a: Self::Int) -> Self::Int;
    /// `table[index]` for indices below 16.
    unsafe fn lookup(table: &[u8; 16], index: Self::Int) -> Self::Int;

    /// The exact sum of unsigned codes times activations over 32 columns. Vector `j` of `w` has columns `4 * j..`. With
    /// `Lanes::Two16`, codes must be below 16, or below 64 if a correction brings the sum of 16 products into range.
    unsafe fn dot<const CORRECT: bool>(w: &[Self::Int; 8], a: &Activation) -> Self::Float;
    /// The same for each half of 16 columns.
    unsafe fn dot_halves<const CORRECT: bool>(w: &[Self::Int; 8], a: &Activation) -> [Self::Float; 2];
    /// The exact sum of signed 8-bit codes, xored with `SIGN_FLIP`, times activations over 32 columns.
    unsafe fn dot_signed(w: &[Self::Int; 8], a: &Activation) -> Self::Float;

    unsafe fn zero() -> Self::Float;
    unsafe fn splat_float(x: f32) -> Self::Float;
    /// Reads `ROWS` floats.
    unsafe fn load_floats(p: *const f32) -> Self::Float;
    /// Writes `ROWS` floats.
    unsafe fn store_floats(p: *mut f32, x: Self::Float);
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// Converts `ROWS` half-precision floats.
    unsafe fn halves(p: *const u8) -> Self::Float;
    /// Converts `ROWS` bfloat16.
    unsafe fn bfloats(p: *const u8) -> Self::Float;
    /// Converts `ROWS` unsigned bytes.
    unsafe fn bytes(p: *const u8) -> Self::Float;
    /// Converts `ROWS` signed bytes.
    unsafe fn signed_bytes(p: *const u8) -> Self::Float;
}

/// The four activations at column `4 * j`.
#[inline(always)]
unsafe fn four(a: &Activation, j: usize) -> i32 {
    // SAFETY: j is below 8, so the four bytes are within the array.
    unsafe { a.q.as_ptr().add(4 * j).cast::<i32>().read_unaligned() }
}

macro_rules! ymm_common {
    () => {
        type Int = __m256i;
        type Float = __m256;
        const ROWS: usize = 8;

        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn splat(byte: u8) -> __m256i {
            unsafe { _mm256_set1_epi8(byte as i8) }
        }
        #[inline(always)]
        unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_xor_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn shl<const N: i32>(a: __m256i) -> __m256i {
            unsafe { _mm256_slli_epi16::<N>(a) }
        }
        #[inline(always)]
        unsafe fn shr<const N: i32>(a: __m256i) -> __m256i {
            unsafe { _mm256_srli_epi16::<N>(a) }
        }
        #[inline(always)]
        unsafe fn lookup(table: &[u8; 16], index: __m256i) -> __m256i {
            unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index) }
        }
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn splat_float(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load_floats(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store_floats(p: *mut f32, x: __m256) {
            unsafe { _mm256_storeu_ps(p, x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn halves(p: *const u8) -> __m256 {
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn bfloats(p: *const u8) -> __m256 {
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
        }
        #[inline(always)]
        unsafe fn bytes(p: *const u8) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn signed_bytes(p: *const u8) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
        }
    };
}

/// AVX2 with FMA and F16C. Uses `vpmaddubsw`, which sums pairs of products in 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

impl Avx2 {
    /// The products of columns `4 * FROM..4 * TO`, as two 16-bit sums per row, modulo 2^16.
    #[inline(always)]
    unsafe fn pairs<const FROM: usize, const TO: usize>(w: &[__m256i; 8], a: &Activation) -> __m256i {
        unsafe {
            let mut sum = _mm256_maddubs_epi16(w[FROM], _mm256_set1_epi32(four(a, FROM)));
            let mut j = FROM + 1;
            while j < TO {
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[j], _mm256_set1_epi32(four(a, j))));
                j += 1;
            }
            sum
        }
    }

    /// Corrects the two sums of each row and adds them.
    #[inline(always)]
    unsafe fn total<const CORRECT: bool>(pairs: __m256i, correction: u32) -> __m256 {
        unsafe {
            let pairs = if CORRECT { _mm256_add_epi16(pairs, _mm256_set1_epi32(correction as i32)) } else { pairs };
            _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl Simd for Avx2 {
    ymm_common!();
    const LANES: Lanes = Lanes::Two16;
    const SIGN_FLIP: u8 = 0;

    #[inline(always)]
    unsafe fn dot<const CORRECT: bool>(w: &[__m256i; 8], a: &Activation) -> __m256 {
        unsafe {
            let pairs = _mm256_add_epi16(Self::pairs::<0, 4>(w, a), Self::pairs::<4, 8>(w, a));
            Self::total::<CORRECT>(pairs, a.halves[0])
        }
    }

    #[inline(always)]
    unsafe fn dot_halves<const CORRECT: bool>(w: &[__m256i; 8], a: &Activation) -> [__m256; 2] {
        unsafe {
            [
                Self::total::<CORRECT>(Self::pairs::<0, 4>(w, a), a.halves[0]),
                Self::total::<CORRECT>(Self::pairs::<4, 8>(w, a), a.halves[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn dot_signed(w: &[__m256i; 8], a: &Activation) -> __m256 {
        unsafe {
            // vpmaddubsw needs one unsigned factor: use |w|, and the activation with w's sign. |-128| is 128 as an
            // unsigned byte, and 2 * 128 * 127 fits into 16 bits.
            let ones = _mm256_set1_epi16(1);
            let mut sum = _mm256_setzero_si256();
            let mut j = 0;
            while j < 8 {
                let x = _mm256_sign_epi8(_mm256_set1_epi32(four(a, j)), w[j]);
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), x);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
                j += 1;
            }
            _mm256_cvtepi32_ps(sum)
        }
    }
}

/// The dot products with `vpdpbusd`, which adds four products to a 32-bit sum.
macro_rules! dots_of_four {
    ($float:ty, $int:ty, $dot:ident, $set1:ident, $zero:ident, $to_float:ident) => {
        const LANES: Lanes = Lanes::One32;
        const SIGN_FLIP: u8 = 0x80;

        #[inline(always)]
        unsafe fn dot<const CORRECT: bool>(w: &[$int; 8], a: &Activation) -> $float {
            unsafe {
                // One chain of sums is enough: other rows and groups of columns hide its latency.
                let mut sum = if CORRECT { $set1(a.halves[0] as i32) } else { $zero() };
                let mut j = 0;
                while j < 8 {
                    sum = $dot(sum, w[j], $set1(four(a, j)));
                    j += 1;
                }
                $to_float(sum)
            }
        }

        #[inline(always)]
        unsafe fn dot_halves<const CORRECT: bool>(w: &[$int; 8], a: &Activation) -> [$float; 2] {
            unsafe {
                let mut first = if CORRECT { $set1(a.halves[0] as i32) } else { $zero() };
                let mut second = if CORRECT { $set1(a.halves[1] as i32) } else { $zero() };
                let mut j = 0;
                while j < 4 {
                    first = $dot(first, w[j], $set1(four(a, j)));
                    second = $dot(second, w[4 + j], $set1(four(a, 4 + j)));
                    j += 1;
                }
                [$to_float(first), $to_float(second)]
            }
        }

        #[inline(always)]
        unsafe fn dot_signed(w: &[$int; 8], a: &Activation) -> $float {
            unsafe { Self::dot::<true>(w, a) }
        }
    };
}

/// AVX2 with AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct AvxVnni;

impl Simd for AvxVnni {
    ymm_common!();
    dots_of_four!(
        __m256,
        __m256i,
        _mm256_dpbusd_avx_epi32,
        _mm256_set1_epi32,
        _mm256_setzero_si256,
        _mm256_cvtepi32_ps
    );
}

/// AVX-512 (F, BW, DQ, VL) with VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

impl Simd for Avx512 {
    type Int = __m512i;
    type Float = __m512;
    const ROWS: usize = 16;
    dots_of_four!(__m512, __m512i, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_cvtepi32_ps);

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(byte: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(byte as i8) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_xor_si512(a, b) }
    }
    // The shift intrinsics take their constant in another type here, so pass a vector; the compiler turns it back into
    // a constant.
    #[inline(always)]
    unsafe fn shl<const N: i32>(a: __m512i) -> __m512i {
        unsafe { _mm512_sll_epi16(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn shr<const N: i32>(a: __m512i) -> __m512i {
        unsafe { _mm512_srl_epi16(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], index: __m512i) -> __m512i {
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat_float(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_floats(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_floats(p: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn halves(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn bfloats(p: *const u8) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
}
