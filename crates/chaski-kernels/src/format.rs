//! The layout of packed weights for each type, and how the kernels read it.
//!
//! A *tile* has 8 or 16 weight rows, as many as a vector holds. Its blocks of 32 or 256 columns follow each other. A
//! block of a tile is as long as the file's blocks of its rows together: first the scales of all rows, then the codes.
//!
//! The codes of 32 columns form *planes*, made of vectors with four bytes per row. With `column = 4 * j + i`, byte `4 *
//! row + i` holds:
//!
//! | plane | vectors | vector `v` |
//! |---|---|---|
//! | 8 bits | 8 | the code of `j = v` |
//! | 4 bits | 4 | `j = v` in the low nibble, `j = v + 4` in the high one |
//! | 2 bits | 2 | `j = 4 * v .. 4 * v + 4`, starting at the lowest bits |
//! | 1 bit | 1 | `j = 0 .. 8`, starting at the lowest bit |
//!
//! Codes of three bits have a plane of two and one of one, five bits four and one, six bits four and two.

use crate::activation::Halves;
use crate::simd::Simd;

/// The scales of one block of a tile, as floats: `values[group * ROWS + row]`.
#[repr(C, align(64))]
pub(crate) struct Scales {
    pub scale: [f32; 256],
    /// Factor on the sum of a group's activations. Weights are `scale * (code - offset) + add`.
    pub add: [f32; 256],
}

impl Scales {
    pub(crate) const fn new() -> Self {
        Self { scale: [0.0; 256], add: [0.0; 256] }
    }
}

/// How many columns share a scale, and which integer product the codes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// 32 columns, unsigned codes.
    Whole,
    /// 16 columns, unsigned codes.
    Half,
    /// 32 columns, signed 8-bit codes.
    Signed,
}

/// The layout of one weight type.
pub(crate) trait Format {
    /// Columns per block.
    const COLUMNS: usize;
    /// Bytes per row of a block, and how many of them are scales.
    const BYTES: usize;
    const SCALE_BYTES: usize;
    const GROUP: Group;
    /// Subtracted from unsigned codes.
    const OFFSET: i32;
    /// Whether `Scales::add` is used.
    const AFFINE: bool;

    /// Reads the scales of a tile's block.
    ///
    /// # Safety
    ///
    /// `p` must point to a whole block, and the CPU must have the instruction set.
    unsafe fn scales<S: Simd>(p: *const u8, out: &mut Scales);

    /// Reads the codes of 32 columns. Vector `j` has columns `4 * j..`.
    ///
    /// # Safety
    ///
    /// `p` must point to the planes of 32 columns, and the CPU must have the instruction set.
    unsafe fn codes<S: Simd>(p: *const u8) -> [S::Int; 8];
}

/// What activations must carry for a format.
pub(crate) const fn halves<F: Format>() -> Halves {
    match F::GROUP {
        Group::Signed => Halves::Whole(128),
        Group::Whole if F::OFFSET == 0 => Halves::Unused,
        Group::Whole => Halves::Whole(F::OFFSET),
        Group::Half if F::AFFINE => Halves::Sums,
        Group::Half => Halves::Each(F::OFFSET),
    }
}

/// Reads a plane of four bits.
#[inline(always)]
unsafe fn four_bits<S: Simd>(p: *const u8) -> [S::Int; 8] {
    unsafe {
        let mask = S::splat(15);
        let v = [S::load(p), S::load(p.add(4 * S::ROWS)), S::load(p.add(8 * S::ROWS)), S::load(p.add(12 * S::ROWS))];
        [
            S::and(v[0], mask),
            S::and(v[1], mask),
            S::and(v[2], mask),
            S::and(v[3], mask),
            S::and(S::shr::<4>(v[0]), mask),
            S::and(S::shr::<4>(v[1]), mask),
            S::and(S::shr::<4>(v[2]), mask),
            S::and(S::shr::<4>(v[3]), mask),
        ]
    }
}

