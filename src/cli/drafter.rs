//! `chaski drafter`: builds, inspects, merges and prunes drafter files.

mod build;
mod corpus;
mod inspect;
mod inspect_hidden;
mod pieces;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::align::refine::{self, RefineArgs};
use crate::cli::align::{self, AlignArgs};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::files::{parse_size, refuse_overwrite};
use crate::cli::interrupt;
use crate::cli::output::{Bars, stderr_line};
use crate::cli::replay::{self, ReplayArgs};
use crate::cli::supervisor::contained;
use crate::store::drafter_file::{DrafterFile, DrafterWriter, merge, prune};

/// Rows between two updates of the progress bar.
const ROWS_PER_TICK: u64 = 4096;

/// Arguments of `drafter`.
#[derive(Debug, ClapArgs)]
pub struct DrafterArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DrafterCommand,
}

/// A command of `drafter`.
#[derive(Debug, Subcommand)]
pub enum DrafterCommand {
    /// Build a drafter file from text that the model writes
    ///
    /// The model answers many prompts. Statistics of its answers, and of the likeliest alternatives to each
    /// token, go into the file. Ctrl-C loses nothing: run the same command again to continue.
    Align(AlignArgs),
    /// Build a drafter file from your own texts
    ///
    /// A TEXT is a file, a folder or - for stdin. Hidden and binary files in a folder are skipped. In a .jsonl
    /// file, each line is an object; its "text", "prompt" and "response", and the "content" of its "messages",
    /// are separate texts.
    ///
    /// Temporary files beside the output take up to 12 bytes for each byte of text.
    Build(BuildArgs),
    /// Show what a drafter file contains, and check it for damage
    Inspect(InspectArgs),
    /// Merge drafter files by adding their counts
    Merge(MergeArgs),
    /// Shrink a drafter file: drop the rarest sequences
    Prune(PruneArgs),
    /// Continue training a --hidden file, with answers that --hidden-learn recorded
    ///
    /// Every 12th answer is held out. If the new network is right for clearly more held-out tokens, it replaces the
    /// file, and the recorded answers are deleted (not with --keep-log or --log). Otherwise both stay.
    Refine(RefineArgs),
    /// Compare drafters on recorded answers, in seconds and without a model
    Replay(ReplayArgs),
}

impl DrafterCommand {
    /// The model flag of the command, if given.
    pub fn model(&mut self) -> Option<&mut PathBuf> {
        match self {
            DrafterCommand::Align(args) => Some(&mut args.engine.model),
            DrafterCommand::Build(args) => Some(&mut args.model),
            DrafterCommand::Inspect(args) => args.model.as_mut(),
            DrafterCommand::Refine(args) => Some(&mut args.model),
            DrafterCommand::Merge(_) | DrafterCommand::Prune(_) | DrafterCommand::Replay(_) => None,
        }
    }
}

/// Arguments of `drafter build`.
#[derive(Debug, ClapArgs)]
pub struct BuildArgs {
    /// GGUF file or model name; models with the same vocabulary can share drafter files
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Drafter file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Drop sequences that occur fewer than N times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub min_count: u32,

    /// Size limit of the file; the rarest sequences are dropped
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub max_size: u64,

    /// Files, folders, or - for stdin
    #[arg(value_name = "TEXT", required = true)]
    pub texts: Vec<PathBuf>,
}

/// Arguments of `drafter inspect`.
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// Drafter file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Check that the file matches this model's vocabulary, and show the most frequent sequences as text
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `drafter merge`.
#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// Drafter file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Weight of each file, as in 1,0.5 [default: 1 each]
    #[arg(long, value_name = "X", value_delimiter = ',')]
    pub weights: Vec<f32>,

    /// Size limit of the file; the rarest sequences are dropped [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,

    /// Drafter files with the same vocabulary
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Arguments of `drafter prune`.
#[derive(Debug, ClapArgs)]
pub struct PruneArgs {
    /// Size limit of the new file, as in 500K or 4M
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: u64,

