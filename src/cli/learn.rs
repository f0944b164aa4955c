//! What chaski learns from its answers: shows it, deletes it, turns it on or off. `chaski learn` is the old name of
//! commands of `chaski data`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use crate::cli::engine::{model_id, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::folders;
use crate::cli::output::{stderr_line, write_stdout};
use crate::gguf::Gguf;
use crate::store::hidden_file::NAME as HIDDEN_NAME;
use crate::store::learned::{self, Entry, LearnPolicy, LearnedError, LearnedKey};
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
    /// The learned state is neither read nor written from now on. It stays on disk until you run chaski
    /// data delete learned.
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
    let folder = required_folder()?;
    match &args.command {
        LearnCommand::On(args) => set(&folder, args.model.as_deref(), true)?,
        LearnCommand::Off(args) => set(&folder, args.model.as_deref(), false)?,
        LearnCommand::Status(args) => status(&folder, args)?,
        LearnCommand::Forget(args) => forget(&folder, args.model.as_deref())?,
    }
    Ok(ExitCode::Success)
}

/// The folder of the learned state.
///
/// # Errors
/// When the system names no data folder.
pub fn required_folder() -> Result<PathBuf, Failure> {
    folder()
        .ok_or_else(|| Failure::new("there is no folder for the learned state").with_hint("set HOME or XDG_DATA_HOME"))
}

/// Folder of the learned state; `None` if the system has no data folder.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    Some(folders::data()?.join("learned"))
}

/// Key of a model's learned state; `None` for a file without a vocabulary.
#[must_use]
pub fn learned_key(gguf: &Gguf) -> Option<LearnedKey> {
    Some(LearnedKey { model: model_id(gguf.path()), vocabulary: Vocabulary::of(gguf)?.hash, draft_model: None })
}

/// Whether a run may read or write learned state: decided by `CHASKI_LEARN`, the run's flag, and the user's settings.
/// Prints a notice if the settings cannot be read.
#[must_use]
pub fn policy(folder: &Path, key: &LearnedKey, no_learn: bool) -> LearnPolicy {
    if let Err(error) = learned::switch(folder) {
        stderr_line(&format!(
            "notice: learning is off, because its settings cannot be read: {error}; hint: run \
             chaski data learning on or chaski data learning off"
        ));
    }
    learned::policy(folder, key, std::env::var(VARIABLE).ok().as_deref(), no_learn)
}

fn key_of(model: &Path) -> Result<LearnedKey, Failure> {
    let gguf = open_model(model)?;
    learned_key(&gguf)
        .ok_or_else(|| Failure::new(format!("{}: the model file contains no vocabulary", model.display())))
}

/// Turns learning on or off, for one model or for all.
///
/// # Errors
/// When the model has no vocabulary, or the settings cannot be written.
pub fn set(folder: &Path, model: Option<&Path>, is_on: bool) -> Result<(), Failure> {
    let key = model.map(key_of).transpose()?;
    learned::set_switch(folder, key.as_ref(), is_on)?;
    let whom = model.map_or_else(|| "all models".to_owned(), |path| path.display().to_string());
    stderr_line(&format!("learning is {} for {whom}", word(is_on)));
    if !is_on {
        stderr_line("the learned state stays on disk; to delete it: chaski data delete learned");
    }
    Ok(())
}

/// Deletes the learned state of one model, or of all.
///
/// # Errors
/// When a file cannot be deleted.
pub fn forget(folder: &Path, model: Option<&Path>) -> Result<(), Failure> {
    let key = model.map(key_of).transpose()?;
    let known = learned::list(folder)?;
    let deleted = learned::forget(folder, key.as_ref())?;
    for path in &deleted {
        let name = known.iter().find(|entry| entry.path == *path).and_then(model_name).unwrap_or("a model");
        stderr_line(&format!("deleted: {} ({})", sanitize_for_terminal(name), path.display()));
    }
    if deleted.is_empty() {
        stderr_line("there was no learned state to delete");
    }
    Ok(())
}