/// Reads a plane of two bits.
#[inline(always)]
unsafe fn two_bits<S: Simd>(p: *const u8) -> [S::Int; 8] {
    unsafe {
        let mask = S::splat(3);
        let (a, b) = (S::load(p), S::load(p.add(4 * S::ROWS)));
        [
            S::and(a, mask),
            S::and(S::shr::<2>(a), mask),
            S::and(S::shr::<4>(a), mask),
            S::and(S::shr::<6>(a), mask),
            S::and(b, mask),
            S::and(S::shr::<2>(b), mask),
            S::and(S::shr::<4>(b), mask),
            S::and(S::shr::<6>(b), mask),
        ]
    }
}

/// Reads a plane of one bit into bit 4 of each byte.
#[inline(always)]
unsafe fn one_bit_at_4<S: Simd>(p: *const u8) -> [S::Int; 8] {
    unsafe {
        let mask = S::splat(16);
        let v = S::load(p);
        [
            S::and(S::shl::<4>(v), mask),
            S::and(S::shl::<3>(v), mask),
            S::and(S::shl::<2>(v), mask),
            S::and(S::shl::<1>(v), mask),
            S::and(v, mask),
            S::and(S::shr::<1>(v), mask),
            S::and(S::shr::<2>(v), mask),
            S::and(S::shr::<3>(v), mask),
        ]
    }
}

/// Reads a plane of one bit into bit 2 of each byte.
#[inline(always)]
unsafe fn one_bit_at_2<S: Simd>(p: *const u8) -> [S::Int; 8] {
    unsafe {
        let mask = S::splat(4);
        let v = S::load(p);
        [
            S::and(S::shl::<2>(v), mask),
            S::and(S::shl::<1>(v), mask),
            S::and(v, mask),
            S::and(S::shr::<1>(v), mask),
            S::and(S::shr::<2>(v), mask),
            S::and(S::shr::<3>(v), mask),
            S::and(S::shr::<4>(v), mask),
            S::and(S::shr::<5>(v), mask),
        ]
    }
}

/// Reads a plane of two bits into bits 4 and 5 of each byte.
#[inline(always)]
unsafe fn two_bits_at_4<S: Simd>(p: *const u8) -> [S::Int; 8] {
    unsafe {
        let mask = S::splat(48);
        let (a, b) = (S::load(p), S::load(p.add(4 * S::ROWS)));
        [
            S::and(S::shl::<4>(a), mask),
            S::and(S::shl::<2>(a), mask),
            S::and(a, mask),
            S::and(S::shr::<2>(a), mask),
            S::and(S::shl::<4>(b), mask),
            S::and(S::shl::<2>(b), mask),
            S::and(b, mask),
            S::and(S::shr::<2>(b), mask),
        ]
    }
}

#[inline(always)]
unsafe fn both<S: Simd>(a: [S::Int; 8], b: [S::Int; 8]) -> [S::Int; 8] {
    unsafe {
        [
            S::or(a[0], b[0]),
            S::or(a[1], b[1]),
            S::or(a[2], b[2]),
            S::or(a[3], b[3]),
            S::or(a[4], b[4]),
            S::or(a[5], b[5]),
            S::or(a[6], b[6]),
            S::or(a[7], b[7]),
        ]
    }
}

#[inline(always)]
unsafe fn looked_up<S: Simd>(table: &[u8; 16], c: [S::Int; 8]) -> [S::Int; 8] {
    unsafe {
        [
            S::lookup(table, c[0]),
            S::lookup(table, c[1]),
            S::lookup(table, c[2]),
            S::lookup(table, c[3]),
            S::lookup(table, c[4]),
            S::lookup(table, c[5]),
            S::lookup(table, c[6]),
            S::lookup(table, c[7]),
        ]
    }
}

/// One half-precision scale per row.
#[inline(always)]
unsafe fn half_scale<S: Simd>(p: *const u8, out: &mut Scales) {
    unsafe { S::store_floats(out.scale.as_mut_ptr(), S::halves(p)) }
}

/// A half-precision scale and minimum per row. Codes have `offset` subtracted, so it is added back here.
#[inline(always)]
unsafe fn half_scale_and_add<S: Simd>(p: *const u8, offset: f32, out: &mut Scales) {
    unsafe {
        let scale = S::halves(p);
        let add = S::halves(p.add(2 * S::ROWS));
        S::store_floats(out.scale.as_mut_ptr(), scale);
        S::store_floats(out.add.as_mut_ptr(), S::fma(S::splat_float(offset), scale, add));
    }
}

