//! Arguments of `batch`.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::error::Error;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as ClapArgs, Command, FromArgMatches, Subcommand, ValueEnum};

use crate::batch::input::format::Format;
use crate::chat::overflow::OnOverflow;
use crate::chat::thinking::Reasoning;
use crate::cli::args::{EngineArgs, Parallel};
use crate::cli::cache::PromptCacheArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::exact::ExactArg;
use crate::cli::sampling::SamplingArgs;
use crate::cli::template::TemplateArgs;

/// Arguments of `batch`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BatchArgs {
    /// What else to do
    #[command(subcommand)]
    pub command: Option<BatchCommand>,

    /// Input file with one request per line
    ///
    /// A line is a request in OpenAI's batch format, {"prompt": ...}, {"messages": ...}, or plain text. Tables
    /// (CSV, TSV) need --template.
    #[arg(short, long, value_name = "FILE", required_unless_present = "status")]
    pub input_file: Option<PathBuf>,

    /// Output file for the results; - is stdout, which cannot be resumed
    ///
    /// Beside it, FILE.journal records the progress of the job.
    #[arg(short, long, value_name = "FILE", required = true)]
    pub output_file: Option<PathBuf>,

    /// Input format [default: from the file's name and first lines]
    #[arg(hide_short_help = true, long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,

    /// Jinja template for the prompts, as in 'Summarize: {{text}}'
    ///
    /// Its variables are the columns of a table or the members of a JSON object. In a plain text file, text is
    /// the whole line. If a name is not an identifier, write {{row["first name"]}}.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "template_file")]
    pub template: Option<String>,

    /// Read the template from a file
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub template_file: Option<PathBuf>,

    /// Write only the answers, one per line, in the order of the input
    ///
    /// Line breaks become \n, and backslashes \\.
    #[arg(long)]
    pub text: bool,

    /// Write results in the order of the input
    #[arg(long)]
    pub ordered: bool,

    /// Run lines again that failed before
    #[arg(long)]
    pub retry_failed: bool,

    /// Show the progress of a running or stopped job, and do nothing else
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub status: Option<StatusFormat>,

    /// Answer only part I of N of the input (see chaski batch merge)
    ///
    /// `auto` or auto/N takes the part from an array job of Slurm or Kubernetes. `claim` or claim/N answers one
    /// free part after another, of N small ones, together with other processes that run the same command.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,

    /// The lease of claims.
    #[command(flatten)]
    pub lease: LeaseArg,

    /// Lanes: lines to run at a time [default: automatic] [short: -np]
    ///
    /// 1 to 256. The default (-1) is as many as pay off on this machine and fit into half of the available
    /// memory.
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_N_PARALLEL", hide_env = true)]
    pub parallel: Option<Parallel>,

    /// Stop after N tokens (-1: 2048, or until -c is full)
    ///
    /// A line's max_tokens overrides it. With -1, an answer has at most 2048 tokens; if you give -c, it can fill
    /// the context.
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    pub n_predict: i64,

    /// End answers before this text (repeatable); a line's stop overrides it
    #[arg(hide_short_help = true, short, long, value_name = "STOP", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,

    /// System prompt for lines that have a prompt, not messages [short: -sys]
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// What to do when messages do not fit into the context
    ///
    /// A single prompt is never shortened: it is an error.
    #[arg(long, value_name = "WHAT", default_value = "error", value_parser = on_overflow())]
    pub on_overflow: OnOverflow,

    /// Use prompts as they are, without the chat template
    ///
    /// Special tokens in the prompts are parsed.
    #[arg(hide_short_help = true, long)]
    pub raw: bool,

    /// off asks the model not to think
    ///
    /// It works if the model's template allows it. show and hide do the same here: they put the model's thinking
    /// into reasoning_content. --text drops it.
    #[arg(long, value_name = "WHAT", default_value = "show", hide_possible_values = true)]
    pub reasoning: Reasoning,

    /// Do not print progress and the summary; notices stay
    #[arg(short, long)]
    pub quiet: bool,

    /// Whether the text must be exact.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: LateEngineArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// Drafter file to start from, or `none` [default: MODEL.chaski beside the model]
    #[arg(hide_short_help = true, help_heading = "Drafting and prompt cache", long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// Do not draft
    #[arg(help_heading = "Drafting and prompt cache", long)]
    pub no_drafts: bool,

    /// The beginning that lines have in common, on disk.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// The chat template.
    #[command(flatten)]
    pub chat_template: TemplateArgs,

    /// The settings file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl BatchArgs {
    /// Number of lanes, if given.
    #[must_use]
    pub fn parallel(&self) -> Option<usize> {
        self.parallel.and_then(|Parallel(n)| n)
    }
}

