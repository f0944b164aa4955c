//! `chaski bench`: drafters against plain decoding, on real text, in one run.
//!
//! Drafters take turns within each repetition of each prompt, so that a machine that slows down slows them all; what is
//! compared are the rates of one repetition, and of those the median counts. Prompts are read once and stay in the
//! cache: only decoding is timed. Each answer starts with a drafter that knows nothing.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chat::template::{ChatTemplate, Message, RenderOptions, Segment};
use crate::cli::args::BenchArgs;
use crate::cli::engine::{machine, open_model, start, worker_config};
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::interrupt;
use crate::cli::output::{Bars, stderr_line, write_stdout};
use crate::cli::run::{JsonTimings, receive};
use crate::llama::sampler::Sampling;
use crate::llama::worker::{Answer, DrafterKind, Job, StopType, Worker};
use crate::token::Token;
use crate::tune::Settings;

const SHIPPED: &str = include_str!("../../bench/prompts.jsonl");

/// Always the likeliest token: nothing but the drafter differs between two answers.
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, seed: 0 };

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Prompt {
    id: String,
    kind: String,
    prompt: String,
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
struct Record {
    id: String,
    kind: String,
    drafter: DrafterKind,
    repetition: usize,
    /// Tokens equal to the plain answer's before the first difference; absent where the answers are equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<usize>,
    #[serde(skip)]
    rate: f64,
    #[serde(skip)]
    share_drafting: f64,
    tokens_per_step: f64,
    timings: JsonTimings,
}

/// Runs the command.
///
/// # Errors
/// What the user should read.
pub fn bench(args: &BenchArgs) -> Result<ExitCode, Failure> {
    if args.n_predict == 0 || args.repetitions == 0 {
        return Err(Failure::usage("-n and -r must be more than 0"));
    }
    let prompts = match &args.prompts {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| Failure::io(path, &error))?;
            parse_prompts(&text, &path.display().to_string())?
        }
        None => parse_prompts(SHIPPED, "the shipped prompts")?,
    };
    let config = worker_config(&args.engine)?;
    let gguf = open_model(&args.engine.model)?;
    let inputs = [Some(args.engine.model.as_path()), args.prompts.as_deref()];
    let create = |path| create(path, inputs.into_iter().flatten());
    let mut raw = args.raw_output.as_deref().map(create).transpose()?;
    let interrupt = interrupt::flag()?;
    let Settings { n_threads, n_threads_batch, .. } = config.settings.short;
    let (worker, loaded) = start(config, interrupt, &mut Bars::default())?;
    let template = gguf.chat_template().map(|source| ChatTemplate::parse(source, loaded.specials.clone()));
    let template = template.transpose().map_err(|error| Failure::new(error.to_string()).with_hint(error.hint()))?;
    let segments = |text: &str| match &template {
        Some(template) => {
            let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            let rendered = template.render(&[Message::new("user", text)], &options, &loaded.guard);
            rendered.map(|rendered| rendered.segments).map_err(|error| Failure::new(error.to_string()))
        }
        None => Ok(vec![Segment { text: text.to_owned(), parse_special: false }]),
    };

    let mut records = Vec::new();
    for (number, prompt) in (1..).zip(&prompts) {
        stderr_line(&format!("{number}/{}: {}", prompts.len(), prompt.id));
        let found = compare(args, &worker, prompt, &segments(&prompt.prompt)?)?;
        if let (Some(raw), Some(path)) = (&mut raw, &args.raw_output) {
            write_records(raw, &found).map_err(|error| Failure::io(path, &error))?;
        }
        records.extend(found);
    }
    let model = args.engine.model.file_name().unwrap_or_default().to_string_lossy();
    write_stdout(&format!(
        "{model}, {n_threads} threads ({n_threads_batch} for more than one row), greedy, {} tokens, {} repetitions\n{}\n\n{}",
        args.n_predict,
        args.repetitions,
        machine(),
        table(&records)
    ))?;
    Ok(ExitCode::Success)
}

