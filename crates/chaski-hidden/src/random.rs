//! Random numbers for starts, orders and dropout. They depend on the seed only.

/// A SplitMix64 generator (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The generator of this seed for one purpose, for instance for one row of one step.
    pub(crate) fn new(seed: u64, purpose: u64) -> Random {
        let mut random = Random(seed);
        let mixed = random.draw() ^ purpose;
        Random(mixed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from 0 to below `n`. The bias is n / 2⁶⁴.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// A number of the standard normal distribution (Box and Muller, 1958).
    pub(crate) fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.share()).cos()) as f32
    }

    pub(crate) fn shuffle(&mut self, numbers: &mut [u32]) {
        for i in (1..numbers.len()).rev() {
            numbers.swap(i, self.below(i + 1));
        }
    }

    /// Sets each number to 0 with the probability `share`, and divides the others by `1 - share`. A number of four is
    /// drawn at once, so the probability is exact to 2⁻¹⁶.
    pub(crate) fn drop_out(&mut self, numbers: &mut [f32], share: f32) {
        let limit = (share * 65536.0) as u16;
        let kept = 1.0 / (1.0 - share);
        for four in numbers.chunks_mut(4) {
            let drawn = self.draw();
            for (i, number) in four.iter_mut().enumerate() {
                let lane = (drawn >> (16 * i)) as u16;
                *number *= if lane < limit { 0.0 } else { kept };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_share_and_keeps_the_mean() {
        let mut numbers = vec![1.0; 100_000];
        Random::new(1, 2).drop_out(&mut numbers, 0.15);
        let dropped = numbers.iter().filter(|number| **number == 0.0).count();
        assert!((14_500..15_500).contains(&dropped), "{dropped}");
        let mean = numbers.iter().sum::<f32>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_normal_numbers_are_normal() {
        let mut random = Random::new(3, 0);
        let mut order: Vec<u32> = (0..1000).collect();
        random.shuffle(&mut order);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());

        let drawn: Vec<f32> = (0..20_000).map(|_| random.normal()).collect();
        let mean = drawn.iter().sum::<f32>() / 2e4;
        let variance = drawn.iter().map(|x| x * x).sum::<f32>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
