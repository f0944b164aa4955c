//! Arguments that several commands share. Names and defaults are llama.cpp's where it has them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args as ClapArgs, ValueEnum};

use crate::cli::lora::LoraArg;
use crate::cli::sandbox::SandboxArgs;
use crate::engine::DrafterKind;

/// Hint that says how to give a model.
pub const MODEL_HINT: &str = "give -m FILE.gguf, -m NAME from chaski models list, or set LLAMA_ARG_MODEL; scripts/get-model.sh downloads \
     a model";

/// Flags that choose the model and the machine's resources.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Model and machine")]
pub struct EngineArgs {
    /// GGUF file, or a name from `chaski models list`
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Context size in tokens, prompt and answer together [default: as needed]
    ///
    /// `auto`: the largest context that fits into memory. 0: the size the model was trained with.
    #[arg(short, long, value_name = "N", env = "LLAMA_ARG_CTX_SIZE", hide_env = true)]
    pub ctx_size: Option<ContextSize>,

    /// Threads [default: as tuned, or one per physical core]
    ///
    /// 0 and -1 mean the default.
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS", hide_env = true)]
    pub threads: Option<usize>,

    /// Threads for reading prompts and verifying drafts [default: as tuned, or as --threads] [short: -tb]
    #[arg(hide_short_help = true, long, value_name = "N", allow_negative_numbers = true, value_parser = or_default, env = "LLAMA_ARG_THREADS_BATCH", hide_env = true)]
    pub threads_batch: Option<usize>,

    /// Layers to run on the GPU [default: all that fit] [short: -ngl]
    ///
    /// A number, or `all`; `auto` and -1 mean the default. Only builds with GPU support use it; `chaski devices` shows
    /// the GPUs.
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

    /// Time limit in ms for measuring the cost curve, once per model and settings
    ///
    /// The cost curve is the time of a step by its number of tokens. It decides how much to draft.
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
    /// Layers to run on the GPU.
    #[must_use]
    pub fn n_gpu_layers(&self) -> GpuLayers {
        self.n_gpu_layers.unwrap_or_default()
    }
}

/// Parses a number; 0 and negative numbers are 0, the default, as in llama.cpp.
fn or_default(text: &str) -> Result<usize, String> {
    let n: i64 = text.trim().parse().map_err(|_| "expected a number of threads, or -1 for the default".to_owned())?;
    usize::try_from(n.max(0)).map_err(|error| error.to_string())
}

/// Layers to run on the GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Auto,
    /// All.
    All,
    /// This number. The output counts as a layer, as in llama.cpp.
    Number(u32),
}

impl GpuLayers {
    /// The number for llama.cpp; `None` is all.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        match self {
            GpuLayers::Number(n) => Some(n),
            GpuLayers::Auto | GpuLayers::All => None,
        }
    }
}

impl FromStr for GpuLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<GpuLayers, String> {
        match text.trim() {
            "auto" | "-1" => Ok(GpuLayers::Auto),
            "all" => Ok(GpuLayers::All),
            text => match text.parse::<i64>() {
                // In llama.cpp these mean all.
                Ok(n) if n < 0 => Ok(GpuLayers::All),
                Ok(n) => u32::try_from(n).map(GpuLayers::Number).map_err(|error| error.to_string()),
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
    /// Drafting method
    #[arg(long, value_name = "DRAFTER", value_enum, default_value_t = DrafterKind::Auto)]
    pub drafter: DrafterKind,

    /// Drafter file to start from, or `none` [default: MODEL.chaski beside the model]
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// File of a network that drafts from the model's hidden states, or `none` [default: MODEL.hidden beside the model]
    ///
    /// `chaski drafter align --hidden` trains it. The drafter auto asks it where that saves time. With a draft model (-md),
    /// it is not used.
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub hidden: Option<PathBuf>,

    /// Record answers for `chaski drafter refine`, which trains the --hidden file further
    ///
    /// Appends the text of each answer, the likeliest alternatives and the hidden states to MODEL.hidden.log (the --hidden
    /// file plus .log), up to 100,000 tokens, 3 KB each for a model of 1.5 billion weights. Prompts are not stored, but
    /// states can reveal parts of them: do not share the file. Nothing is recorded where learning is off.
    #[arg(hide_short_help = true, long)]
    pub hidden_learn: bool,

    /// Small GGUF that drafts too, of the same vocabulary [short: -md]
    ///
    /// A file, or a name from `chaski models list`; `none` is none. The drafter auto asks it where that saves time.
    /// `chaski models show` lists models that fit.
    #[arg(
        long,
        value_name = "FILE",
        aliases = ["model-draft", "spec-draft-model"],
        env = "LLAMA_ARG_SPEC_DRAFT_MODEL",
        hide_env = true
    )]
    pub draft_model: Option<PathBuf>,

    /// Do not read or write the learned state (see chaski data)
    #[arg(hide_short_help = true, long)]
    pub no_learn: bool,
}
