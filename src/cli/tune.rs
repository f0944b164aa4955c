//! `chaski tune`: measures settings, prints their costs, and saves the best.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;

use crate::cli::args::GpuLayers;
use crate::cli::context_size;
use crate::cli::engine::{cache_folder, machine, open_model};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::gpu_layers;
use crate::cli::interrupt;
use crate::cli::kernels;
use crate::cli::output::{Bars, stderr_line, write_stdout};
use crate::cli::sandbox::{SandboxArgs, confine, shader_caches};
use crate::cli::settings::{self, default_settings, key, thread_counts, tuned_folder};
use crate::cost::lower_median;
use crate::gguf::Gguf;
use crate::llama::engine::tune::{self, TuneConfig, Tuned, Tuning};
use crate::llama::logs;
use crate::llama::model::ModelConfig;
use crate::store::{curves, tuned};
use crate::tune::{BySpan, LONG, Plan, SHORT, Settings, Span, Times, Trial, WIDTHS};

/// Largest time limit, in seconds.
const MAX_BUDGET_S: u64 = 3600;

/// On a quiet machine, the median of a few samples is 1% to 3% above the fastest.
const MUCH_SPREAD: f64 = 0.08;

/// Arguments of `tune`.
#[derive(Debug, ClapArgs)]
pub struct TuneArgs {
    /// GGUF file, or a name from `chaski models list`
    #[arg(short, long, value_name = "FILE", env = "LLAMA_ARG_MODEL", hide_env = true)]
    pub model: PathBuf,

    /// Time limit for measuring, in seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub budget: u64,

    /// Also choose a quantized KV cache if it is faster (changes the model's output)
    #[arg(long)]
    pub lossy_kv: bool,

    /// Output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = OutputFormat::Md)]
    pub output: OutputFormat,

    /// Delete the saved settings, and measure nothing
    #[arg(long)]
    pub forget: bool,

    /// Layers to run on the GPU [default: all that fit] [short: -ngl]
    ///
    /// A number, or `all`; `auto` and -1 mean the default. Only builds with GPU support use it; `chaski devices` shows
    /// the GPUs.
    #[arg(long, value_name = "N", allow_negative_numbers = true, env = "LLAMA_ARG_N_GPU_LAYERS", hide_env = true)]
    pub n_gpu_layers: Option<GpuLayers>,

    /// Show llama.cpp's log
    #[arg(short, long)]
    pub verbose: bool,

    /// The sandbox.
    #[command(flatten)]
    pub sandbox: SandboxArgs,
}

impl TuneArgs {
    fn n_gpu_layers(&self) -> GpuLayers {
        self.n_gpu_layers.unwrap_or_default()
    }
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Markdown table
    Md,
    /// One JSON object
    Json,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn tune(args: &TuneArgs) -> Result<ExitCode, Failure> {
    if !(1..=MAX_BUDGET_S).contains(&args.budget) {
        return Err(Failure::usage(format!("--budget must be 1 to {MAX_BUDGET_S} seconds, not {}", args.budget)));
    }
    logs::capture(args.verbose);
    let gguf = open_model(&args.model)?;
    kernels::check()?;
    let key = key(&args.model, args.n_gpu_layers());
    let (Some(folder), Some(cache)) = (tuned_folder(), cache_folder()) else {
        return Err(Failure::new("there is no folder to save the settings in").with_hint("set HOME or XDG_CACHE_HOME"));
    };
    if args.forget {
        let was_there = tuned::forget(&folder, &key).map_err(|error| Failure::new(error.to_string()))?;
        stderr_line(if was_there { "the tuned settings are deleted" } else { "there were no tuned settings" });
        return Ok(ExitCode::Success);
    }
    let shaders = shader_caches(args.n_gpu_layers().number());
    confine(args.sandbox, std::iter::once(cache.clone()).chain(shaders).map(Some), args.verbose);
    let default = default_settings(args.n_gpu_layers());
    let shape = context_size::shape_of(&gguf)?;
    let on_gpu = gpu_layers::choose(&args.model, args.n_gpu_layers(), &shape, n_long(&gguf), &default)?;
    context_size::check_now(&args.model, &shape, n_long(&gguf), &default, on_gpu)?;
    // A part of the layers has curves of its own, as in context_size.rs.
    let curve_key = match on_gpu {
        Some(n) => settings::key(&args.model, GpuLayers::Number(n)),
        None => key.clone(),
    };
    let config = TuneConfig {
        model: ModelConfig { path: args.model.clone(), n_gpu_layers: on_gpu, lora: None },
        plan: Plan { default, threads: thread_counts(), allow_lossy: args.lossy_kv },
        budget: Duration::from_secs(args.budget),
    };
    drop(gguf);
    let measured = measure(config)?;
    write_stdout(&match args.output {
        OutputFormat::Md => table(&args.model, &measured, args.lossy_kv),
        OutputFormat::Json => json(&args.model, &measured),
    })?;
    // Save only now, and each file as a whole: an interrupt leaves nothing half saved.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (settings, curve) in &measured.curves {
        let kept = curves::save(&cache.join("curves"), &curve_key.with_settings(&settings.to_string()), curve, now);
        kept.map_err(|error| not_kept(&error))?;
    }
    tuned::save(&folder, &key, measured.settings, now).map_err(|error| not_kept(&error))?;
    if !measured.is_complete {
        stderr_line("notice: not all settings could be measured in this time; hint: use a larger --budget");
    }
    if is_noisy(&measured.trials) {
        stderr_line("notice: the measured times vary a lot; hint: run it again while nothing else is running");
    }
    stderr_line(
        "saved: chaski uses these settings from now on; flags override them; to delete them: chaski tune \
                 --forget",
    );
    Ok(ExitCode::Success)
}

