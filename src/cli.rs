//! The command line: parses arguments, validates them, and runs a command.
//!
//! stdout carries a command's result; everything else goes to stderr. Commands return a [`Failure`] and never exit.

pub mod align;
pub mod args;
pub mod batch;
pub mod bench;
pub mod cache;
pub mod chat;
pub mod commands;
pub mod config;
pub mod constraint;
pub mod context_size;
pub mod data;
pub mod devices;
pub mod draft_model;
pub mod drafter;
pub mod engine;
pub mod escape;
pub mod events;
pub mod exact;
pub mod explain;
pub mod failure;
pub mod files;
pub mod folders;
pub mod gpu_layers;
pub mod hidden_log;
pub mod input;
pub mod interrupt;
pub mod kernels;
pub mod learn;
pub mod lora;
pub mod models;
pub mod output;
pub mod prompt;
pub mod replay;
pub mod run;
pub mod sampling;
pub mod sandbox;
pub mod settings;
pub mod shell;
pub mod short_flags;
pub mod supervisor;
pub mod template;
pub mod tune;
pub mod variables;

use std::ffi::OsString;

use clap::FromArgMatches as _;
use clap::error::{ContextKind, ErrorKind};

use crate::available::address_space_limit;
use crate::cli::args::MODEL_HINT;
use crate::cli::commands::{Args, Command, command};
use crate::cli::drafter::{DrafterArgs, DrafterCommand};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::output::stderr_line;
use crate::cli::supervisor::contained;
use crate::cli::variables::Variables;

/// Runs a command line and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // If this fails, the process still ends at the file size limit, as by default.
    let _ = interrupt::outlive_full_files();
    let arguments = short_flags::expand(arguments.into_iter().map(input::without_mark));
    let configured = arguments.and_then(|given| {
        let command = variables::counting(command(), &given);
        Ok((config::configured(command, &given)?, given))
    });
    let (command, arguments) = match configured {
        Ok(configured) => configured,
        Err(failure) => return finish(Err(failure), &Variables::default()),
    };
    let is_run = arguments.get(1).is_some_and(|name| name == "run");
    let (args, variables) = match parse(command.clone(), &arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help goes to stdout with code 0, mistakes to stderr with code 2.
            let printed = error.print();
            if error.use_stderr() {
                if is_model_missing(&error) {
                    stderr_line(&format!("hint: {MODEL_HINT}"));
                }
                if let Some(hint) = variables::hint(&error, &command, &arguments) {
                    stderr_line(&format!("hint: {hint}"));
                } else if is_run && is_second_word(&error) {
                    stderr_line("hint: put the whole prompt in quotes, as in: chaski run \"Name a river.\"");
                }
                return ExitCode::Usage;
            }
            let printed = printed.map(|()| ExitCode::Success).map_err(|error| Failure::stdout(&error));
            return finish(printed, &Variables::default());
        }
    };
    finish(dispatch(args), &variables)
}

fn parse(mut command: clap::Command, arguments: &[OsString]) -> Result<(Args, Variables), clap::Error> {
    let matches = command.try_get_matches_from_mut(arguments)?;
    let variables = Variables::of(&command, &matches);
    let args = Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((args, variables))
}

fn is_model_missing(error: &clap::Error) -> bool {
    let is_model = |value: &dyn ToString| value.to_string().contains("--model <");
    error.kind() == ErrorKind::MissingRequiredArgument && error.context().any(|(_, value)| is_model(value))
}

/// Whether the error is about an extra positional word.
fn is_second_word(error: &clap::Error) -> bool {
    let word = error.get(ContextKind::InvalidArg).map(ToString::to_string);
    error.kind() == ErrorKind::UnknownArgument && word.is_some_and(|word| !word.starts_with('-'))
}

/// Prints the failure, if any, and returns the exit code.
fn finish(result: Result<ExitCode, Failure>, variables: &Variables) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(failure) => {
            let failure = failure.with_variables(variables).with_limit(address_space_limit());
            let code = failure.code;
            if !failure.is_silent() {
                stderr_line(&failure.to_string());
            }
            code
        }
    }
}

fn dispatch(mut args: Args) -> Result<ExitCode, Failure> {
    if args.version {
        return output::print_version();
    }
    if let Some(model) = args.command.as_mut().and_then(Command::model) {
        models::resolve(model).map_err(|failure| failure.about("model"))?;
    }
    if let Some(model) = args.command.as_mut().and_then(Command::draft_model) {
        models::resolve(model).map_err(|failure| failure.about(draft_model::FLAG))?;
    }
    match args.command {
        Some(Command::Run(args)) => contained(run::on_crash, || run::run(&args)),
        Some(Command::Chat(args)) => contained(|| chat::on_crash(&args), || chat::chat(&args)),
        Some(Command::Batch(args)) => batch::batch(&args),
        Some(Command::Data(args)) => data::data(&args),
        Some(Command::Cache(args)) => cache::cache(&args),
        Some(Command::Models(args)) => models::models(&args),
        Some(Command::Devices(args)) => devices::show(&args),
        Some(Command::Config(args)) => config::show::show(&args, &command()),
        Some(Command::Completions(args)) => shell::completions(&args, command()),
        Some(Command::Man(args)) => shell::man(&args, command()),
        Some(Command::Learn(args)) => learn::learn(&args),
        Some(Command::Align(args)) => drafter::drafter(&DrafterArgs { command: DrafterCommand::Align(args) }),
        Some(Command::Bench(args)) => contained(run::on_crash, || bench::bench(&args)),
        Some(Command::Replay(args)) => drafter::drafter(&DrafterArgs { command: DrafterCommand::Replay(args) }),
        Some(Command::Tune(args)) => contained(run::on_crash, || tune::tune(&args)),
        Some(Command::Drafter(args)) => drafter::drafter(&args),
        None => {
            Err(Failure::usage("no command given")
                .with_hint("try chaski run -m MODEL.gguf -p 'Hello', or chaski --help"))
        }
    }
}
