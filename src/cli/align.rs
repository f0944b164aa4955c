//! `chaski drafter align`: lets the target model answer many prompts and builds a drafter file (base) from its tokens
//! and their top probabilities.
//!
//! Every token goes into a log beside the output, so an interrupted run can continue. This module picks prompts and
//! saves tokens; `llama::parallel` decodes, and `store::align_log` owns the log.

mod base;
mod hidden;
mod practice;
pub mod refine;
mod writing;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args as ClapArgs;
use serde::Deserialize;
use twox_hash::XxHash3_64;

use crate::align::prompts::{Dice, Prompts};
use crate::cli::align::hidden::Work;
use crate::cli::align::writing::{Feeder, Keeper, write};
use crate::cli::args::{EngineArgs, Parallel};
use crate::cli::context_size::{self, PickedBy, given_n_ctx};
use crate::cli::engine::{confine, engine_config, model_id, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::files::{parse_size, refuse_overwrite};
use crate::cli::input::read_file;
use crate::cli::interrupt;
use crate::cli::lora::lora_key;
use crate::cli::sandbox::folder_of;
use crate::llama::engine::{ManyTexts, Mode};
use crate::llama::parallel::MAX_LANES;
use crate::store::align_log::{AlignLog, LogError, LogKey};
use crate::store::drafter_file::DrafterFile;
use crate::store::hidden_file::HiddenFile;
use crate::store::vocabulary::Vocabulary;

/// Default context size per answer, in tokens: the longest shipped prompt and its answer.
const DEFAULT_N_CTX: usize = 768;

/// Limit of `--tokens`: about one day on a fast machine.
const MAX_TOKENS: u64 = 1 << 32;

/// Default number of lanes.
const DEFAULT_PARALLEL: usize = 64;

/// Size limit of a prompts file, in bytes.
const MAX_PROMPTS_BYTES: u64 = 256 << 20;

/// Arguments of `align`.
#[derive(Debug, ClapArgs)]
// `align` drafts nothing, so it measures no cost curve.
#[command(mut_arg("curve_budget", |arg| arg.hide(true)))]
#[command(mut_arg("ctx_size", |arg| {
    let help = "Context size in tokens, prompt and answer together [default: 768]";
    arg.help(help).long_help(help)
}))]
pub struct AlignArgs {
    /// Drafter file to write; while it works, there is a FILE.log beside it
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Total number of tokens to write, including those of interrupted runs
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub tokens: u64,

    /// Also train a drafter on the model's hidden states and write it to FILE (MODEL.hidden beside the model is found)
    ///
    /// The log then grows by 2 bytes for each number of a state: 3 KB per token for a model of 1.5 billion weights.
    #[arg(long, value_name = "FILE")]
    pub hidden: Option<PathBuf>,

    /// File of prompts, one {"prompt": "..."} per line [default: thousands of 8 kinds]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Stop each answer after N tokens
    #[arg(short, long, value_name = "N", default_value_t = 320)]
    pub n_predict: usize,

