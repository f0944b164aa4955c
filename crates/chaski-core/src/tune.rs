//! Chooses decoding settings for `chaski tune` from measured times.
//!
//! Attention kernels, threads and the KV cache's type change the cost of one row and of several rows. No default is
//! right everywhere, so `chaski tune` measures settings in the order of [`Plan`], and [`choose`] picks one:
//!
//! 1. Drop settings whose plain decoding is slower than the fastest by more than [`LEAST_DIFFERENCE`].
//! 2. Take the least time per token of a fixed mixture ([`Times::ms_per_token`]).
//! 3. Keep the default unless the winner is better by more than the spread of the measurement.
//!
//! This module only computes; `llama::tune` measures.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cost::lower_median;

/// Measured widths, in rows. Kernels work in groups of 4 rows.
pub const WIDTHS: [usize; 5] = [1, 4, 8, 12, 16];

/// Positions of a short context, such as a question.
pub const SHORT: usize = 256;

/// Positions of a long context, such as a file to edit.
pub const LONG: usize = 4096;

/// Relative differences below this are noise.
pub const LEAST_DIFFERENCE: f64 = 0.02;

/// Minimum number of samples of one width for a spread.
const N_FOR_A_SPREAD: usize = 3;

/// The spread assumed when there are too few samples.
const UNKNOWN_SPREAD: f64 = 0.1;

/// Share of the tokens that are decoded plainly in the mixture; the others are decoded in drafted chains.
const SHARE_PLAIN: f64 = 0.5;

/// Probability that a chain's token is accepted, given that the token before it was.
const P_ACCEPTED: f64 = 0.9;

/// Whether to use flash attention. On a CPU it doubles the time to verify a tree on a long context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// llama.cpp decides by the device.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Number format of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// 4 bytes.
    F32,
    /// 2 bytes, the default.
    F16,
    /// 2 bytes, with more range and less precision.
    Bf16,
    /// A little more than 1 byte, in blocks of 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// About three quarters of a byte.
    #[serde(rename = "q5_1")]
    Q5_1,
    /// About 0.69 bytes.
    #[serde(rename = "q5_0")]
    Q5_0,
    /// About five eighths of a byte.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// A little more than half a byte.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// As `Q4_0`, with unevenly spaced levels.
    #[serde(rename = "iq4_nl")]
    Iq4Nl,
}

impl CacheType {
    /// Bytes of `n` numbers.
    #[must_use]
    pub fn bytes(self, n: usize) -> usize {
        match self {
            CacheType::F32 => 4 * n,
            CacheType::F16 | CacheType::Bf16 => 2 * n,
            // Each block of 32 numbers has a 2-byte scale; the `_1` types also have a 2-byte minimum.
            CacheType::Q8_0 => n.div_ceil(32) * 34,
            CacheType::Q5_1 => n.div_ceil(32) * 24,
            CacheType::Q5_0 => n.div_ceil(32) * 22,
            CacheType::Q4_1 => n.div_ceil(32) * 20,
            CacheType::Q4_0 | CacheType::Iq4Nl => n.div_ceil(32) * 18,
        }
    }

    /// Whether numbers are stored in blocks with a scale.
    #[must_use]
    pub fn is_quantized(self) -> bool {
        !matches!(self, CacheType::F32 | CacheType::F16 | CacheType::Bf16)
    }
}

/// Number formats of keys and values. Quantized values need flash attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvType {
    /// Format of the keys.
    #[serde(rename = "cache_type_k")]
    pub k: CacheType,
    /// Format of the values.
    #[serde(rename = "cache_type_v")]
    pub v: CacheType,
}

impl KvType {
    /// 4 bytes per number: exact, for tests.
    pub const F32: KvType = KvType { k: CacheType::F32, v: CacheType::F32 };
    /// 2 bytes per number: llama.cpp's default.
    pub const F16: KvType = KvType { k: CacheType::F16, v: CacheType::F16 };

    /// Whether the cache is less precise than the default, which can change the text.
    #[must_use]
    pub fn is_lossy(self) -> bool {
        let keeps = |cache_type| matches!(cache_type, CacheType::F32 | CacheType::F16);
        !(keeps(self.k) && keeps(self.v))
    }
}

/// Settings that affect decoding time, besides the model, the machine and the context length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether to use flash attention.
    #[serde(rename = "flash_attn")]
    pub flash_attention: FlashAttention,
    /// Threads for one row.
    #[serde(rename = "threads")]
    pub n_threads: usize,
    /// Threads for more than one row.
    #[serde(rename = "threads_batch")]
    pub n_threads_batch: usize,
    /// Number formats of the KV cache.
    #[serde(flatten)]
    pub kv_type: KvType,
}

/// Maximum number of threads.
pub const MAX_THREADS: usize = 512;

impl Settings {
    /// Whether a context can be created with these settings.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let has_threads = |n| (1..=MAX_THREADS).contains(&n);
        let has_values = !self.kv_type.v.is_quantized() || self.flash_attention != FlashAttention::Off;
        has_threads(self.n_threads) && has_threads(self.n_threads_batch) && has_values
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Bf16 => "bf16",
            CacheType::Q8_0 => "q8_0",
            CacheType::Q5_1 => "q5_1",
            CacheType::Q5_0 => "q5_0",
            CacheType::Q4_1 => "q4_1",
            CacheType::Q4_0 => "q4_0",
            CacheType::Iq4Nl => "iq4_nl",
        })
    }
}

