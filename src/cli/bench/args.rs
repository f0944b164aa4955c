//! The arguments of `chaski bench`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use crate::cli::args::EngineArgs;
use crate::cli::exact::ExactArg;
use crate::llama::worker::DrafterKind;
use crate::tree::MAX_NODES;

/// Arguments of `bench`.
#[derive(Debug, ClapArgs)]
pub struct BenchArgs {
    /// What is measured.
    #[command(flatten)]
    pub mode: ModeArgs,

    /// Prompts as JSON lines {"id","kind","prompt"} [default: 24 shipped ones of 8 kinds]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["curve", "rows"])]
    pub prompts: Option<PathBuf>,

    /// Only prompts of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',', conflicts_with_all = ["curve", "rows"])]
    pub kinds: Vec<String>,

    /// Only these prompts
    #[arg(long, value_name = "ID", value_delimiter = ',', conflicts_with_all = ["curve", "rows"])]
    pub ids: Vec<String>,

    /// Most tokens to generate for each
    #[arg(short, long, value_name = "N", default_value_t = 160, conflicts_with_all = ["curve", "rows"])]
    pub n_predict: usize,

    /// Times each thing is measured [default: 3, and 5 with --curve and --rows]
    #[arg(short, long, value_name = "N", conflicts_with = "check")]
    pub repetitions: Option<usize>,

    /// Drafters to compare with plain decoding
    #[arg(long, value_name = "DRAFTER", value_enum, value_delimiter = ',',
          default_values_t = [DrafterKind::Auto, DrafterKind::Aded],
          conflicts_with_all = ["curve", "rows", "check"])]
    pub drafters: Vec<DrafterKind>,

    /// Drafter file that `auto` begins with; none is none [default: the one beside the model, named like it with .chaski]
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// What stdout carries
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Format::Md)]
    pub output: Format,

    /// Write every single answer, sample or difference to this file as JSON lines
    #[arg(long, value_name = "FILE")]
    pub raw_output: Option<PathBuf>,

    /// What may differ.
    #[command(flatten)]
    pub exact: ExactArg,

    /// The model and the machine.
    #[command(flatten)]
    pub engine: EngineArgs,

    /// The curve.
    #[command(flatten)]
    pub curve: CurveArgs,

    /// llama-bench's rows.
    #[command(flatten)]
    pub rows: RowsArgs,
}

/// What is measured, if not drafters.
#[derive(Debug, ClapArgs)]
#[group(multiple = false)]
pub struct ModeArgs {
    /// Measure what n rows in one batch cost, instead of drafters
    #[arg(long)]
    pub curve: bool,

    /// Measure llama-bench's rows: reading a prompt, and plain decoding
    #[arg(long)]
    pub rows: bool,

    /// Compare wide batches with plain decoding, given the same text: the bits of all logits, and what is not exact
    #[arg(long)]
    pub check: bool,
}

/// Arguments that belong to `--curve`, and widths.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "With --curve")]
pub struct CurveArgs {
    /// Positions in the context under each batch
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [256], requires = "curve")]
    pub depth: Vec<usize>,

    /// Rows of each batch [default: 20 from 1 to 64; 4 and 16 with --check]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = width, conflicts_with = "rows")]
    pub widths: Vec<usize>,

    /// Draw the curve into this file
    #[arg(long, value_name = "FILE", requires = "curve")]
    pub svg: Option<PathBuf>,
}

/// Arguments that belong to `--rows`.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "With --rows")]
pub struct RowsArgs {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512], requires = "rows")]
    pub pp: Vec<usize>,

    /// Tokens to decode
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [128], requires = "rows")]
    pub tg: Vec<usize>,
}

/// What a table is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table, rounded
    Md,
    /// Comma-separated values with a header
    Csv,
    /// One object
    Json,
    /// One object a line
    Jsonl,
}

fn width(text: &str) -> Result<usize, String> {
    let width = text.parse().ok().filter(|width| (1..=MAX_NODES).contains(width));
    width.ok_or_else(|| format!("a batch has 1 to {MAX_NODES} rows"))
}
