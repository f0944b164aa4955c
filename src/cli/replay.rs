//! `chaski drafter replay`: compares drafters on recorded answers, in seconds and without a model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::input::{MAX_BYTES, read_file};
use crate::cli::output::{stderr_line, write_stdout};
use crate::cost::{Clock, CostCurve};
use crate::draft::aded::Aded;
use crate::draft::auto::Auto;
use crate::draft::base::Base;
use crate::draft::search::Search;
use crate::draft::{Drafter, NoDraft, Source};
use crate::replay::predictions::Predictions;
use crate::replay::score::{Score, replay as replay_one, replay_with_source};
use crate::replay::trace::Trace;
use crate::replay::train::train;
use crate::schedule::Schedule;
use crate::store::drafter_file::DrafterFile;
use crate::tree::MAX_NODES;

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Files of traces, written by `chaski run --trace`
    #[arg(required = true, value_name = "TRACES")]
    pub traces: Vec<PathBuf>,

    /// Cost curve to assume (repeatable)
    ///
    /// `1%`: each additional row (token in one step) costs 1% of the first. `1:62,4:107,16:229`:
    /// rows:milliseconds. Or the file of a saved curve.
    #[arg(long, value_name = "CURVE", default_values_t = ["1%".to_owned(), "5%".to_owned(), LAPTOP.to_owned()])]
    pub curve: Vec<String>,

    /// Drafters to compare
    #[arg(long, value_enum, value_name = "DRAFTER", value_delimiter = ',', default_values_t = [Kind::Auto])]
    pub drafters: Vec<Kind>,

    /// Also replay `auto` without each of its sources, with its mixer trained on these traces
    #[arg(long, value_name = "TRACES", num_args = 1..)]
    pub ablation: Vec<PathBuf>,

    /// Drafter file to start from, made by chaski drafter align or chaski drafter build
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,

    /// Keep what a drafter learns from one trace for the next
    #[arg(long)]
    pub keep: bool,

    /// Also replay `auto` with a source that has a price, such as a draft model; its recorded predictions
    ///
    /// JSON lines, one per trace: `{"id":"code-1","model":"NAME","n_depths":1,"rows":[[[[TOKEN,P],...]],...]}`. For each
    /// token of the answer and each depth, a row has the predicted tokens, likeliest first. Optional: `most_confidence` (0 to 1);
    /// above this confidence of the free sources, it is not asked.
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,

    /// Time of a prediction as a share of a plain step (repeatable)
    #[arg(long, value_name = "SHARE", value_delimiter = ',', value_parser = parse_price, requires = "predictions",
          default_values_t = [0.1])]
    pub price: Vec<f64>,

    /// Print how well predicted and actual acceptance agree
    #[arg(long)]
    pub calibration: bool,

    /// Train the mixer's initial weights on these traces, and write them to this file
    ///
    /// With --base, the file has a second set of weights, trained with that base.
    #[arg(long, value_name = "FILE", conflicts_with = "predictions")]
    pub train: Option<PathBuf>,

    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Md)]
    pub output: OutputFormat,
}

/// Drafter to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The default drafter
    Auto,
    /// `auto` with ADED's tree search instead of best-first search
    Mcts,
    /// ADED as published (arXiv 2407.12021): always draft 64 tokens
    Aded,
    /// ADED's drafts, cut to the size that pays off
    AdedSized,
    /// Do not draft
    None,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Markdown tables
    Md,
    /// One JSON array
    Json,
}

/// Measured with the 1.5B Q4_K_M on two AVX-512 cores.
const LAPTOP: &str = "1:62,2:96,4:107,5:139.5,8:191,12:238.7,16:229,32:415,64:725";

/// A drafter with its name.
struct Contender {
    name: String,
    make: Box<dyn Fn() -> Player>,
}

enum Player {
    Alone(Box<dyn Drafter>),
    /// With the predictions of a source, by the id of the trace, and the price of one.
    Assisted(Box<Auto>, Rc<BTreeMap<String, Predictions>>, f64),
}