/// `on` or `off`.
#[must_use]
pub fn word(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// The learned state of all models, and whether learning is on.
#[derive(Serialize)]
pub struct LearnedStatus<'a> {
    learning: bool,
    #[serde(skip)]
    is_off_by_variable: bool,
    folder: &'a Path,
    /// One for each file.
    pub models: Vec<ModelStatus<'a>>,
}

/// The learned state of one model.
#[derive(Serialize)]
pub struct ModelStatus<'a> {
    /// File name of the model; null if the state cannot be read.
    pub model: Option<&'a str>,
    /// File name of the draft model, if one drafted too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_model: Option<&'a str>,
    /// Whether learning is on for it.
    pub learning: bool,
    file: &'a Path,
    /// Its size.
    pub bytes: u64,
    written_unix_s: Option<u64>,
}

impl LearnedStatus<'_> {
    /// `on` or `off`, with the reason if it is not a setting.
    #[must_use]
    pub fn switch(&self) -> String {
        let why = if self.is_off_by_variable { format!(" ({VARIABLE} is set)") } else { String::new() };
        format!("{}{why}", word(self.learning))
    }
}

impl ModelStatus<'_> {
    /// The model in words, safe to print.
    #[must_use]
    pub fn name(&self) -> String {
        let draft = match self.draft_model {
            None => String::new(),
            Some(HIDDEN_NAME) => " with a drafter on hidden states".to_owned(),
            Some(draft) => format!(" with draft model {draft}"),
        };
        sanitize_for_terminal(&format!("{}{draft}", self.model.unwrap_or("unreadable"))).into_owned()
    }

    /// When it was written.
    #[must_use]
    pub fn ago(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.written_unix_s.map_or_else(
            || "at an unknown time".to_owned(),
            |then| format!("{} h ago", now.saturating_sub(then) / 3600),
        )
    }
}

fn model_name(entry: &Entry) -> Option<&str> {
    Some(entry.key.as_ref()?.model.name())
}

/// Whether learning is on, and what `entries` in `folder` hold.
///
/// # Errors
/// When the settings cannot be read.
pub fn status_of<'a>(folder: &'a Path, entries: &'a [Entry]) -> Result<LearnedStatus<'a>, Failure> {
    let switch = learned::switch(folder)?;
    let is_off_by_variable = learned::is_off(std::env::var(VARIABLE).ok().as_deref());
    let model = |entry: &'a Entry| ModelStatus {
        model: model_name(entry),
        draft_model: entry.key.as_ref().and_then(|key| Some(key.draft_model.as_ref()?.name())),
        learning: entry.key.as_ref().map_or(switch.all.unwrap_or(true), |key| switch.is_on(key)),
        file: &entry.path,
        bytes: entry.n_bytes,
        written_unix_s: entry
            .written
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .map(|since_epoch| since_epoch.as_secs()),
    };
    Ok(LearnedStatus {
        learning: switch.all.unwrap_or(true) && !is_off_by_variable,
        is_off_by_variable,
        folder,
        models: entries.iter().map(model).collect(),
    })
}

fn status(folder: &Path, args: &StatusArgs) -> Result<(), Failure> {
    let entries = learned::list(folder)?;
    let status = status_of(folder, &entries)?;
    if args.json {
        let json = serde_json::to_string(&status).map_err(|error| Failure::new(error.to_string()))?;
        return write_stdout(&(json + "\n"));
    }
    let mut text = format!("learning: {}\nfolder: {}\n{WHAT}\n", status.switch(), folder.display());
    for model in &status.models {
        let (name, state, ago) = (model.name(), word(model.learning), model.ago());
        text += &format!("{name}: {state}, {} bytes, written {ago}, {}\n", model.bytes, model.file.display());
    }
    if status.models.is_empty() {
        text += "nothing is saved so far\n";
    }
    write_stdout(&text)
}

impl From<LearnedError> for Failure {
    fn from(error: LearnedError) -> Failure {
        let failure = Failure::new(error.to_string());
        match error {
            LearnedError::Damaged(path) if path.extension().is_some_and(|end| end == "json") => {
                failure.with_hint("run chaski data learning on or chaski data learning off to write the settings again")
            }
            _ => failure,
        }
    }
}
