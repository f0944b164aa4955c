//! Starts the engine from arguments: checks the model file, finds the folders, and spawns the worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::cli::args::{DraftingArgs, EngineArgs};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::folders;
use crate::cli::kernels::{self, KernelReport};
use crate::cli::learn;
use crate::cli::lora::lora;
use crate::cli::output::{Bars, stderr_line};
use crate::cli::sandbox;
use crate::cli::settings::{key, settings};
use crate::engine::{DrafterKind, RequestError};
use crate::gguf::{Gguf, ModelId};
use crate::llama::engine::drafters::DraftersConfig;
use crate::llama::engine::{Engine, EngineConfig, Loaded, Mode, Startup};
use crate::llama::model::ModelConfig;
use crate::llama::{exact, logs, system_info};
use crate::store::drafter_file::DrafterFile;
use crate::store::hidden_file::HiddenFile;
use crate::store::learned::LearnPolicy;
use crate::store::vocabulary::Vocabulary;

pub use crate::cli::sampling::sampling;

/// File extension of drafter files.
const DRAFTER_EXTENSION: &str = "chaski";

/// File extension of drafters on hidden states.
const HIDDEN_EXTENSION: &str = "hidden";

/// Opens and checks a model file.
///
/// # Errors
/// If there is no such file, or the model cannot run.
pub fn open_model(path: &Path) -> Result<Gguf, Failure> {
    open_model_of(path, "model")
}

/// The same for a file that another flag names.
///
/// # Errors
/// As [`open_model`].
pub fn open_model_of(path: &Path, flag: &'static str) -> Result<Gguf, Failure> {
    if !path.exists() {
        let failure = Failure::new(format!("{}: no such model file", path.display())).about(flag);
        return Err(failure
            .with_code(ExitCode::ModelNotFound)
            .with_hint("check the path; or download a model: scripts/get-model.sh prints its path"));
    }
    let opened = Gguf::open(path).and_then(|gguf| gguf.check().map(|_| gguf));
    opened.map_err(|error| Failure::from(error).about(flag))
}

/// The engine's configuration.
///
/// # Errors
/// If a flag has an invalid value.
pub fn engine_config(args: &EngineArgs) -> Result<EngineConfig, Failure> {
    // Before the first call into llama.cpp, which may log something.
    logs::capture(args.verbose);
    kernels::check()?;
    if args.verbose
        && let Ok(gguf) = Gguf::open(&args.model)
    {
        stderr_line(&format!("kernels: {}", KernelReport::of(&gguf)));
    }
    folders::warn_if_nothing_is_saved();
    let settings = settings(args)?;
    if exact::is_demanded() {
        // The setup alone can rule out exactness, before the model is loaded.
        for settings in [&settings.short, &settings.long] {
            RequestError::unless_exact(exact::of_setup(settings, args.n_gpu_layers().number()))?;
        }
    }
    Ok(EngineConfig {
        model: ModelConfig { path: args.model.clone(), n_gpu_layers: args.n_gpu_layers().number(), lora: lora(args)? },
        draft_model: None,
        settings,
        curves: curves_folder().map(|folder| (folder, key(&args.model, args.n_gpu_layers()))),
        drafters: DraftersConfig::default(),
        shape: None,
        secret: prompt_cache_folder().map(|folder| folder.join("secret")),
    })
}

/// Confines this thread, and the threads it starts, to the sandbox. They may write to the cache, the learned state, compiled
/// shaders and `writable`.
pub fn confine(args: &EngineArgs, config: &EngineConfig, writable: &[Option<PathBuf>]) {
    let learned = config.drafters.learned.as_ref().map(|(folder, _)| folder.clone());
    let shaders = sandbox::shader_caches(config.model.n_gpu_layers);
    let writable =
        [cache_folder(), learned].into_iter().chain(shaders.into_iter().map(Some)).chain(writable.iter().cloned());
    sandbox::confine(args.sandbox, writable, args.verbose);
}

/// The token limit of an answer, from `-n`; `None` means no limit.
///
/// # Errors
/// If `n_predict` is neither positive nor -1 or -2.
pub fn max_tokens(n_predict: i64) -> Result<Option<usize>, Failure> {
    // llama.cpp's -2 means "until the context is full"; answers end there anyway.
    if n_predict == -1 || n_predict == -2 {
        return Ok(None);
    }
    let n = usize::try_from(n_predict).ok().filter(|&n| n > 0);
    n.map(Some).ok_or_else(|| {
        Failure::usage(format!("-n must be -1, or 1 or more, not {n_predict}"))
            .about("n-predict")
            .with_hint("for no limit, use -n -1")
    })
}

/// Rejects stop strings and system prompts that cannot work.
///
/// # Errors
/// If a stop string is empty, or a system prompt is given with `--raw`.
pub fn check_prompting(stop: &[String], is_raw: bool, system: Option<&str>) -> Result<(), Failure> {
    if stop.iter().any(String::is_empty) {
        return Err(Failure::usage("-r: the stop string is empty").with_hint("give a text, as in -r '###'"));
    }
    if is_raw && system.is_some() {
        return Err(Failure::usage("--raw and a system prompt cannot be used together")
            .with_hint("write the system prompt into the prompt itself"));
    }
    Ok(())
}

