//! The raw command line. Names and defaults are llama.cpp's where it has them.

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
use crate::llama::worker::DrafterKind;

pub use crate::cli::sampling::SamplingArgs;

/// How to give a model.
pub const MODEL_HINT: &str =
    "-m FILE.gguf, a name that chaski models list tells, or LLAMA_ARG_MODEL; scripts/get-model.sh fetches a model";

/// Runs quantized GGUF models on laptops, faster: drafts several candidate continuations and has the model verify them
/// in one batch. The text is the model's own.
#[derive(Debug, Parser)]
#[command(name = "chaski", disable_version_flag = true, arg_required_else_help = true, max_term_width = 110)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Print the versions of chaski and llama.cpp, and the CPU features compiled in
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer one prompt
    ///
    /// The prompt is what comes in on stdin, then -f, then -p or PROMPT. The answer goes to stdout, everything else to stderr.
    Run(Box<RunArgs>),
    /// Talk with a model: a prompt with history and completion, sessions that go on another day
    ///
    /// What is typed is a message, or a command that begins with /, /help for instance. Without a terminal each line of
    /// stdin is a message, and stdout carries the answers and nothing else. The context has 4096 positions unless -c says
    /// otherwise.
    Chat(Box<ChatArgs>),
    /// Answer many prompts, offline: a request a line in, a result a line out, and nothing lost
    ///
    /// Lines are answered side by side. The same command goes on after Ctrl-C, a crash or a power cut, and does nothing
    /// twice. Exit code 3 means that some lines failed; each has a record with an error.
    Batch(Box<BatchArgs>),
    /// Compare drafters with plain decoding on real text, and measure this machine
    ///
    /// Every prompt is answered by every drafter in turn, and again, so that a machine that slows down slows all. With
    /// --curve, --rows or --check something else is measured. The table goes to stdout, everything else to stderr.
    Bench(BenchArgs),
    /// Judge drafters on recorded answers, in seconds and without a model
    Replay(ReplayArgs),
    /// Measure which settings decode fastest on this machine, and keep them
    ///
    /// Once per model, in about a minute: flash attention, threads and the numbers of the KV cache, with a short and a
    /// long context. A quantized KV cache is measured but not chosen, unless --lossy-kv is given.
    Tune(TuneArgs),
    /// Have a model write a base for its drafter
    ///
    /// The model answers many prompts side by side; its tokens and what else it held possible become a base file.
    /// Ctrl-C keeps what is done, and the same command goes on.
    Align(AlignArgs),
    /// Rule what is kept from normal use
    ///
    /// From what models generate, chaski learns to draft better; it keeps statistics of generated tokens, of bounded
    /// size, in a private folder of this user. Prompts are not kept, and nothing leaves this machine.
    /// CHASKI_LEARN=off turns it off for one run.
    Learn(LearnArgs),
    /// Rule which prompts are kept
    ///
    /// A prompt that a model read is kept on disk as the model's own numbers, with its tokens: a prompt that begins like it
    /// is answered at once. Files are private to this user and bounded in size; those used longest ago go first.
    Cache(CacheArgs),
    /// Tell which models there are, what is in them, and what fits into memory
    Models(ModelsArgs),
    /// Show the settings in force
    Config(ShowArgs),
    /// Print a script that completes commands and flags in a shell
    Completions(CompletionsArgs),
    /// Print the manual's first page, or write all its pages
    Man(ManArgs),
    /// Make, show and change drafter files: tri-grams that drafting starts from
    Drafter(DrafterArgs),
}

impl Command {
    /// The model that was given: a file, or a name.
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
            Command::Models(args) => args.command.model(),
            Command::Replay(_) | Command::Cache(_) | Command::Config(_) | Command::Completions(_) | Command::Man(_) => {
                None
            }
        }
    }
}

/// Which model, and on what.
#[derive(Clone, Debug, ClapArgs)]
pub struct EngineArgs {
    /// GGUF file, or a name that chaski models list tells
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Positions of the context: prompt and answer; auto is as many as fit into memory, 0 as many as the model was trained with
    /// [default: as needed]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE", hide_env = true)]
    pub ctx_size: Option<ContextSize>,

