//! `chaski drafter refine`: trains a drafter on hidden states further, on the answers that `--hidden-learn` recorded.

use std::fs;
use std::path::PathBuf;

use chaski_hidden::{self as hidden, Net, Settings, Text};
use clap::Args as ClapArgs;

use crate::cli::align::hidden::{
    Answer, Rows, Work, answers, check_memory, first_candidates, held_out, hidden_failure, with_bars, with_net,
};
use crate::cli::engine::{hidden_path, model_id, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::hidden_log::log_path;
use crate::cli::interrupt;
use crate::cli::output::stderr_line;
use crate::cli::settings::physical_cores;
use crate::llama::hidden::{TargetMatrices, dequantize};
use crate::llama::logs;
use crate::store::hidden_file::HiddenFile;

/// A third of the rate of a new network: this one knows most of what is in the texts.
const RATE: f32 = 1e-4;

/// Passes over the texts.
const N_EPOCHS: usize = 4;

/// Arguments of `drafter refine`.
#[derive(Debug, ClapArgs)]
pub struct RefineArgs {
    /// GGUF file or model name
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Drafter on hidden states to train further [default: MODEL.hidden beside the model]
    #[arg(long, value_name = "FILE")]
    pub hidden: Option<PathBuf>,

    /// Keep the recorded answers
    #[arg(long)]
    pub keep_log: bool,

    /// Threads [default: the physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    /// Seed of the training
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u32,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn refine(args: &RefineArgs) -> Result<ExitCode, Failure> {
    logs::capture(false);
    let gguf = open_model(&args.model)?;
    let path = hidden_path(args.hidden.as_deref(), &gguf).ok_or_else(|| {
        Failure::usage("there is no drafter on hidden states beside the model")
            .about("hidden")
            .with_hint("name it with --hidden FILE; chaski drafter align --hidden FILE trains one")
    })?;
    let file = HiddenFile::open(&path, &model_id(gguf.path()))?;
    let log = log_path(&path);
    if !log.exists() {
        return Err(Failure::new(format!("{}: nothing is recorded", log.display()))
            .with_hint("chaski run and chaski chat record answers with --hidden-learn"));
    }
    let interrupt = interrupt::flag()?;
    let n_threads = args.threads.map_or_else(physical_cores, usize::from);
    let work = Work { gguf: &gguf, log: &log, seed: args.seed, n_threads, interrupt: &interrupt };
    let (answers, texts) = answers(&log)?;
    check_memory(&texts)?;
    let held_out = held_out(&answers, &texts);
    let before = share_right(&work, &file, &held_out)?;
    let refined = train(&work, &file, &texts)?;
    let n_tokens: usize = texts.iter().map(|text| text.said.len()).sum();
    let mut refined = with_net(&file, &refined)?;
    refined.n_trained_tokens += n_tokens as u64;
    let after = share_right(&work, &refined, &held_out)?;
    let shares = format!("{:.1}% before, {:.1}% after", 100.0 * before, 100.0 * after);
    let told = format!("right for the next token of other answers: {shares}, with {n_tokens} tokens");
    if after <= before {
        stderr_line(&format!("notice: {} stays as it is: {told}; hint: record more answers", path.display()));
        return Ok(ExitCode::Success);
    }
    refined.held_out_top1 = after;
    refined.write(&path)?;
    stderr_line(&format!("{}: {told}", path.display()));
    if !args.keep_log {
        fs::remove_file(&log).map_err(|error| Failure::io(&log, &error))?;
    }
    Ok(ExitCode::Success)
}

fn train(work: &Work<'_>, file: &HiddenFile, texts: &[Text]) -> Result<Net, Failure> {
    let net = Net {
        n_embd: file.n_embd(),
        n_hidden: file.n_hidden(),
        mean: file.mean.clone(),
        std: file.std.clone(),
        first: dequantize(&file.first).map_err(hidden_failure)?,
        first_bias: file.first_bias.clone(),
        second: dequantize(&file.second).map_err(hidden_failure)?,
        scale: file.scale,
    };
    let matrices = Rows(TargetMatrices::open(work.gguf.path()).map_err(hidden_failure)?);
    let settings = Settings {
        n_hidden: net.n_hidden,
        n_epochs: N_EPOCHS,
        rate: RATE,
        seed: work.seed.into(),
        n_threads: work.n_threads,
        ..Settings::default()
    };
    let refined = with_bars(work, "record more answers with --hidden-learn", |progress| {
        hidden::refine(texts, &matrices, &settings, (net, &file.tokens), progress)
    })?;
    Ok(refined.net)
}

/// For which share of the rows the first candidate is the target's.
fn share_right(work: &Work<'_>, file: &HiddenFile, held_out: &[(&Answer, &Text)]) -> Result<f32, Failure> {
    let (n_right, n_rows) = first_candidates(work, file, held_out)?;
    Ok(n_right as f32 / n_rows.max(1) as f32)
}
