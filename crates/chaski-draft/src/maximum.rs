//! The greatest value of a row of logits, by blocks. Every sampled or harvested row takes this pass, so it is written for
//! the compiler to vectorize.

/// Values per block.
pub(crate) const BLOCK: usize = 64;

/// Values compared side by side: a single running maximum would wait for each comparison in turn.
const N_LANES: usize = 16;

/// The greatest value. Passes the maximum of each block to `see`, in order; the last block may be shorter. `None` if there
/// is a NaN or plus infinity, or nothing finite.
pub(crate) fn finite_max(values: &[f32], mut see: impl FnMut(f32)) -> Option<f32> {
    // As wide as the values: flags of one byte would be packed for each comparison, which takes twice as long.
    let mut nans = [0u32; N_LANES];
    let mut max = f32::NEG_INFINITY;
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    for block in blocks {
        let mut lanes = [f32::NEG_INFINITY; N_LANES];
        for part in block.as_chunks::<N_LANES>().0 {
            for lane in 0..N_LANES {
                lanes[lane] = greater(part[lane], lanes[lane]);
                nans[lane] |= u32::from(part[lane].is_nan());
            }
        }
        // In halves: a fold over the lanes does not vectorize.
        let mut n_lanes = N_LANES;
        while n_lanes > 1 {
            n_lanes /= 2;
            for lane in 0..n_lanes {
                lanes[lane] = greater(lanes[lane + n_lanes], lanes[lane]);
            }
        }
        see(lanes[0]);
        max = greater(lanes[0], max);
    }
    if !rest.is_empty() {
        let last = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        see(last);
        max = greater(last, max);
    }
    let has_nan = nans.iter().any(|&nan| nan != 0) || rest.iter().any(|value| value.is_nan());
    (max.is_finite() && !has_nan).then_some(max)
}

/// `f32::max` would check for NaN again.
fn greater(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_block_has_its_maximum(values in prop::collection::vec(-50i8..50, 0..400)) {
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            let mut maxima = Vec::new();
            let max = finite_max(&values, |max| maxima.push(max));
            let naive: Vec<f32> =
                values.chunks(BLOCK).map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
            prop_assert_eq!(max, naive.iter().copied().reduce(f32::max));
            prop_assert_eq!(maxima, naive);
        }
    }
}