    /// Drafter file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Drafter file to read
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn drafter(args: &DrafterArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        DrafterCommand::Align(args) => return contained(align::on_crash, || align::align(args)),
        DrafterCommand::Build(args) => build::build(args)?,
        DrafterCommand::Inspect(args) => inspect::inspect(args)?,
        DrafterCommand::Merge(args) => merge_files(args)?,
        DrafterCommand::Prune(args) => prune_file(args)?,
        DrafterCommand::Refine(args) => return refine::refine(args),
        DrafterCommand::Replay(args) => return replay::replay(args),
    }
    Ok(ExitCode::Success)
}

fn merge_files(args: &MergeArgs) -> Result<(), Failure> {
    if !args.weights.is_empty() && args.weights.len() != args.files.len() {
        let (n, n_files) = (args.weights.len(), args.files.len());
        return Err(Failure::usage(format!("--weights has {n} numbers, but there are {n_files} files"))
            .with_hint("give one weight for each file, as in --weights 1,0.5"));
    }
    if let Some(weight) = args.weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0)) {
        return Err(Failure::usage(format!("a weight must be more than 0, not {weight}")));
    }
    refuse_overwrite(&args.output, args.files.iter().map(PathBuf::as_path))?;
    let mut files = Vec::new();
    for path in &args.files {
        let file = DrafterFile::open_any(path)?;
        file.check_vocabulary(&files.first().unwrap_or(&file).vocabulary())?;
        files.push(file);
    }
    let weights = args.weights.iter().copied().chain(std::iter::repeat(1.0));
    let inputs: Vec<(&DrafterFile, f32)> = files.iter().zip(weights).collect();
    let n_rows: u64 = files.iter().flat_map(|file| file.totals().n_rows).sum();
    let mut work = Work::begin("merging", n_rows)?;
    let mut writer = DrafterWriter::create(&args.output, files[0].vocabulary())?;
    for row in merge(&inputs) {
        if !work.go_on() {
            return Err(Failure::interrupted());
        }
        writer.push(&mut row?)?;
    }
    writer.finish_within(args.max_size.unwrap_or(u64::MAX), || work.go_on())?;
    work.bars.clear();
    report(&args.output)
}

fn prune_file(args: &PruneArgs) -> Result<(), Failure> {
    refuse_overwrite(&args.output, [args.file.as_path()])?;
    let file = DrafterFile::open_any(&args.file)?;
    let mut work = Work::begin("pruning", 2 * file.totals().n_rows.iter().sum::<u64>())?;
    prune(&file, &args.output, args.max_size, || work.go_on())?;
    work.bars.clear();
    report(&args.output)
}

/// Work over the rows of a file, with a progress bar; the user may interrupt it.
struct Work {
    what: &'static str,
    bars: Bars,
    interrupt: Arc<AtomicBool>,
    n_done: u64,
    n_in_all: u64,
}

impl Work {
    fn begin(what: &'static str, n_in_all: u64) -> Result<Work, Failure> {
        Ok(Work { what, bars: Bars::default(), interrupt: interrupt::flag()?, n_done: 0, n_in_all })
    }

    /// Counts one row. Returns false after an interrupt.
    fn go_on(&mut self) -> bool {
        self.n_done += 1;
        if self.n_done.is_multiple_of(ROWS_PER_TICK) {
            self.bars.share(self.what, (self.n_done as f64 / self.n_in_all.max(1) as f64).min(1.0));
        }
        !self.interrupt.load(Ordering::Relaxed)
    }
}

/// Prints the size of a new drafter file.
pub(super) fn report(path: &Path) -> Result<(), Failure> {
    let file = DrafterFile::open_any(path)?;
    let [_, n_bigrams, n_trigrams] = file.totals().n_successors;
    let n_bytes = file.file_bytes();
    stderr_line(&format!("{}: {n_trigrams} tri-grams, {n_bigrams} bi-grams, {n_bytes} bytes", path.display()));
    Ok(())
}
