//! `chaski learn`: shows, deletes, and turns on or off what chaski learns from its answers.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use crate::cli::engine::{fingerprint, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::folders;
use crate::cli::output::{stderr_line, write_stdout};
use crate::gguf::Gguf;
use crate::store::learned::{self, Entry, LearnPolicy, LearnedError, LearnedKey, Switch};
use crate::store::vocabulary::Vocabulary;
use crate::text::sanitize_for_terminal;

/// Environment variable that turns learning off for one run.
const VARIABLE: &str = "CHASKI_LEARN";

/// Describes what is saved, for the user.
const WHAT: &str = "saved: statistics of generated tokens, to draft better next time; their size is limited.
never saved: prompts, files and whole answers. Nothing leaves this machine.";

/// Arguments of `learn`.
#[derive(Debug, ClapArgs)]
pub struct LearnArgs {
    /// What to do
    #[command(subcommand)]
    pub command: LearnCommand,
}

/// A command of `learn`.
#[derive(Debug, Subcommand)]
pub enum LearnCommand {
    /// Turn learning on, for all models or for one
    On(SwitchArgs),
    /// Turn learning off, for all models or for one
    ///
    /// The learned state is neither read nor written from now on. It stays on disk until you run chaski learn
    /// forget.
    Off(SwitchArgs),
    /// Show whether learning is on, and what chaski has learned
    Status(StatusArgs),
    /// Delete the learned state of one model, or of all
    Forget(ForgetArgs),
}

impl LearnCommand {
    /// The model flag of the command, if given.
    pub fn model(&mut self) -> Option<&mut PathBuf> {
        match self {
            LearnCommand::On(args) | LearnCommand::Off(args) => args.model.as_mut(),
            LearnCommand::Forget(args) => args.model.as_mut(),
            LearnCommand::Status(_) => None,
        }
    }
}

/// Arguments of `learn on` and `learn off`.
#[derive(Debug, ClapArgs)]
pub struct SwitchArgs {
    /// For this model only: GGUF file, or a name from `chaski models list` [default: all models]
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,
}

/// Arguments of `learn status`.
#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `learn forget`.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct ForgetArgs {
    /// Delete the learned state of this model (GGUF file, or a name from `chaski models list`)
    #[arg(short, long, value_name = "FILE")]
    pub model: Option<PathBuf>,

    /// Delete the learned state of all models
    #[arg(long)]
    pub all: bool,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn learn(args: &LearnArgs) -> Result<ExitCode, Failure> {
    let folder = folder().ok_or_else(|| {
        Failure::new("there is no folder for the learned state").with_hint("set HOME or XDG_DATA_HOME")
    })?;
    match &args.command {
        LearnCommand::On(args) => set(&folder, args, true)?,
        LearnCommand::Off(args) => set(&folder, args, false)?,
        LearnCommand::Status(args) => status(&folder, args)?,
        LearnCommand::Forget(args) => forget(&folder, args)?,
    }
    Ok(ExitCode::Success)
}

/// Folder of the learned state; `None` if the system has no data folder.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    Some(folders::data()?.join("learned"))
}

/// Key of a model's learned state; `None` for a file without a vocabulary.
#[must_use]
pub fn learned_key(gguf: &Gguf) -> Option<LearnedKey> {
    Some(LearnedKey { model: fingerprint(gguf.path()), vocabulary: Vocabulary::of(gguf)?.hash })
}

/// Whether a run may read or write learned state: decided by `CHASKI_LEARN`, the run's flag, and the user's settings.
/// Prints a notice if the settings cannot be read.
#[must_use]
pub fn policy(folder: &Path, key: &LearnedKey, no_learn: bool) -> LearnPolicy {
    if let Err(error) = learned::switch(folder) {
        stderr_line(&format!(
            "notice: learning is off, because its settings cannot be read: {error}; hint: run \
                              chaski learn on or chaski learn off"
        ));
    }
    learned::policy(folder, key, std::env::var(VARIABLE).ok().as_deref(), no_learn)
}

fn key_of(model: &Path) -> Result<LearnedKey, Failure> {
    let gguf = open_model(model)?;
    learned_key(&gguf)
        .ok_or_else(|| Failure::new(format!("{}: the model file contains no vocabulary", model.display())))
}

