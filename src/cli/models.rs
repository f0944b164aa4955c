//! `chaski models`: the GGUF files on this machine, what is in one, and what fits into memory. Everything of it only
//! reads.

mod fit;
mod list;
mod resolve;
mod show;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::cli::failure::{ExitCode, Failure};
use crate::models::locations::{self, Place, Store};

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
    /// Looks into models/ of a checkout (or CHASKI_MODELS), Hugging Face's cache, Ollama, LM Studio and llama.cpp's cache.
    /// Any -m takes a name of this list, or a beginning of it that no other name has.
    List(ListArgs),
    /// Tell what is in a model file
    Show(ShowArgs),
    /// Tell which contexts fit into the memory that is available now
    Fit(FitArgs),
}

impl ModelsCommand {
    /// The model that was given.
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
    /// Look into this folder as well (repeatable)
    #[arg(long, value_name = "DIR")]
    pub dir: Vec<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models show`.
#[derive(Debug, ClapArgs)]
pub struct ShowArgs {
    /// GGUF file, or a name as models list tells it
    #[arg(value_name = "FILE|NAME")]
    pub model: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models fit`.
#[derive(Debug, ClapArgs)]
pub struct FitArgs {
    /// GGUF file, or a name as models list tells it
    #[arg(value_name = "FILE|NAME")]
    pub model: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// What the user should read.
pub fn models(args: &ModelsArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ModelsCommand::List(args) => list::list(args)?,
        ModelsCommand::Show(args) => show::show(args)?,
        ModelsCommand::Fit(args) => fit::fit(args)?,
    }
    Ok(ExitCode::Success)
}

/// Where this user's models are, and `dirs`, which come first.
fn places_with(dirs: &[PathBuf]) -> Vec<Place> {
    let program = std::env::current_exe().ok();
    let known = locations::places(|name| std::env::var_os(name), program.as_deref());
    let given = dirs.iter().map(|folder| Place { store: Store::Folder, folder: folder.clone() });
    given.chain(known).collect()
}