/// What the drafter starts from: the base and the learned state, as far as the flags and settings allow.
#[must_use]
pub fn drafters(engine: &EngineArgs, args: &DraftingArgs, gguf: &Gguf, draft: Option<&Gguf>) -> DraftersConfig {
    let base = || open_base(args.base.as_deref(), gguf);
    if args.hidden.as_ref().is_some_and(|path| path != Path::new("none")) {
        match () {
            () if args.drafter != DrafterKind::Auto => stderr_line("notice: only the drafter auto uses --hidden"),
            () if draft.is_some() => stderr_line("notice: --hidden has no effect: the draft model is asked instead"),
            () => {}
        }
    }
    match args.drafter {
        DrafterKind::Auto => {}
        DrafterKind::AutoAlone => return DraftersConfig { base: base(), ..DraftersConfig::default() },
        _ => return DraftersConfig::default(),
    }
    let hidden = if draft.is_none() { open_hidden(engine, args.hidden.as_deref(), gguf) } else { None };
    // What is learned about one source with a price says nothing about another.
    let asked = draft.map(|draft| model_id(draft.path())).or_else(|| Some(hidden.as_ref()?.id()));
    let learned = || {
        let (folder, key) = (learn::folder()?, learn::learned_key(gguf)?);
        let key = key.with_draft_model(asked);
        let is_on = learn::policy(&folder, &key, args.no_learn) == LearnPolicy::On;
        is_on.then_some((folder, key))
    };
    DraftersConfig { base: base(), learned: learned(), hidden }
}

/// Opens the drafter on hidden states: the given file, or the one beside the model. `none` means none. If it cannot be
/// used, prints a notice and returns `None`.
#[must_use]
pub fn open_hidden(engine: &EngineArgs, given: Option<&Path>, gguf: &Gguf) -> Option<Arc<HiddenFile>> {
    let path = hidden_path(given, gguf)?;
    if engine.lora.is_some() {
        let file = path.display();
        stderr_line(&format!("notice: {file}: trained without the adapter (--lora); drafting continues without it"));
        return None;
    }
    let opened = HiddenFile::open(&path, &model_id(gguf.path()));
    opened.map(Arc::new).map_err(|error| tell_unusable(&error.into())).ok()
}

/// The file of the drafter on hidden states: the given one, or the one beside the model.
#[must_use]
pub fn hidden_path(given: Option<&Path>, gguf: &Gguf) -> Option<PathBuf> {
    given_or_beside(given, gguf, HIDDEN_EXTENSION)
}

/// The file that a flag names, or the one beside the model with this extension if there is one.
fn given_or_beside(given: Option<&Path>, gguf: &Gguf, extension: &str) -> Option<PathBuf> {
    match given {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.to_owned()),
        None => Some(gguf.path().with_extension(extension)).filter(|beside| beside.exists()),
    }
}

/// Opens the base: the given file, or the one beside the model. `none` means no base. If a base cannot be used, prints
/// a notice and returns `None`.
#[must_use]
pub fn open_base(given: Option<&Path>, gguf: &Gguf) -> Option<Arc<DrafterFile>> {
    let path = given_or_beside(given, gguf, DRAFTER_EXTENSION)?;
    let vocabulary = Vocabulary::of(gguf)?;
    DrafterFile::open(&path, &vocabulary).map(Arc::new).map_err(|error| tell_unusable(&error.into())).ok()
}

fn tell_unusable(failure: &Failure) {
    let hint = failure.hint().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
    stderr_line(&format!("notice: {}; drafting continues without it{hint}", failure.message()));
}

/// Cache folder, for files that can be regenerated.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    folders::cache()
}

/// Folder of the prompt cache, and of the secret that seals it.
#[must_use]
pub fn prompt_cache_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("prompts"))
}

/// The folder of saved cost curves.
#[must_use]
pub fn curves_folder() -> Option<PathBuf> {
    Some(cache_folder()?.join("curves"))
}

/// Which model a file holds. A file that cannot be read gets an id that no model has: whoever opens it reports the error.
#[must_use]
pub fn model_id(path: &Path) -> ModelId {
    ModelId::of(path).unwrap_or_else(|_| ModelId::from("unreadable".to_owned()))
}

/// The processor, and what the engine was compiled for.
#[must_use]
pub fn machine() -> String {
    let info = system_info();
    format!("{} x{}, ggml {}, {}", processor(), num_cpus::get(), info.ggml_version, info.features.join(" "))
}

/// The processor's name if the system reports it, else the architecture.
fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Starts an engine and waits until its model is loaded. Shows the progress, and prints notices.
///
/// # Errors
/// If the model cannot be loaded.
pub fn start(
    config: EngineConfig,
    mode: Mode,
    interrupt: Arc<AtomicBool>,
    bars: &mut Bars,
) -> Result<(Engine, Loaded), Failure> {
    let started = Engine::start(config, mode, interrupt, &mut |startup| match startup {
        Startup::Loading(share) => bars.loading(share),
        Startup::LoadingDraftModel(share) => bars.loading_draft_model(share),
        Startup::Measuring => bars.measuring(),
        Startup::Notice(notice) => bars.suspend(|| stderr_line(&format!("notice: {notice}"))),
    });
    bars.clear();
    Ok(started?)
}
