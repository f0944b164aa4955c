//! The raw command line: commands, flags and their types. Names and defaults are llama.cpp's where it has the same
//! flag.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Arg, Args as ClapArgs, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::chat::thinking::Reasoning;
use crate::cli::align::AlignArgs;
use crate::cli::batch::args::BatchArgs;
use crate::cli::bench::args::BenchArgs;
use crate::cli::cache::{CacheArgs, PromptCacheArgs};
use crate::cli::chat::ChatArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::config::show::ShowArgs;
use crate::cli::constraint::ConstraintArgs;
use crate::cli::data::DataArgs;
use crate::cli::drafter::DrafterArgs;
use crate::cli::exact::ExactArg;
use crate::cli::learn::LearnArgs;
use crate::cli::lora::LoraArg;
use crate::cli::models::ModelsArgs;
use crate::cli::replay::ReplayArgs;
use crate::cli::sandbox::SandboxArgs;
use crate::cli::shell::{CompletionsArgs, ManArgs};
use crate::cli::template::TemplateArgs;
use crate::cli::tune::TuneArgs;
use crate::engine::DrafterKind;

pub use crate::cli::sampling::SamplingArgs;

/// Hint that says how to give a model.
pub const MODEL_HINT: &str = "give -m FILE.gguf, -m NAME from chaski models list, or set LLAMA_ARG_MODEL; scripts/get-model.sh downloads \
     a model";

/// Run GGUF language models on your own machine: fast, offline, and with the model's own words
///
/// Chaski drafts likely continuations and has the model verify several tokens in one step. The model still chooses
/// every token.
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
    /// Measure how fast a model runs on this machine, with drafting and without
    ///
    /// bench answers each prompt with plain decoding and with each drafter in turn, and compares them. --curve,
    /// --rows and --check measure something else instead. The table goes to stdout, everything else to stderr.
    Bench(BenchArgs),
    /// Find the fastest settings for a model on this machine, and save them
    ///
    /// tune takes about a minute per model. It measures flash attention, thread counts and KV cache types, with a
    /// short and a long context. A quantized KV cache changes the model's output: tune measures it, but chooses
    /// it only with --lossy-kv.
    Tune(TuneArgs),
    /// Make drafter files, so that drafting starts with knowledge
    ///
    /// A drafter file (a base) contains sequences of three tokens and how often they occurred. `align` lets the
    /// model write one for itself, `build` makes one from your texts.
    Drafter(DrafterArgs),
    /// Show or delete what chaski has saved; turn learning on or off
    ///
    /// Chaski saves prompts it has read, statistics of generated tokens, and measured times, so that the next
    /// answer comes sooner. Sizes are limited, only you can read the files, and nothing leaves this machine.
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
            Command::Replay(_) | Command::Cache(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                None
            }
        }
    }
}

/// Flags that choose the model and the machine's resources.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Model and machine")]
pub struct EngineArgs {
    /// GGUF file, or a name from `chaski models list`
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Context size in tokens, prompt and answer together [default: as needed]
    ///
    /// `auto` is as much as fits into memory, 0 as much as the model was trained with.
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE", hide_env = true)]
    pub ctx_size: Option<ContextSize>,

    /// Threads [default: as tuned, or one per physical core]
    ///
    /// 0 and -1 mean the default.
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS", hide_env = true)]
    pub threads: Option<usize>,

    /// Threads for prompts and drafts [default: as tuned, or as --threads] [short: -tb]
    #[arg(hide_short_help = true, long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS_BATCH", hide_env = true)]
    pub threads_batch: Option<usize>,

    /// Layers to run on the GPU [default: all that fit] [short: -ngl]
    ///
    /// `all`, `auto` and -1 mean the default. Only builds with GPU support use it.
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_N_GPU_LAYERS", hide_env = true)]
    pub n_gpu_layers: Option<GpuLayers>,

