//! The cost curve: the time to decode n rows in one batch on this machine, with this model and these settings.
//!
//! The curve is a staircase with cliffs, so it is measured: once at the start within a time budget
//! ([`CostCurve::measure`]), then by every step ([`CostCurve::observe`]). Attention makes it depend on the context
//! length, so there is one curve (a bucket) per doubling of the context. Times are in milliseconds; c(n) is `ms(n) /
//! ms(1)`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::target::{Target, TargetError};
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

/// A monotonic clock: the time since some fixed moment.
pub trait Clock {
    /// The time now.
    fn now(&self) -> Duration;
}

impl<F: Fn() -> Duration> Clock for F {
    fn now(&self) -> Duration {
        self()
    }
}

/// The widths to measure, most useful first. Kernels work in groups of 4 rows, and all other widths are compared to 1.
const USEFUL_WIDTHS: [usize; 11] = [1, 4, 8, 2, 16, 12, 6, 3, 32, 24, 5];

/// How many of these are measured even over budget: without them there is nothing to choose from.
const N_INDISPENSABLE: usize = 2;

/// How often each width is measured if the budget allows.
const N_REPEATS: usize = 3;

/// The least weight of a new sample in a running mean.
const NEWEST_SHARE: f64 = 0.1;

/// The sample count of a time that is known exactly.
const CERTAIN: u32 = 1 << 20;

/// If a plain step is this many times faster than the curve says, other processes slowed the machine down when the
/// curve was measured. Attention alone cannot explain such a factor within one doubling of the context.
const BUSY: f64 = 2.0;

/// The share of a change in plain steps that is applied to every width.
///
/// Plain steps are observed all the time, wide ones rarely. On a machine that slows down, the wide steps' old times
/// would look cheap beside the new time of a plain step, and drafting would seem to pay.
const COMMON_SHARE: f64 = 0.5;

/// Cap on the sample count of a curve from an earlier run.
const N_OLD_SAMPLES: u32 = 3;

/// How much too long a single sample may be, as a fraction.
const DOUBT: f64 = 0.1;

/// A sample may move a mean by no more than this factor; beyond it, another process probably had the machine.
const GREATEST_JUMP: f64 = 1.6;

/// Time by width, one bucket per doubling of the context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CostCurve {
    buckets: BTreeMap<u32, Bucket>,
}

/// Time by width at one context length.
type Bucket = BTreeMap<usize, Cost>;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Cost {
    ms: f64,
    n_samples: u32,
}

impl Cost {
    /// The time minus the noise that few samples may contain. Noise only adds time, and a width that looks too
    /// expensive would never be used, so never be corrected. Plain decoding needs no such discount: it is always used.
    fn hoped_ms(&self, width: usize) -> f64 {
        let doubt = if width == 1 { 0.0 } else { DOUBT / f64::from(self.n_samples.max(1)) };
        self.ms * (1.0 - doubt)
    }
}

/// The bucket of a context length: 0 below 512 positions, then one per doubling.
fn bucket_of(n_past: usize) -> u32 {
    (n_past / 256).checked_ilog2().unwrap_or(0)
}

impl CostCurve {
    /// An exact curve for every context length, from (rows, milliseconds) pairs.
    #[must_use]
    pub fn exact(points: impl IntoIterator<Item = (usize, f64)>) -> CostCurve {
        let cost = |ms| Cost { ms, n_samples: CERTAIN };
        let bucket = points.into_iter().map(|(width, ms)| (width, cost(ms))).collect();
        CostCurve { buckets: BTreeMap::from([(0, bucket)]) }
    }

    /// Whether every useful width up to `max_rows` is known at context length `n_past`.
    #[must_use]
    pub fn is_complete(&self, n_past: usize, max_rows: usize) -> bool {
        self.missing(n_past, max_rows).next().is_none()
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let mut costs = self.buckets.values().flatten();
        let is_sound = |(&width, cost): (&usize, &Cost)| width > 0 && cost.ms.is_finite() && cost.ms > 0.0;
        costs.all(is_sound)
    }

