//! Which settings to decode with: from measured times to a choice.
//!
//! Attention kernels, threads and the KV cache's numbers change what a row costs, and what several cost beside it. No
//! default is right everywhere, so `chaski tune` measures them ([`Plan`] says what next) and [`choose`] takes
//!
//! 1. of the settings whose plain decoding is as fast as the fastest (within [`LEAST_DIFFERENCE`]),
//! 2. the one that promises the least time per token of a fixed mixture ([`Times::ms_per_token`]),
//! 3. and the default where that is not better by more than the measurement's own spread.
//!
//! Everything here is arithmetic; `llama::tune` does the measuring.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cost::lower_median;

/// Widths that are measured: kernels work in groups of 4 rows.
pub const WIDTHS: [usize; 5] = [1, 4, 8, 12, 16];

/// Positions of a short context, as a question has.
pub const SHORT: usize = 256;

/// Positions of a long context, as a file to edit has.
pub const LONG: usize = 4096;

/// Differences below this are noise.
pub const LEAST_DIFFERENCE: f64 = 0.02;

/// Samples of one width that tell how far apart they lie.
const N_FOR_A_SPREAD: usize = 3;

/// What samples differ by where there are too few to tell.
const UNKNOWN_SPREAD: f64 = 0.1;

/// The mixture that settings are chosen for: so many tokens are decoded plainly, the others in chains.
const SHARE_PLAIN: f64 = 0.5;

/// The probability that a token of such a chain is accepted after the one before it.
const P_ACCEPTED: f64 = 0.9;

/// Whether flash attention is used. On a CPU it makes verifying a tree on a long context twice as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlashAttention {
    /// As llama.cpp decides for the device.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A number of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// 4 bytes.
    F32,
    /// 2 bytes, the default.
    F16,
    /// 2 bytes, of more range and less precision.
    Bf16,
    /// A little more than 1 byte, in blocks of 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// About three quarters of a byte.
    #[serde(rename = "q5_1")]
    Q5_1,
    /// A little less.
    #[serde(rename = "q5_0")]
    Q5_0,
    /// About five eighths of a byte.
    #[serde(rename = "q4_1")]
    Q4_1,
    /// A little more than half a byte.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// The same, with levels that are not evenly spaced.
    #[serde(rename = "iq4_nl")]
    Iq4Nl,
}

impl CacheType {
    /// What `n` numbers take.
    #[must_use]
    pub fn bytes(self, n: usize) -> usize {
        match self {
            CacheType::F32 => 4 * n,
            CacheType::F16 | CacheType::Bf16 => 2 * n,
            // Each block of 32 has a scale of 2 bytes, and those of _1 a minimum as well.
            CacheType::Q8_0 => n.div_ceil(32) * 34,
            CacheType::Q5_1 => n.div_ceil(32) * 24,
            CacheType::Q5_0 => n.div_ceil(32) * 22,
            CacheType::Q4_1 => n.div_ceil(32) * 20,
            CacheType::Q4_0 | CacheType::Iq4Nl => n.div_ceil(32) * 18,
        }
    }

    /// Whether numbers are kept in blocks with a scale.
    #[must_use]
    pub fn is_quantized(self) -> bool {
        !matches!(self, CacheType::F32 | CacheType::F16 | CacheType::Bf16)
    }
}

/// How keys and values are kept. Quantized values need flash attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvType {
    /// Keys.
    #[serde(rename = "cache_type_k")]
    pub k: CacheType,
    /// Values.
    #[serde(rename = "cache_type_v")]
    pub v: CacheType,
}

impl KvType {
    /// 4 bytes a number: exact, for tests.
    pub const F32: KvType = KvType { k: CacheType::F32, v: CacheType::F32 };
    /// 2 bytes a number, as llama.cpp's default.
    pub const F16: KvType = KvType { k: CacheType::F16, v: CacheType::F16 };

    /// Whether the target's own numbers, hence possibly its text, are less precise than by default.
    #[must_use]
    pub fn is_lossy(self) -> bool {
        let keeps = |cache_type| matches!(cache_type, CacheType::F32 | CacheType::F16);
        !(keeps(self.k) && keeps(self.v))
    }
}

/// What decoding times depend on besides the model, the machine and the length of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Kind of attention kernels.
    #[serde(rename = "flash_attn")]
    pub flash_attention: FlashAttention,
    /// Threads for one row.
    #[serde(rename = "threads")]
    pub n_threads: usize,
    /// Threads for more than one row.
    #[serde(rename = "threads_batch")]
    pub n_threads_batch: usize,
    /// How keys and values are kept.
    #[serde(flatten)]
    pub kv_type: KvType,
}

/// The most threads that can be asked for.
pub const MAX_THREADS: usize = 512;

impl Settings {
    /// Whether a context can be made of these.
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

/// As flags.
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

/// The same thing for a short and for a long context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySpan<T> {
    /// For a context like [`SHORT`].
    pub short: T,
    /// For a context like [`LONG`].
    pub long: T,
}

/// One of the two lengths of context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Like [`SHORT`].
    Short,
    /// Like [`LONG`].
    Long,
}

impl<T> BySpan<T> {
    /// The one for this length.
    #[must_use]
    pub fn of(&self, span: Span) -> &T {
        match span {
            Span::Short => &self.short,
            Span::Long => &self.long,
        }
    }

    /// The one that fits a text of `n_positions`: the nearer by factor.
    #[must_use]
    pub fn at(&self, n_positions: usize) -> &T {
        if n_positions.saturating_mul(n_positions) < SHORT * LONG { &self.short } else { &self.long }
    }

