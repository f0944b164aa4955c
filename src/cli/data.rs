//! `chaski data`: what chaski saves between runs, and whether it learns.
//!
//! Chats are the user's own files: they are shown here, but never deleted.

use std::path::{Path, PathBuf};
use std::{fs, io};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use serde::Serialize;

use crate::cli::cache;
use crate::cli::engine::{curves_folder, prompt_cache_folder};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::folders;
use crate::cli::learn::{self, LearnedStatus};
use crate::cli::output::{stderr_line, write_stdout};
use crate::cli::settings::tuned_folder;
use crate::engine::PromptCacheConfig;
use crate::store::prompt_cache::PromptCache;
use crate::store::sessions::Sessions;
use crate::store::{curves, learned, tuned};

/// Arguments of `data`.
#[derive(Debug, ClapArgs)]
pub struct DataArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DataCommand,
}

/// A command of `data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show what is saved, where, and how large it is
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete saved data (chats are never deleted)
    Delete(DeleteArgs),
    /// Turn learning on or off, for all models or for one
    ///
    /// When learning is off, the learned state is neither read nor written. It stays on disk until you run
    /// `chaski data delete learned`. To turn learning off for one command, use --no-learn or CHASKI_LEARN=off.
    Learning(LearningArgs),
}

impl DataCommand {
    /// The model that was given.
    pub fn model(&mut self) -> Option<&mut PathBuf> {
        match self {
            DataCommand::Show { .. } => None,
            DataCommand::Delete(args) => args.model.as_mut(),
            DataCommand::Learning(args) => args.model.as_mut(),
        }
    }
}

/// Arguments of `data delete`.
#[derive(Debug, ClapArgs)]
pub struct DeleteArgs {
    /// What to delete
    #[arg(value_name = "WHAT", value_enum, required = true)]
    pub what: Vec<Saved>,

    /// With `learned`: delete the learned state of this model only (GGUF file, or a name from `chaski models list`)
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// A kind of saved data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Saved {
    /// The prompt cache: tokens of prompts, and the model's state after them
    Prompts,
    /// The learned state: statistics of generated tokens
    Learned,
    /// Cost curves: measured times, used to decide how much to draft
    Curves,
    /// Settings found by `chaski tune`
    Tuned,
    /// Compiled shaders of the GPU's driver
    Shaders,
    /// All of these
    All,
}

/// Arguments of `data learning`.
#[derive(Debug, ClapArgs)]
pub struct LearningArgs {
    /// Turn learning on or off
    #[arg(value_name = "STATE", value_enum)]
    pub state: OnOff,

    /// For this model only: GGUF file, or a name from `chaski models list` [default: all models]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// The state of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    /// Learn from answers, and use what was learned
    On,
    /// Do not read or write the learned state
    Off,
}

/// Runs the command.
///
/// # Errors
/// When there is no folder for saved data, or a file cannot be read or deleted.
pub fn data(args: &DataArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        DataCommand::Show { json } => show(*json)?,
        DataCommand::Delete(args) => delete(args)?,
        DataCommand::Learning(args) => {
            learn::set(&learn::required_folder()?, args.model.as_deref(), args.state == OnOff::On)?;
        }
    }
    Ok(ExitCode::Success)
}

/// Files of one kind.
#[derive(Serialize)]
struct Files {
    folder: PathBuf,
    files: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    prompts: Option<Files>,
    learned: LearnedStatus<'a>,
    curves: Option<Files>,
    tuned: Option<Files>,
    shaders: Option<Files>,
    chats: Option<Files>,
}

