//! Parts of a generation loop: a clock, a random generator and a cost curve.

use std::time::Duration;

use chaski::cost::{Clock, CostCurve};

/// A clock that stands still: drafting takes no time, and no cost curve changes.
pub struct Still;

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// A small random generator (xorshift64*, Vigna 2016).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `n_sides`.
    pub fn roll(&mut self, n_sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n_sides
    }
}

/// A cost curve on which drafting pays off, independent of this machine.
pub fn flat_curve() -> CostCurve {
    let mut curve = CostCurve::default();
    (1..=32).for_each(|n_rows| curve.observe(n_rows, 0, 10.0 + 0.1 * n_rows as f64));
    curve
}
