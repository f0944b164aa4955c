//! Checks that a model and its context fit into memory before it is loaded, and picks the context size.
//!
//! Layers on a GPU are checked against its memory (`gpu_layers.rs`), the others against the machine's.

use std::path::Path;

use indicatif::HumanBytes;

use crate::available::available;
use crate::cli::args::{ContextSize, EngineArgs, GpuLayers};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::gpu_layers::{self, GpuMemory};
use crate::cli::kernels::memory_kernels;
use crate::cli::output::stderr_line;
use crate::cli::settings::key;
use crate::gguf::Gguf;
use crate::llama::engine::EngineConfig;
use crate::llama::has_gpu;
use crate::memory::{ModelShape, cache_choices};
use crate::models::shape::shape;
use crate::tune::{BySpan, Settings};

/// Hint if no flag helps.
const SMALLER: &str = "use a smaller model, or a smaller quantization of this one";

/// Smallest context that any command makes, in tokens.
pub const LEAST_N_CTX: usize = 256;

/// Largest context: llama.cpp's positions are 32-bit numbers, and some go beyond the context.
const MOST_N_CTX: usize = 1 << 30;

/// Tensor of learned positions. A model that has it cannot take longer texts.
const POSITIONS: &str = "position_embd.weight";

/// What a model's memory depends on, with the kernels of this build.
///
/// # Errors
/// The errors of [`Gguf::check`].
pub fn shape_of(gguf: &Gguf) -> Result<ModelShape, Failure> {
    Ok(shape(gguf, &memory_kernels())?)
}

/// What decides between the settings for short and for long contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickedBy {
    /// The context size: many texts share the context.
    Length,
    /// The text, which is not known yet. A size is rejected only if it fits with neither settings; the engine checks
    /// again.
    Text,
}

/// The context size in tokens, if the flags give one, after checking that it fits; `auto` is as many as fit. If none is
/// given, checks `n_least`. A draft model and its context must fit too. Stores the memory estimate in `config`, for contexts whose size only the engine will know.
///
/// # Errors
/// If the model does not fit (exit code 5).
pub fn n_ctx(
    args: &EngineArgs,
    gguf: &Gguf,
    draft: Option<&Gguf>,
    config: &mut EngineConfig,
    n_least: usize,
    picked_by: PickedBy,
) -> Result<Option<usize>, Failure> {
    let n_ctx = fitting(args, gguf, draft, config, n_least, picked_by)?;
    if let Some(ContextSize::Positions(n)) = args.ctx_size {
        check_trained(n, gguf)?;
    }
    Ok(n_ctx)
}

fn fitting(
    args: &EngineArgs,
    gguf: &Gguf,
    draft: Option<&Gguf>,
    config: &mut EngineConfig,
    n_least: usize,
    picked_by: PickedBy,
) -> Result<Option<usize>, Failure> {
    let may_use_gpu = args.n_gpu_layers() != GpuLayers::Number(0) && has_gpu();
    let known = gguf.context_length().map(|known| known as usize);
    // A context shared by many texts is as long as they need.
    let is_trained = args.ctx_size == Some(ContextSize::Trained) && picked_by == PickedBy::Text;
    let wanted = if is_trained { known.map(ContextSize::Positions) } else { args.ctx_size };
    let given = match wanted {
        Some(ContextSize::Auto) => None,
        Some(ContextSize::Positions(n)) => Some(n),
        // No context is longer than the model's trained length.
        Some(ContextSize::Trained) | None => Some(known.map_or(n_least, |known| n_least.min(known))),
    };
    let unchecked = |wanted| match wanted {
        Some(ContextSize::Auto) => Err(Failure::new("-c auto: cannot find out how much memory is available")
            .about("ctx-size")
            .with_hint("give a number, as in -c 4096")),
        given => Ok(given.and_then(ContextSize::number)),
    };
    if args.no_memory_check && !(may_use_gpu && args.n_gpu_layers() == GpuLayers::Auto) {
        return unchecked(wanted);
    }
    let draft_model = draft.map(shape_of).transpose()?.map(Box::new);
    let shape = ModelShape { draft_model, ..shape_of(gguf)? };
    if may_use_gpu {
        let given_layers = (args.n_gpu_layers() != GpuLayers::Auto).then(|| args.n_gpu_layers().number());
        if let (Some(ContextSize::Auto), Some(n_gpu_layers), false) = (wanted, given_layers, args.no_memory_check) {
            return most_beside_gpu(&args.model, &shape, n_gpu_layers, &config.settings).map(Some);
        }
        // If no number is given, the layers are chosen before the size of the context is known.
        let n_typical = n_least.max(planned(picked_by)).min(known.unwrap_or(usize::MAX));
        let n_planned = wanted.and_then(ContextSize::number).unwrap_or(n_typical);
        let chosen = choose_layers(args, &shape, n_planned, config);
        if args.n_gpu_layers() == GpuLayers::Auto && matches!(chosen, Ok(Some(0))) {
            // The CPU has other defaults.
            let args = EngineArgs { n_gpu_layers: Some(GpuLayers::Number(0)), ..args.clone() };
            config.settings = crate::cli::settings::settings(&args)?;
            return fitting(&args, gguf, draft, config, n_least, picked_by);
        }
        let checked = chosen.and_then(|n| check_beside_gpu(args, &shape, n_planned, config, n).map(|()| n));
        return match (wanted, checked) {
            (Some(ContextSize::Auto), checked) => {
                most_beside_gpu(&args.model, &shape, checked?, &config.settings).map(Some)
            }
            (_, Err(_)) if is_trained && !args.no_memory_check => {
                let n_gpu_layers = match given_layers {
                    Some(given) => given,
                    None => choose_layers(args, &shape, n_typical.min(planned(picked_by)), config)?,
                };
                let most = most_beside_gpu(&args.model, &shape, n_gpu_layers, &config.settings)?;
                tell_shorter(n_planned, most);
                Ok(Some(most))
            }
            (_, checked) => checked.map_err(|failure| failure.about("ctx-size")).and_then(|_| unchecked(wanted)),
        };
    }
    let Some(available) = available() else { return unchecked(wanted) };
    config.shape = Some(shape.clone());
    fitting_in_memory(args, &shape, (given, wanted), picked_by, config, available)
}

