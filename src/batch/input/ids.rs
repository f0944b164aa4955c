//! Who a line is: its `custom_id`, and the seed that follows from it.

use rustc_hash::FxHashSet;
use twox_hash::XxHash3_64;

/// The name of a line that has none of its own.
#[must_use]
pub fn default_id(number: u64) -> String {
    format!("line-{number}")
}

/// The seed of a line's draws. It depends on nothing else, so neither order nor parallelism changes what is sampled.
///
/// The top bit is left alone: it means a seed of llama.cpp's own choice.
#[must_use]
pub fn seed_of(seed: u32, custom_id: &str) -> u32 {
    (XxHash3_64::oneshot_with_seed(u64::from(seed), custom_id.as_bytes()) >> 33) as u32
}

/// The ids met so far.
///
/// It keeps 64 bits of each, which is 9 to 18 bytes of memory a line: the only thing beside one bit a line in the journal's
/// state that grows with the input. Two different ids of ten million are taken for the same once in 400,000 jobs.
#[derive(Debug, Default)]
pub struct Ids(FxHashSet<u64>);

impl Ids {
    /// Takes an id in; false where it was there.
    pub fn insert(&mut self, custom_id: &str) -> bool {
        self.0.insert(XxHash3_64::oneshot(custom_id.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once() {
        let mut ids = Ids::default();
        assert!(ids.insert("a") && ids.insert("b") && ids.insert(&default_id(7)));
        assert!(!ids.insert("a") && !ids.insert("line-7"));
    }

    #[test]
    fn seeds_depend_on_seed_and_id() {
        assert_eq!(seed_of(7, "a"), seed_of(7, "a"));
        assert_ne!(seed_of(7, "a"), seed_of(8, "a"));
        assert_ne!(seed_of(7, "a"), seed_of(7, "b"));
        assert!((0..1000).all(|n| seed_of(n, "x") < 1 << 31));
    }
}
