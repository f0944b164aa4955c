//! The kernels: tiles of weights times rows of activations.
//!
//! A tile's codes are unpacked once for up to [`ROW_BLOCK`] rows. For each pair of weight row and activation row, the
//! order of the sums and the instructions are the same for any number of rows. So a result does not depend on the rest
//! of the batch. [`update`] is the only place where quantized products are summed.

use crate::activation::Activation;
use crate::format::{self, Format, Group, Scales};
use crate::isa::Isa;
use crate::simd::{Avx2, Avx512, AvxVnni, Simd};
use crate::weights::WeightType;

/// Most rows for which a tile's codes are unpacked at once.
pub const ROW_BLOCK: usize = 32;

/// How many bytes ahead weights are prefetched. A few rows are computed faster than memory delivers, and the CPU's own
/// prefetcher stops at the end of a page: without this, one row reads 10.9 of 18 possible GB/s (Zen 3, two threads).
const AHEAD: usize = 4096;

/// The operands of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles<'a> {
    /// The first tile.
    pub weights: *const u8,
    pub n_tiles: usize,
    pub columns: usize,
    /// The first row's block 0, and the number of rows per block; see [`Activation`]. Not read for float weights.
    pub acts: *const Activation,
    pub acts_stride: usize,
    /// The rows as floats. Only read for float weights.
    pub floats: &'a [*const f32],
    /// For each row, where the first tile's results go. At most [`ROW_BLOCK`] rows.
    pub out: &'a [*mut f32],
}

/// The functions of one type and instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Multiplies. All pointers in [`Tiles`] must be valid.
    pub run: unsafe fn(&Tiles<'_>),
    /// Quantizes 32 floats for `run`.
    pub quantize: unsafe fn(&[f32; 32]) -> Activation,
}

/// The scales of 32 columns, or of each half.
#[derive(Clone, Copy)]
struct GroupScales<S: Simd> {
    scale: [S::Float; 2],
    add: [S::Float; 2],
}

impl<S: Simd> GroupScales<S> {
    #[inline(always)]
    unsafe fn read<F: Format>(scales: &Scales, g: usize) -> Self {
        unsafe {
            let halved = matches!(F::GROUP, Group::Half);
            let first = if halved { 2 * g } else { g } * S::ROWS;
            let second = if halved { first + S::ROWS } else { first };
            let (scale, add) = (scales.scale.as_ptr(), scales.add.as_ptr());
            let zero = S::zero();
            Self {
                scale: [S::load_floats(scale.add(first)), S::load_floats(scale.add(second))],
                add: if F::AFFINE {
                    [S::load_floats(add.add(first)), S::load_floats(add.add(second))]
                } else {
                    [zero; 2]
                },
            }
        }
    }
}

/// Adds the products of 32 columns with one row of activations to `sum`.
#[inline(always)]
unsafe fn update<S: Simd, F: Format>(sum: S::Float, w: &[S::Int; 8], s: &GroupScales<S>, a: &Activation) -> S::Float {
    unsafe {
        let scale = S::splat_float(a.scale);
        match F::GROUP {
            Group::Half => {
                let [first, second] =
                    if F::OFFSET == 0 { S::dot_halves::<false>(w, a) } else { S::dot_halves::<true>(w, a) };
                let both = S::fma(second, s.scale[1], S::mul(first, s.scale[0]));
                let sum = S::fma(both, scale, sum);
                if F::AFFINE {
                    let sum = S::fma(s.add[0], S::splat_float(f32::from_bits(a.halves[0])), sum);
                    S::fma(s.add[1], S::splat_float(f32::from_bits(a.halves[1])), sum)
                } else {
                    sum
                }
            }
            Group::Whole | Group::Signed => {
                let dot = if matches!(F::GROUP, Group::Signed) {
                    S::dot_signed(w, a)
                } else if F::OFFSET == 0 {
                    S::dot::<false>(w, a)
                } else {
                    S::dot::<true>(w, a)
                };
                let sum = S::fma(S::mul(dot, scale), s.scale[0], sum);
                if F::AFFINE { S::fma(s.add[0], S::splat_float(a.sum), sum) } else { sum }
            }
        }
    }
}

#[inline(always)]
unsafe fn fetch_ahead(p: *const u8, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    let mut i = 0;
    while i < bytes {
        // SAFETY: a prefetch has no visible effect and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + i).cast()) };
        i += 64;
    }
}