    /// The useful widths still to be measured. The indispensable ones must be known at this context length; for the
    /// others any length will do, because [`CostCurve::at`] scales them.
    fn missing(&self, n_past: usize, max_rows: usize) -> impl Iterator<Item = usize> + '_ {
        let here = self.buckets.get(&bucket_of(n_past));
        let is_known = move |(order, width): (usize, usize)| match order {
            ..N_INDISPENSABLE => here.is_some_and(|bucket| bucket.contains_key(&width)),
            _ => self.buckets.values().any(|bucket| bucket.contains_key(&width)),
        };
        let useful = USEFUL_WIDTHS.into_iter().enumerate().filter(move |(_, width)| *width <= max_rows);
        useful.filter(move |&useful| !is_known(useful)).map(|(_, width)| width)
    }

    /// The known widths at context length `n_past` and their times in milliseconds, narrow to wide. A width seen only
    /// at other lengths is scaled by the ratio of the nearest width seen at both. The nearest width matters because a
    /// longer context slows several rows down more than one.
    #[must_use]
    pub fn at(&self, n_past: usize) -> BTreeMap<usize, f64> {
        let here = bucket_of(n_past);
        let empty = Bucket::new();
        let own = self.buckets.get(&here).unwrap_or(&empty);
        let mut known: BTreeMap<usize, f64> = own.iter().map(|(&width, cost)| (width, cost.hoped_ms(width))).collect();
        let mut others: Vec<_> = self.buckets.iter().filter(|(key, _)| **key != here).collect();
        others.sort_by_key(|(key, _)| key.abs_diff(here));
        for (_, other) in others {
            let in_both = |(&width, cost): (&usize, &Cost)| Some((width, cost.ms / other.get(&width)?.ms));
            let ratios: Vec<(usize, f64)> = own.iter().filter_map(in_both).collect();
            for (&width, cost) in other {
                let nearest = ratios.iter().min_by_key(|(seen, _)| seen.abs_diff(width));
                let scale = nearest.map_or(1.0, |(_, ratio)| *ratio);
                known.entry(width).or_insert(cost.hoped_ms(width) * scale);
            }
        }
        known
    }

    /// The time of a plain step in milliseconds.
    #[must_use]
    pub fn plain_ms(&self, n_past: usize) -> Option<f64> {
        let own = self.buckets.get(&bucket_of(n_past)).and_then(|bucket| bucket.get(&1));
        own.map(|cost| cost.ms).or_else(|| self.at(n_past).get(&1).copied())
    }

    /// Records that a batch of `n_rows` on top of `n_past` positions took `ms`. Ignores times that are not positive
    /// numbers.
    pub fn observe(&mut self, n_rows: usize, n_past: usize, ms: f64) {
        if !(ms.is_finite() && ms > 0.0) {
            return;
        }
        let key = bucket_of(n_past);
        let first = || {
            // The estimate from other context lengths counts as one sample, because this one may be an outlier.
            let expected = self.buckets.contains_key(&key).then(|| self.at(n_past).get(&n_rows).copied()).flatten();
            expected.map_or(Cost { ms, n_samples: 0 }, |ms| Cost { ms, n_samples: 1 })
        };
        let known = self.buckets.get(&key).and_then(|bucket| bucket.get(&n_rows)).copied();
        let mut cost = known.unwrap_or_else(first);
        let jump = (ms / cost.ms).clamp(1.0 / GREATEST_JUMP, GREATEST_JUMP);
        let share = (1.0 / f64::from(cost.n_samples.saturating_add(1))).max(NEWEST_SHARE);
        let change = 1.0 + share * (jump - 1.0);
        cost.ms *= change;
        cost.n_samples = cost.n_samples.saturating_add(1);
        let bucket = self.buckets.entry(key).or_default();
        if n_rows == 1 && known.is_some() {
            for other in bucket.values_mut() {
                other.ms *= 1.0 + COMMON_SHARE * (change - 1.0);
            }
        }
        bucket.insert(n_rows, cost);
    }

    /// Whether this curve was measured while other processes slowed the machine down: its plain steps are much slower
    /// than those of `seen`. Discard such a curve, because chance decided which widths were slowed down.
    #[must_use]
    pub fn is_of_a_busy_machine(&self, seen: &CostCurve) -> bool {
        let plain = |curve: &CostCurve, key| Some(curve.buckets.get(key)?.get(&1)?.ms);
        let is_slow = |key| plain(self, key).zip(plain(seen, key)).is_some_and(|(own, seen)| own > BUSY * seen);
        self.buckets.keys().any(is_slow)
    }

    /// The curve as a starting point for a new run: new samples outweigh the old ones soon.
    #[must_use]
    pub fn aged(mut self) -> CostCurve {
        for cost in self.buckets.values_mut().flat_map(BTreeMap::values_mut) {
            cost.n_samples = cost.n_samples.min(N_OLD_SAMPLES);
        }
        self
    }

    /// Sets a measured time, replacing any known one. `n_samples` is how many samples it stands for.
    pub fn put(&mut self, n_rows: usize, n_past: usize, ms: f64, n_samples: u32) {
        if ms.is_finite() && ms > 0.0 {
            self.buckets.entry(bucket_of(n_past)).or_default().insert(n_rows, Cost { ms, n_samples });
        }
    }

    /// Measures the useful widths up to `max_rows` that are not known yet, on top of what `target` holds. Makes up to
    /// three passes over the widths, most useful first, until `budget` is spent. Leaves the timeline as it was.
    ///
    /// # Errors
    /// Errors of `target`; [`TargetError::Interrupted`] if `go_on` breaks.
    pub fn measure(
        &mut self,
        target: &mut dyn Target,
        clock: &dyn Clock,
        budget: Duration,
        max_rows: usize,
        filler: Token,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<(), TargetError> {
        let n_past = target.n_past();
        let missing: Vec<usize> = self.missing(n_past, max_rows).collect();
        if missing.is_empty() || max_rows == 1 {
            return Ok(());
        }
        let deadline = clock.now() + budget;
        // Warm up: the first batch pays for allocations and page faults.
        time_of(1, target, clock, filler)?;
        let mut samples: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        'passes: for pass in 0..N_REPEATS {
            for (order, &width) in missing.iter().enumerate() {
                let optional = pass > 0 || order >= N_INDISPENSABLE;
                // Time grows at most in proportion to the width.
                let narrower = samples.range(..=width).next_back();
                let expected_ms = narrower.map_or(0.0, |(&known, seen)| seen[0] * width as f64 / known as f64);
                if optional && clock.now() + Duration::from_secs_f64(expected_ms / 1e3) >= deadline {
                    break 'passes;
                }
                if go_on().is_break() {
                    return Err(TargetError::Interrupted);
                }
                let ms = time_of(width, target, clock, filler)?;
                samples.entry(width).or_default().push(ms);
            }
        }
        for (width, seen) in samples {
            if let Some(ms) = lower_median(&seen) {
                self.put(width, n_past, ms, u32::try_from(seen.len()).unwrap_or(u32::MAX));
            }
        }
        Ok(())
    }
}