/// Formats the settings as command-line flags.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = match self.flash_attention {
            FlashAttention::Auto => "auto",
            FlashAttention::On => "on",
            FlashAttention::Off => "off",
        };
        let Settings { n_threads, n_threads_batch, kv_type: KvType { k, v }, .. } = self;
        write!(f, "-fa {when} -t {n_threads} -tb {n_threads_batch} -ctk {k} -ctv {v}")
    }
}

/// One value for a short and one for a long context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySpan<T> {
    /// For a context of about [`SHORT`] positions.
    pub short: T,
    /// For a context of about [`LONG`] positions.
    pub long: T,
}

/// A short or a long context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// About [`SHORT`] positions.
    Short,
    /// About [`LONG`] positions.
    Long,
}

impl<T> BySpan<T> {
    /// The value for this context length.
    #[must_use]
    pub fn of(&self, span: Span) -> &T {
        match span {
            Span::Short => &self.short,
            Span::Long => &self.long,
        }
    }

    /// The value for a text of `n_positions`: the nearer length by ratio.
    #[must_use]
    pub fn at(&self, n_positions: usize) -> &T {
        if n_positions.saturating_mul(n_positions) < SHORT * LONG { &self.short } else { &self.long }
    }

    /// Applies `change` to both values.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> BySpan<U> {
        BySpan { short: change(self.short), long: change(self.long) }
    }
}

/// Measured times of one setting at one context length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Median milliseconds per batch, by width in rows.
    pub ms: BTreeMap<usize, f64>,
    /// Spread of the samples of one width: `(median - fastest) / median`.
    pub spread: f64,
    /// Samples of the width with the fewest.
    pub n_samples: u32,
}

impl Times {
    /// Summarizes samples in milliseconds by width; `None` unless one row and at least one other width were measured.
    #[must_use]
    pub fn from_samples(samples: &BTreeMap<usize, Vec<f64>>) -> Option<Times> {
        let is_sound = |ms: &f64| ms.is_finite() && *ms > 0.0;
        let medians = samples.iter().filter_map(|(&width, seen)| Some((width, lower_median(seen).filter(is_sound)?)));
        let ms: BTreeMap<usize, f64> = medians.collect();
        let spread_of = |(width, median): (&usize, &f64)| {
            let seen = &samples[width];
            let fastest = seen.iter().copied().fold(f64::INFINITY, f64::min);
            (seen.len() >= N_FOR_A_SPREAD).then_some((median - fastest) / median)
        };
        let spread = lower_median(&ms.iter().filter_map(spread_of).collect::<Vec<_>>()).unwrap_or(UNKNOWN_SPREAD);
        let n_samples = samples.values().map(Vec::len).min().and_then(|n| u32::try_from(n).ok())?;
        (ms.contains_key(&1) && ms.len() > 1).then_some(Times { ms, spread, n_samples })
    }

    /// Milliseconds of one step of plain decoding.
    #[must_use]
    pub fn plain_ms(&self) -> f64 {
        self.ms[&1]
    }

    /// Expected milliseconds per token with chains of the best width.
    #[must_use]
    pub fn drafted_ms(&self) -> f64 {
        let per_token = |(&width, ms): (&usize, &f64)| {
            let n_expected = (0..width).map(|depth| P_ACCEPTED.powf(depth as f64)).sum::<f64>();
            ms / n_expected
        };
        self.ms.iter().map(per_token).fold(f64::INFINITY, f64::min)
    }

    /// The figure of merit: expected milliseconds per token when half of the tokens are decoded plainly and half in
    /// chains. A chain's tokens are accepted with probability 0.9 each, and its width is the best for these times.
    #[must_use]
    pub fn ms_per_token(&self) -> f64 {
        SHARE_PLAIN * self.plain_ms() + (1.0 - SHARE_PLAIN) * self.drafted_ms()
    }

    /// Scales these times to the machine's speed when `baseline` was measured. `then` measures the baseline's setting
    /// again, interleaved with these times, so a machine that became slower slowed both.
    #[must_use]
    pub fn corrected(mut self, baseline: &Times, then: &Times) -> Times {
        let drift = baseline.ms.iter().filter_map(|(width, ms)| Some(ms / then.ms.get(width)?));
        let drift = lower_median(&drift.collect::<Vec<_>>()).unwrap_or(1.0);
        self.ms.values_mut().for_each(|ms| *ms *= drift);
        self
    }
}

/// The measured times of one setting; `None` where the measurement failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// The setting.
    pub settings: Settings,
    /// Its times.
    pub times: BySpan<Option<Times>>,
}