/// The same where no GPU computes: `given` is the size to check; `None` is the largest that fits.
fn fitting_in_memory(
    args: &EngineArgs,
    shape: &ModelShape,
    (given, wanted): (Option<usize>, Option<ContextSize>),
    picked_by: PickedBy,
    config: &EngineConfig,
    available: u64,
) -> Result<Option<usize>, Failure> {
    let settings = config.settings;
    let is_trained = args.ctx_size == Some(ContextSize::Trained) && picked_by == PickedBy::Text;
    match given {
        Some(n_ctx) => {
            let settings = match picked_by {
                PickedBy::Length => settings.at(n_ctx),
                PickedBy::Text => cheaper(shape, n_ctx, &settings),
            };
            match check(&args.model, shape, n_ctx, settings, available) {
                Err(_) if is_trained => trained_as_fits(args, shape, n_ctx, &config.settings, available).map(Some),
                checked => {
                    checked.map(|()| wanted.and_then(ContextSize::number)).map_err(|failure| failure.about("ctx-size"))
                }
            }
        }
        None => {
            // The largest context that fits is a long one.
            let most = shape.most_positions(available, &settings.long);
            most.map(Some).ok_or_else(|| refusal(&args.model, shape, LEAST_N_CTX, &settings.long, available))
        }
    }
}

/// Chooses the layers for the GPU, for a context of `n_ctx` tokens.
fn choose_layers(
    args: &EngineArgs,
    shape: &ModelShape,
    n_ctx: usize,
    config: &mut EngineConfig,
) -> Result<Option<u32>, Failure> {
    let settings = *config.settings.at(n_ctx);
    let n_gpu_layers = gpu_layers::choose(&args.model, args.n_gpu_layers(), shape, n_ctx, &settings)?;
    if args.n_gpu_layers() == GpuLayers::Auto {
        for model in [Some(&mut config.model), config.draft_model.as_mut()].into_iter().flatten() {
            model.n_gpu_layers = n_gpu_layers;
        }
        let layers = n_gpu_layers.map_or(GpuLayers::Auto, GpuLayers::Number);
        let curves = config.curves.take();
        config.curves = curves.map(|(folder, _)| (folder, key(&args.model, layers)));
    }
    Ok(n_gpu_layers)
}

/// Checks that the layers on the CPU fit into memory. The engine checks nothing then: it does not know the memory of a GPU.
fn check_beside_gpu(
    args: &EngineArgs,
    shape: &ModelShape,
    n_ctx: usize,
    config: &EngineConfig,
    n_gpu_layers: Option<u32>,
) -> Result<(), Failure> {
    if args.no_memory_check {
        return Ok(());
    }
    check_now(&args.model, shape, n_ctx, config.settings.at(n_ctx), n_gpu_layers)
}