impl Player {
    fn replay(
        &mut self,
        trace: &Trace,
        curve: &CostCurve,
        schedule: Schedule,
        clock: &WallClock,
    ) -> Result<Score, Failure> {
        let score = match self {
            Player::Alone(drafter) => replay_one(trace, curve, drafter.as_mut(), schedule, clock),
            Player::Assisted(auto, predictions, price) => {
                let own = predictions.get(&trace.id).ok_or_else(|| {
                    Failure::new(format!("there are no predictions for the trace {}", trace.id))
                        .with_hint("--predictions needs a line for each trace")
                })?;
                replay_with_source(trace, curve, auto, (own, *price), schedule, clock)
            }
        };
        score.map_err(|error| Failure::new(format!("{}: {error}", trace.id)))
    }
}

/// One drafter under one curve: a row of the table.
#[derive(Serialize)]
struct Row {
    drafter: String,
    curve: String,
    /// Speedup over plain decoding, per kind of prompt.
    speedup_by_kind: BTreeMap<String, f64>,
    /// Speedup over all prompts.
    speedup: f64,
    tokens_per_step: f64,
    n_drafted: usize,
    n_accepted: usize,
    /// Number of accepted tokens that the drafter's probabilities predicted.
    n_expected: f64,
    /// Drafting time per step, in microseconds.
    draft_us: f64,
    /// Predictions of the source with a price, per token.
    predictions_per_token: f64,
    /// Mean log loss per verified node.
    log_loss: f64,
    calibration: Vec<[f64; 3]>,
}

struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Runs the command.
///
/// # Errors
/// The failure to show to the user.
pub fn replay(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let traces = read_traces(&args.traces)?;
    let clock = WallClock(Instant::now());
    let base = args.base.as_deref().map(open_base).transpose()?;
    if let Some(path) = &args.train {
        // Train with the base and without it: the weights of the other sources depend on it.
        let bases = if base.is_some() { vec![base, None] } else { vec![None] };
        let trained = bases.iter().map(|base| train(&traces, &|| Auto::sources(base.clone()), &clock));
        let trained = trained.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let json = serde_json::to_string(&trained).expect("numbers serialize");
        fs::write(path, json + "\n").map_err(|error| Failure::io(path, &error))?;
        stderr_line(&format!("trained on {} answers: {}", traces.len(), path.display()));
        return Ok(ExitCode::Success);
    }
    let curves = args.curve.iter().map(|spec| Ok((spec.as_str(), parse_curve(spec)?)));
    let curves = curves.collect::<Result<Vec<_>, Failure>>()?;
    let mut rows = Vec::new();
    for contender in contenders(args, base, &clock)? {
        for (spec, curve) in &curves {
            let always = contender.name == "aded" || contender.name == "none";
            let curve = curve.clone();
            let schedule = match always {
                true => Schedule::everything(curve.clone()),
                // The row limit of this machine's memory does not belong to the assumed curve.
                false => Schedule::cost_aware(curve.clone()).with_max_rows(MAX_NODES),
            };
            rows.push(judge(&traces, spec, &curve, &contender, &schedule, args.keep, &clock)?);
        }
    }
    write_stdout(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&rows).expect("strings and numbers serialize") + "\n",
        OutputFormat::Md => table(&rows, args.calibration),
    })?;
    Ok(ExitCode::Success)
}