/// Makes the output, unless that would destroy an input.
fn create<'a>(path: &Path, mut inputs: impl Iterator<Item = &'a Path>) -> Result<BufWriter<File>, Failure> {
    if inputs.any(|input| is_same_file(path, input)) {
        return Err(Failure::usage(format!("{}: the raw output would overwrite what is read", path.display()))
            .with_hint("--raw-output takes a file of its own"));
    }
    File::create(path).map(BufWriter::new).map_err(|error| Failure::io(path, &error))
}

/// Whether both paths lead to one file, through whatever links.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    };
    #[cfg(not(unix))]
    let identity = |path: &Path| fs::canonicalize(path);
    matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
}

fn write_records(out: &mut BufWriter<File>, records: &[Record]) -> std::io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *out, record)?;
        out.write_all(b"\n")?;
    }
    // What is measured stays, whatever happens to the rest.
    out.flush()
}

fn parse_prompts(text: &str, name: &str) -> Result<Vec<Prompt>, Failure> {
    let mut prompts: Vec<Prompt> = Vec::new();
    let mut ids = HashSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| {
            Failure::new(format!("{name}:{number}: {what}"))
                .with_hint(r#"a line is {"id": "chat-1", "kind": "chat", "prompt": "..."}"#)
        };
        let prompt: Prompt = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        if !ids.insert(prompt.id.clone()) {
            return Err(wrong(format!("the id {:?} stands in an earlier line", prompt.id)));
        }
        prompts.push(prompt);
    }
    if prompts.is_empty() { Err(Failure::new(format!("{name}: no prompts"))) } else { Ok(prompts) }
}

/// All answers to one prompt.
fn compare(args: &BenchArgs, worker: &Worker, prompt: &Prompt, segments: &[Segment]) -> Result<Vec<Record>, Failure> {
    let mut drafters = vec![DrafterKind::None];
    drafters.extend(args.drafters.iter().filter(|&&drafter| drafter != DrafterKind::None));
    let answer = |drafter, max_tokens| {
        worker.submit(Job {
            prompt: segments.to_vec(),
            max_tokens: Some(max_tokens),
            n_ctx: args.engine.ctx_size,
            sampling: GREEDY,
            stops: Vec::new(),
            drafter,
            curve_budget: Duration::from_millis(args.engine.curve_budget),
        });
        let answer = receive(worker, &mut Bars::default(), |_| Ok(()))?;
        if answer.stop == StopType::Interrupted { Err(Failure::interrupted()) } else { Ok(answer) }
    };
    // Reads the prompt, and measures the curve for its length if need be: neither belongs to one drafter.
    for &drafter in &drafters {
        answer(drafter, 1)?;
    }
    let mut records = Vec::new();
    let mut plain: Option<Vec<Token>> = None;
    for repetition in 0..args.repetitions {
        for turn in 0..drafters.len() {
            let drafter = drafters[(turn + repetition * usize::from(plain.is_some())) % drafters.len()];
            let answer = answer(drafter, args.n_predict)?;
            let plain = plain.get_or_insert_with(|| answer.tokens.clone());
            records.push(record(prompt, drafter, repetition, &answer, plain));
        }
    }
    Ok(records)
}

fn record(prompt: &Prompt, drafter: DrafterKind, repetition: usize, answer: &Answer, plain: &[Token]) -> Record {
    let n_equal = answer.tokens.iter().zip(plain).take_while(|(a, b)| a == b).count();
    let stats = &answer.stats;
    Record {
        id: prompt.id.clone(),
        kind: prompt.kind.clone(),
        drafter,
        repetition,
        first_difference: (answer.tokens != plain).then_some(n_equal),
        rate: stats.tokens_per_second(),
        share_drafting: stats.draft_ms / stats.predicted_ms,
        tokens_per_step: stats.tokens_per_step(),
        timings: JsonTimings::from(stats),
    }
}

/// What one drafter did with one prompt: medians over the repetitions.
struct Summary {
    rate: f64,
    speedup: f64,
    tokens_per_step: f64,
    share_drafting: f64,
    is_equal: bool,
}