/// Eight six-bit scales and minimums per row (Q4_K, Q5_K). They follow `d[ROWS]` and `dmin[ROWS]`: `8 * ROWS` bytes
/// with the low four bits of a scale and of a minimum, then `4 * ROWS` bytes with the upper bits of groups `g` and `g +
/// 4`.
#[inline(always)]
unsafe fn six_bit_scales_and_minimums<S: Simd>(p: *const u8, offset: f32, out: &mut Scales) {
    unsafe {
        let (low, high) = (p.add(4 * S::ROWS), p.add(12 * S::ROWS));
        let (m15, m48) = (S::splat(15), S::splat(48));
        let (l0, l1, h) = (S::load(low), S::load(low.add(4 * S::ROWS)), S::load(high));
        let packed = [
            S::or(S::and(l0, m15), S::and(S::shl::<4>(h), m48)),
            S::or(S::and(l1, m15), S::and(S::shl::<2>(h), m48)),
            S::or(S::and(S::shr::<4>(l0), m15), S::and(h, m48)),
            S::or(S::and(S::shr::<4>(l1), m15), S::and(S::shr::<2>(h), m48)),
        ];
        // Read the bytes back through memory: the compiler would move them through general registers.
        let packed = std::hint::black_box(&packed);
        let (scales, minimums) = (packed.as_ptr().cast::<u8>(), packed.as_ptr().add(2).cast::<u8>());
        let (d, dmin) = (S::halves(p), S::halves(p.add(2 * S::ROWS)));
        let (negative, offset) = (S::splat_float(-1.0), S::splat_float(offset));
        let dmin = S::mul(dmin, negative);
        let mut g = 0;
        while g < 8 {
            let scale = S::mul(d, S::bytes(scales.add(g * S::ROWS)));
            let add = S::mul(dmin, S::bytes(minimums.add(g * S::ROWS)));
            S::store_floats(out.scale.as_mut_ptr().add(g * S::ROWS), scale);
            S::store_floats(out.add.as_mut_ptr().add(g * S::ROWS), S::fma(offset, scale, add));
            g += 1;
        }
    }
}

/// Scales of six bits: `d * (code - 32)`, where vector `v` has the codes of groups `4 * v..4 * v + 4`.
#[inline(always)]
unsafe fn six_bit_scales<S: Simd, const VECTORS: usize>(d: S::Float, packed: &[S::Int; VECTORS], out: &mut Scales) {
    unsafe {
        let packed = std::hint::black_box(packed).as_ptr().cast::<u8>();
        let bias = S::splat_float(-32.0);
        let mut g = 0;
        while g < 4 * VECTORS {
            let scale = S::mul(d, S::add(S::bytes(packed.add(g * S::ROWS)), bias));
            S::store_floats(out.scale.as_mut_ptr().add(g * S::ROWS), scale);
            g += 1;
        }
    }
}

/// The signed values of IQ4_NL and IQ4_XS, xored with `flip` for `dot_signed`.
const fn iq4_values(flip: u8) -> [u8; 16] {
    let values: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = values[i] as u8 ^ flip;
        i += 1;
    }
    out
}

/// Twice the values of MXFP4, plus 12.
const MXFP4_CODES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: $columns:literal columns, $bytes:literal bytes, $scale_bytes:literal of scales,
       $group:ident, offset $offset:literal, affine $affine:literal,
       scales: |$p:ident, $out:ident| $scales:expr, codes: |$q:ident| $codes:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Format for $name {
            const COLUMNS: usize = $columns;
            const BYTES: usize = $bytes;
            const SCALE_BYTES: usize = $scale_bytes;
            const GROUP: Group = Group::$group;
            const OFFSET: i32 = $offset;
            const AFFINE: bool = $affine;
            #[inline(always)]
            unsafe fn scales<S: Simd>($p: *const u8, $out: &mut Scales) {
                unsafe { $scales }
            }
            #[inline(always)]
            unsafe fn codes<S: Simd>($q: *const u8) -> [S::Int; 8] {
                unsafe { $codes }
            }
        }
    )*};
}