fn open_base(path: &Path) -> Result<Arc<dyn Base>, Failure> {
    Ok(Arc::new(DrafterFile::open_any(path)?))
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

fn read_traces(paths: &[PathBuf]) -> Result<Vec<Trace>, Failure> {
    let mut traces = Vec::new();
    for path in paths {
        let text = read_file(path, u64::MAX, "a file of traces")?;
        let found = Trace::parse_all(&text).map_err(|error| {
            Failure::new(format!("{}: {error}", path.display())).with_hint("write one with chaski run --trace FILE")
        })?;
        if found.is_empty() {
            let empty = Failure::new(format!("{}: the file contains no traces", path.display()));
            return Err(empty.with_hint("write one with chaski run --trace FILE"));
        }
        traces.extend(found);
    }
    Ok(traces)
}

fn contenders(args: &ReplayArgs, base: Option<Arc<dyn Base>>, clock: &WallClock) -> Result<Vec<Contender>, Failure> {
    let mut contenders: Vec<Contender> = args.drafters.iter().map(|&kind| contender(kind, base.clone())).collect();
    if let Some(path) = &args.predictions {
        contenders.extend(assisted(path, &args.price, base.as_ref())?);
    }
    if !args.ablation.is_empty() {
        let training = read_traces(&args.ablation)?;
        let names: Vec<&str> = Auto::sources(base.clone()).iter().map(|source| source.name()).collect();
        for left_out in std::iter::once(None).chain(names.into_iter().map(Some)) {
            let base = base.clone();
            let sources = move || -> Vec<Box<dyn Source>> {
                let all = Auto::sources(base.clone()).into_iter();
                all.filter(|source| Some(source.name()) != left_out).collect()
            };
            let state = train(&training, &sources, clock).map_err(failed)?;
            let name = left_out.map_or("trained on these".to_owned(), |name| format!("without {name}"));
            contenders.push(Contender { name, make: Box::new(move || alone(Auto::new(sources(), Some(&state)))) });
        }
    }
    Ok(contenders)
}

fn alone(drafter: impl Drafter + 'static) -> Player {
    Player::Alone(Box::new(drafter))
}

/// `auto` with the predictions of a file, at each price.
fn assisted(path: &Path, prices: &[f64], base: Option<&Arc<dyn Base>>) -> Result<Vec<Contender>, Failure> {
    let text = read_file(path, u64::MAX, "a file of predictions")?;
    let all = Predictions::parse_all(&text).map_err(|error| {
        Failure::new(format!("{}: {error}", path.display())).with_hint("the format is in chaski drafter replay --help")
    })?;
    let model = all.first().map(|one| one.model.clone());
    let model = model.ok_or_else(|| failed(format!("{}: the file contains no predictions", path.display())))?;
    let all = Rc::new(all.into_iter().map(|one| (one.id.clone(), one)).collect::<BTreeMap<_, _>>());
    let contender = |&price: &f64| {
        let (base, all) = (base.cloned(), Rc::clone(&all));
        let auto = move || Box::new(Auto::new(Auto::sources(base.clone()), None));
        let make = Box::new(move || Player::Assisted(auto(), Rc::clone(&all), price));
        Contender { name: format!("auto+{model} at {price}"), make }
    };
    Ok(prices.iter().map(contender).collect())
}

fn contender(kind: Kind, base: Option<Arc<dyn Base>>) -> Contender {
    let auto = move || Auto::new(Auto::sources(base.clone()), None);
    let make: Box<dyn Fn() -> Player> = match kind {
        Kind::Auto => Box::new(move || alone(auto())),
        Kind::Mcts => Box::new(move || alone(auto().with_search(Search::Mcts))),
        Kind::Aded | Kind::AdedSized => Box::new(|| alone(Aded::default())),
        Kind::None => Box::new(|| alone(NoDraft)),
    };
    let name = kind.to_possible_value().expect("no kind is hidden").get_name().to_owned();
    Contender { name, make }
}

fn judge(
    traces: &[Trace],
    spec: &str,
    curve: &CostCurve,
    contender: &Contender,
    schedule: &Schedule,
    keep: bool,
    clock: &WallClock,
) -> Result<Row, Failure> {
    let mut by_kind: BTreeMap<String, Score> = BTreeMap::new();
    let mut all = Score::default();
    let mut drafter = (contender.make)();
    for trace in traces {
        if !keep {
            drafter = (contender.make)();
        }
        let score = drafter.replay(trace, curve, schedule.clone(), clock)?;
        by_kind.entry(trace.kind().to_owned()).or_default().merge(&score);
        all.merge(&score);
    }
    let n_nodes = all.calibration.n().max(1) as f64;
    Ok(Row {
        drafter: contender.name.clone(),
        curve: spec.to_owned(),
        speedup_by_kind: by_kind.iter().map(|(kind, score)| (kind.clone(), score.speedup())).collect(),
        speedup: all.speedup(),
        tokens_per_step: all.stats.tokens_per_step(),
        n_drafted: all.stats.n_drafted,
        n_accepted: all.stats.n_accepted,
        n_expected: all.mass,
        draft_us: all.drafting_ms * 1e3 / all.stats.n_steps.max(1) as f64,
        predictions_per_token: all.n_predictions as f64 / all.stats.n_predicted.max(1) as f64,
        log_loss: all.calibration.log_loss / n_nodes,
        calibration: all.calibration.bins.iter().map(|bin| [bin.n as f64, bin.sum_p, bin.n_accepted as f64]).collect(),
    })
}

fn parse_price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=100.0).contains(&price) { Ok(price) } else { Err("a price must be from 0 to 100 plain steps".to_owned()) }
}

