//! The command line: arguments -> validated configuration -> command.
//!
//! stdout carries what a command makes; everything else goes to stderr. Commands return a [`Failure`], never exit.

pub mod align;
pub mod args;
pub mod batch;
pub mod bench;
pub mod drafter;
pub mod engine;
pub mod explain;
pub mod failure;
pub mod form;
pub mod input;
pub mod interrupt;
pub mod learn;
pub mod lora;
pub mod output;
pub mod replay;
pub mod run;
pub mod sampling;
pub mod settings;
pub mod template;
pub mod tune;

use std::ffi::OsString;

use clap::Parser as _;

use crate::cli::args::{Args, Command};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::stderr_line;

/// Runs a command line and tells the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args::expand_short_flags(arguments)) {
        Ok(args) => args,
        Err(error) => {
            // Help goes to stdout with code 0, mistakes to stderr with code 2.
            let printed = error.print();
            if error.use_stderr() {
                return ExitCode::Usage;
            }
            return finish(printed.map(|()| ExitCode::Success).map_err(|error| Failure::stdout(&error)));
        }
    };
    finish(dispatch(args))
}

/// Tells the user what failed, and the exit code.
fn finish(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(failure) => {
            if !failure.is_silent() {
                stderr_line(&failure.to_string());
            }
            failure.code
        }
    }
}

fn dispatch(args: Args) -> Result<ExitCode, Failure> {
    if args.version {
        return output::print_version();
    }
    match args.command {
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Batch(args)) => batch::batch(&args),
        Some(Command::Learn(args)) => learn::learn(&args),
        Some(Command::Align(args)) => align::align(&args),
        Some(Command::Bench(args)) => bench::bench(&args),
        Some(Command::Replay(args)) => replay::replay(&args),
        Some(Command::Tune(args)) => tune::tune(&args),
        Some(Command::Drafter(args)) => drafter::drafter(&args),
        None => {
            Err(Failure::usage("no command given").with_hint("chaski run -m MODEL.gguf -p 'Hello'; see chaski --help"))
        }
    }
}