    /// Threads for one row; 0 and -1 are the default [default: as tuned, or the physical cores]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS", hide_env = true)]
    pub threads: Option<usize>,

    /// -tb: threads for prompts and drafts [default: as --threads, or as tuned]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS_BATCH", hide_env = true)]
    pub threads_batch: Option<usize>,

    /// -ngl: layers on the GPU, in a build that has one; all, auto and -1 are the default [default: all that fit]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_N_GPU_LAYERS", hide_env = true)]
    pub n_gpu_layers: Option<GpuLayers>,

    /// -fa: flash attention [default: as tuned, or off on a CPU, where it makes verifying slower]
    #[arg(long, value_name = "WHEN", allow_negative_numbers = true, env = "LLAMA_ARG_FLASH_ATTN", hide_env = true)]
    pub flash_attn: Option<When>,

    /// -ctk: numbers of the KV cache's keys; all but f32 and f16 change the model's output [default: as tuned, or f16]
    #[arg(long, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_K", hide_env = true)]
    pub cache_type_k: Option<CacheTypeArg>,

    /// -ctv: the same for its values; q8_0 and smaller need flash attention [default: as tuned, or f16]
    #[arg(long, value_name = "TYPE", env = "LLAMA_ARG_CACHE_TYPE_V", hide_env = true)]
    pub cache_type_v: Option<CacheTypeArg>,

    /// LoRA adapter for the model, a GGUF file; =SCALE says how much of it, as in style.gguf=0.5
    #[arg(long, value_name = "FILE[=SCALE]")]
    pub lora: Option<LoraArg>,

    /// Load it whatever memory there is: what does not fit is read from the disk again and again, or ends the process
    #[arg(long)]
    pub no_memory_check: bool,

    /// Time for measuring the cost of drafts on this machine, once per model and settings, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub curve_budget: u64,

    /// Show llama.cpp's log
    #[arg(short, long)]
    pub verbose: bool,

    /// What the engine may do.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
}

impl EngineArgs {
    /// Layers on the GPU; `None` is as many as fit.
    #[must_use]
    pub fn n_gpu_layers(&self) -> Option<u32> {
        self.n_gpu_layers.and_then(|GpuLayers(n)| n)
    }
}

/// A number in which everything below 1 means the default, as in llama.cpp; then it is 0.
fn or_default(text: &str) -> Result<usize, String> {
    let n: i64 = text.trim().parse().map_err(|_| "expected a number of threads".to_owned())?;
    usize::try_from(n.max(0)).map_err(|error| error.to_string())
}

/// Layers on the GPU: a number, or `None` for as many as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuLayers(pub Option<u32>);

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text.trim() {
            "auto" | "all" => Ok(GpuLayers(None)),
            // Below 0 they are llama.cpp's numbers for these words.
            text => match text.parse::<i64>() {
                Ok(n) if n < 0 => Ok(GpuLayers(None)),
                Ok(n) => u32::try_from(n).map(|n| GpuLayers(Some(n))).map_err(|error| error.to_string()),
                Err(_) => Err("expected a number of layers, all or auto".to_owned()),
            },
        }
    }
}

/// Texts at a time: a number, or `None` for the default, which is -1 in llama.cpp.
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

/// How many positions a context has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextSize {
    /// As many as fit, and no more than the model knows.
    Auto,
    /// As many as the model was trained with.
    Trained,
    /// So many.
    Positions(usize),
}

impl ContextSize {
    /// The number, if one was given.
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
                .map_err(|_| "expected a number of positions, 0 or auto".to_owned()),
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

/// Whether a setting is used.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// Always
    #[value(aliases = ["enabled", "true", "1"])]
    On,
    /// Never
    #[value(aliases = ["disabled", "false", "0"])]
    Off,
    /// As llama.cpp decides
    #[value(alias = "-1")]
    Auto,
}