/// Length of the long context, in tokens.
fn n_long(gguf: &Gguf) -> usize {
    gguf.context_length().map_or(LONG, |n| LONG.min(n as usize))
}

/// Whether the machine was busy with other work.
fn is_noisy(trials: &[Trial]) -> bool {
    let times = trials.iter().flat_map(|trial| [&trial.times.short, &trial.times.long]).flatten();
    let spreads: Vec<f64> = times.map(|times| times.spread).collect();
    lower_median(&spreads).is_some_and(|spread| spread > MUCH_SPREAD)
}

fn not_kept(error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot save the settings: {error}")).with_hint("to use another folder, set XDG_CACHE_HOME")
}

/// Measures, with a progress bar.
fn measure(config: TuneConfig) -> Result<Tuned, Failure> {
    let mut bars = Bars::default();
    let tuned = tune::tune(config, interrupt::flag()?, &mut |event| match event {
        Tuning::Loading(share) => bars.loading(share),
        Tuning::Measuring(share, what) => bars.tuning(share, what),
    });
    bars.clear();
    Ok(tuned?)
}

fn table(model: &Path, measured: &Tuned, is_lossy_allowed: bool) -> String {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let mut out = format!(
        "{name}\n{}\n\nThe columns n show milliseconds for n rows (tokens in one step). ms/token assumes that half \
         of the tokens are decoded plainly, and half are drafted in chains and accepted with probability 0.9. tune \
         chooses the least ms/token among the settings within 2% of the fastest at n = 1; if the difference is \
         noise, it chooses the default.\n\n| settings | context |",
        machine()
    );
    WIDTHS.iter().for_each(|width| out += &format!(" n = {width} |"));
    out += " spread | ms/token | |\n|---|---:|";
    out += &"---:|".repeat(WIDTHS.len() + 2);
    out += "---|\n";
    let n_positions = BySpan { short: SHORT, long: measured.n_long };
    for span in [Span::Short, Span::Long] {
        let chosen = *measured.settings.of(span);
        for (place, trial) in measured.trials.iter().enumerate() {
            let notes = [
                (trial.settings == chosen, "**chosen**"),
                (place == 0, "default"),
                (trial.settings.kv_type.is_lossy() && !is_lossy_allowed, "changes the output: only with --lossy-kv"),
            ];
            let notes: Vec<&str> = notes.iter().filter(|(is_so, _)| *is_so).map(|(_, note)| *note).collect();
            out += &row(&trial.settings, *n_positions.of(span), trial.times.of(span).as_ref(), &notes.join(", "));
        }
    }
    out
}

fn row(settings: &Settings, n_positions: usize, times: Option<&Times>, notes: &str) -> String {
    let mut out = format!("| `{settings}` | {n_positions} |");
    for width in WIDTHS {
        let ms = times.and_then(|times| times.ms.get(&width));
        out += &ms.map_or(" – |".to_owned(), |ms| format!(" {ms:.1} |"));
    }
    match times {
        Some(times) => out += &format!(" {:.1}% | {:.2} | {notes} |\n", times.spread * 100.0, times.ms_per_token()),
        None => out += " – | – | not measured |\n",
    }
    out
}

#[derive(Serialize)]
struct JsonReport<'a> {
    model: &'a str,
    machine: String,
    n_positions: BySpan<usize>,
    chosen: BySpan<Settings>,
    is_complete: bool,
    trials: Vec<JsonTrial<'a>>,
}

#[derive(Serialize)]
struct JsonTrial<'a> {
    #[serde(flatten)]
    trial: &'a Trial,
    ms_per_token: BySpan<Option<f64>>,
}

fn json<'a>(model: &Path, measured: &'a Tuned) -> String {
    let score = |times: &Option<Times>| times.as_ref().map(Times::ms_per_token);
    let trial = |trial: &'a Trial| {
        let Trial { times: BySpan { short, long }, .. } = trial;
        JsonTrial { trial, ms_per_token: BySpan { short: score(short), long: score(long) } }
    };
    let report = JsonReport {
        model: &model.file_name().unwrap_or_default().to_string_lossy(),
        machine: machine(),
        n_positions: BySpan { short: SHORT, long: measured.n_long },
        chosen: measured.settings,
        is_complete: measured.is_complete,
        trials: measured.trials.iter().map(trial).collect(),
    };
    let mut json = serde_json::to_string(&report).expect("numbers and strings serialize");
    json.push('\n');
    json
}