    /// Use flash attention [default: as tuned, or off on a CPU] [short: -fa]
    ///
    /// On a CPU it makes verifying drafts slower.
    #[arg(
        hide_short_help = true,
        long,
        value_name = "WHEN",
        allow_negative_numbers = true,
        env = "LLAMA_ARG_FLASH_ATTN",
        hide_env = true
    )]
    pub flash_attn: Option<When>,

    /// Type of the keys in the KV cache [default: as tuned, or f16] [short: -ctk]
    ///
    /// All types but f32 and f16 change the model's output.
    #[arg(hide_short_help = true, long, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_K", hide_env = true)]
    pub cache_type_k: Option<CacheTypeArg>,

    /// Type of the values in the KV cache [default: as tuned, or f16] [short: -ctv]
    ///
    /// All types but f32 and f16 change the model's output. q8_0 and smaller types need flash attention.
    #[arg(hide_short_help = true, long, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_V", hide_env = true)]
    pub cache_type_v: Option<CacheTypeArg>,

    /// Apply a LoRA adapter (GGUF), optionally scaled, as in style.gguf=0.5
    #[arg(hide_short_help = true, long, value_name = "FILE[=SCALE]")]
    pub lora: Option<LoraArg>,

    /// Skip the memory check (may swap heavily or crash)
    #[arg(hide_short_help = true, long)]
    pub no_memory_check: bool,

    /// Milliseconds for measuring the cost curve, once per model and settings
    ///
    /// The cost curve is what verifying several tokens in one step costs on this machine. It decides how much to
    /// draft.
    #[arg(hide_short_help = true, long, value_name = "MS", default_value_t = 1000)]
    pub curve_budget: u64,

    /// Show llama.cpp's log
    #[arg(short, long)]
    pub verbose: bool,

    /// What the engine may do.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
}

impl EngineArgs {
    /// Layers to run on the GPU; `None` is as many as fit.
    #[must_use]
    pub fn n_gpu_layers(&self) -> Option<u32> {
        self.n_gpu_layers.and_then(|GpuLayers(n)| n)
    }
}

/// Parses a number; 0 and negative numbers are 0, the default, as in llama.cpp.
fn or_default(text: &str) -> Result<usize, String> {
    let n: i64 = text.trim().parse().map_err(|_| "expected a number of threads, or -1 for the default".to_owned())?;
    usize::try_from(n.max(0)).map_err(|error| error.to_string())
}

/// GPU layers: a number, or `None` for as many as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuLayers(pub Option<u32>);

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text.trim() {
            "auto" | "all" => Ok(GpuLayers(None)),
            // llama.cpp uses negative numbers for `auto` and `all`.
            text => match text.parse::<i64>() {
                Ok(n) if n < 0 => Ok(GpuLayers(None)),
                Ok(n) => u32::try_from(n).map(|n| GpuLayers(Some(n))).map_err(|error| error.to_string()),
                Err(_) => Err("expected a number of layers, all or auto".to_owned()),
            },
        }
    }
}

/// Number of lanes, or `None` for the default (-1 in llama.cpp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel(pub Option<usize>);

impl FromStr for Parallel {
    type Err = String;

    fn from_str(text: &str) -> Result<Parallel, String> {
        match text.trim() {
            "-1" => Ok(Parallel(None)),
            text => text
                .parse()
                .map(|n| Parallel(Some(n)))
                .map_err(|_| "expected a number, or -1 for the default".to_owned()),
        }
    }
}

/// Size of a context, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextSize {
    /// As many as fit into memory, at most the model's trained length.
    Auto,
    /// The model's trained length.
    Trained,
    /// A given number.
    Positions(usize),
}

impl ContextSize {
    /// The given number, if there is one.
    #[must_use]
    pub fn number(self) -> Option<usize> {
        match self {
            ContextSize::Auto | ContextSize::Trained => None,
            ContextSize::Positions(n) => Some(n),
        }
    }
}

impl FromStr for ContextSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ContextSize, String> {
        match text.trim() {
            "auto" => Ok(ContextSize::Auto),
            "0" => Ok(ContextSize::Trained),
            text => text
                .parse()
                .map(ContextSize::Positions)
                .map_err(|_| "expected a number of tokens, 0 (as trained) or auto (what fits into memory)".to_owned()),
        }
    }
}

impl fmt::Display for ContextSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContextSize::Auto => f.write_str("auto"),
            ContextSize::Trained => f.write_str("0"),
            ContextSize::Positions(n) => n.fmt(f),
        }
    }
}

/// When to use a setting.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// Always
    #[value(aliases = ["enabled", "true", "1"])]
    On,
    /// Never
    #[value(aliases = ["disabled", "false", "0"])]
    Off,
    /// Let llama.cpp decide
    #[value(alias = "-1")]
    Auto,
}

