//! Arguments of `batch`.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::error::Error;
use clap::{Arg, ArgMatches, Args as ClapArgs, Command, FromArgMatches, Subcommand, ValueEnum};

use crate::batch::input::format::Format;
use crate::chat::overflow::OnOverflow;
use crate::chat::thinking::Reasoning;
use crate::cli::args::{EngineArgs, Parallel, SamplingArgs};
use crate::cli::cache::PromptCacheArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::exact::ExactArg;
use crate::cli::template::TemplateArgs;

/// Arguments of `batch`.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BatchArgs {
    /// What else to do
    #[command(subcommand)]
    pub command: Option<BatchCommand>,

    /// File with a request a line: OpenAI batch lines, {"prompt"}, {"messages"}, or plain text; tables need --template
    #[arg(short, long, value_name = "FILE", required_unless_present = "status")]
    pub input_file: Option<PathBuf>,

    /// File for the results, with a FILE.journal beside it; - is stdout, which cannot be resumed
    #[arg(short, long, value_name = "FILE", required = true)]
    pub output_file: Option<PathBuf>,

    /// What the lines are [default: by the file's name and its first lines]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<FormatArg>,

    /// Make prompts of lines that are data, in Jinja: 'Summarize: {{text}}'
    ///
    /// Variables are the columns of a table, the members of a JSON object, or text, which is the whole line. row has all of them, for
    /// names that are no identifiers: {{row["first name"]}}.
    #[arg(long, value_name = "TEMPLATE", conflicts_with = "template_file")]
    pub template: Option<String>,

    /// The same, from a file
    #[arg(long, value_name = "FILE")]
    pub template_file: Option<PathBuf>,

    /// Write texts instead of records: one line an answer, in the order of the input; line breaks become \n
    #[arg(long)]
    pub text: bool,

    /// Write results in the order of the input
    #[arg(long)]
    pub ordered: bool,

    /// Do the lines again that failed in an earlier run
    #[arg(long)]
    pub retry_failed: bool,

    /// Tell how a running or stopped job is getting on, and do nothing else; --status=json for programs
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    pub status: Option<StatusFormat>,

    /// Do a share of the lines: I/N, or auto[/N] in an array job of Slurm or Kubernetes; see chaski batch merge
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,

    /// -np: lines at a time; -1 is the default [default: as many as pay, and fit into memory]
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_N_PARALLEL", hide_env = true)]
    pub parallel: Option<Parallel>,

    /// Most tokens of an answer, where its line does not say; -1 is until the model ends it
    #[arg(short, long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, env = "LLAMA_ARG_N_PREDICT", hide_env = true)]
    pub n_predict: i64,

    /// End answers where this text would begin, where their lines do not say (repeatable)
    #[arg(short, long, value_name = "STOP", allow_hyphen_values = true)]
    pub reverse_prompt: Vec<String>,

    /// -sys: system prompt of lines that have no messages of their own
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,

    /// What is done with messages that are longer than the context: error or drop-oldest (summarize is for chat); prompts of one
    /// text are never shortened
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub on_overflow: OnOverflow,

    /// Send prompts as they are: no chat template, special tokens parsed
    #[arg(long)]
    pub raw: bool,

    /// What is done with the model's thinking: show and hide put it into reasoning_content, and off asks the model not to
    /// think, where its template can
    #[arg(long, value_name = "WHAT", default_value = "show", hide_possible_values = true)]
    pub reasoning: Reasoning,

    /// Drafter file to begin with; none is none [default: the one beside the model, named like it with .chaski]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// Draft nothing, also where it would pay
    #[arg(long)]
    pub no_drafts: bool,

    /// Neither progress nor summary on stderr; notices stay
    #[arg(short, long)]
    pub quiet: bool,

    /// What may differ.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: LateEngineArgs,

    /// The beginning that lines have in common, on disk.
    #[command(flatten)]
    pub prompt_cache: PromptCacheArgs,

    /// How prompts are put into words.
    #[command(flatten)]
    pub chat_template: TemplateArgs,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// What is said in a file.
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl BatchArgs {
    /// Lines at a time, where a number was given.
    #[must_use]
    pub fn parallel(&self) -> Option<usize> {
        self.parallel.and_then(|Parallel(n)| n)
    }
}

/// A command of `batch`.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Join the results of all shards, in the order of the input
    Merge(MergeArgs),
}

/// Arguments of `batch merge`.
#[derive(Debug, ClapArgs)]
pub struct MergeArgs {
    /// The -o that the shards were given; it is written now
    #[arg(short, long, value_name = "FILE")]
    pub output_file: PathBuf,

    /// Results of shards [default: those beside the output, named like it: results.1-of-4.jsonl ...]
    #[arg(value_name = "FILE")]
    pub parts: Vec<PathBuf>,
}

/// What the lines are.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatArg {
    /// A JSON object a line
    Jsonl,
    /// A prompt a line
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

/// How a status is told.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StatusFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// [`EngineArgs`] whose model is not required by the parser: neither `--status` nor `merge` has one. Without one, it is empty.
#[derive(Debug)]
pub struct LateEngineArgs(pub EngineArgs);

impl ClapArgs for LateEngineArgs {
    fn augment_args(command: Command) -> Command {
        // A parser that takes the empty default, which that of a path does not.
        let any_path = OsStringValueParser::new().map(PathBuf::from);
        let any_or_none =
            |arg: Arg| arg.required(false).default_value("").hide_default_value(true).value_parser(any_path);
        // What rows cost is measured as far as the number of places depends on it, whatever that takes.
        EngineArgs::augment_args(command).mut_arg("model", any_or_none).mut_arg("curve_budget", |arg| arg.hide(true))
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
