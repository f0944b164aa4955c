//! Puts results back into line order. Pure. The number that wait is bounded by the lines in flight.

use std::collections::BTreeMap;

/// Holds values that arrive too early.
#[derive(Debug)]
pub struct Reorder<T> {
    next: u64,
    early: BTreeMap<u64, T>,
}

impl<T> Default for Reorder<T> {
    fn default() -> Reorder<T> {
        Reorder { next: 0, early: BTreeMap::new() }
    }
}

impl<T> Reorder<T> {
    /// Adds the value with this position, counted from 0.
    pub fn insert(&mut self, place: u64, value: T) {
        self.early.insert(place, value);
    }

    /// Removes and returns the next value in order, if it has arrived.
    pub fn take(&mut self) -> Option<T> {
        let value = self.early.remove(&self.next)?;
        self.next += 1;
        Some(value)
    }

    /// The remaining values, in order.
    pub fn into_rest(self) -> Vec<T> {
        self.early.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_becomes_the_first(order in Just((0..50u64).collect::<Vec<u64>>()).prop_shuffle()) {
            let mut sequence = Reorder::default();
            let mut out = Vec::new();
            for place in order {
                sequence.insert(place, place);
                while let Some(place) = sequence.take() {
                    out.push(place);
                }
            }
            prop_assert_eq!(out, (0..50).collect::<Vec<u64>>());
        }
    }
}
