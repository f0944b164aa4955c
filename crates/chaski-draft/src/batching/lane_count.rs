//! How many texts at a time: as many as pay, and no more than there is memory for.

use std::collections::BTreeMap;

/// Fewer lanes that decode nearly as fast as more are taken: each costs memory, and at the end of all texts some stand
/// empty.
const NEARLY: f64 = 0.95;

/// The share of the available memory that lanes may take.
const MEMORY_SHARE: u64 = 2;

/// The fewest lanes that decode nearly as many tokens per millisecond as any of the known widths does.
#[must_use]
pub fn n_worthwhile(ms_by_rows: &BTreeMap<usize, f64>) -> usize {
    let rate = |(&n_rows, &ms): (&usize, &f64)| n_rows as f64 / ms;
    let best = ms_by_rows.iter().map(rate).fold(0.0, f64::max);
    let nearly = ms_by_rows.iter().find(|&known| rate(known) >= NEARLY * best);
    nearly.map_or(1, |(&n_rows, _)| n_rows)
}

/// What a lane takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneMemory {
    /// Of the cache, and of the scores of a row, for each position.
    pub bytes_per_position: u64,
    /// Positions.
    pub n_ctx: usize,
    /// Of the lane, whatever its length: logits of a row, and states.
    pub bytes_per_lane: u64,
}

impl LaneMemory {
    /// Bytes of it all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_per_position.saturating_mul(self.n_ctx as u64).saturating_add(self.bytes_per_lane)
    }

    /// How many of `n_wanted` lanes fit into a share of `n_available` bytes; one is tried in any case.
    #[must_use]
    pub fn n_fitting(&self, n_wanted: usize, n_available: u64) -> usize {
        let n_fitting = usize::try_from(share(n_available) / self.bytes().max(1)).unwrap_or(usize::MAX);
        n_wanted.min(n_fitting).max(1)
    }

    /// Whether one lane alone fits: into all there is, as the share is for how many there are.
    #[must_use]
    pub fn fits(&self, n_available: u64) -> bool {
        self.bytes() <= n_available
    }

    /// Positions with which it alone would fit, of a lane that is too long.
    #[must_use]
    pub fn most_positions(&self, n_available: u64) -> usize {
        let Some(of_cache) = n_available.checked_sub(self.bytes_per_lane) else { return 0 };
        let n = of_cache.checked_div(self.bytes_per_position).unwrap_or(u64::MAX);
        usize::try_from(n).unwrap_or(usize::MAX).min(self.n_ctx)
    }
}

/// Positions of the longest text whose lane fits alone, in whole steps; of one of `n_ctx` positions it does not. `lane`
/// makes the lane of a text of so many, with settings that may be others for short texts.
#[must_use]
pub fn longest_fitting(n_ctx: usize, step: usize, n_available: u64, lane: impl Fn(usize) -> LaneMemory) -> usize {
    let shorter = |n_ctx: usize| lane(n_ctx).most_positions(n_available) / step * step;
    // What fits with the settings of a long text may be short, and too long with its own.
    shorter(shorter(n_ctx))
}

/// What lanes may take of so many bytes.
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
            // Where sums are cut off nothing is more than all.
            n_available in prop_oneof![0_u64..1 << 36, 0..u64::MAX],
        ) {
            let lane = LaneMemory { bytes_per_position, n_ctx, bytes_per_lane };
            prop_assert_eq!(lane.fits(n_available), lane.bytes() <= n_available);
            // Each of several takes of the share.
            prop_assert!(lane.n_fitting(2, n_available) == 1 || lane.fits(n_available));
            let most = lane.most_positions(n_available);
            let with = |n_ctx| LaneMemory { n_ctx, ..lane };
            prop_assert!(most <= n_ctx);
            // What it takes at any length may be too much.
            prop_assert!(most == 0 || with(most).fits(n_available));
            prop_assert!(most == n_ctx || !with(most + 1).fits(n_available));
        }
    }
}
