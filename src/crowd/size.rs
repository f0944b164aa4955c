//! How many texts at a time: as many as pay, and no more than there is memory for.

use std::collections::BTreeMap;

/// Fewer places that decode nearly as fast as more are taken: each costs memory, and at the end of all texts some stand
/// empty.
const NEARLY: f64 = 0.95;

/// The share of the available memory that places may take.
const MEMORY_SHARE: u64 = 2;

/// The fewest places that decode nearly as many tokens per millisecond as any of the known widths does.
#[must_use]
pub fn n_worthwhile(ms_by_rows: &BTreeMap<usize, f64>) -> usize {
    let rate = |(&n_rows, &ms): (&usize, &f64)| n_rows as f64 / ms;
    let best = ms_by_rows.iter().map(rate).fold(0.0, f64::max);
    let nearly = ms_by_rows.iter().find(|&known| rate(known) >= NEARLY * best);
    nearly.map_or(1, |(&n_rows, _)| n_rows)
}

/// What a place takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceMemory {
    /// Of the cache, for each position.
    pub bytes_per_position: u64,
    /// Positions.
    pub n_ctx: usize,
    /// For a row of a batch: logits and scores.
    pub bytes_per_row: u64,
}

impl PlaceMemory {
    /// How many of `n_wanted` places fit into a share of `n_available` bytes; one is tried in any case.
    #[must_use]
    pub fn n_fitting(&self, n_wanted: usize, n_available: u64) -> usize {
        let of_cache = self.bytes_per_position.saturating_mul(self.n_ctx as u64);
        let per_place = of_cache.saturating_add(self.bytes_per_row).max(1);
        let n_fitting = usize::try_from(n_available / MEMORY_SHARE / per_place).unwrap_or(usize::MAX);
        n_wanted.min(n_fitting).max(1)
    }
}

#[cfg(test)]
mod tests {
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
        let place = PlaceMemory { bytes_per_position: 28 << 10, n_ctx: 1024, bytes_per_row: 1 << 20 };
        assert_eq!(place.n_fitting(64, 8 << 30), 64);
        assert_eq!(place.n_fitting(64, 1 << 30), 17);
        assert_eq!(place.n_fitting(64, 0), 1);
        assert_eq!(PlaceMemory { bytes_per_position: u64::MAX, ..place }.n_fitting(64, u64::MAX), 1);
    }
}