/// Parses `1%`, `1:62,4:107`, or the file of a saved curve.
fn parse_curve(spec: &str) -> Result<CostCurve, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("--curve {spec}: {what}")).with_hint("as in --curve 1%, or --curve 1:62,4:107,16:229")
    };
    if Path::new(spec).is_file() {
        let text = read_file(Path::new(spec), MAX_BYTES, "a curve")?;
        let file: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
        let curve: CostCurve =
            serde_json::from_value(file["curve"].clone()).map_err(|error| wrong(&error.to_string()))?;
        return if curve.is_sound() { Ok(curve) } else { Err(wrong("the times must be above 0, and not fall")) };
    }
    if let Some(percent) = spec.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| wrong("not a percentage"))?;
        if !(0.0..=1000.0).contains(&percent) {
            return Err(wrong("a percentage must be from 0 to 1000"));
        }
        return Ok(CostCurve::exact((1..=MAX_NODES).map(|n| (n, 100.0 + percent * (n - 1) as f64))));
    }
    let point = |point: &str| -> Option<(usize, f64)> {
        let (rows, ms) = point.split_once(':')?;
        Some((rows.trim().parse().ok()?, ms.trim().parse().ok()?))
    };
    let points: Option<Vec<(usize, f64)>> = spec.split(',').map(point).collect();
    let curve =
        CostCurve::exact(points.ok_or_else(|| wrong("expected a percentage, a list of rows:milliseconds, or a file"))?);
    if curve.is_sound() && curve.plain_ms(0).is_some() {
        Ok(curve)
    } else {
        Err(wrong("the time of one row is missing"))
    }
}

fn table(rows: &[Row], calibration: bool) -> String {
    let kinds: Vec<&String> = rows.first().map_or(Vec::new(), |row| row.speedup_by_kind.keys().collect());
    let mut out = String::from("| drafter | curve | all |");
    kinds.iter().for_each(|kind| write!(out, " {kind} |").expect("a String takes all"));
    out += " tokens/step | accepted / expected / drafted | drafting, µs/step | log-loss |";
    let asks = rows.iter().any(|row| row.predictions_per_token > 0.0);
    if asks {
        out += " predictions/token |";
    }
    out += "\n|---|---|---:|";
    out += &"---:|".repeat(kinds.len() + 4 + usize::from(asks));
    out.push('\n');
    for row in rows {
        let curve = if row.curve == LAPTOP { "laptop" } else { &row.curve };
        write!(out, "| {} | {curve} | {:.2} |", row.drafter, row.speedup).expect("a String takes all");
        row.speedup_by_kind.values().for_each(|speedup| write!(out, " {speedup:.2} |").expect("a String takes all"));
        let Row { n_accepted, n_expected, n_drafted, .. } = row;
        let counts = format!("{n_accepted} / {n_expected:.0} / {n_drafted}");
        let Row { tokens_per_step, draft_us, log_loss, .. } = row;
        write!(out, " {tokens_per_step:.2} | {counts} | {draft_us:.0} | {log_loss:.3} |").expect("a String takes all");
        if asks {
            write!(out, " {:.2} |", row.predictions_per_token).expect("a String takes all");
        }
        out.push('\n');
    }
    if calibration {
        out += "\n| drafter | curve | nodes | predicted | realized |\n|---|---|---:|---:|---:|\n";
        for row in rows {
            let curve = if row.curve == LAPTOP { "laptop" } else { &row.curve };
            for [n, sum_p, n_accepted] in row.calibration.iter().filter(|bin| bin[0] > 0.0) {
                let (predicted, realized) = (sum_p / n, n_accepted / n);
                writeln!(out, "| {} | {curve} | {n} | {predicted:.3} | {realized:.3} |", row.drafter)
                    .expect("a String takes all");
            }
        }
    }
    out
}
