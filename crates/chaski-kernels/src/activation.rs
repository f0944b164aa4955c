//! Activations quantized for the integer kernels: 32 columns share one scale.

/// 32 activations of one row: `x[i] = scale * q[i]`, rounded to nearest.
///
/// The blocks of a matrix are stored as `acts[block * rows + row]`. So the columns that meet one block of weights are
/// contiguous for all rows.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Activation {
    /// The quantized values, -127 to 127.
    pub q: [i8; 32],
    /// Sums or corrections for each half of 16 columns, in the form the weight format needs; see `Halves`.
    pub halves: [u32; 2],
    /// `scale` times the sum of `q`, for formats with a minimum.
    pub sum: f32,
    /// NaN if any value was not finite, so that the product becomes NaN too.
    pub scale: f32,
}

/// What [`Activation::halves`] holds. Weights are stored as unsigned codes with `weight = code - offset`. Adding
/// `-offset * sum(q)` turns the sum over codes into the sum over weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Halves {
    /// Not used.
    Unused,
    /// `-offset * sum(q)` over all 32 columns, in the first element.
    Whole(i32),
    /// `-offset * sum(q)` for each half.
    Each(i32),
    /// `scale * sum(q)` for each half, as the bits of a float.
    Sums,
}

/// How an instruction set sums the products of four columns: into one 32-bit sum, or into two 16-bit sums (columns 0, 1
/// and columns 2, 3). A correction has the same form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    One32,
    Two16,
}

impl Lanes {
    fn correction(self, offset: i32, sums: [i32; 2]) -> u32 {
        match self {
            Self::One32 => (-offset * (sums[0] + sums[1])) as u32,
            Self::Two16 => (-offset * sums[0]) as u16 as u32 | ((-offset * sums[1]) as u16 as u32) << 16,
        }
    }
}

impl Activation {
    /// Fills in the fields that depend on the sums of `q`, given as `sums[half][pair of columns]`.
    #[inline(always)]
    fn describe(&mut self, sums: [[i32; 2]; 2], halves: Halves, lanes: Lanes) {
        let total = |s: [i32; 2]| s[0] + s[1];
        self.sum = self.scale * (total(sums[0]) + total(sums[1])) as f32;
        match halves {
            Halves::Unused => {}
            Halves::Whole(offset) => {
                let both = [sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]];
                self.halves[0] = lanes.correction(offset, both);
            }
            Halves::Each(offset) => self.halves = sums.map(|s| lanes.correction(offset, s)),
            Halves::Sums => self.halves = sums.map(|s| (self.scale * total(s) as f32).to_bits()),
        }
    }
}

/// Quantizes 32 floats with AVX2, with the same result as `quantize`.
///
/// # Safety
///
/// The CPU must have AVX2 and FMA, and the caller must enable them.
#[inline(always)]
pub(crate) unsafe fn quantize_fast(x: &[f32; 32], halves: Halves, lanes: Lanes) -> Activation {
    use std::arch::x86_64::*;
    unsafe {
        let v = [
            _mm256_loadu_ps(x.as_ptr()),
            _mm256_loadu_ps(x.as_ptr().add(8)),
            _mm256_loadu_ps(x.as_ptr().add(16)),
            _mm256_loadu_ps(x.as_ptr().add(24)),
        ];
        // The bits of non-negative floats sort like their values, with infinity and NaN on top.
        let bits = _mm256_set1_epi32(0x7fff_ffff);
        let m = _mm256_max_epi32(
            _mm256_max_epi32(
                _mm256_and_si256(_mm256_castps_si256(v[0]), bits),
                _mm256_and_si256(_mm256_castps_si256(v[1]), bits),
            ),
            _mm256_max_epi32(
                _mm256_and_si256(_mm256_castps_si256(v[2]), bits),
                _mm256_and_si256(_mm256_castps_si256(v[3]), bits),
            ),
        );
        let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
        let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b01_00_11_10>(m));
        let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b10_11_00_01>(m));
        let largest = f32::from_bits(_mm_cvtsi128_si32(m) as u32);
        let inverse = 127.0 / largest;
        if !largest.is_finite() || !inverse.is_finite() {
            return quantize(x, halves, lanes);
        }
        let s = _mm256_set1_ps(inverse);
        let low =
            _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(v[0], s)), _mm256_cvtps_epi32(_mm256_mul_ps(v[1], s)));
        let high =
            _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(v[2], s)), _mm256_cvtps_epi32(_mm256_mul_ps(v[3], s)));
        // The pack instructions work on 128-bit halves, so groups of four columns must be reordered.
        let q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        let mut a = Activation { scale: largest / 127.0, ..Activation::default() };
        _mm256_storeu_si256(a.q.as_mut_ptr().cast(), q);
        // Sum columns 0, 1 and columns 2, 3 over all groups of four, in each 128-bit half.
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
        let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
        let pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
        let split = |p: i32| [i32::from(p as i16), p >> 16];
        let sums = [
            split(_mm_cvtsi128_si32(_mm256_castsi256_si128(pairs))),
            split(_mm_cvtsi128_si32(_mm256_extracti128_si256::<1>(pairs))),
        ];
        a.describe(sums, halves, lanes);
        a
    }
}

