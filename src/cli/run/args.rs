//! Arguments of `chaski run`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::chat::thinking::Reasoning;
use crate::cli::args::{DraftingArgs, EngineArgs};
use crate::cli::cache::PromptCacheArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::constraint::ConstraintArgs;
use crate::cli::exact::ExactArg;
use crate::cli::sampling::SamplingArgs;
use crate::cli::template::TemplateArgs;

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

    /// Replace \n, \t, \r, \\, \', \" and \xHH in PROMPT, -p, -sys and -r (not in files or stdin)
    #[arg(hide_short_help = true, short, long)]
    pub escape: bool,

    /// Do not read stdin (needed inside `while read` loops)
    #[arg(long)]
    pub no_stdin: bool,

    /// System prompt [short: -sys]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// Stop after N tokens (-1: 2048, or when -c is full)
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    pub n_predict: i64,

    /// Stop string: end the answer before this text (repeatable)
    #[arg(short, long, value_name = "STOP", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,

    /// Use the prompt as it is, without the chat template
    ///
    /// Special tokens in the prompt are parsed.
    #[arg(long)]
    pub raw: bool,

    /// Show, hide or turn off the model's thinking [default: show, or hide with -q]
    ///
    /// Thinking never goes to stdout; --json has it as reasoning_content. With --raw, thinking is not separated from
    /// the answer unless you give this flag.
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

    /// Whether the text must be exact.
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
    /// predicted probability. Rows are the tokens verified in one step; costs are relative to one step of plain decoding. The
    /// answer follows at the end.
    #[arg(help_heading = "Drafting and prompt cache", hide_short_help = true, long)]
    pub explain: bool,

    /// The prompt cache.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// The chat template.
    #[command(flatten)]
    pub template: TemplateArgs,

    /// The settings file.
    #[command(flatten)]
    pub config: ConfigArgs,
}
