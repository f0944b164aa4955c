//! `chaski models`: lists the GGUF files on this machine, inspects one, and checks memory fit. It only reads.

mod fit;
mod list;
mod resolve;
mod show;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::failure::{ExitCode, Failure};
use crate::gguf::Gguf;
use crate::models::draft_models;
use crate::models::locations::{self, Place, Store};
use crate::models::search::search;

pub use resolve::resolve;

/// Arguments of `models`.
#[derive(Debug, ClapArgs)]
pub struct ModelsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ModelsCommand,
}

/// A command of `models`.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List the models on this machine
    ///
    /// Searches models/ of the source folder (or CHASKI_MODELS), and the models of Hugging Face's tools, Ollama,
    /// LM Studio and llama.cpp. -m accepts these names, or the start of one if it is unique.
    List(ListArgs),
    /// Show what a model file contains, and how fast it runs here
    Show(ShowArgs),
    /// Show which context sizes fit into the available memory
    Fit(FitArgs),
}

impl ModelsCommand {
    /// The model argument of the command, if it has one.
    pub fn model(&mut self) -> Option<&mut PathBuf> {
        match self {
            ModelsCommand::List(_) => None,
            ModelsCommand::Show(args) => Some(&mut args.model),
            ModelsCommand::Fit(args) => Some(&mut args.model),
        }
    }
}

/// Arguments of `models list`.
#[derive(Debug, ClapArgs)]
pub struct ListArgs {
    /// Also search this folder (repeatable)
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models show`.
#[derive(Debug, ClapArgs)]
pub struct ShowArgs {
    /// GGUF file, or a name from `chaski models list`
    #[arg(value_name = "FILE|NAME")]
    pub model: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models fit`.
#[derive(Debug, ClapArgs)]
pub struct FitArgs {
    /// GGUF file, or a name from `chaski models list`
    #[arg(value_name = "FILE|NAME")]
    pub model: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn models(args: &ModelsArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ModelsCommand::List(args) => list::list(args)?,
        ModelsCommand::Show(args) => show::show(args)?,
        ModelsCommand::Fit(args) => fit::fit(args)?,
    }
    Ok(ExitCode::Success)
}

/// Names of the models on this machine that could draft for `target`.
#[must_use]
pub fn draft_models_for(target: &Gguf) -> Vec<String> {
    let listed = draft_models::draft_models_for(target, search(&places_with(&[])).found);
    listed.into_iter().map(|listed| list::clean(&listed.found.name)).collect()
}

/// Folders with models: `dirs` first, then the known ones.
fn places_with(dirs: &[PathBuf]) -> Vec<Place> {
    let program = std::env::current_exe().ok();
    let known = locations::places(|name| std::env::var_os(name), program.as_deref());
    let given = dirs.iter().map(|folder| Place { store: Store::Folder, folder: folder.clone() });
    given.chain(known).collect()
}