/// Quantizes 32 floats: the portable version of `quantize_fast`.
pub(crate) fn quantize(x: &[f32; 32], halves: Halves, lanes: Lanes) -> Activation {
    // The bits of non-negative floats sort like their values, with infinity and NaN on top.
    let largest = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return Activation { scale: f32::NAN, sum: f32::NAN, ..Activation::default() };
    }
    let inverse = 127.0 / largest;
    if !inverse.is_finite() {
        return Activation::default();
    }
    let mut a = Activation { scale: largest / 127.0, ..Activation::default() };
    for (q, v) in a.q.iter_mut().zip(x) {
        *q = (v * inverse).round_ties_even() as i8;
    }
    let mut sums = [[0i32; 2]; 2];
    for (i, q) in a.q.iter().enumerate() {
        sums[i / 16][i / 2 % 2] += i32::from(*q);
    }
    a.describe(sums, halves, lanes);
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> [f32; 32] {
        std::array::from_fn(|i| (i as f32 - 11.0) * 0.25)
    }

    #[test]
    fn values_come_back_within_half_a_scale() {
        let a = quantize(&ramp(), Halves::Unused, Lanes::One32);
        for (x, q) in ramp().iter().zip(a.q) {
            assert!((x - a.scale * f32::from(q)).abs() <= 0.5001 * a.scale);
        }
    }

    #[test]
    fn what_is_not_finite_makes_the_scale_nan() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = ramp();
            x[7] = bad;
            assert!(quantize(&x, Halves::Unused, Lanes::One32).scale.is_nan());
        }
    }

    #[test]
    fn zeros_and_values_too_small_for_a_scale_are_zero() {
        for value in [0.0, -0.0, 1e-40] {
            let a = quantize(&[value; 32], Halves::Each(32), Lanes::Two16);
            assert_eq!((a.q, a.scale, a.halves), ([0; 32], 0.0, [0; 2]));
        }
    }

    #[test]
    fn corrections_are_of_the_sums() {
        let a = quantize(&ramp(), Halves::Each(32), Lanes::One32);
        let half = |h: usize| a.q[h * 16..][..16].iter().map(|q| i32::from(*q)).sum::<i32>();
        assert_eq!(a.halves.map(|h| h as i32), [-32 * half(0), -32 * half(1)]);
        let pairs = quantize(&ramp(), Halves::Each(32), Lanes::Two16);
        for h in 0..2 {
            let [even, odd] = [pairs.halves[h] as i16, (pairs.halves[h] >> 16) as i16];
            assert_eq!(i32::from(even) + i32::from(odd), a.halves[h] as i32);
        }
    }
}
