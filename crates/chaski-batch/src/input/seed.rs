//! The seed of a line's answer.

use twox_hash::XxHash3_64;

/// The seed for sampling a line's answer. It depends only on the job's seed and the line's id, so neither order nor
/// parallelism changes the result.
///
/// It has 31 bits: llama.cpp takes the largest 32-bit number as a request for a random seed.
#[must_use]
pub fn seed_of(seed: u32, custom_id: &str) -> u32 {
    (XxHash3_64::oneshot_with_seed(u64::from(seed), custom_id.as_bytes()) >> 33) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_depend_on_seed_and_id() {
        assert_eq!(seed_of(7, "a"), seed_of(7, "a"));
        assert_ne!(seed_of(7, "a"), seed_of(8, "a"));
        assert_ne!(seed_of(7, "a"), seed_of(7, "b"));
        assert!((0..1000).all(|n| seed_of(n, "x") < 1 << 31));
    }
}
