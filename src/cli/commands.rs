//! All commands and their arguments.

use std::path::PathBuf;

use clap::{Arg, CommandFactory as _, Parser, Subcommand};

use crate::cli::align::AlignArgs;
use crate::cli::batch::args::BatchArgs;
use crate::cli::bench::args::BenchArgs;
use crate::cli::cache::CacheArgs;
use crate::cli::chat::ChatArgs;
use crate::cli::config::show::ShowArgs;
use crate::cli::data::DataArgs;
use crate::cli::devices::DevicesArgs;
use crate::cli::draft_model;
use crate::cli::drafter::DrafterArgs;
use crate::cli::learn::LearnArgs;
use crate::cli::models::ModelsArgs;
use crate::cli::replay::ReplayArgs;
use crate::cli::run::args::RunArgs;
use crate::cli::shell::{CompletionsArgs, ManArgs};
use crate::cli::tune::TuneArgs;

/// Run GGUF language models on your CPU, offline and fast
///
/// Chaski guesses the next tokens, and the model checks several of them in one step. The text is the same as
/// without guessing. Start with: chaski run -m MODEL.gguf -p "Hello"
#[derive(Debug, Parser)]
#[command(name = "chaski", disable_version_flag = true, arg_required_else_help = true, max_term_width = 110)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Print the versions of chaski and llama.cpp, and the CPU features of this build
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt
    ///
    /// The prompt is stdin, then -f FILE, then PROMPT or -p TEXT. The answer goes to stdout, everything else to
    /// stderr.
    Run(Box<RunArgs>),
    /// Chat with a model, and continue saved chats
    ///
    /// Type a message, or a command such as /help. If stdin is not a terminal, each line of it is a message, and
    /// only the answers go to stdout.
    Chat(Box<ChatArgs>),
    /// Answer many prompts from a file, and resume after an interruption
    ///
    /// Chaski answers many lines at a time. After Ctrl-C, a crash or a power cut, run the same command again: it
    /// continues, and every line gets exactly one result. Exit code 3 means that some lines failed; each has an
    /// error record.
    Batch(Box<BatchArgs>),
    /// List models, inspect a file, check memory fit
    Models(ModelsArgs),
    /// Show the CPU and the GPUs that models can run on
    Devices(DevicesArgs),
    /// Measure how fast a model runs on this machine, with drafting and without
    ///
    /// bench answers each prompt with plain decoding and with each drafter in turn, and compares them. --curve,
    /// --rows and --check measure something else instead. The table goes to stdout, everything else to stderr.
    Bench(Box<BenchArgs>),
    /// Find the fastest settings for a model on this machine, and save them
    ///
    /// tune takes about a minute per model. It measures flash attention, thread counts and KV cache types, with a
    /// short and a long context. A quantized KV cache changes the model's output: tune measures it, but chooses
    /// it only with --lossy-kv.
    Tune(TuneArgs),
    /// Build, inspect, merge and prune drafter files; compare drafters
    ///
    /// A drafter file counts sequences of three tokens; drafting starts from it (--base). `build` counts them in your
    /// texts, `align` in text that the model writes.
    Drafter(DrafterArgs),
    /// Show or delete what chaski has saved; turn learning on or off
    ///
    /// Chaski saves prompts it has read, statistics of generated tokens, and measured times, to make later
    /// answers faster. Sizes are limited, only you can read the files, and nothing leaves this machine.
    Data(DataArgs),
    /// Show the settings in use, and where each comes from
    Config(ShowArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all pages into a folder
    Man(ManArgs),
    /// Old name of `chaski drafter align`
    #[command(hide = true)]
    Align(AlignArgs),
    /// Old name of `chaski drafter replay`
    #[command(hide = true)]
    Replay(ReplayArgs),
    /// Old name of `chaski data learning` and `chaski data delete learned`
    #[command(hide = true)]
    Learn(LearnArgs),
    /// Old name of `chaski data show` and `chaski data delete prompts`
    #[command(hide = true)]
    Cache(CacheArgs),
}

impl Command {
    /// The model flag of the command: a file or a name.
    pub fn model(&mut self) -> Option<&mut PathBuf> {
        match self {
            Command::Run(args) => Some(&mut args.engine.model),
            Command::Chat(args) => Some(&mut args.engine.model),
            Command::Batch(args) => Some(&mut args.engine.0.model),
            Command::Bench(args) => Some(&mut args.engine.model),
            Command::Align(args) => Some(&mut args.engine.model),
            Command::Tune(args) => Some(&mut args.model),
            Command::Learn(args) => args.command.model(),
            Command::Drafter(args) => args.command.model(),
            Command::Data(args) => args.command.model(),
            Command::Models(args) => args.command.model(),
            Command::Devices(args) => args.model.as_mut(),
            Command::Replay(_) | Command::Cache(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                None
            }
        }
    }

    /// The draft model that the command names: a file or a name.
    pub fn draft_model(&mut self) -> Option<&mut PathBuf> {
        let given = match self {
            Command::Run(args) => &mut args.drafting.draft_model,
            Command::Chat(args) => &mut args.drafting.draft_model,
            Command::Bench(args) => &mut args.draft_model,
            _ => return None,
        };
        given.as_mut().filter(|path| draft_model::named(Some(path)).is_some())
    }
}

/// The clap command. The long help of each command ends with the environment variables of its flags.
#[must_use]
pub fn command() -> clap::Command {
    with_variables(Args::command())
}

fn with_variables(command: clap::Command) -> clap::Command {
    let variable = |arg: &Arg| Some(format!("{} (--{})", arg.get_env()?.to_str()?, arg.get_long()?));
    let variables: Vec<String> = command.get_arguments().filter_map(variable).collect();
    let command = command.mut_subcommands(with_variables);
    match variables.is_empty() {
        true => command,
        false => command
            .after_long_help(format!("Environment variables, used if the flag is not given: {}", variables.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{ContextSize, GpuLayers};
    use crate::tune::CacheType;

    #[test]
    fn issue_13_8_flags_take_what_llama_cpp_takes() {
        let engine = |line: &[&str]| {
            let line = [&["chaski", "run", "-m", "x"], line].concat();
            let Some(Command::Run(run)) = Args::try_parse_from(line).unwrap().command else { panic!("run") };
            run.engine
        };
        for name in ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"] {
            let engine = engine(&["--cache-type-k", name, "--cache-type-v", name]);
            let [k, v] = [engine.cache_type_k, engine.cache_type_v].map(|given| CacheType::from(given.unwrap()));
            assert_eq!((k.to_string(), v), (name.to_owned(), k));
        }
        assert_eq!(engine(&["-c", "0"]).ctx_size, Some(ContextSize::Trained));
        assert_eq!(engine(&["-t", "-1"]).threads, Some(0));
        let (auto, all, number) = (GpuLayers::Auto, GpuLayers::All, GpuLayers::Number);
        for (text, n) in [("all", all), ("auto", auto), ("-1", auto), ("-2", all), ("0", number(0)), ("99", number(99))]
        {
            assert_eq!(engine(&["--n-gpu-layers", text]).n_gpu_layers(), n, "{text}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