/// A number of the KV cache.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CacheTypeArg {
    /// 4 bytes
    F32,
    /// 2 bytes
    F16,
    /// 2 bytes, less precise
    Bf16,
    /// About 1 byte
    #[value(name = "q8_0")]
    Q8_0,
    /// About 3/4 of a byte
    #[value(name = "q5_1")]
    Q5_1,
    /// A little less
    #[value(name = "q5_0")]
    Q5_0,
    /// About 5/8 of a byte
    #[value(name = "q4_1")]
    Q4_1,
    /// About half a byte
    #[value(name = "q4_0")]
    Q4_0,
    /// About half a byte, in levels that are not evenly spaced
    #[value(name = "iq4_nl")]
    Iq4Nl,
}

/// What drafts, and from what.
#[derive(Debug, ClapArgs)]
pub struct DraftingArgs {
    /// What drafts
    #[arg(long, value_name = "DRAFTER", value_enum, default_value_t = DrafterKind::Auto)]
    pub drafter: DrafterKind,

    /// Drafter file to begin with; none is none [default: the one beside the model, named like it with .chaski]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// Neither use nor keep what is learned from answers; see chaski learn
    #[arg(long)]
    pub no_learn: bool,
}

/// Arguments of `run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Text of the prompt, the same as -p TEXT
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    pub text: Option<String>,

    /// Text of the prompt
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// File with the prompt; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Read \n, \t, \r, \\, \', \" and \xHH in PROMPT, -p, -sys and -r; files and stdin stay as they are
    #[arg(short, long)]
    pub escape: bool,

    /// Leave stdin alone: a loop over lines keeps its other lines
    #[arg(long)]
    pub no_stdin: bool,

    /// -sys: system prompt
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// Most tokens to generate; -1 is until the model ends its answer
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    pub n_predict: i64,

    /// End the answer where this text would begin (repeatable)
    #[arg(short, long, value_name = "STOP", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,

    /// Send the prompt as it is: no chat template, special tokens parsed
    #[arg(long)]
    pub raw: bool,

    /// What is done with the model's thinking: it is never on stdout; with --json it is reasoning_content [default: show on
    /// stderr, unless -q or --raw]
    #[arg(long, value_name = "WHAT")]
    pub reasoning: Option<Reasoning>,

    /// Print one JSON object with text, tokens and timings
    #[arg(long)]
    pub json: bool,

    /// Print what happens, one JSON object a line: progress, pieces of text, and at the end what --json prints
    #[arg(long, conflicts_with = "json")]
    pub jsonl: bool,

    /// Tell with --json how likely each token was, and the N likeliest instead of it (0 to 20), as OpenAI does
    #[arg(long, value_name = "N", requires = "json")]
    pub logprobs: Option<usize>,

    /// What drafts, and from what.
    #[command(flatten)]
    pub drafting: DraftingArgs,

    /// Append what a replay needs to this file, one JSON object a line: prompt and answer as tokens, and what the model
    /// held likely
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Names the answer in the trace; what comes before the last - is its kind
    #[arg(long, value_name = "ID", default_value = "run-1", requires = "trace")]
    pub trace_id: String,

    /// Print every step on stderr: the tree, what it promised, how much was verified and why; the answer comes after them
    ///
    /// Before each drafted token stands what became of it: + accepted, - rejected, . not verified; after it, how
    /// probable that was. Costs are in plain steps.
    #[arg(long)]
    pub explain: bool,

    /// No statistics on stderr; notices stay
    #[arg(short, long)]
    pub quiet: bool,

    /// What may differ.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// What was read before.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// How prompts are put into words.
    #[command(flatten)]
    pub template: TemplateArgs,

    /// What the answer must be.
    #[command(flatten)]
    pub form: ConstraintArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// What is said in a file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// All commands and flags; at the end of a command's long help stand the variables that its flags can be set by.
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
        false => command.after_long_help(format!("Variables for flags that are not given: {}", variables.join(", "))),
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