formats! {
    /// `d[ROWS]` (half).
    Q4_0: 32 columns, 18 bytes, 2 of scales, Whole, offset 8, affine false,
        scales: |p, out| half_scale::<S>(p, out),
        codes: |q| four_bits::<S>(q);
    /// `d[ROWS]`, `m[ROWS]` (half).
    Q4_1: 32 columns, 20 bytes, 4 of scales, Whole, offset 0, affine true,
        scales: |p, out| half_scale_and_add::<S>(p, 0.0, out),
        codes: |q| four_bits::<S>(q);
    /// `d[ROWS]` (half).
    Q5_0: 32 columns, 22 bytes, 2 of scales, Whole, offset 16, affine false,
        scales: |p, out| half_scale::<S>(p, out),
        codes: |q| both::<S>(four_bits::<S>(q), one_bit_at_4::<S>(q.add(16 * S::ROWS)));
    /// `d[ROWS]`, `m[ROWS]` (half). The offset keeps 16-bit sums in range.
    Q5_1: 32 columns, 24 bytes, 4 of scales, Whole, offset 16, affine true,
        scales: |p, out| half_scale_and_add::<S>(p, 16.0, out),
        codes: |q| both::<S>(four_bits::<S>(q), one_bit_at_4::<S>(q.add(16 * S::ROWS)));
    /// `d[ROWS]` (half).
    Q8_0: 32 columns, 34 bytes, 2 of scales, Signed, offset 0, affine false,
        scales: |p, out| half_scale::<S>(p, out),
        codes: |q| {
            let flip = S::splat(S::SIGN_FLIP);
            let mut v = [flip; 8];
            let mut j = 0;
            while j < 8 {
                v[j] = S::xor(S::load(q.add(j * 4 * S::ROWS)), flip);
                j += 1;
            }
            v
        };
    /// `d[ROWS]` (half).
    Iq4Nl: 32 columns, 18 bytes, 2 of scales, Signed, offset 0, affine false,
        scales: |p, out| half_scale::<S>(p, out),
        codes: |q| looked_up::<S>(&const { iq4_values(S::SIGN_FLIP) }, four_bits::<S>(q));
    /// `e[ROWS]`: exponents. The scale is half of `2^(e - 127)`, because codes are twice the values.
    Mxfp4: 32 columns, 17 bytes, 1 of scales, Whole, offset 12, affine false,
        scales: |p, out| {
            let mut r = 0;
            while r < S::ROWS {
                let e = u32::from(*p.add(r));
                out.scale[r] = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 });
                r += 1;
            }
        },
        codes: |q| looked_up::<S>(&MXFP4_CODES, four_bits::<S>(q));
    /// `d[ROWS]`, `dmin[ROWS]` (half), `16 * ROWS` bytes: a group's scale in the low nibble, its minimum in the high
    /// one.
    Q2K: 256 columns, 84 bytes, 20 of scales, Half, offset 0, affine true,
        scales: |p, out| {
            let m15 = S::splat(15);
            let mut packed = [m15; 8];
            let mut v = 0;
            while v < 4 {
                let x = S::load(p.add((4 + 4 * v) * S::ROWS));
                packed[v] = S::and(x, m15);
                packed[4 + v] = S::and(S::shr::<4>(x), m15);
                v += 1;
            }
            let packed = std::hint::black_box(&packed).as_ptr();
            let (scales, minimums) = (packed.cast::<u8>(), packed.add(4).cast::<u8>());
            let d = S::halves(p);
            let dmin = S::mul(S::halves(p.add(2 * S::ROWS)), S::splat_float(-1.0));
            let mut g = 0;
            while g < 16 {
                S::store_floats(out.scale.as_mut_ptr().add(g * S::ROWS), S::mul(d, S::bytes(scales.add(g * S::ROWS))));
                S::store_floats(out.add.as_mut_ptr().add(g * S::ROWS), S::mul(dmin, S::bytes(minimums.add(g * S::ROWS))));
                g += 1;
            }
        },
        codes: |q| two_bits::<S>(q);
    /// `d[ROWS]` (half), `8 * ROWS` bytes with the low four bits of groups `g` and `g + 8`, `4 * ROWS` bytes with the
    /// upper two bits of `g`, `g + 4`, `g + 8`, `g + 12`.
    Q3K: 256 columns, 110 bytes, 14 of scales, Half, offset 4, affine false,
        scales: |p, out| {
            let (m15, m48) = (S::splat(15), S::splat(48));
            let (l0, l1) = (S::load(p.add(2 * S::ROWS)), S::load(p.add(6 * S::ROWS)));
            let h = S::load(p.add(10 * S::ROWS));
            let packed = [
                S::or(S::and(l0, m15), S::and(S::shl::<4>(h), m48)),
                S::or(S::and(l1, m15), S::and(S::shl::<2>(h), m48)),
                S::or(S::and(S::shr::<4>(l0), m15), S::and(h, m48)),
                S::or(S::and(S::shr::<4>(l1), m15), S::and(S::shr::<2>(h), m48)),
            ];
            six_bit_scales::<S, 4>(S::halves(p), &packed, out);
        },
        codes: |q| both::<S>(two_bits::<S>(q), one_bit_at_2::<S>(q.add(8 * S::ROWS)));
    /// See `six_bit_scales_and_minimums`.
    Q4K: 256 columns, 144 bytes, 16 of scales, Whole, offset 0, affine true,
        scales: |p, out| six_bit_scales_and_minimums::<S>(p, 0.0, out),
        codes: |q| four_bits::<S>(q);
    /// Like Q4_K. The offset keeps 16-bit sums in range.
    Q5K: 256 columns, 176 bytes, 16 of scales, Whole, offset 16, affine true,
        scales: |p, out| six_bit_scales_and_minimums::<S>(p, 16.0, out),
        codes: |q| both::<S>(four_bits::<S>(q), one_bit_at_4::<S>(q.add(16 * S::ROWS)));
    /// `d[ROWS]` (half), `16 * ROWS` signed bytes.
    Q6K: 256 columns, 210 bytes, 18 of scales, Half, offset 32, affine false,
        scales: |p, out| {
            let d = S::halves(p);
            let mut g = 0;
            while g < 16 {
                let scale = S::mul(d, S::signed_bytes(p.add((2 + g) * S::ROWS)));
                S::store_floats(out.scale.as_mut_ptr().add(g * S::ROWS), scale);
                g += 1;
            }
        },
        codes: |q| both::<S>(four_bits::<S>(q), two_bits_at_4::<S>(q.add(16 * S::ROWS)));
    /// `d[ROWS]` (half), `4 * ROWS` bytes with the low four bits of groups `g` and `g + 4`, `2 * ROWS` bytes with the
    /// upper two bits of `g`, `g + 2`, `g + 4`, `g + 6`.
    Iq4Xs: 256 columns, 136 bytes, 8 of scales, Signed, offset 0, affine false,
        scales: |p, out| {
            let (m15, m48) = (S::splat(15), S::splat(48));
            let l = S::load(p.add(2 * S::ROWS));
            let mut upper = [m15; 2];
            let bytes = upper.as_mut_ptr().cast::<u8>();
            let high = p.add(6 * S::ROWS);
            let mut i = 0;
            while i < 2 * S::ROWS {
                let x = *high.add(i);
                *bytes.add(i) = x << 4;
                *bytes.add(2 * S::ROWS + i) = x << 2;
                *bytes.add(4 * S::ROWS + i) = x;
                *bytes.add(6 * S::ROWS + i) = x >> 2;
                i += 1;
            }
            let packed = [
                S::or(S::and(l, m15), S::and(upper[0], m48)),
                S::or(S::and(S::shr::<4>(l), m15), S::and(upper[1], m48)),
            ];
            six_bit_scales::<S, 2>(S::halves(p), &packed, out);
        },
        codes: |q| looked_up::<S>(&const { iq4_values(S::SIGN_FLIP) }, four_bits::<S>(q));
}