/// Multiplies one tile by `rows` rows. If `rows` is constant and small, the `sums` stay in registers, else in the L1
/// cache.
#[inline(always)]
unsafe fn tile<S: Simd, F: Format>(
    t: &Tiles<'_>,
    weights: *const u8,
    rows: usize,
    sums: *mut S::Float,
    scales: &mut Scales,
) {
    unsafe {
        let plane_bytes = (F::BYTES - F::SCALE_BYTES) / (F::COLUMNS / 32) * S::ROWS;
        let mut acts = t.acts;
        let mut block = weights;
        let mut b = 0;
        while b < t.columns / F::COLUMNS {
            F::scales::<S>(block, scales);
            let mut g = 0;
            while g < F::COLUMNS / 32 {
                let planes = block.add(F::SCALE_BYTES * S::ROWS + g * plane_bytes);
                fetch_ahead(planes, F::BYTES * S::ROWS / (F::COLUMNS / 32));
                let w = F::codes::<S>(planes);
                let s = GroupScales::<S>::read::<F>(scales, g);
                let mut m = 0;
                while m < rows {
                    *sums.add(m) = update::<S, F>(*sums.add(m), &w, &s, &*acts.add(m));
                    m += 1;
                }
                acts = acts.add(t.acts_stride);
                g += 1;
            }
            block = block.add(F::BYTES * S::ROWS);
            b += 1;
        }
    }
}