fn summarize(records: &[&Record], plain: &[&Record]) -> Summary {
    let of = |value: &dyn Fn(&Record) -> f64| median(records.iter().map(|record| value(record)).collect());
    let speedup_in = |record: &Record| {
        let plain = plain.iter().find(|plain| plain.repetition == record.repetition);
        plain.map_or(f64::NAN, |plain| record.rate / plain.rate)
    };
    Summary {
        rate: of(&|record| record.rate),
        speedup: of(&speedup_in),
        tokens_per_step: of(&|record| record.tokens_per_step),
        share_drafting: of(&|record| record.share_drafting),
        is_equal: records.iter().all(|record| record.first_difference.is_none()),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

fn geometric_mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    (values.map(f64::ln).sum::<f64>() / n).exp()
}

/// One row per kind and drafter, and a last one per drafter over all prompts.
fn table(records: &[Record]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    let mut drafters: Vec<DrafterKind> = Vec::new();
    let mut by_prompt: BTreeMap<(&str, &str), Vec<&Record>> = BTreeMap::new();
    for record in records {
        if !kinds.contains(&record.kind.as_str()) {
            kinds.push(&record.kind);
        }
        if !drafters.contains(&record.drafter) {
            drafters.push(record.drafter);
        }
        by_prompt.entry((&record.kind, &record.id)).or_default().push(record);
    }
    kinds.push("all");
    let mut out = String::from(
        "| kind | drafter | tokens/s | speed-up | worst and best prompt | tokens/step | drafting | equal texts |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for kind in kinds {
        for &drafter in &drafters {
            let summaries: Vec<Summary> = by_prompt
                .iter()
                .filter(|((of_kind, _), _)| kind == "all" || kind == *of_kind)
                .map(|(_, records)| summarize(&only(records, drafter), &only(records, DrafterKind::None)))
                .collect();
            out += &row(kind, drafter, &summaries);
        }
    }
    out
}

fn only<'a>(records: &[&'a Record], drafter: DrafterKind) -> Vec<&'a Record> {
    records.iter().copied().filter(|record| record.drafter == drafter).collect()
}

fn row(kind: &str, drafter: DrafterKind, summaries: &[Summary]) -> String {
    let name = match drafter {
        DrafterKind::Auto => "auto",
        DrafterKind::Aded => "aded",
        DrafterKind::None => "none",
    };
    let speedups = summaries.iter().map(|summary| summary.speedup);
    let mean = |value: &dyn Fn(&Summary) -> f64| summaries.iter().map(value).sum::<f64>() / summaries.len() as f64;
    format!(
        "| {kind} | {name} | {:.1} | {:.2} | {:.2} – {:.2} | {:.2} | {:.1}% | {}/{} |\n",
        mean(&|summary| summary.rate),
        geometric_mean(speedups.clone()),
        speedups.clone().fold(f64::INFINITY, f64::min),
        speedups.fold(0.0, f64::max),
        mean(&|summary| summary.tokens_per_step),
        mean(&|summary| summary.share_drafting) * 100.0,
        summaries.iter().filter(|summary| summary.is_equal).count(),
        summaries.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_prompts_are_of_eight_kinds() {
        let prompts = parse_prompts(SHIPPED, "shipped").unwrap();
        let kinds: HashSet<&str> = prompts.iter().map(|prompt| prompt.kind.as_str()).collect();
        assert_eq!((prompts.len(), kinds.len()), (24, 8));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let good = r#"{"id": "a", "kind": "k", "prompt": "p"}"#;
        let twice = parse_prompts(&format!("{good}\n\n{good}\n"), "my.jsonl").unwrap_err().to_string();
        assert!(twice.contains("my.jsonl:3: the id \"a\""), "{twice}");
        let broken = parse_prompts("{}", "my.jsonl").unwrap_err().to_string();
        assert!(broken.contains("my.jsonl:1: missing field"), "{broken}");
        assert!(parse_prompts("\n", "my.jsonl").is_err());
    }

    #[test]
    fn medians_and_means() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!((geometric_mean([2.0, 8.0].into_iter()) - 4.0).abs() < 1e-12);
    }
}
