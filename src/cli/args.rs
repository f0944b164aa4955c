//! The raw command line. Names and defaults are llama.cpp's where it has them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::cli::align::AlignArgs;
use crate::cli::drafter::DrafterArgs;
use crate::cli::learn::LearnArgs;
use crate::llama::worker::DrafterKind;

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
    /// The prompt is what comes in on stdin, then -f, then -p. The answer goes to stdout, everything else to stderr.
    Run(RunArgs),
    /// Compare drafters with plain decoding on real text
    ///
    /// Every prompt is answered by every drafter in turn, and again, so that a machine that slows down slows all.
    Bench(BenchArgs),
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
    /// Make, show and change drafter files: tri-grams that drafting starts from
    Drafter(DrafterArgs),
}

/// Which model, and on what.
#[derive(Debug, ClapArgs)]
pub struct EngineArgs {
    /// GGUF file
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Positions of the context: prompt and answer [default: as needed]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE", hide_env = true)]
    pub ctx_size: Option<usize>,

    /// Threads for one row [default: physical cores]
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_THREADS", hide_env = true)]
    pub threads: Option<usize>,

    /// -tb: threads for prompts and drafts [default: as --threads]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_THREADS_BATCH", hide_env = true)]
    pub threads_batch: Option<usize>,

    /// -ngl: layers on the GPU, in a build that has one [default: all that fit]
    #[arg(long, value_name = "N", env = "LLAMA_ARG_N_GPU_LAYERS", hide_env = true)]
    pub n_gpu_layers: Option<u32>,

    /// -fa: flash attention [default: off on a CPU, where it makes verifying slower]
    #[arg(long, value_name = "WHEN", env = "LLAMA_ARG_FLASH_ATTN", hide_env = true)]
    pub flash_attn: Option<When>,

    /// Time for measuring the cost of drafts on this machine, once per model and settings, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub curve_budget: u64,

    /// Show llama.cpp's log
    #[arg(short, long)]
    pub verbose: bool,
}

/// Whether a setting is used.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum When {
    /// Always
    On,
    /// Never
    Off,
    /// As llama.cpp decides
    Auto,
}

/// How tokens are chosen.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Seed of the draws; -1 takes a random one and reports it
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    pub seed: i64,

    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temp: f32,

    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    pub top_k: i32,

    /// Choose among the likeliest tokens that make up this probability; 1 is off
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Choose among tokens at least this likely relative to the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Penalty on repeated tokens; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,
}

/// Arguments of `run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Text of the prompt
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,

    /// File with the prompt; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

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

    /// Print one JSON object with text, tokens and timings
    #[arg(long)]
    pub json: bool,

    /// What drafts
    #[arg(long, value_name = "DRAFTER", value_enum, default_value_t = DrafterKind::Auto)]
    pub drafter: DrafterKind,

    /// No statistics on stderr
    #[arg(short, long)]
    pub quiet: bool,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Arguments of `bench`.
#[derive(Debug, ClapArgs)]
pub struct BenchArgs {
    /// Prompts as JSON lines {"id","kind","prompt"} [default: 24 shipped ones of 8 kinds]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,

    /// Most tokens to generate for each
    #[arg(short, long, value_name = "N", default_value_t = 160)]
    pub n_predict: usize,

    /// Times each prompt is answered by each drafter
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub repetitions: usize,

    /// Drafters to compare with plain decoding
    #[arg(long, value_name = "DRAFTER", value_enum, value_delimiter = ',', default_values_t = [DrafterKind::Auto, DrafterKind::Aded])]
    pub drafters: Vec<DrafterKind>,

    /// Write every single answer's figures to this file as JSON lines
    #[arg(long, value_name = "FILE")]
    pub raw_output: Option<PathBuf>,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// llama.cpp has short flags of several letters, which clap has not.
pub fn expand_short_flags(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut is_rest = false;
    let expand = |argument: OsString| {
        is_rest |= argument == "--";
        match argument.to_str() {
            Some("-sys") if !is_rest => "--system-prompt".into(),
            Some("-tb") if !is_rest => "--threads-batch".into(),
            Some("-ngl") if !is_rest => "--n-gpu-layers".into(),
            Some("-np") if !is_rest => "--parallel".into(),
            Some("-fa") if !is_rest => "--flash-attn".into(),
            _ => argument,
        }
    };
    arguments.into_iter().map(expand).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn llama_cpps_short_flags_are_understood() {
        let line = ["chaski", "run", "-m", "x", "-sys", "be brief", "-tb", "3", "-ngl", "0", "-fa", "off", "-s", "-1"];
        let args = Args::try_parse_from(expand_short_flags(line.map(OsString::from))).unwrap();
        let Some(Command::Run(run)) = args.command else { panic!("run") };
        assert_eq!(run.system_prompt.as_deref(), Some("be brief"));
        assert_eq!((run.engine.threads_batch, run.engine.n_gpu_layers, run.sampling.seed), (Some(3), Some(0), -1));
    }
}
