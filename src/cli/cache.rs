//! The flags of the prompt cache, and `chaski cache`, the old name of `chaski data show` and `data delete prompts`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use crate::cli::engine::prompt_cache_folder;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::files::parse_size;
use crate::cli::output::{stderr_line, write_stdout};
use crate::engine::PromptCacheConfig;
use crate::store::prompt_cache::file::StateError;
use crate::store::prompt_cache::{Entry, PromptCache};

/// Default size limit of the prompt cache: some tens of thousands of tokens of a small model.
const DEFAULT_SIZE: &str = "2G";

/// Flags of the prompt cache.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Drafting and prompt cache")]
pub struct PromptCacheArgs {
    /// Do not read or write the prompt cache (see chaski data)
    #[arg(long)]
    pub no_prompt_cache: bool,

    /// Size limit of the prompt cache, as in 500M or 4G; at most a tenth of the free disk
    #[arg(hide_short_help = true, long, value_name = "BYTES", default_value = DEFAULT_SIZE, value_parser = parse_size)]
    pub prompt_cache_size: u64,
}

impl PromptCacheArgs {
    /// The prompt cache to use; `None` if the flags turn it off or there is no cache folder.
    #[must_use]
    pub fn config(&self) -> Option<PromptCacheConfig> {
        if self.no_prompt_cache {
            return None;
        }
        Some(PromptCacheConfig { folder: prompt_cache_folder()?, max_bytes: self.prompt_cache_size })
    }
}

/// Arguments of `cache`.
#[derive(Debug, ClapArgs)]
pub struct CacheArgs {
    /// What to do
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// A command of `cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Show how many prompts the cache holds, their size, and where they are
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete all cached prompts
    Clear,
}

#[derive(Serialize)]
struct Status<'a> {
    folder: &'a PathBuf,
    prompts: usize,
    bytes: u64,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn cache(args: &CacheArgs) -> Result<ExitCode, Failure> {
    let config = PromptCacheConfig { folder: required_folder()?, max_bytes: 0 };
    let size = |entries: &[Entry]| entries.iter().map(|entry| entry.n_bytes).sum();
    match args.command {
        CacheCommand::Status { json } => {
            let entries = PromptCache(&config).entries()?;
            let status = Status { folder: &config.folder, prompts: entries.len(), bytes: size(&entries) };
            write_stdout(&if json {
                serde_json::to_string(&status).map_err(|error| Failure::new(error.to_string()))? + "\n"
            } else {
                format!(
                    "prompts: {}, {:.1} MiB\nfolder: {}\nThe cache contains your prompts, as tokens, and the model's \
                     state after them. Only you can read it.\n",
                    status.prompts,
                    status.bytes as f64 / f64::from(1 << 20),
                    status.folder.display()
                )
            })?;
        }
        CacheCommand::Clear => clear()?,
    }
    Ok(ExitCode::Success)
}

/// Deletes all cached prompts.
///
/// # Errors
/// When there is no cache folder, or a file cannot be deleted.
pub fn clear() -> Result<(), Failure> {
    let config = PromptCacheConfig { folder: required_folder()?, max_bytes: 0 };
    let deleted = PromptCache(&config).clear()?;
    let n_bytes: u64 = deleted.iter().map(|entry| entry.n_bytes).sum();
    stderr_line(&format!("deleted: {} prompts, {:.1} MiB", deleted.len(), n_bytes as f64 / f64::from(1 << 20)));
    Ok(())
}

fn required_folder() -> Result<PathBuf, Failure> {
    prompt_cache_folder()
        .ok_or_else(|| Failure::new("there is no cache folder").with_hint("set HOME or XDG_CACHE_HOME"))
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        match error {
            StateError::Io { path, error } => Failure::io(&path, &error),
            StateError::Damaged(_) => Failure::new(error.to_string()),
        }
    }
}