/// The largest context that fits beside the model, with these layers on the GPU.
fn most_beside_gpu(
    model: &Path,
    shape: &ModelShape,
    n_gpu_layers: Option<u32>,
    settings: &BySpan<Settings>,
) -> Result<usize, Failure> {
    let (Some(gpu), Some(machine)) = (GpuMemory::now(), available()) else {
        return Err(Failure::new("cannot find out how much memory is available for the context")
            .about("ctx-size")
            .with_hint("give a number, as in -c 4096"));
    };
    let n_layers = n_gpu_layers.map_or(usize::MAX, |n| n as usize);
    if let Some(most) = gpu.most_positions(shape, n_layers, &settings.long, machine) {
        return Ok(most);
    }
    // The layers on the CPU may be what does not fit.
    check_now(model, shape, LEAST_N_CTX, &settings.long, n_gpu_layers)?;
    let (model, free) = (model.display(), HumanBytes(gpu.available));
    Err(Failure::new(format!("{model}: no context fits: {free} of GPU memory are free"))
        .with_code(ExitCode::NotEnoughMemory)
        .about("n-gpu-layers")
        .with_hint("put fewer layers on the GPU (-ngl), or use -ngl 0"))
}

/// For `-c 0`, the largest context that fits, with a notice: the flag gives no number, so it does not fail.
fn trained_as_fits(
    args: &EngineArgs,
    shape: &ModelShape,
    n_trained: usize,
    settings: &BySpan<Settings>,
    available: u64,
) -> Result<usize, Failure> {
    let most = shape.most_positions(available, &settings.long);
    let most = most.ok_or_else(|| refusal(&args.model, shape, LEAST_N_CTX, &settings.long, available))?;
    tell_shorter(n_trained, most);
    Ok(most)
}

fn tell_shorter(n_trained: usize, most: usize) {
    stderr_line(&format!(
        "notice: the model was trained for a context of {n_trained} tokens, but only {most} fit into memory: using \
         -c {most}"
    ));
}

/// Warns about a context longer than the trained length: text gets worse there. Fails if the model cannot take more.
fn check_trained(n: usize, gguf: &Gguf) -> Result<(), Failure> {
    let Some(known) = gguf.context_length().map(|known| known as usize).filter(|known| n > *known) else {
        return Ok(());
    };
    let told = format!("-c {n} is more than the {known} tokens that the model was trained for");
    let is_table = gguf.tensors().iter().any(|tensor| tensor.name == POSITIONS);
    if is_table || n > MOST_N_CTX {
        let why = if is_table { ", and it cannot take more" } else { "" };
        return Err(Failure::usage(format!("{told}{why}")).with_hint(format!("-c {known}")));
    }
    stderr_line(&format!("notice: {told}; longer texts may be poor; hint: use -c {known}"));
    Ok(())
}

/// The context for which layers are put on a GPU if no size is given, in tokens: one of a text, or one of many lanes.
fn planned(picked_by: PickedBy) -> usize {
    match picked_by {
        PickedBy::Text => 4096,
        PickedBy::Length => 32_768,
    }
}

/// The cheaper of the settings for short and long contexts.
fn cheaper<'a>(shape: &ModelShape, n_ctx: usize, settings: &'a BySpan<Settings>) -> &'a Settings {
    let bytes = |settings| shape.estimate(n_ctx, settings).total();
    if bytes(&settings.short) < bytes(&settings.long) { &settings.short } else { &settings.long }
}

/// Checks that what the CPU keeps of a model and a context of `n_ctx` tokens fits now. `None` layers on the GPU are all.
///
/// # Errors
/// If it does not fit (exit code 5).
pub fn check_now(
    model: &Path,
    shape: &ModelShape,
    n_ctx: usize,
    settings: &Settings,
    n_gpu_layers: Option<u32>,
) -> Result<(), Failure> {
    let Some(available) = available() else { return Ok(()) };
    let n_on_gpu = if has_gpu() { n_gpu_layers.map_or(usize::MAX, |n| n as usize) } else { 0 };
    if n_on_gpu == 0 {
        return check(model, shape, n_ctx, settings, available).map_err(|failure| failure.with_hint(SMALLER));
    }
    let needed = shape.split(n_ctx, settings, n_on_gpu).cpu.total();
    if needed <= available {
        return Ok(());
    }
    let message = format!(
        "{}: with a context of {n_ctx} tokens, the layers on the CPU need {} of memory, but {} are available",
        model.display(),
        HumanBytes(needed),
        HumanBytes(available),
    );
    Err(Failure::new(message).with_code(ExitCode::NotEnoughMemory).with_hint(SMALLER))
}

/// The context size from the flags, for commands where many texts share the memory and `auto` cannot work.
///
/// # Errors
/// If the size is `auto`.
pub fn given_n_ctx(args: &EngineArgs) -> Result<Option<usize>, Failure> {
    match args.ctx_size {
        Some(ContextSize::Auto) => {
            Err(Failure::usage("-c auto does not work here, because this command answers many prompts at a time")
                .about("ctx-size")
                .with_hint("remove -c: each answer then gets as much as it needs"))
        }
        given => Ok(given.and_then(ContextSize::number)),
    }
}