/// Data type of KV cache entries.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CacheTypeArg {
    /// 4 bytes per number
    F32,
    /// 2 bytes per number
    F16,
    /// 2 bytes per number, less precise than f16
    Bf16,
    /// 1.06 bytes per number
    #[value(name = "q8_0")]
    Q8_0,
    /// 0.75 bytes per number
    #[value(name = "q5_1")]
    Q5_1,
    /// 0.69 bytes per number
    #[value(name = "q5_0")]
    Q5_0,
    /// 0.63 bytes per number
    #[value(name = "q4_1")]
    Q4_1,
    /// 0.56 bytes per number
    #[value(name = "q4_0")]
    Q4_0,
    /// 0.56 bytes per number, in levels that are not evenly spaced
    #[value(name = "iq4_nl")]
    Iq4Nl,
}

/// Flags of the drafter.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Drafting and prompt cache")]
pub struct DraftingArgs {
    /// How to draft
    #[arg(long, value_name = "DRAFTER", value_enum, default_value_t = DrafterKind::Auto)]
    pub drafter: DrafterKind,

    /// Drafter file to start from, or none [default: MODEL.chaski beside the model]
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// Do not read or write the learned state (see chaski data)
    #[arg(hide_short_help = true, long)]
    pub no_learn: bool,
}

/// Arguments of `run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// The prompt, same as -p TEXT
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    pub text: Option<String>,

    /// The prompt
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// Read the prompt from a file; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Replace \n, \t, \r, \\, \', \" and \xHH in PROMPT, -p, -sys and -r (not in files and stdin)
    #[arg(hide_short_help = true, short, long)]
    pub escape: bool,

    /// Do not read stdin (use it inside `while read` loops)
    #[arg(long)]
    pub no_stdin: bool,

    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// Stop after N tokens (-1: 2048, or until -c is full)
    ///
    /// With -1, an answer has at most 2048 tokens; if you give -c, it can fill the context.
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    pub n_predict: i64,

    /// End the answer before this text (repeatable)
    #[arg(short, long, value_name = "STOP", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,

    /// Use the prompt as it is, without the chat template
    ///
    /// Special tokens in the prompt are parsed.
    #[arg(long)]
    pub raw: bool,

    /// Show, hide or turn off the model's thinking [default: show, or hide with -q]
    ///
    /// Thinking never goes to stdout; --json has it as reasoning_content. With --raw, the text stays as it is
    /// unless you give this flag.
    #[arg(long, value_name = "WHAT")]
    pub reasoning: Option<Reasoning>,

    /// Print one JSON object with text, tokens and timings
    #[arg(long)]
    pub json: bool,

    /// Print one JSON object per event; the last has all of --json
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,

    /// Include log-probabilities in --json: each token's and the top N (0 to 20)
    #[arg(hide_short_help = true, long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,

    /// Do not print progress and statistics; notices stay
    #[arg(short, long)]
    pub quiet: bool,

    /// What may differ.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// What the answer must be.
    #[command(flatten)]
    pub form: ConstraintArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// What drafts, and from what.
    #[command(flatten)]
    pub drafting: DraftingArgs,

    /// Append a trace of the answer to this file, for chaski drafter replay
    ///
    /// A trace is one line of JSON: the prompt and the answer as tokens, and the likeliest tokens at each
    /// position.
    #[arg(help_heading = "Drafting and prompt cache", hide_short_help = true, long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Name of the answer in the trace, as KIND-NUMBER
    #[arg(
        help_heading = "Drafting and prompt cache",
        hide_short_help = true,
        long,
        value_name = "ID",
        default_value = "run-1",
        requires = "trace"
    )]
    pub trace_id: String,

    /// Print each step on stderr: the drafted tree, its size, and what was accepted
    ///
    /// Each drafted token has a mark: + accepted, - rejected, . not verified. The number after it is its
    /// predicted probability. Rows are the tokens verified in one step; costs are in steps of plain decoding. The
    /// answer follows at the end.
    #[arg(help_heading = "Drafting and prompt cache", hide_short_help = true, long)]
    pub explain: bool,

    /// What was read before.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// How prompts are put into words.
    #[command(flatten)]
    pub template: TemplateArgs,

    /// What is said in a file.
    #[command(flatten)]
    pub config: ConfigArgs,
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
        for (text, n) in [("all", None), ("auto", None), ("-1", None), ("-2", None), ("0", Some(0)), ("99", Some(99))] {
            assert_eq!(engine(&["--n-gpu-layers", text]).n_gpu_layers(), n, "{text}");
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }
}