/// Multiplies by a constant number of rows.
#[inline(always)]
unsafe fn few_rows<S: Simd, F: Format, const ROWS: usize>(t: &Tiles<'_>) {
    unsafe {
        let mut scales = Scales::new();
        for i in 0..t.n_tiles {
            let mut sums = [S::zero(); ROWS];
            let weights = t.weights.add(i * t.columns / F::COLUMNS * F::BYTES * S::ROWS);
            tile::<S, F>(t, weights, ROWS, sums.as_mut_ptr(), &mut scales);
            let mut m = 0;
            while m < ROWS {
                S::store_floats(t.out[m].add(i * S::ROWS), sums[m]);
                m += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn many_rows<S: Simd, F: Format>(t: &Tiles<'_>) {
    unsafe {
        let mut scales = Scales::new();
        for i in 0..t.n_tiles {
            let mut sums = [S::zero(); ROW_BLOCK];
            let weights = t.weights.add(i * t.columns / F::COLUMNS * F::BYTES * S::ROWS);
            // Without this, the compiler keeps some sums in registers and spills the rest.
            let sums = std::hint::black_box(&mut sums);
            tile::<S, F>(t, weights, t.out.len(), sums.as_mut_ptr(), &mut scales);
            for (sum, out) in sums.iter().zip(t.out) {
                S::store_floats(out.add(i * S::ROWS), *sum);
            }
        }
    }
}

#[inline(always)]
unsafe fn run<S: Simd, F: Format>(t: &Tiles<'_>) {
    debug_assert!(t.out.len() <= ROW_BLOCK);
    unsafe {
        match t.out.len() {
            0 => {}
            1 => few_rows::<S, F, 1>(t),
            2 => few_rows::<S, F, 2>(t),
            3 => few_rows::<S, F, 3>(t),
            4 => few_rows::<S, F, 4>(t),
            _ => many_rows::<S, F>(t),
        }
    }
}

/// A weight type whose weights are floats.
trait FloatFormat {
    const BYTES: usize;
    unsafe fn read<S: Simd>(p: *const u8) -> S::Float;
}

struct F32;
struct F16;
struct Bf16;

impl FloatFormat for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn read<S: Simd>(p: *const u8) -> S::Float {
        unsafe { S::load_floats(p.cast()) }
    }
}

impl FloatFormat for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn read<S: Simd>(p: *const u8) -> S::Float {
        unsafe { S::halves(p) }
    }
}

impl FloatFormat for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn read<S: Simd>(p: *const u8) -> S::Float {
        unsafe { S::bfloats(p) }
    }
}

/// Multiplies `ROWS` rows of floats from row `from` on. Even and odd columns have separate sums, because one chain of
/// additions would wait for the latency of each.
#[inline(always)]
unsafe fn float_rows<S: Simd, F: FloatFormat, const ROWS: usize>(t: &Tiles<'_>, i: usize, from: usize) {
    unsafe {
        let weights = t.weights.add(i * t.columns * F::BYTES * S::ROWS);
        let mut even = [S::zero(); ROWS];
        let mut odd = [S::zero(); ROWS];
        let step = F::BYTES * S::ROWS;
        let mut c = 0;
        while c + 1 < t.columns {
            let w = weights.add(c * step);
            fetch_ahead(w, 2 * step);
            let (first, second) = (F::read::<S>(w), F::read::<S>(w.add(step)));
            let mut m = 0;
            while m < ROWS {
                let x = t.floats.get_unchecked(from + m).add(c);
                even[m] = S::fma(first, S::splat_float(*x), even[m]);
                odd[m] = S::fma(second, S::splat_float(*x.add(1)), odd[m]);
                m += 1;
            }
            c += 2;
        }
        let mut m = 0;
        while m < ROWS {
            if c < t.columns {
                even[m] =
                    S::fma(F::read::<S>(weights.add(c * step)), S::splat_float(*t.floats[from + m].add(c)), even[m]);
            }
            S::store_floats(t.out[from + m].add(i * S::ROWS), S::add(even[m], odd[m]));
            m += 1;
        }
    }
}

#[inline(always)]
unsafe fn run_floats<S: Simd, F: FloatFormat>(t: &Tiles<'_>) {
    unsafe {
        for i in 0..t.n_tiles {
            let mut from = 0;
            while from < t.out.len() {
                match t.out.len() - from {
                    1 => float_rows::<S, F, 1>(t, i, from),
                    2 => float_rows::<S, F, 2>(t, i, from),
                    3 => float_rows::<S, F, 3>(t, i, from),
                    _ => float_rows::<S, F, 4>(t, i, from),
                }
                from += 4;
            }
        }
    }
}

/// Defines functions that enable an instruction set; everything above is inlined into them.
macro_rules! entries {
    ($name:ident, $simd:ty, $features:literal) => {
        mod $name {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn integers<F: Format>(t: &Tiles<'_>) {
                unsafe { run::<$simd, F>(t) }
            }

            #[target_feature(enable = $features)]
            unsafe fn floats<F: FloatFormat>(t: &Tiles<'_>) {
                unsafe { run_floats::<$simd, F>(t) }
            }

            #[target_feature(enable = $features)]
            unsafe fn quantize<F: Format>(x: &[f32; 32]) -> Activation {
                unsafe { crate::activation::quantize_fast(x, const { format::halves::<F>() }, <$simd as Simd>::LANES) }
            }

            fn quantized<F: Format>() -> Kernel {
                Kernel { run: integers::<F>, quantize: quantize::<F> }
            }

            pub(super) fn kernel(ty: WeightType) -> Kernel {
                let unquantized: unsafe fn(&[f32; 32]) -> Activation = quantize::<format::Q4_0>;
                match ty {
                    WeightType::F32 => Kernel { run: floats::<F32>, quantize: unquantized },
                    WeightType::F16 => Kernel { run: floats::<F16>, quantize: unquantized },
                    WeightType::Bf16 => Kernel { run: floats::<Bf16>, quantize: unquantized },
                    WeightType::Q4_0 => quantized::<format::Q4_0>(),
                    WeightType::Q4_1 => quantized::<format::Q4_1>(),
                    WeightType::Q5_0 => quantized::<format::Q5_0>(),
                    WeightType::Q5_1 => quantized::<format::Q5_1>(),
                    WeightType::Q8_0 => quantized::<format::Q8_0>(),
                    WeightType::Q2K => quantized::<format::Q2K>(),
                    WeightType::Q3K => quantized::<format::Q3K>(),
                    WeightType::Q4K => quantized::<format::Q4K>(),
                    WeightType::Q5K => quantized::<format::Q5K>(),
                    WeightType::Q6K => quantized::<format::Q6K>(),
                    WeightType::Iq4Nl => quantized::<format::Iq4Nl>(),
                    WeightType::Iq4Xs => quantized::<format::Iq4Xs>(),
                    WeightType::Mxfp4 => quantized::<format::Mxfp4>(),
                }
            }
        }
    };
}

entries!(avx2, Avx2, "avx2,fma,f16c");
entries!(avxvnni, AvxVnni, "avx2,fma,f16c,avxvnni");
entries!(avx512, Avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni");

/// The kernel of a type. Only call its functions if `isa.is_supported()`.
pub(crate) fn kernel(isa: Isa, ty: WeightType) -> Kernel {
    match isa {
        Isa::Avx2 => avx2::kernel(ty),
        Isa::AvxVnni => avxvnni::kernel(ty),
        Isa::Avx512 => avx512::kernel(ty),
    }
}