/// The lease of claims, and whether it is on the command line, where it is an error without `--shard claim`. A settings
/// file may set it for all jobs.
#[derive(Clone, Copy, Debug)]
pub struct LeaseArg {
    /// Seconds.
    pub seconds: u64,
    /// Whether it is on the command line.
    pub is_given: bool,
}

#[derive(ClapArgs)]
struct Lease {
    /// With --shard claim: take over the part of a process that was silent for S seconds
    #[arg(hide_short_help = true, long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    lease: u64,
}

impl ClapArgs for LeaseArg {
    fn augment_args(command: Command) -> Command {
        Lease::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Lease::augment_args_for_update(command)
    }
}

impl FromArgMatches for LeaseArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<LeaseArg, Error> {
        let is_given = matches.value_source("lease") == Some(ValueSource::CommandLine);
        Lease::from_arg_matches(matches).map(|Lease { lease }| LeaseArg { seconds: lease, is_given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = LeaseArg::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A command of `batch`.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Join the results of all shards, in the order of the input
    Merge(MergeArgs),
}

/// Parser for `--on-overflow`. It hides `summarize` but accepts it, because a settings file may set it for chats.
fn on_overflow() -> impl TypedValueParser<Value = OnOverflow> {
    let values = OnOverflow::value_variants().iter().filter_map(|value| {
        let value_name = value.to_possible_value()?;
        Some(value_name.hide(*value == OnOverflow::Summarize))
    });
    PossibleValuesParser::new(values).try_map(|name| OnOverflow::from_str(&name, false))
}

/// Arguments of `batch merge`.
#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// The -o that you gave to the shards; merge writes this file
    #[arg(short, long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// Results of the shards [default: the files named like -o, as in results.1-of-4.jsonl]
    #[arg(value_name = "FILE")]
    pub parts: Vec<PathBuf>,
}

/// Format of the input lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatArg {
    /// One JSON object per line
    Jsonl,
    /// One prompt per line
    Text,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
    /// Semicolon-separated values with a header
    Ssv,
}

impl From<FormatArg> for Format {
    fn from(given: FormatArg) -> Format {
        match given {
            FormatArg::Jsonl => Format::Jsonl,
            FormatArg::Text => Format::Text,
            FormatArg::Csv => Format::CSV,
            FormatArg::Tsv => Format::TSV,
            FormatArg::Ssv => Format::SSV,
        }
    }
}

/// Output format of `--status`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StatusFormat {
    /// Text
    Text,
    /// One JSON object
    Json,
}

/// [`EngineArgs`] whose model is optional, because `--status` and `merge` need none. A missing model is an empty path.
#[derive(Debug)]
pub struct LateEngineArgs(pub EngineArgs);

impl ClapArgs for LateEngineArgs {
    fn augment_args(command: Command) -> Command {
        // clap's parser for paths rejects the empty default.
        let any_path = OsStringValueParser::new().map(PathBuf::from);
        let any_or_none =
            |arg: Arg| arg.required(false).default_value("").hide_default_value(true).value_parser(any_path);
        // `--curve-budget` is hidden: the cost curve is measured as far as the choice of lanes needs it. `-c auto` is
        // for one text at a time.
        let n_ctx = "Context size in tokens per line, prompt and answer [default: what prompt and answer need]";
        EngineArgs::augment_args(command)
            .mut_arg("model", any_or_none)
            .mut_arg("curve_budget", |arg| arg.hide(true))
            .mut_arg("ctx_size", |arg| arg.help(n_ctx).long_help(n_ctx))
    }

    fn augment_args_for_update(command: Command) -> Command {
        LateEngineArgs::augment_args(command)
    }
}

impl FromArgMatches for LateEngineArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<LateEngineArgs, Error> {
        EngineArgs::from_arg_matches(matches).map(LateEngineArgs)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}
