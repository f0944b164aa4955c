//! Encodes shares and totals as one byte each, on logarithmic scales.

/// Code steps per halving of a share: neighbours differ by 4.4%.
const SHARE_STEPS: f32 = 16.0;

/// Code steps per doubling of a total: neighbours differ by 10%.
const TOTAL_STEPS: f32 = 7.0;

/// The code of a total of 1. Soft counts can be less: totals range from 0.04 to 3.7e9.
const TOTAL_OF_ONE: f32 = 32.0;

/// The code of a share in 0 ..= 1. The smallest share is 1.6e-5.
pub(super) fn share_code(share: f32) -> u8 {
    // Casts from floats saturate, and NaN becomes 0.
    (-share.log2() * SHARE_STEPS).round() as u8
}

/// The code of a total.
pub(super) fn total_code(total: f32) -> u8 {
    (total.log2() * TOTAL_STEPS + TOTAL_OF_ONE).round() as u8
}

/// The values of all codes.
#[derive(Debug)]
pub(super) struct Codes {
    pub(super) shares: [f32; 256],
    pub(super) totals: [f32; 256],
}

impl Default for Codes {
    fn default() -> Codes {
        Codes {
            shares: std::array::from_fn(|code| (-(code as f32) / SHARE_STEPS).exp2()),
            totals: std::array::from_fn(|code| ((code as f32 - TOTAL_OF_ONE) / TOTAL_STEPS).exp2()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_what_they_were_made_of() {
        let codes = Codes::default();
        for code in 0..=255 {
            assert_eq!(share_code(codes.shares[usize::from(code)]), code);
            assert_eq!(total_code(codes.totals[usize::from(code)]), code);
        }
        for i in 1..=10_000 {
            let share = i as f32 / 10_000.0;
            let read = codes.shares[usize::from(share_code(share))];
            assert!((read / share - 1.0).abs() < 0.022, "{share} {read}");
            let total = (i * i) as f32;
            let read = codes.totals[usize::from(total_code(total))];
            assert!((read / total - 1.0).abs() < 0.051, "{total} {read}");
        }
        assert_eq!((codes.shares[0], codes.totals[usize::from(total_code(1.0))]), (1.0, 1.0));
    }

    #[test]
    fn what_is_out_of_range_takes_the_nearest_code() {
        assert_eq!([share_code(1.5), share_code(0.0), share_code(f32::NAN)], [0, 255, 0]);
        assert_eq!([total_code(0.0), total_code(f32::INFINITY), total_code(f32::NAN)], [0, 255, 0]);
    }
}