/// The median. Of two middle values it takes the smaller, because noise on a shared machine only adds time.
#[must_use]
pub fn lower_median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// The time of one batch, a chain of `width` rows, in milliseconds. The batch is rolled back.
///
/// # Errors
/// Errors of `target`.
pub fn time_of(width: usize, target: &mut dyn Target, clock: &dyn Clock, filler: Token) -> Result<f64, TargetError> {
    let tree = TokenTree::chain(filler, &vec![filler; width - 1])?;
    let start = clock.now();
    target.verify(&tree)?;
    // Some engines return before the work is done; reading a result waits for it.
    let _ = target.logits(NodeId::ROOT);
    target.keep(&[])?;
    let elapsed = clock.now() - start;
    Ok(elapsed.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::target::{Progress, Rows, Scripted, TreeLimits};

    #[derive(Default)]
    struct FakeClock(Cell<Duration>);

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            self.0.get()
        }
    }

    /// A target that takes 10 ms plus 1 ms per row.
    struct Slow<'a>(Scripted, &'a FakeClock, Vec<usize>);

    impl Rows for Slow<'_> {
        fn logits(&self, node: NodeId) -> &[f32] {
            self.0.logits(node)
        }
    }

    impl Target for Slow<'_> {
        fn limits(&self) -> TreeLimits {
            self.0.limits()
        }
        fn n_past(&self) -> usize {
            self.0.n_past()
        }
        fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
            self.0.sync(prefix, progress)
        }
        fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
            self.1.0.set(self.1.now() + Duration::from_millis(10 + tree.len() as u64));
            self.2.push(tree.len());
            self.0.verify(tree)
        }
        fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
            self.0.keep(path)
        }
    }

    fn measured(budget_ms: u64) -> (CostCurve, Vec<usize>, Duration) {
        let clock = FakeClock::default();
        let mut target = Slow(Scripted::new(8, 2, 1), &clock, Vec::new());
        target.sync(&[Token(1), Token(2)], &mut |_, _| ControlFlow::Continue(())).unwrap();
        let mut curve = CostCurve::default();
        let mut go_on = || ControlFlow::Continue(());
        curve.measure(&mut target, &clock, Duration::from_millis(budget_ms), 64, Token(0), &mut go_on).unwrap();
        assert_eq!(target.n_past(), 2, "the timeline is left as it was");
        (curve, target.2, clock.now())
    }

    #[test]
    fn measures_the_useful_widths_within_the_budget() {
        let (curve, tried, _) = measured(10_000);
        assert_eq!(tried[..4], [1, 1, 4, 8]);
        assert!(curve.is_complete(2, 64));
        assert_eq!(curve.plain_ms(0), Some(11.0));
        assert!((curve.at(0)[&8] - 18.0 * (1.0 - DOUBT / 3.0)).abs() < 1e-9);

        let (curve, tried, took) = measured(70);
        assert_eq!(tried, [1, 1, 4, 8], "these fit, and the next might not end in time");
        assert!(!curve.is_complete(2, 64) && took < Duration::from_millis(70));

        let (curve, tried, _) = measured(0);
        assert_eq!(tried, [1, 1, 4], "without these there is nothing to choose from");
        assert_eq!(curve.at(0).into_keys().collect::<Vec<_>>(), [1, 4]);
    }

    #[test]
    fn steps_refine_the_curve_and_outliers_hardly_do() {
        let (mut curve, ..) = measured(10_000);
        for _ in 0..100 {
            curve.observe(4, 0, 28.0);
        }
        assert!((curve.at(0)[&4] - 28.0).abs() < 0.1);
        curve.observe(4, 0, 2800.0);
        assert!(curve.at(0)[&4] < 30.0);
        curve.observe(4, 0, f64::NAN);
        assert!(curve.at(0)[&4] < 30.0);
    }

    #[test]
    fn a_machine_that_slows_down_does_not_make_wide_steps_look_cheap() {
        let (mut curve, ..) = measured(10_000);
        let c_before = curve.at(0)[&8] / curve.at(0)[&1];
        for _ in 0..100 {
            curve.observe(1, 0, 22.0);
        }
        let now = curve.at(0);
        assert!((now[&1] - 22.0).abs() < 0.1);
        assert!(now[&8] / now[&1] > c_before / 1.5, "half of a slow-down by 2 is every width's: {now:?}");
        let mut aged = curve.clone().aged();
        aged.observe(1, 0, 11.0);
        curve.observe(1, 0, 11.0);
        assert!(aged.at(0)[&1] < curve.at(0)[&1], "an old curve is corrected sooner");
    }

    #[test]
    fn one_fast_plain_step_shows_that_the_machine_was_busy() {
        let plain = |n_past, ms| {
            let mut curve = CostCurve::default();
            curve.put(1, n_past, ms, 3);
            curve
        };
        let (mut curve, ..) = measured(10_000);
        assert!(!curve.is_of_a_busy_machine(&plain(0, 5.6)), "half the context, or noise");
        assert!(curve.is_of_a_busy_machine(&plain(0, 5.4)));
        assert!(!curve.is_of_a_busy_machine(&plain(5000, 5.4)), "nothing is known of that length");
        assert!(!plain(0, 5.4).is_of_a_busy_machine(&curve));
        curve.put(4, 0, 1000.0, 3);
        assert!(!curve.is_of_a_busy_machine(&curve.clone()), "plain steps tell, wider ones are its shape");
    }

    #[test]
    fn several_rows_pay_more_for_a_longer_context() {
        // Qwen2.5-Coder 0.5B without flash attention, at 2k and 8k positions, in milliseconds.
        let mut curve = CostCurve::default();
        for (n_rows, at_2k, at_8k) in [(1, 44.0, 65.0), (4, 69.0, 115.0)] {
            curve.put(n_rows, 2048, at_2k, 3);
            curve.put(n_rows, 8192, at_8k, 3);
        }
        curve.put(16, 2048, 187.0, 3);
        let guessed = curve.at(8192)[&16];
        assert!((guessed / 327.0 - 1.0).abs() < 0.1, "{guessed} for 327");
    }

    #[test]
    fn a_longer_context_starts_from_the_shorter_ones_shape() {
        let (mut curve, ..) = measured(10_000);
        assert_eq!(curve.at(5000), curve.at(0));
        curve.observe(1, 5000, 22.0);
        assert_eq!(curve.at(5000)[&1], 22.0);
        let [there, here] = [5000, 0].map(|n_past| curve.at(n_past)[&8]);
        assert!((there - 2.0 * here).abs() < 1e-9, "unseen widths move along with the seen one");
        assert!(here < 18.1, "and the shorter context keeps its own");
    }
}
