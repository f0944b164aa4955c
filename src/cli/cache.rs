//! The flags of the prompt cache, and `chaski cache`, the old name of `chaski data show` and `data delete prompts`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;

use crate::cli::engine::prompt_cache_folder;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::{stderr_line, write_stdout};
use crate::store::prompt_cache::file::StateError;
use crate::store::prompt_cache::{Entry, PromptCacheConfig};

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
    #[arg(hide_short_help = true, long, value_name = "BYTES", default_value = DEFAULT_SIZE)]
    pub prompt_cache_size: Bytes,
}

impl PromptCacheArgs {
    /// The prompt cache to use; `None` if the flags turn it off or there is no cache folder.
    #[must_use]
    pub fn config(&self) -> Option<PromptCacheConfig> {
        if self.no_prompt_cache {
            return None;
        }
        Some(PromptCacheConfig { folder: prompt_cache_folder()?, max_bytes: self.prompt_cache_size.0 })
    }
}

/// A size in bytes, as in `500M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        let upper = text.to_ascii_uppercase();
        let number = upper.trim_end_matches('B').trim_end_matches('I');
        let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
        let unit = units.iter().find_map(|(name, shift)| Some((number.strip_suffix(name)?, 1 << shift)));
        let (number, unit): (&str, u64) = unit.unwrap_or((number, 1));
        let bytes = number.parse().ok().and_then(|n: u64| n.checked_mul(unit));
        bytes.map(Bytes).ok_or_else(|| "expected a size in bytes, as in 500M or 4G".to_owned())
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
            let entries = config.entries()?;
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
    let deleted = PromptCacheConfig { folder: required_folder()?, max_bytes: 0 }.clear()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_understood() {
        for (text, n) in
            [("0", 0), ("123", 123), ("2k", 2048), ("500M", 500 << 20), ("4GiB", 4 << 30), ("1TB", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Bytes(n)), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "9999999999T", "4 G", "1E"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