fn show(as_json: bool) -> Result<(), Failure> {
    let learned_folder = learn::required_folder()?;
    let learned_files = learned::list(&learned_folder)?;
    let report = Report {
        prompts: prompt_cache_folder().map(prompts).transpose()?,
        learned: learn::status_of(&learned_folder, &learned_files)?,
        curves: saved(curves_folder(), curves::KIND)?,
        tuned: saved(tuned_folder(), tuned::KIND)?,
        shaders: folders::shaders().and_then(shaders),
        chats: folders::sessions().map(chats).transpose()?,
    };
    if as_json {
        let json = serde_json::to_string(&report).map_err(|error| Failure::new(error.to_string()))?;
        return write_stdout(&(json + "\n"));
    }
    let mut text = String::new();
    let mut line = |name: &str, files: &Option<Files>| {
        if let Some(Files { folder, files, bytes }) = files {
            text += &format!("{name:<8} {files:>5}  {:>9}  {}\n", mib(*bytes), folder.display());
        }
    };
    let Report { prompts, learned, curves, tuned, shaders, chats } = &report;
    line("prompts", prompts);
    line(
        "learned",
        &Some(Files::of(learned_folder.clone(), &learned.models.iter().map(|m| m.bytes).collect::<Vec<_>>())),
    );
    line("curves", curves);
    line("tuned", tuned);
    line("shaders", shaders);
    line("chats", chats);
    text += &format!("\nlearning: {}\n", learned.switch());
    for model in &learned.models {
        let (name, state) = (model.name(), learn::word(model.learning));
        text += &format!("  {name}: {state}, {}, written {}\n", mib(model.bytes), model.ago());
    }
    text += "\nPrompts and chats contain your texts. The learned state contains statistics of generated tokens only. \
             Only you can read these files, and nothing leaves this machine.\n";
    write_stdout(&text)
}

fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    let is_meant = |kind| args.what.contains(&kind) || args.what.contains(&Saved::All);
    if args.model.is_some() && args.what != [Saved::Learned] {
        return Err(Failure::usage("-m works with `learned` only").with_hint("chaski data delete learned -m MODEL"));
    }
    if is_meant(Saved::Learned) {
        learn::forget(&learn::required_folder()?, args.model.as_deref())?;
    }
    if is_meant(Saved::Prompts) {
        cache::clear()?;
    }
    for (kind, name, folder, file_kind) in [
        (Saved::Curves, "cost curves", curves_folder(), curves::KIND),
        (Saved::Tuned, "tuned settings", tuned_folder(), tuned::KIND),
    ] {
        if let Some(folder) = folder.filter(|_| is_meant(kind)) {
            let deleted = curves::delete_all(&folder, file_kind).map_err(|error| Failure::new(error.to_string()))?;
            stderr_line(&format!("deleted: {deleted} {name}"));
        }
    }
    if let Some(folder) = folders::shaders().filter(|_| is_meant(Saved::Shaders)) {
        match fs::remove_dir_all(&folder) {
            Ok(()) => stderr_line("deleted: the compiled shaders"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                stderr_line("there were no compiled shaders to delete");
            }
            Err(error) => return Err(Failure::io(&folder, &error)),
        }
    }
    Ok(())
}

fn saved(folder: Option<PathBuf>, kind: &str) -> Result<Option<Files>, Failure> {
    let Some(folder) = folder else { return Ok(None) };
    let files = curves::files(&folder, kind).map_err(|error| Failure::new(error.to_string()))?;
    Ok(Some(Files::of(folder, &files.iter().map(|(_, n_bytes)| *n_bytes).collect::<Vec<_>>())))
}

fn prompts(folder: PathBuf) -> Result<Files, Failure> {
    let config = PromptCacheConfig { folder, max_bytes: 0 };
    let sizes: Vec<u64> = PromptCache(&config).entries()?.iter().map(|entry| entry.n_bytes).collect();
    Ok(Files::of(config.folder, &sizes))
}

/// `None` if there are none. The folder is the driver's: what cannot be read, or is deleted meanwhile, is not counted.
fn shaders(folder: PathBuf) -> Option<Files> {
    if !fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir()) {
        return None;
    }
    let mut sizes = Vec::new();
    add_sizes(&folder, &mut sizes);
    Some(Files::of(folder, &sizes))
}

/// Adds the sizes of all files below a folder. Links are not followed.
fn add_sizes(folder: &Path, sizes: &mut Vec<u64>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => add_sizes(&entry.path(), sizes),
            Ok(found) => sizes.push(found.len()),
            Err(_) => (),
        }
    }
}

fn chats(folder: PathBuf) -> Result<Files, Failure> {
    let sizes: Vec<u64> = Sessions::new(folder.clone()).list()?.iter().map(|chat| chat.n_bytes).collect();
    Ok(Files::of(folder, &sizes))
}

impl Files {
    fn of(folder: PathBuf, sizes: &[u64]) -> Files {
        Files { folder, files: sizes.len(), bytes: sizes.iter().sum() }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