/// The index of the best of `trials`, where index 0 is the default. `None` marks a trial that failed or must not be
/// chosen.
#[must_use]
pub fn choose(trials: &[Option<&Times>]) -> usize {
    let known = || trials.iter().enumerate().filter_map(|(place, times)| Some((place, (*times)?)));
    let fastest = known().min_by(|a, b| a.1.plain_ms().total_cmp(&b.1.plain_ms()));
    let Some((fastest_place, fastest)) = fastest else { return 0 };
    let is_eligible = |(_, times): &(usize, &Times)| times.plain_ms() <= fastest.plain_ms() * (1.0 + LEAST_DIFFERENCE);
    let best = known().filter(is_eligible).min_by(|a, b| a.1.ms_per_token().total_cmp(&b.1.ms_per_token()));
    let (place, best) = best.unwrap_or((fastest_place, fastest));
    let Some(default) = trials[0] else { return place };
    // Keep the default unless its plain decoding, or its total, is slower by more than the noise.
    let noise = |other: &Times| default.spread.max(other.spread).max(LEAST_DIFFERENCE);
    let is_slower = |own: f64, other: f64, noise: f64| own > other * (1.0 + noise);
    let eligible_ms = fastest.plain_ms() * (1.0 + LEAST_DIFFERENCE);
    let must_go = is_slower(default.plain_ms(), eligible_ms, noise(fastest));
    let is_beaten = is_slower(default.ms_per_token(), best.ms_per_token(), noise(best));
    if must_go || is_beaten { place } else { 0 }
}

/// The best settings of `trials` for each context length. Lossy KV types are eligible only if `allow_lossy`.
#[must_use]
pub fn chosen(trials: &[Trial], allow_lossy: bool) -> Option<BySpan<Settings>> {
    let best = |span| {
        let may_be = |trial: &Trial| allow_lossy || !trial.settings.kv_type.is_lossy();
        let list: Vec<_> = trials.iter().map(|trial| trial.times.of(span).as_ref().filter(|_| may_be(trial))).collect();
        trials.get(choose(&list)).map(|trial| trial.settings)
    };
    Some(BySpan { short: best(Span::Short)?, long: best(Span::Long)? })
}

/// The order of measurements: each stage varies one setting of the best combination so far.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The settings used without tuning; measured first.
    pub default: Settings,
    /// Thread counts worth trying.
    pub threads: Vec<usize>,
    /// Whether a lossy KV type may be chosen. It is measured in any case.
    pub allow_lossy: bool,
}

impl Plan {
    /// The next settings to measure; `None` when nothing is left.
    #[must_use]
    pub fn next(&self, trials: &[Trial]) -> Option<Settings> {
        let Some(best) = chosen(trials, self.allow_lossy) else { return Some(self.default) };
        let stages = [Plan::attention, Plan::same_threads, Plan::mixed_threads, Plan::kv_types];
        let bases = [best.short, best.long];
        let is_new = |settings: &Settings| trials.iter().all(|trial| trial.settings != *settings);
        let mut candidates = stages.iter().flat_map(|stage| bases.iter().flat_map(|base| stage(self, *base, trials)));
        candidates.find(|settings| is_new(settings) && settings.is_sound())
    }

    /// The number of settings measured in all, if short and long contexts have the same best.
    #[must_use]
    pub fn n_expected(&self) -> usize {
        4 + self.threads.iter().filter(|&&n| n != self.default.n_threads).count()
    }

    fn attention(&self, base: Settings, _: &[Trial]) -> Vec<Settings> {
        let with = |flash_attention| Settings { flash_attention, ..base };
        [FlashAttention::Off, FlashAttention::On].map(with).to_vec()
    }

    fn same_threads(&self, base: Settings, _: &[Trial]) -> Vec<Settings> {
        self.threads.iter().map(|&n| Settings { n_threads: n, n_threads_batch: n, ..base }).collect()
    }

    /// One row is memory-bound, several rows are compute-bound: each has its own best thread count.
    fn mixed_threads(&self, base: Settings, trials: &[Trial]) -> Vec<Settings> {
        let comparable = |trial: &&Trial| {
            let Settings { n_threads, n_threads_batch, .. } = trial.settings;
            trial.settings == Settings { n_threads, n_threads_batch, ..base } && n_threads == n_threads_batch
        };
        let best_by = |key: fn(&Times) -> f64, span| {
            let timed = trials.iter().filter(comparable);
            let timed = timed.filter_map(|trial| Some((trial, key(trial.times.of(span).as_ref()?))));
            timed.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(trial, _)| trial.settings.n_threads)
        };
        let mix = |span| {
            let (n_threads, n_threads_batch) = (best_by(Times::plain_ms, span)?, best_by(Times::drafted_ms, span)?);
            Some(Settings { n_threads, n_threads_batch, ..base })
        };
        [Span::Short, Span::Long].into_iter().filter_map(mix).collect()
    }

    fn kv_types(&self, base: Settings, _: &[Trial]) -> Vec<Settings> {
        let v = if base.flash_attention == FlashAttention::Off { CacheType::F16 } else { CacheType::Q8_0 };
        let with = |kv_type| Settings { kv_type, ..base };
        [KvType::F32, KvType { k: CacheType::Q8_0, v }].map(with).to_vec()
    }
}

#[cfg(test)]
mod tests;