    /// Size limit of the drafter file; the rarest sequences are dropped
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size)]
    pub max_size: u64,

    /// Keep the log, so that you can continue with a larger --tokens later
    #[arg(long)]
    pub keep_log: bool,

    /// Lanes: how many answers run at a time (-1: the default) [short: -np]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value = "64",
        env = "LLAMA_ARG_N_PARALLEL",
        hide_env = true
    )]
    pub parallel: Parallel,

    /// Temperature of every fourth answer; the others take the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temp: f32,

    /// Seed for the order of the prompts and for sampling
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u32,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl AlignArgs {
    fn parallel(&self) -> usize {
        let Parallel(n) = self.parallel;
        n.unwrap_or(DEFAULT_PARALLEL)
    }
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn align(args: &AlignArgs) -> Result<ExitCode, Failure> {
    check(args)?;
    let mut engine = engine_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    context_size::n_ctx(&args.engine, &gguf, None, &mut engine, context_size::LEAST_N_CTX, PickedBy::Length)?;
    let given = args.prompts.as_deref().map(read_prompts).transpose()?;
    let log_path = log_path(&args.output);
    let vocabulary = Vocabulary::of(&gguf).ok_or_else(|| Failure::new("the model file contains no vocabulary"))?;
    check_output(args, &log_path)?;
    if args.hidden.is_some() {
        // Before the model writes for hours.
        hidden::check(args, &gguf)?;
    }
    let interrupt = interrupt::flag()?;
    let n_threads = engine.settings.long.n_threads_batch;
    let folders = [Some(&args.output), args.hidden.as_ref()].map(|path| path.map(|path| folder_of(path)));
    confine(&args.engine, &engine, &folders);
    let mut log = AlignLog::open(&log_path, &key(args, given.as_deref()))?;
    if log.n_tokens() < args.tokens {
        let n_ctx = given_n_ctx(&args.engine)?
            .unwrap_or_else(|| DEFAULT_N_CTX.min(gguf.context_length().map_or(usize::MAX, |n| n as usize)));
        let mode = Mode::ManyTexts(ManyTexts {
            n_parallel: Some(args.parallel()),
            n_ctx: Some(n_ctx),
            drafts: false,
            states: args.hidden.is_some(),
            prompt_cache: None,
        });
        let mut keeper = Keeper::new(&mut log);
        let mut feeder = Feeder::new(args, texts(args.seed, given));
        let written = write((engine, mode), &gguf, &mut feeder, &mut keeper, args.tokens, interrupt.clone());
        // Also after a failure: the model wrote these tokens, and a rerun continues after them.
        keeper.flush_all()?;
        written.map_err(|failure| match failure.code {
            ExitCode::Interrupted => {
                let (n, all) = (log.n_tokens(), args.tokens);
                failure.with_hint(format!(
                    "{n} of {all} tokens are saved in {}; run the same command again to continue",
                    log_path.display()
                ))
            }
            _ => failure,
        })?;
    }
    if log.n_tokens() == 0 {
        return Err(
            Failure::new("the model wrote nothing: no prompt fits into the context").with_hint("use a larger -c")
        );
    }
    base::build(args, &log_path, vocabulary, || !interrupt.load(Ordering::Relaxed))?;
    if let Some(path) = &args.hidden {
        let work = Work { gguf: &gguf, log: &log_path, seed: args.seed, n_threads, interrupt: &interrupt };
        hidden::build(&work, args, path)?;
    }
    if !args.keep_log {
        fs::remove_file(&log_path).map_err(|error| Failure::io(&log_path, &error))?;
    }
    Ok(ExitCode::Success)
}

/// Hint for the user after the engine crashed.
#[must_use]
pub fn on_crash() -> String {
    "run the same command again to continue".to_owned()
}

/// Checks that the output does not overwrite an input or any file that is not a drafter file.
fn check_output(args: &AlignArgs, log: &Path) -> Result<(), Failure> {
    let inputs = [Some(args.engine.model.as_path()), args.prompts.as_deref()].into_iter().flatten();
    refuse_overwrite(&args.output, inputs.clone())?;
    refuse_overwrite(log, inputs.clone())?;
    if args.output.exists() {
        DrafterFile::open_any(&args.output)?;
    }
    if let Some(hidden) = &args.hidden {
        if [args.output.as_path(), log].iter().any(|other| place_of(other) == place_of(hidden)) {
            let message = format!("{}: --hidden names the drafter file or its log", hidden.display());
            return Err(Failure::usage(message)
                .about("hidden")
                .with_hint("give another file, as in --hidden MODEL.hidden"));
        }
        refuse_overwrite(hidden, inputs).map_err(|failure| failure.with_hint("give another file with --hidden"))?;
        if hidden.exists() {
            let opened = HiddenFile::open_any(hidden);
            opened
                .map_err(|error| Failure::from(error).with_hint("delete the file first, or give another --hidden"))?;
        }
    }
    Ok(())
}

/// Where a file is or will be: its folder without links, and its name.
fn place_of(file: &Path) -> (PathBuf, Option<OsString>) {
    let folder = folder_of(file);
    (fs::canonicalize(&folder).unwrap_or(folder), file.file_name().map(OsString::from))
}

fn check(args: &AlignArgs) -> Result<(), Failure> {
    if !(1..=MAX_TOKENS).contains(&args.tokens) {
        return Err(Failure::usage(format!("--tokens must be from 1 to {MAX_TOKENS}, not {}", args.tokens)));
    }
    if !(1..=MAX_LANES).contains(&args.parallel()) {
        return Err(Failure::usage(format!("--parallel must be from 1 to {MAX_LANES}, not {}", args.parallel()))
            .about("parallel"));
    }
    if args.n_predict == 0 {
        return Err(Failure::usage("-n must be 1 or more"));
    }
    if !(args.temp.is_finite() && args.temp >= 0.0) {
        return Err(Failure::usage(format!("--temp must be 0 or more, not {}", args.temp)));
    }
    Ok(())
}

/// The log beside a drafter file.
#[must_use]
pub fn log_path(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".log");
    PathBuf::from(name)
}

