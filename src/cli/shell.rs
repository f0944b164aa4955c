//! `chaski completions` and `chaski man`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Command};
use clap_complete::Shell;

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::write_stdout;

/// Arguments of `completions`.
#[derive(Debug, ClapArgs)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, ClapArgs)]
pub struct ManArgs {
    /// Write the pages of all commands into this folder [default: print the first page]
    #[arg(value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// Prints a completion script for a shell.
///
/// # Errors
/// If stdout fails.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    write_stdout(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Success)
}

/// Prints the manual page of `command`, or writes the pages of all its commands into a folder.
///
/// # Errors
/// If stdout or the folder fails.
pub fn man(args: &ManArgs, command: Command) -> Result<ExitCode, Failure> {
    if let Some(folder) = &args.folder {
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map_err(|error| Failure::io(folder, &error))?;
        return Ok(ExitCode::Success);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| Failure::stdout(&error))?;
    write_stdout(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::Success)
}
