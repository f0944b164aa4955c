//! Chooses the number of lanes of a batch engine: measures the cost curve and checks the memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::available::available;
use crate::batching::lane_count::{LaneMemory, longest_fitting, n_worthwhile};
use crate::batching::target::{BatchTarget as _, Run};
use crate::cost::{CostCurve, lower_median};
use crate::engine::curves::Curves;
use crate::engine::{EngineConfig, ManyTexts, Message, Startup, unix_s};
use crate::exact;
use crate::memory::cache_choices;
use crate::model::Model;
use crate::parallel::{MAX_LANES, Parallel};
use crate::session::{N_CTX_STEP, SessionConfig};
use crate::target::TargetError;
use crate::thread::Outbox;
use crate::token::Token;
use crate::tune::{FlashAttention, Settings};
use chaski_core::engine::RequestError;

/// Batch widths to measure, most useful first.
const WIDTHS: [usize; 9] = [1, 16, 64, 32, 8, 4, 2, 12, 128];

/// With a fixed number of lanes, widths up to this or that number are measured, whichever is larger.
const LEAST_WIDEST: usize = 16;

/// Measurements per width.
const N_REPEATS: usize = 3;

/// Time for measuring. Widths up to [`LEAST_WIDEST`] are measured once even if it is over.
const BUDGET: Duration = Duration::from_secs(5);

/// The engine's parts that are known before a context exists.
#[derive(Clone, Copy)]
pub(super) struct Capacity<'a> {
    pub(super) model: &'a Model,
    pub(super) config: &'a EngineConfig,
    pub(super) options: &'a ManyTexts,
    pub(super) outbox: &'a Outbox<Message>,
}

impl<'a> Capacity<'a> {
    /// The cost curve for these settings: loaded from disk, or measured now.
    pub(super) fn curve(&self, settings: &Settings, curves: &mut Curves<'_>) -> Result<CostCurve, TargetError> {
        let name = format!("{settings} batch");
        let (mut curve, _) = curves.load(&name);
        // One row takes a few steps to measure. A stale curve would choose a wrong number of lanes for the whole batch.
        if curve.plain_ms(0).is_some() {
            let seen = CostCurve::exact(self.measure(settings, &[1])?);
            if curve.is_of_a_busy_machine(&seen) {
                curve = CostCurve::default();
            }
        }
        let known = curve.at(0);
        let widest = self.options.n_parallel.map_or(usize::MAX, |n| n.max(LEAST_WIDEST));
        let widest = self.n_fitting(widest.min(WIDTHS.into_iter().max().unwrap_or(1)), N_CTX_STEP, settings);
        let missing: Vec<usize> = WIDTHS.into_iter().filter(|n| *n <= widest && !known.contains_key(n)).collect();
        if !missing.is_empty() {
            self.outbox.send(Message::Startup(Startup::Measuring));
            for (n_rows, ms) in self.measure(settings, &missing)? {
                curve.put(n_rows, 0, ms, u32::try_from(N_REPEATS).unwrap_or(u32::MAX));
            }
            curves.save(&name, &curve, unix_s());
        }
        Ok(curve)
    }

    /// Fails if a context with these settings is not exact. Decodes two rows in a small context to find out.
    pub(super) fn try_out(&self, settings: &Settings) -> Result<(), RequestError> {
        let context = SessionConfig::new(N_CTX_STEP, settings);
        let mut target = Parallel::new(self.model, &context, 2, 2)?;
        target.decode(&[Run { lane_id: 0, tokens: vec![Token(0); 2], n_logits: 2 }])?;
        RequestError::unless_exact(exact::of_work(settings))
    }

    /// Milliseconds per batch width: one row in each lane, in almost empty caches.
    fn measure(&self, settings: &Settings, widths: &[usize]) -> Result<BTreeMap<usize, f64>, TargetError> {
        let widest = widths.iter().copied().max().unwrap_or(1);
        let context = SessionConfig::new(N_CTX_STEP, settings);
        let mut target = Parallel::new(self.model, &context, widest, widest)?;
        let start = Instant::now();
        let mut time_of = |n_rows: usize| {
            let runs: Vec<Run> =
                (0..n_rows).map(|lane_id| Run { lane_id, tokens: vec![Token(0)], n_logits: 1 }).collect();
            let start = Instant::now();
            target.decode(&runs).map(|()| start.elapsed().as_secs_f64() * 1e3)
        };
        // The first batch includes allocations and page faults that later ones do not have.
        time_of(1)?;
        let mut samples: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for pass in 0..N_REPEATS {
            for &n_rows in widths {
                let is_over = start.elapsed() >= BUDGET && (pass > 0 || n_rows > LEAST_WIDEST);
                if self.outbox.is_interrupted() {
                    return Err(TargetError::Interrupted);
                }
                if !is_over {
                    samples.entry(n_rows).or_default().push(time_of(n_rows)?);
                }
            }
        }
        Ok(samples.into_iter().filter_map(|(n_rows, samples)| Some((n_rows, lower_median(&samples)?))).collect())
    }

