//! `chaski bench`: measures speed and losslessness on this machine.
//!
//! Without a mode flag it compares drafters with plain decoding on real text. `--curve` measures what n rows in one
//! batch cost, `--rows` measures what llama-bench measures, and `--check` compares the logits of wide batches with
//! plain decoding. Tables go to stdout, everything else to stderr. To compare chaski with other programs, use
//! `scripts/bench-peers.sh`.

pub mod args;
mod chart;
mod check;
mod curve;
mod drafters;
mod prompts;
mod raw;
mod rows;
mod stats;
mod table;

use std::path::Path;

use crate::chat::template::Segment;
use crate::cli::bench::args::BenchArgs;
use crate::cli::bench::prompts::{Prompt, Renderer};
use crate::cli::bench::raw::RawOutput;
use crate::cli::bench::table::{Row, format_tables};
use crate::cli::context_size::{self, PickedBy};
use crate::cli::draft_model::{self, file_name};
use crate::cli::engine::{confine, engine_config, machine, open_base, open_hidden, open_model, start};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::interrupt;
use crate::cli::output::{Bars, stderr_line, write_stdout};
use crate::engine::DrafterKind;
use crate::llama::engine::measure::{Measured, Measurement, What};
use crate::llama::engine::{Engine, EngineConfig, Measuring, Mode};

/// State shared by all measurements.
struct Bench<'a> {
    args: &'a BenchArgs,
    /// The context size, if one was given.
    n_ctx: Option<usize>,
    engine: Engine,
    /// The setup, included in every record.
    setup: Row,
    raw: RawOutput,
    /// Whether the model verifies token trees. Recurrent models take chains only.
    takes_trees: bool,
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn bench(args: &BenchArgs) -> Result<ExitCode, Failure> {
    if args.n_predict == 0 || args.repetitions == Some(0) {
        return Err(Failure::usage("-n and -r must be 1 or more"));
    }
    let prompts = prompts::read(args)?;
    args.exact.demand();
    let mut config = engine_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    if args.mode.check && !gguf.takes_drafts() {
        let why = "this model is decoded without drafts, so --check has nothing to compare";
        return Err(Failure::new(format!("{}: {why}", gguf.path().display())));
    }
    let drafts = !(args.mode.curve || args.mode.rows || args.mode.check);
    let flag = args.draft_model.as_deref();
    if draft_model::named(flag).is_some() && !drafts {
        stderr_line("notice: --draft-model has no effect on these measurements");
    }
    let draft = draft_model::add_for(flag.filter(|_| drafts), &args.drafters, &gguf, &mut config)?;
    let (engine_args, least) = (&args.engine, context_size::LEAST_N_CTX);
    let n_ctx = context_size::n_ctx(engine_args, &gguf, draft.as_ref(), &mut config, least, PickedBy::Text)?;
    let inputs = [Some(&args.engine.model), args.prompts.as_ref(), args.draft_model.as_ref()];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(AsRef::as_ref).collect();
    let raw = RawOutput::create(args.raw_output.as_deref(), &inputs)?;
    let picture = args.curve.svg.as_deref().map(|path| raw::create(path, "--svg", &inputs)).transpose()?;
    config.drafters.base = open_base(args.base.as_deref(), &gguf);
    if draft.is_none() && drafts && args.drafters.contains(&DrafterKind::Auto) {
        config.drafters.hidden = open_hidden(&args.engine, args.hidden.as_deref(), &gguf);
    }
    let setup = setup(args, n_ctx, &config);
    let mut heading = heading(args, &config);
    confine(&args.engine, &config, &[]);
    let (engine, loaded) = start(config, Mode::OneText, interrupt::flag()?, &mut Bars::default())?;
    let renderer = Renderer::new(&gguf, &loaded)?;
    let mut bench = Bench { args, n_ctx, engine, setup, raw, takes_trees: !gguf.is_recurrent() };
    let tables = match () {
        () if args.mode.curve => curve::measure(&mut bench, picture)?,
        () if args.mode.rows => rows::measure(&mut bench)?,
        () if args.mode.check => {
            let (tables, verdict) = check::measure(&mut bench, &prompts, &renderer)?;
            heading = format!("{heading}\n{verdict}");
            tables
        }
        () => drafters::measure(&mut bench, &prompts, &renderer)?,
    };
    write_stdout(&format_tables(args.output, &heading, &bench.setup, &tables))?;
    Ok(ExitCode::Success)
}

