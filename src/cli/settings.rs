//! Settings of contexts: as given, else as tuned, else the default.

use std::path::{Path, PathBuf};

use crate::cli::args::{CacheTypeArg, EngineArgs, GpuLayers, When};
use crate::cli::engine::{cache_folder, machine, model_id};
use crate::cli::failure::Failure;
use crate::llama::{exact, gpus, has_gpu};
use crate::store::curves::CurveKey;
use crate::store::tuned;
use crate::tune::{BySpan, CacheType, FlashAttention, KvType, MAX_THREADS, Settings};

/// Defaults for settings that are neither given nor tuned.
#[must_use]
pub fn default_settings(n_gpu_layers: GpuLayers) -> Settings {
    let on_gpu = n_gpu_layers != GpuLayers::Number(0) && has_gpu();
    let n_threads = physical_cores();
    Settings {
        // On a CPU, flash attention makes verifying slower; a GPU has its own kernels.
        flash_attention: if on_gpu { FlashAttention::Auto } else { FlashAttention::Off },
        n_threads,
        n_threads_batch: n_threads,
        kv_type: KvType::F16,
    }
}

/// Physical cores, at most the number that this process may use.
pub fn physical_cores() -> usize {
    num_cpus::get_physical().min(num_cpus::get()).clamp(1, MAX_THREADS)
}

/// Thread counts worth measuring: all physical cores, fractions of them (a laptop's cores differ, and fewer often
/// saturate its memory), and all logical cores.
#[must_use]
pub fn thread_counts() -> Vec<usize> {
    let n_cores = physical_cores();
    let n_logical = num_cpus::get().clamp(1, MAX_THREADS);
    let mut counts = vec![n_cores, n_cores.div_ceil(2), n_logical];
    if n_cores >= 8 {
        counts.push(n_cores * 3 / 4);
    }
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Key of tuned settings and cost curves. It contains the settings that `tune` does not change.
#[must_use]
pub fn key(model: &Path, n_gpu_layers: GpuLayers) -> CurveKey {
    let n_gpu_layers = n_gpu_layers.number();
    let gpus: String = gpus(n_gpu_layers).iter().map(|gpu| format!(" {gpu}")).collect();
    CurveKey { model: model_id(model), settings: format!("ngl={n_gpu_layers:?}{gpus}"), machine: machine() }
}

/// Folder of tuned settings.
#[must_use]
pub fn tuned_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("tuned"))
}

/// The settings of a command that decodes.
///
/// # Errors
/// If a flag's value is invalid.
pub fn settings(args: &EngineArgs) -> Result<BySpan<Settings>, Failure> {
    let mut given = Given {
        flash_attention: args.flash_attn.map(|when| match when {
            When::On => FlashAttention::On,
            When::Off => FlashAttention::Off,
            When::Auto => FlashAttention::Auto,
        }),
        n_threads: args.threads.filter(|&n| n > 0),
        n_threads_batch: args.threads_batch.filter(|&n| n > 0),
        k: args.cache_type_k.map(CacheType::from),
        v: args.cache_type_v.map(CacheType::from),
    };
    if exact::is_demanded() && given.flash_attention.is_none() && !given.v.is_some_and(CacheType::is_quantized) {
        // Overrides tuned settings.
        given.flash_attention = Some(FlashAttention::Off);
    }
    let is_wrong = |n: Option<usize>| n.is_some_and(|n| !(1..=MAX_THREADS).contains(&n));
    if is_wrong(given.n_threads) || is_wrong(given.n_threads_batch) {
        let flag = if is_wrong(given.n_threads) { "threads" } else { "threads-batch" };
        let failure = Failure::usage(format!("the number of threads must be from 1 to {MAX_THREADS}"));
        return Err(failure
            .about(flag)
            .with_hint("remove -t to use the tuned number, or one thread per physical core"));
    }
    if given.v.is_some_and(CacheType::is_quantized) && given.flash_attention == Some(FlashAttention::Off) {
        return Err(Failure::usage("a quantized -ctv needs flash attention")
            .about("cache-type-v")
            .about("flash-attn")
            .with_hint("remove -fa off, or quantize only the keys, as in -ctk q8_0"));
    }
    Ok(settings_of(&args.model, args.n_gpu_layers()).map(|base| given.over(base)))
}