    /// Number of lanes of `n_ctx` positions each.
    pub(super) fn n_lanes(&self, curve: &CostCurve, n_ctx: usize, settings: &Settings) -> usize {
        let n_wanted = self.options.n_parallel.unwrap_or_else(|| n_worthwhile(&curve.at(0)));
        self.n_fitting(n_wanted.clamp(1, MAX_LANES), n_ctx, settings)
    }

    fn n_fitting(&self, n_wanted: usize, n_ctx: usize, settings: &Settings) -> usize {
        self.lane(n_ctx, settings).n_fitting(n_wanted, available().unwrap_or(u64::MAX))
    }

    /// Memory of a lane of `n_ctx` positions.
    fn lane(&self, n_ctx: usize, settings: &Settings) -> LaneMemory {
        // Flash attention does not store the attention scores.
        let keeps_scores = settings.flash_attention == FlashAttention::Off;
        let n_scores = if keeps_scores { self.model.n_heads() } else { 0 };
        // The shape from the file's header covers every layer; the model knows only the first.
        let (of_position, of_states) = match &self.config.shape {
            Some(shape) => {
                let [none, one] = [0, 1].map(|n| shape.cache_bytes(n, settings.kv_type));
                (one - none, none)
            }
            None => (self.model.cache_bytes(settings.kv_type), 0),
        };
        LaneMemory {
            bytes_per_position: of_position.saturating_add((size_of::<f32>() * n_scores) as u64),
            n_ctx: n_ctx.next_multiple_of(N_CTX_STEP),
            bytes_per_lane: of_states.saturating_add((size_of::<f32>() * 2 * self.model.n_vocab()) as u64),
        }
    }

    /// Memory available for the lane of a single text; `None` if it is not checked. With `-c` all texts have the same
    /// size, which was checked before the model was loaded.
    pub(super) fn n_available(&self) -> Option<u64> {
        let is_looked_at = self.config.shape.is_some() && self.options.n_ctx.is_none();
        available().filter(|_| is_looked_at)
    }

    /// Why there is not enough memory for a text even alone; `None` if there is.
    pub(super) fn shortage(&self, n_prompt: usize, max_tokens: usize, n_available: u64) -> Option<String> {
        let lane = self.lane_for(n_prompt + max_tokens);
        if lane.fits(n_available) {
            return None;
        }
        let fitting = self.fitting(n_prompt, max_tokens, n_available);
        let fitting = if fitting.is_empty() { "a smaller model".to_owned() } else { fitting.join(", or ") };
        // An existing job can only be resumed with the same input and parameters, so these hints need a new job.
        Some(format!(
            "a prompt of {n_prompt} tokens and an answer of {max_tokens} need {} MiB of memory, but {} MiB are \
             available; hint: these would fit, in a new job: {fitting}; to try it anyway in this job, use \
             --no-memory-check --retry-failed",
            lane.bytes() >> 20,
            n_available >> 20,
        ))
    }

    fn lane_for(&self, n_ctx: usize) -> LaneMemory {
        self.lane(n_ctx, self.config.settings.at(n_ctx))
    }

    /// Alternatives that would fit: a shorter text, or smaller types in the cache.
    fn fitting(&self, n_prompt: usize, max_tokens: usize, n_available: u64) -> Vec<String> {
        let n_ctx = n_prompt + max_tokens;
        let shorter = match longest_fitting(n_ctx, N_CTX_STEP, n_available, |n| self.lane_for(n)) {
            0 => None,
            most if most <= n_prompt => Some(format!("at most {most} tokens for prompt and answer")),
            most => Some(format!("max_tokens {}", most - n_prompt)),
        };
        let smaller = cache_choices(self.config.settings.at(n_ctx)).into_iter();
        let smaller = smaller.filter(|(_, settings)| self.lane(n_ctx, settings).fits(n_available));
        shorter.into_iter().chain(smaller.map(|(flags, _)| flags.to_owned())).collect()
    }
}