fn set(folder: &Path, args: &SwitchArgs, is_on: bool) -> Result<(), Failure> {
    let key = args.model.as_deref().map(key_of).transpose()?;
    learned::set_switch(folder, key.as_ref(), is_on)?;
    let whom = args.model.as_ref().map_or_else(|| "all models".to_owned(), |path| path.display().to_string());
    stderr_line(&format!("learning is {} for {whom}", word(is_on)));
    if !is_on {
        stderr_line("the learned state stays on disk; to delete it: chaski learn forget --all");
    }
    Ok(())
}

fn forget(folder: &Path, args: &ForgetArgs) -> Result<(), Failure> {
    let key = args.model.as_deref().map(key_of).transpose()?;
    let known = learned::list(folder)?;
    let forgotten = learned::forget(folder, key.as_ref())?;
    for path in &forgotten {
        let name = known.iter().find(|entry| entry.path == *path).map_or("a model", model_name);
        stderr_line(&format!("deleted: {} ({})", sanitize_for_terminal(name), path.display()));
    }
    if forgotten.is_empty() {
        stderr_line("there was nothing to delete");
    }
    Ok(())
}

fn word(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

#[derive(Serialize)]
struct Status<'a> {
    learning: bool,
    folder: &'a Path,
    models: Vec<ModelStatus<'a>>,
}

#[derive(Serialize)]
struct ModelStatus<'a> {
    /// File name; null if the state cannot be read.
    model: Option<&'a str>,
    learning: bool,
    file: &'a Path,
    bytes: u64,
    written_unix_s: Option<u64>,
}

/// The name part of a fingerprint, which is a name, a size and a hash.
fn model_name(entry: &Entry) -> &str {
    entry.key.as_ref().map_or("unreadable", |key| key.model.rsplitn(3, ' ').nth(2).unwrap_or(&key.model))
}

fn status(folder: &Path, args: &StatusArgs) -> Result<(), Failure> {
    let switch = learned::switch(folder)?;
    let variable = std::env::var(VARIABLE).ok();
    let is_off_by_variable = learned::is_off(variable.as_deref());
    let entries = learned::list(folder)?;
    let models: Vec<ModelStatus<'_>> = entries.iter().map(|entry| model_status(entry, &switch)).collect();
    let learning = switch.all.unwrap_or(true) && !is_off_by_variable;
    if args.json {
        let status = Status { learning, folder, models };
        let json = serde_json::to_string(&status).map_err(|error| Failure::new(error.to_string()))?;
        return write_stdout(&(json + "\n"));
    }
    let why = if is_off_by_variable { format!(" ({VARIABLE} is set)") } else { String::new() };
    let mut text = format!("learning: {}{why}\nfolder: {}\n{WHAT}\n", word(learning), folder.display());
    for (status, entry) in models.iter().zip(&entries) {
        let ago = entry.written.and_then(|time| SystemTime::now().duration_since(time).ok());
        let ago = ago.map_or_else(|| "at an unknown time".to_owned(), |ago| format!("{} h ago", ago.as_secs() / 3600));
        let (name, state) = (sanitize_for_terminal(model_name(entry)), word(status.learning));
        text += &format!("{name}: {state}, {} bytes, written {ago}, {}\n", status.bytes, status.file.display());
    }
    if models.is_empty() {
        text += "nothing is saved so far\n";
    }
    write_stdout(&text)
}

fn model_status<'a>(entry: &'a Entry, switch: &Switch) -> ModelStatus<'a> {
    let since_epoch = entry.written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    ModelStatus {
        model: entry.key.as_ref().map(|_| model_name(entry)),
        learning: entry.key.as_ref().map_or(switch.all.unwrap_or(true), |key| switch.is_on(key)),
        file: &entry.path,
        bytes: entry.n_bytes,
        written_unix_s: since_epoch.map(|time| time.as_secs()),
    }
}

impl From<LearnedError> for Failure {
    fn from(error: LearnedError) -> Failure {
        let failure = Failure::new(error.to_string());
        match error {
            LearnedError::Damaged(path) if path.extension().is_some_and(|end| end == "json") => {
                failure.with_hint("run chaski learn on or chaski learn off to write the settings again")
            }
            _ => failure,
        }
    }
}