/// Identifies the log: a rerun may only continue a log with the same model, prompts and settings.
fn key(args: &AlignArgs, given: Option<&[String]>) -> LogKey {
    let hash = |prompts: &mut dyn Iterator<Item = String>| {
        XxHash3_64::oneshot(prompts.collect::<Vec<String>>().join("\0").as_bytes())
    };
    let prompts = match given {
        Some(prompts) => format!("{} given {:016x}", prompts.len(), hash(&mut prompts.iter().cloned())),
        // The first 1000 prompts stand for the whole generated list.
        None => format!("shipped {:016x}", hash(&mut Prompts::new(0).take(1000).map(|prompt| prompt.text))),
    };
    let AlignArgs { n_predict, temp, seed, .. } = args;
    let states = if args.hidden.is_some() { " --hidden" } else { "" };
    let lora = args.engine.lora.as_ref().map(|_| format!(" --lora {}", lora_key(&args.engine))).unwrap_or_default();
    LogKey {
        model: model_id(&args.engine.model),
        prompts,
        settings: format!("-n {n_predict} --temp {temp} --seed {seed}{states}{lora}"),
    }
}

/// All prompts, in a shuffled order that depends only on `seed`.
fn texts(seed: u32, given: Option<Vec<String>>) -> Box<dyn Iterator<Item = String>> {
    match given {
        None => Box::new(Prompts::new(u64::from(seed)).map(|prompt| prompt.text)),
        Some(mut prompts) => {
            let mut dice = Dice(u64::from(seed));
            (1..prompts.len()).rev().for_each(|i| prompts.swap(i, dice.roll(i + 1)));
            Box::new(prompts.into_iter())
        }
    }
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
}

fn read_prompts(path: &Path) -> Result<Vec<String>, Failure> {
    let text = read_file(path, MAX_PROMPTS_BYTES, "a file of prompts")?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(number, line)| {
        serde_json::from_str(line).map(|line: Line| line.prompt).map_err(|error| {
            Failure::new(format!("{}:{number}: {error}", path.display()))
                .with_hint(r#"each line must be {"prompt": "..."}"#)
        })
    });
    let prompts = parsed.collect::<Result<Vec<String>, Failure>>()?;
    if prompts.is_empty() {
        Err(Failure::new(format!("{}: the file contains no prompts", path.display())))
    } else {
        Ok(prompts)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        let hint = match &error {
            LogError::Io { .. } => None,
            LogError::Foreign(_) => Some("give another -o, or move the file"),
            LogError::OtherKey { .. } => Some("use the same arguments as before, give another -o, or delete the log"),
            LogError::Busy(_) => Some("wait until it is done, or give another -o"),
        };
        let failure = Failure::new(error.to_string());
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}
