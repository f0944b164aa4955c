//! Chooses the number of lanes: as many as pay, but no more than fit into memory.

use std::collections::BTreeMap;

/// Take the fewest lanes that reach this share of the best rate. Each lane costs memory, and lanes fall empty near the
/// end of a job.
const NEARLY: f64 = 0.95;

/// Lanes may take 1/2 of the available memory.
const MEMORY_SHARE: u64 = 2;

/// The fewest lanes that reach nearly the best rate (tokens per millisecond) of all known widths; 1 if none is known.
#[must_use]
pub fn n_worthwhile(ms_by_rows: &BTreeMap<usize, f64>) -> usize {
    let rate = |(&n_rows, &ms): (&usize, &f64)| n_rows as f64 / ms;
    let best = ms_by_rows.iter().map(rate).fold(0.0, f64::max);
    let nearly = ms_by_rows.iter().find(|&known| rate(known) >= NEARLY * best);
    nearly.map_or(1, |(&n_rows, _)| n_rows)
}

/// The memory one lane needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneMemory {
    /// Bytes per position: the KV cache, and the attention scores of a row.
    pub bytes_per_position: u64,
    /// Positions in the lane.
    pub n_ctx: usize,
    /// Bytes per lane that do not depend on its length: the logits of a row, and recurrent states.
    pub bytes_per_lane: u64,
}

impl LaneMemory {
    /// All bytes of the lane.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_per_position.saturating_mul(self.n_ctx as u64).saturating_add(self.bytes_per_lane)
    }

    /// How many of `n_wanted` lanes fit into their share of `n_available` bytes; at least 1.
    #[must_use]
    pub fn n_fitting(&self, n_wanted: usize, n_available: u64) -> usize {
        let n_fitting = usize::try_from(share(n_available) / self.bytes().max(1)).unwrap_or(usize::MAX);
        n_wanted.min(n_fitting).max(1)
    }

    /// Whether a single lane fits. It may take all of `n_available`; the share applies to several lanes.
    #[must_use]
    pub fn fits(&self, n_available: u64) -> bool {
        self.bytes() <= n_available
    }

    /// The most positions, up to `n_ctx`, with which a single lane fits; 0 if none do.
    #[must_use]
    pub fn most_positions(&self, n_available: u64) -> usize {
        let Some(of_cache) = n_available.checked_sub(self.bytes_per_lane) else { return 0 };
        let n = of_cache.checked_div(self.bytes_per_position).unwrap_or(u64::MAX);
        usize::try_from(n).unwrap_or(usize::MAX).min(self.n_ctx)
    }
}

/// The longest context, in multiples of `step`, whose lane fits alone, given that a lane of `n_ctx` positions does not.
/// `lane` returns the memory for a context length; its settings may differ for short contexts.
#[must_use]
pub fn longest_fitting(n_ctx: usize, step: usize, n_available: u64, lane: impl Fn(usize) -> LaneMemory) -> usize {
    let shorter = |n_ctx: usize| lane(n_ctx).most_positions(n_available) / step * step;
    // The first result may be short enough for other settings, with which it may not fit. So compute it again with
    // those.
    shorter(shorter(n_ctx))
}

/// The bytes lanes may take out of `n_available`.
fn share(n_available: u64) -> u64 {
    n_available / MEMORY_SHARE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_as_many_as_pay() {
        let measured = BTreeMap::from([(1, 1.0), (16, 3.7), (32, 6.7), (64, 11.1), (128, 21.5)]);
        assert_eq!(n_worthwhile(&measured), 64, "128 are 3% faster");
        let gpu = BTreeMap::from([(1, 10.0), (64, 12.0), (128, 14.0)]);
        assert_eq!(n_worthwhile(&gpu), 128);
        let hopeless = BTreeMap::from([(1, 1.0), (16, 16.0)]);
        assert_eq!(n_worthwhile(&hopeless), 1);
        assert_eq!(n_worthwhile(&BTreeMap::new()), 1);
    }

    #[test]
    fn places_are_no_more_than_fit() {
        let lane = LaneMemory { bytes_per_position: 28 << 10, n_ctx: 1024, bytes_per_lane: 1 << 20 };
        assert_eq!(lane.n_fitting(64, 8 << 30), 64);
        assert_eq!(lane.n_fitting(64, 1 << 30), 17);
        assert_eq!(lane.n_fitting(64, 0), 1);
        assert_eq!(LaneMemory { bytes_per_position: u64::MAX, ..lane }.n_fitting(64, u64::MAX), 1);
        let two_thirds = lane.bytes() * 3 / 2;
        assert_eq!(lane.n_fitting(64, two_thirds), 1);
        assert!(lane.fits(two_thirds), "alone it may take all");
    }

    proptest! {
        #[test]
        fn the_longest_text_fits_with_its_own_settings(
            of_short in 1_u64..1 << 20,
            of_long in 1_u64..1 << 20,
            bytes_per_lane in 0_u64..1 << 20,
            n_available in 0_u64..1 << 32,
        ) {
            let lane = |n_ctx: usize| LaneMemory {
                bytes_per_position: if n_ctx < 4096 { of_short } else { of_long },
                n_ctx: n_ctx.next_multiple_of(256),
                bytes_per_lane,
            };
            prop_assume!(!lane(1 << 20).fits(n_available));
            let longest = longest_fitting(1 << 20, 256, n_available, lane);
            prop_assert!(longest < 1 << 20 && longest % 256 == 0);
            prop_assert!(longest == 0 || lane(longest).fits(n_available));
        }

        #[test]
        fn a_place_that_does_not_fit_would_with_the_positions_that_are_told(
            bytes_per_position in 0_u64..1 << 20,
            n_ctx in prop_oneof![0_usize..1 << 20, Just(usize::MAX)],
            bytes_per_lane in 0_u64..1 << 30,
            // Saturated sums of bytes would make everything fit at u64::MAX.
            n_available in prop_oneof![0_u64..1 << 36, 0..u64::MAX],
        ) {
            let lane = LaneMemory { bytes_per_position, n_ctx, bytes_per_lane };
            prop_assert_eq!(lane.fits(n_available), lane.bytes() <= n_available);
            // Several lanes must fit into the share.
            prop_assert!(lane.n_fitting(2, n_available) == 1 || lane.fits(n_available));
            let most = lane.most_positions(n_available);
            let with = |n_ctx| LaneMemory { n_ctx, ..lane };
            prop_assert!(most <= n_ctx);
            // The bytes that do not depend on the length may already be too many.
            prop_assert!(most == 0 || with(most).fits(n_available));
            prop_assert!(most == n_ctx || !with(most + 1).fits(n_available));
        }
    }
}