/// The settings of a model without any flags.
#[must_use]
pub fn settings_of(model: &Path, n_gpu_layers: GpuLayers) -> BySpan<Settings> {
    let default = default_settings(n_gpu_layers);
    let tuned = tuned_folder().and_then(|folder| tuned::load(&folder, &key(model, n_gpu_layers)));
    tuned.unwrap_or(BySpan { short: default, long: default })
}

/// Settings given on the command line.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    flash_attention: Option<FlashAttention>,
    n_threads: Option<usize>,
    n_threads_batch: Option<usize>,
    k: Option<CacheType>,
    v: Option<CacheType>,
}

impl Given {
    /// Puts the given settings over `base`, and changes what else in `base` conflicts with them.
    fn over(self, base: Settings) -> Settings {
        let needs_attention =
            self.v.is_some_and(CacheType::is_quantized) && base.flash_attention == FlashAttention::Off;
        let attention = if needs_attention { FlashAttention::On } else { base.flash_attention };
        let flash_attention = self.flash_attention.unwrap_or(attention);
        let v = self.v.unwrap_or(match base.kv_type.v {
            v if v.is_quantized() && flash_attention == FlashAttention::Off => CacheType::F16,
            v => v,
        });
        Settings {
            flash_attention,
            n_threads: self.n_threads.unwrap_or(base.n_threads),
            n_threads_batch: self.n_threads_batch.or(self.n_threads).unwrap_or(base.n_threads_batch),
            kv_type: KvType { k: self.k.unwrap_or(base.kv_type.k), v },
        }
    }
}

impl From<CacheTypeArg> for CacheType {
    fn from(given: CacheTypeArg) -> CacheType {
        match given {
            CacheTypeArg::F32 => CacheType::F32,
            CacheTypeArg::F16 => CacheType::F16,
            CacheTypeArg::Bf16 => CacheType::Bf16,
            CacheTypeArg::Q8_0 => CacheType::Q8_0,
            CacheTypeArg::Q5_1 => CacheType::Q5_1,
            CacheTypeArg::Q5_0 => CacheType::Q5_0,
            CacheTypeArg::Q4_1 => CacheType::Q4_1,
            CacheTypeArg::Q4_0 => CacheType::Q4_0,
            CacheTypeArg::Iq4Nl => CacheType::Iq4Nl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Settings =
        Settings { flash_attention: FlashAttention::Off, n_threads: 4, n_threads_batch: 8, kv_type: KvType::F16 };

    #[test]
    fn what_is_given_wins() {
        assert_eq!(Given::default().over(BASE), BASE);
        let threads = Given { n_threads: Some(3), ..Given::default() }.over(BASE);
        assert_eq!((threads.n_threads, threads.n_threads_batch), (3, 3), "-tb is as -t unless it is given");
        let batch = Given { n_threads_batch: Some(3), ..Given::default() }.over(BASE);
        assert_eq!((batch.n_threads, batch.n_threads_batch), (4, 3));
    }

    #[test]
    fn no_combination_is_unsound() {
        let attentions = [None, Some(FlashAttention::On), Some(FlashAttention::Off), Some(FlashAttention::Auto)];
        let types = [None, Some(CacheType::F16), Some(CacheType::Q8_0), Some(CacheType::Q4_0)];
        let kept = KvType { k: CacheType::Q8_0, v: CacheType::Q8_0 };
        for base in [BASE, Settings { flash_attention: FlashAttention::On, kv_type: kept, ..BASE }] {
            for flash_attention in attentions {
                for v in types {
                    let settings = Given { flash_attention, v, ..Given::default() }.over(base);
                    let is_refused =
                        v.is_some_and(CacheType::is_quantized) && flash_attention == Some(FlashAttention::Off);
                    assert!(settings.is_sound() || is_refused, "{settings}");
                    assert!(flash_attention.is_none_or(|given| given == settings.flash_attention));
                    assert!(v.is_none_or(|given| given == settings.kv_type.v));
                }
            }
        }
    }

    #[test]
    fn thread_counts_are_few_and_begin_with_one_that_can_be_had() {
        let counts = thread_counts();
        assert!(counts.contains(&physical_cores()) && counts.len() <= 4 && counts[0] >= 1, "{counts:?}");
    }
}