/// The setup as columns.
fn setup(args: &BenchArgs, n_ctx: Option<usize>, config: &EngineConfig) -> Row {
    Row::default()
        .text("model", "", &model_name(args))
        .text("machine", "", &machine())
        .text("version", "", env!("CARGO_PKG_VERSION"))
        .text("base", "", &base_name(config))
        .text("draft_model", "", &draft_model_name(config))
        .text("hidden", "", &hidden_name(config))
        .text("settings", "", &config.settings.short.to_string())
        .text("settings_long", "", &config.settings.long.to_string())
        .hidden("n_gpu_layers", config.model.n_gpu_layers)
        .hidden("ctx_size", n_ctx)
}

/// The setup in words.
fn heading(args: &BenchArgs, config: &EngineConfig) -> String {
    let answers = match &args.mode {
        mode if mode.curve || mode.rows => String::new(),
        mode if mode.check => format!(", greedy, {} tokens", args.n_predict),
        _ => format!(
            ", greedy, {} tokens, {} repetitions",
            args.n_predict,
            args.repetitions.unwrap_or(drafters::N_REPEATS)
        ),
    };
    let draft_model = config.draft_model.as_ref().map(|draft| format!(" with draft model {}", file_name(&draft.path)));
    format!(
        "{}{}, {} ({} for long contexts){answers}\n{}",
        model_name(args),
        draft_model.unwrap_or_default(),
        config.settings.short,
        config.settings.long,
        machine(),
    )
}

/// Only the file name: records must not reveal the user's folders.
fn base_name(config: &EngineConfig) -> String {
    let name = config.drafters.base.as_ref().and_then(|base| base.path().file_name());
    name.map_or_else(|| "none".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn hidden_name(config: &EngineConfig) -> String {
    let hidden = config.drafters.hidden.as_ref();
    hidden.map_or_else(|| "none".to_owned(), |hidden| hidden.id().to_string())
}

fn draft_model_name(config: &EngineConfig) -> String {
    config.draft_model.as_ref().map_or_else(|| "none".to_owned(), |draft| file_name(&draft.path))
}

fn model_name(args: &BenchArgs) -> String {
    file_name(&args.engine.model)
}

impl Bench<'_> {
    /// Runs a measurement on the engine, with a progress bar.
    fn measured(&self, text: Vec<Segment>, what: What) -> Result<Measured, Failure> {
        let mut bars = Bars::default();
        let measured = self.engine.measure(Measurement { text, what }, &mut |event| match event {
            Measuring::Steps(done, total) => bars.steps(done, total),
            Measuring::Notice(text) => bars.suspend(|| stderr_line(&format!("notice: {text}"))),
        });
        bars.clear();
        Ok(measured?)
    }

    /// Runs a timing measurement on the text of the shipped prompts.
    fn times(&self, what: What) -> Result<Vec<Vec<f64>>, Failure> {
        let text: String = prompts::shipped().into_iter().map(|prompt| prompt.prompt + "\n").collect();
        match self.measured(vec![Segment { text, parse_special: false }], what)? {
            Measured::Times(times) => Ok(times),
            Measured::Forced(_) => Err(Failure::new("unexpected result from the engine")),
        }
    }
}

/// Prints which prompt comes next, and renders it.
fn next_prompt(number: usize, prompts: &[Prompt], renderer: &Renderer<'_>) -> Result<Vec<Segment>, Failure> {
    stderr_line(&format!("{}/{}: {}", number + 1, prompts.len(), prompts[number].id));
    renderer.segments(&prompts[number].prompt)
}