/// Checks that a context fits.
///
/// # Errors
/// If it does not fit (exit code 5).
pub fn check(
    model: &Path,
    shape: &ModelShape,
    n_ctx: usize,
    settings: &Settings,
    available: u64,
) -> Result<(), Failure> {
    if shape.estimate(n_ctx, settings).total() <= available {
        return Ok(());
    }
    Err(refusal(model, shape, n_ctx, settings, available))
}

fn refusal(model: &Path, shape: &ModelShape, n_ctx: usize, settings: &Settings, available: u64) -> Failure {
    let message = format!(
        "{}: with a context of {n_ctx} tokens, {} {} of memory, but {} are available",
        model.display(),
        if shape.draft_model.is_some() { "the model and its draft model need" } else { "the model needs" },
        HumanBytes(shape.estimate(n_ctx, settings).total()),
        HumanBytes(available),
    );
    let fitting = fitting_flags(shape, n_ctx, settings, available);
    Failure::new(message).with_code(ExitCode::NotEnoughMemory).with_hint(match fitting[..] {
        [] => format!("{SMALLER}; to load it anyway, use --no-memory-check"),
        _ => format!("these would fit: {}; to load it anyway, use --no-memory-check", fitting.join(", or ")),
    })
}

/// Flags that would fit: a smaller context, a smaller KV cache type, or no draft model.
fn fitting_flags(shape: &ModelShape, n_ctx: usize, settings: &Settings, available: u64) -> Vec<String> {
    let most = shape.most_positions(available, settings).filter(|most| *most < n_ctx);
    let smaller = cache_choices(settings)
        .into_iter()
        .filter(|(_, settings)| shape.estimate(n_ctx, settings).total() <= available);
    let alone = ModelShape { draft_model: None, ..shape.clone() };
    let fits_alone = shape.draft_model.is_some() && alone.estimate(n_ctx, settings).total() <= available;
    let most = most.map(|most| format!("-c {most}"));
    let alone = fits_alone.then(|| "-md none".to_owned());
    most.into_iter().chain(smaller.map(|(flags, _)| flags.to_owned())).chain(alone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LayerShape, Weights};
    use crate::tune::{FlashAttention, KvType};

    const SETTINGS: Settings =
        Settings { flash_attention: FlashAttention::Off, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F16 };

    fn model() -> ModelShape {
        ModelShape {
            weights: Weights { in_file: 100 << 20, mapped: 100 << 20, copied: 0 },
            layers: vec![LayerShape { keys: 1024, values: 1024, ..LayerShape::default() }; 32],
            n_vocab: 32_000,
            n_embd: 4096,
            n_heads: 32,
            n_ff: 11_008,
            n_ctx_train: 32_768,
            ..ModelShape::default()
        }
    }

    fn refused(n_ctx: usize, available: u64) -> Option<Failure> {
        check(Path::new("m.gguf"), &model(), n_ctx, &SETTINGS, available).err()
    }

    #[test]
    fn what_fits_is_not_refused() {
        let needed = model().estimate(8192, &SETTINGS).total();
        assert!(refused(8192, needed).is_none());
        let failure = refused(8192, needed - 1).unwrap();
        assert_eq!(failure.code, ExitCode::NotEnoughMemory);
        let text = failure.to_string();
        assert!(
            text.contains("a context of 8192 tokens") && text.contains("-c 7936") && text.contains("-ctk q8_0"),
            "{text}"
        );
    }

    #[test]
    fn what_fits_with_either_settings_is_not_refused() {
        let frugal = Settings { flash_attention: FlashAttention::On, ..SETTINGS };
        let needed = |settings: &Settings| model().estimate(8192, settings).total();
        assert!(needed(&frugal) < needed(&SETTINGS), "no scores are kept");
        for settings in [BySpan { short: frugal, long: SETTINGS }, BySpan { short: SETTINGS, long: frugal }] {
            assert_eq!(cheaper(&model(), 8192, &settings), &frugal);
        }
    }

    #[test]
    fn flags_that_are_told_make_it_fit() {
        let needed = |settings: &Settings| model().estimate(8192, settings).total();
        let [_, (_, keys), (_, both)] = cache_choices(&SETTINGS);
        let between = fitting_flags(&model(), 8192, &SETTINGS, needed(&keys) - 1);
        assert!(needed(&both) < needed(&keys), "{between:?}");
        assert!(between.contains(&"-ctk q8_0 -ctv q8_0 -fa on".to_owned()), "{between:?}");
        assert!(!between.contains(&"-ctk q8_0".to_owned()), "{between:?}");
        let text = refused(256, 1 << 20).unwrap().to_string();
        assert!(text.contains(&format!("hint: {SMALLER};")), "{text}");
    }
}