    /// Both changed the same way.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> BySpan<U> {
        BySpan { short: change(self.short), long: change(self.long) }
    }
}

/// What one setting takes at one length of context.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Milliseconds by width.
    pub ms: BTreeMap<usize, f64>,
    /// How far apart samples of one width lie: what the median is above the fastest, as a share of it.
    pub spread: f64,
    /// Samples of the width that has the fewest.
    pub n_samples: u32,
}

impl Times {
    /// From samples in milliseconds by width; `None` unless one row and several were measured.
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

    /// One step of plain decoding.
    #[must_use]
    pub fn plain_ms(&self) -> f64 {
        self.ms[&1]
    }

    /// The time a token takes in chains of the best width.
    #[must_use]
    pub fn drafted_ms(&self) -> f64 {
        let per_token = |(&width, ms): (&usize, &f64)| {
            let n_expected = (0..width).map(|depth| P_ACCEPTED.powf(depth as f64)).sum::<f64>();
            ms / n_expected
        };
        self.ms.iter().map(per_token).fold(f64::INFINITY, f64::min)
    }

    /// What settings are judged by: the time of a token where half of the tokens are decoded plainly and half in chains
    /// whose tokens are accepted with probability 0.9 each, of the width that suits these times best.
    #[must_use]
    pub fn ms_per_token(&self) -> f64 {
        SHARE_PLAIN * self.plain_ms() + (1.0 - SHARE_PLAIN) * self.drafted_ms()
    }

    /// These times as they would have been when `baseline` was measured: `then` is the same thing as the baseline, but
    /// measured in turns with these. A machine that has become slower has slowed both.
    #[must_use]
    pub fn corrected(mut self, baseline: &Times, then: &Times) -> Times {
        let drift = baseline.ms.iter().filter_map(|(width, ms)| Some(ms / then.ms.get(width)?));
        let drift = lower_median(&drift.collect::<Vec<_>>()).unwrap_or(1.0);
        self.ms.values_mut().for_each(|ms| *ms *= drift);
        self
    }
}

/// One setting, measured. `None` where it could not be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// What was set.
    pub settings: Settings,
    /// What it takes.
    pub times: BySpan<Option<Times>>,
}

/// The place of the best of `trials`, the first of which is the default. `None` is what could not be measured, or may
/// not be chosen.
#[must_use]
pub fn choose(trials: &[Option<&Times>]) -> usize {
    let known = || trials.iter().enumerate().filter_map(|(place, times)| Some((place, (*times)?)));
    let fastest = known().min_by(|a, b| a.1.plain_ms().total_cmp(&b.1.plain_ms()));
    let Some((fastest_place, fastest)) = fastest else { return 0 };
    let is_eligible = |(_, times): &(usize, &Times)| times.plain_ms() <= fastest.plain_ms() * (1.0 + LEAST_DIFFERENCE);
    let best = known().filter(is_eligible).min_by(|a, b| a.1.ms_per_token().total_cmp(&b.1.ms_per_token()));
    let (place, best) = best.unwrap_or((fastest_place, fastest));
    let Some(default) = trials[0] else { return place };
    // The default has the benefit of the doubt: it goes if its plain decoding is clearly too slow, or the whole clearly slower.
    let noise = |other: &Times| default.spread.max(other.spread).max(LEAST_DIFFERENCE);
    let is_slower = |own: f64, other: f64, noise: f64| own > other * (1.0 + noise);
    let eligible_ms = fastest.plain_ms() * (1.0 + LEAST_DIFFERENCE);
    let must_go = is_slower(default.plain_ms(), eligible_ms, noise(fastest));
    let is_beaten = is_slower(default.ms_per_token(), best.ms_per_token(), noise(best));
    if must_go || is_beaten { place } else { 0 }
}

/// The best settings of `trials` for each length of context; of lossy KV types only if they are asked for.
#[must_use]
pub fn chosen(trials: &[Trial], allow_lossy: bool) -> Option<BySpan<Settings>> {
    let best = |span| {
        let may_be = |trial: &Trial| allow_lossy || !trial.settings.kv_type.is_lossy();
        let list: Vec<_> = trials.iter().map(|trial| trial.times.of(span).as_ref().filter(|_| may_be(trial))).collect();
        trials.get(choose(&list)).map(|trial| trial.settings)
    };
    Some(BySpan { short: best(Span::Short)?, long: best(Span::Long)? })
}

/// What to measure, one after the other: each stage varies one thing of the best settings so far.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is used without tuning; measured first.
    pub default: Settings,
    /// Numbers of threads worth trying.
    pub threads: Vec<usize>,
    /// Whether a lossy KV type may be chosen. It is measured in any case.
    pub allow_lossy: bool,
}

impl Plan {
    /// The settings to measure next; `None` when nothing is left.
    #[must_use]
    pub fn next(&self, trials: &[Trial]) -> Option<Settings> {
        let Some(best) = chosen(trials, self.allow_lossy) else { return Some(self.default) };
        let stages = [Plan::attention, Plan::same_threads, Plan::mixed_threads, Plan::kv_types];
        let bases = [best.short, best.long];
        let is_new = |settings: &Settings| trials.iter().all(|trial| trial.settings != *settings);
        let mut candidates = stages.iter().flat_map(|stage| bases.iter().flat_map(|base| stage(self, *base, trials)));
        candidates.find(|settings| is_new(settings) && settings.is_sound())
    }

    /// How many settings are measured in all, if the best for a short and a long context do not differ.
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

    /// One row is bound by memory, several by arithmetic: each has its own best number.
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
