//! The arguments of `chaski bench`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use crate::cli::args::EngineArgs;
use crate::cli::exact::ExactArg;
use crate::engine::DrafterKind;
use crate::tree::MAX_NODES;

/// Arguments of `bench`.
#[derive(Debug, ClapArgs)]
pub struct BenchArgs {
    /// What is measured.
    #[command(flatten)]
    pub mode: ModeArgs,

    /// File of prompts, one {"id", "kind", "prompt"} per line [default: 24 prompts of 8 kinds]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["curve", "rows"])]
    pub prompts: Option<PathBuf>,

    /// Use only prompts of these kinds, as in chat,code
    #[arg(long, value_name = "KIND", value_delimiter = ',', conflicts_with_all = ["curve", "rows"])]
    pub kinds: Vec<String>,

    /// Use only the prompts with these ids, as in chat-1,code-2
    #[arg(long, value_name = "ID", value_delimiter = ',', conflicts_with_all = ["curve", "rows"])]
    pub ids: Vec<String>,

    /// Stop each answer after N tokens
    #[arg(short, long, value_name = "N", default_value_t = 160, conflicts_with_all = ["curve", "rows"])]
    pub n_predict: usize,

    /// Measure everything N times [default: 3; 5 with --curve and --rows]
    #[arg(short, long, value_name = "N", conflicts_with = "check")]
    pub repetitions: Option<usize>,

    /// Drafters to compare with plain decoding
    #[arg(long, value_name = "DRAFTER", value_enum, value_delimiter = ',',
          default_values_t = [DrafterKind::Auto, DrafterKind::Aded],
          conflicts_with_all = ["curve", "rows", "check"])]
    pub drafters: Vec<DrafterKind>,

    /// Drafter file that `auto` starts from, or none [default: MODEL.chaski beside the model]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// File of a network that drafts from the model's hidden states, or `none` [default: MODEL.hidden beside the model]
    #[arg(long, value_name = "FILE")]
    pub hidden: Option<PathBuf>,

    /// Small GGUF that drafts too, of the same vocabulary, with the drafter auto [short: -md]
    #[arg(
        long,
        value_name = "FILE",
        aliases = ["model-draft", "spec-draft-model"],
        env = "LLAMA_ARG_SPEC_DRAFT_MODEL",
        hide_env = true
    )]
    pub draft_model: Option<PathBuf>,

    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    pub output: Format,

    /// Write every single measurement to this file, one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub raw_output: Option<PathBuf>,

    /// Whether the text must be exact.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// Options of `--curve`.
    #[command(flatten)]
    pub curve: CurveArgs,

    /// llama-bench's rows.
    #[command(flatten)]
    pub rows: RowsArgs,
}

/// What to measure instead of drafters.
#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub struct ModeArgs {
    /// Measure the cost curve: what n rows (tokens in one step) cost
    #[arg(long)]
    pub curve: bool,

    /// Measure what llama-bench measures: reading a prompt, and plain decoding
    #[arg(long)]
    pub rows: bool,

    /// Check that wide batches give the same logits as plain decoding, bit for bit
    #[arg(long)]
    pub check: bool,
}

/// Flags of `--curve`, and `--widths`.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "With --curve")]
pub struct CurveArgs {
    /// Tokens in the context before each step, as in 256,4096
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [256], requires = "curve")]
    pub depth: Vec<usize>,

    /// Numbers of rows to measure [default: 20 from 1 to 64; 4 and 16 with --check]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = width, conflicts_with = "rows")]
    pub widths: Vec<usize>,

    /// Draw the curve into this SVG file
    #[arg(long, value_name = "FILE", requires = "curve")]
    pub svg: Option<PathBuf>,
}

/// Flags of `--rows`.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "With --rows")]
pub struct RowsArgs {
    /// Prompt sizes to measure, in tokens
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512], requires = "rows")]
    pub pp: Vec<usize>,

    /// Answer sizes to measure, in tokens
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [128], requires = "rows")]
    pub tg: Vec<usize>,
}

/// Output format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown table, rounded
    Md,
    /// Comma-separated values with a header
    Csv,
    /// One JSON object
    Json,
    /// One JSON object per line
    Jsonl,
}

fn width(text: &str) -> Result<usize, String> {
    let width = text.parse().ok().filter(|width| (1..=MAX_NODES).contains(width));
    width.ok_or_else(|| format!("expected 1 to {MAX_NODES} rows"))
}
