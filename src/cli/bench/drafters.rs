//! `bench` without a mode flag: compares drafters with plain decoding, on real text, in one run.
//!
//! Drafters take turns within each repetition of each prompt, so a machine that slows down slows all of them. A speedup
//! is the ratio of two rates of the same repetition. The table shows the median ratio per prompt, and the geometric
//! mean of these medians over the prompts. Prompts are decoded once and stay in the cache, so only decoding is timed.
//! Each answer starts with a fresh drafter.

use std::time::Duration;

use clap::ValueEnum as _;
use serde::Serialize;

use crate::chat::template::Segment;
use crate::cli::bench::prompts::{Prompt, Renderer};
use crate::cli::bench::stats::{geometric_mean, mean, median, range};
use crate::cli::bench::table::{Row, Table};
use crate::cli::bench::{Bench, next_prompt};
use crate::cli::failure::Failure;
use crate::cli::output::Bars;
use crate::cli::run::json::JsonTimings;
use crate::cli::run::{details, receive};
use crate::engine::{Alone, Details, DrafterKind, End, Request};
use crate::llama::sampler::Sampling;
use crate::stats::Stats;
use crate::token::Token;

pub(super) const N_REPEATS: usize = 3;

/// One measured answer.
#[derive(Clone, Debug)]
struct Record {
    id: String,
    kind: String,
    drafter: DrafterKind,
    repetition: usize,
    tokens: Vec<Token>,
    /// Tokens equal to the first plain answer, up to the first difference.
    n_equal: usize,
    /// Length of the first plain answer, in tokens.
    n_plain: usize,
    stats: Stats,
    /// Predictions of the draft model, if the drafter may ask one.
    n_predictions: Option<u64>,
}

pub(super) fn measure(
    bench: &mut Bench<'_>,
    prompts: &[Prompt],
    renderer: &Renderer<'_>,
) -> Result<Vec<Table>, Failure> {
    let mut drafters = vec![DrafterKind::None];
    for &drafter in &bench.args.drafters {
        if !drafters.contains(&drafter) {
            drafters.push(drafter);
        }
    }
    let mut by_prompt = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let records = compare(bench, &drafters, prompt, &next_prompt(number, prompts, renderer)?)?;
        for record in &records {
            bench.raw.write(&bench.setup, JsonRecord::from(record))?;
        }
        by_prompt.push(records);
    }
    Ok(vec![Table { name: "drafters", rows: summary(&drafters, &by_prompt) }])
}

/// All answers to one prompt.
fn compare(
    bench: &Bench<'_>,
    drafters: &[DrafterKind],
    prompt: &Prompt,
    segments: &[Segment],
) -> Result<Vec<Record>, Failure> {
    // Decode the prompt before anything is timed.
    for &drafter in drafters {
        answer(bench, segments, drafter, 1)?;
    }
    let mut records = Vec::new();
    let mut plain: Option<Vec<Token>> = None;
    for repetition in 0..bench.args.repetitions.unwrap_or(N_REPEATS) {
        for turn in 0..drafters.len() {
            // Plain decoding goes first: the other answers are compared with its text.
            let drafter = drafters[(turn + repetition) % drafters.len()];
            let (details, stats) = answer(bench, segments, drafter, bench.args.n_predict)?;
            let (tokens, n_predictions) = (details.tokens, details.draft_model.map(|draft| draft.n_predictions));
            let plain = plain.get_or_insert_with(|| tokens.clone());
            let n_equal = tokens.iter().zip(&*plain).take_while(|(a, b)| a == b).count();
            let (id, kind, n_plain) = (prompt.id.clone(), prompt.kind.clone(), plain.len());
            records.push(Record { id, kind, drafter, repetition, tokens, n_equal, n_plain, stats, n_predictions });
        }
    }
    Ok(records)
}

fn answer(
    bench: &Bench<'_>,
    prompt: &[Segment],
    drafter: DrafterKind,
    max_tokens: usize,
) -> Result<(Details, Stats), Failure> {
    let curve_budget = Duration::from_millis(bench.args.engine.curve_budget);
    bench.engine.submit(Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(max_tokens),
        sampling: Sampling::greedy(),
        alone: Alone { n_ctx: bench.n_ctx, drafter, curve_budget, ..Alone::default() },
        ..Request::default()
    });
    let answer = receive(&bench.engine, &mut Bars::default(), |_| Ok(()))?;
    match answer.end {
        End::Interrupted => Err(Failure::interrupted()),
        _ => Ok((details(&answer)?.clone(), answer.stats)),
    }
}

impl Record {
    /// Whether the answer equals the plain one, its length included.
    fn is_equal(&self) -> bool {
        self.n_equal == self.n_plain && self.tokens.len() == self.n_plain
    }
}

/// A record of the raw output.
#[derive(Serialize)]
struct JsonRecord<'a> {
    id: &'a str,
    kind: &'a str,
    drafter: String,
    repetition: usize,
    n_equal: usize,
    n_plain: usize,
    is_equal: bool,
    timings: JsonTimings,
    #[serde(skip_serializing_if = "Option::is_none")]
    predictions: Option<u64>,
    tokens: Vec<i32>,
}

impl<'a> From<&'a Record> for JsonRecord<'a> {
    fn from(record: &'a Record) -> JsonRecord<'a> {
        JsonRecord {
            id: &record.id,
            kind: &record.kind,
            drafter: name(record.drafter),
            repetition: record.repetition,
            n_equal: record.n_equal,
            n_plain: record.n_plain,
            is_equal: record.is_equal(),
            timings: JsonTimings::from(&record.stats),
            predictions: record.n_predictions,
            tokens: record.tokens.iter().map(|token| token.0).collect(),
        }
    }
}

/// The name of a drafter on the command line.
fn name(drafter: DrafterKind) -> String {
    drafter.to_possible_value().map_or_else(|| format!("{drafter:?}"), |value| value.get_name().to_owned())
}

/// The answers of one drafter to one prompt.
struct Summary<'a> {
    records: Vec<&'a Record>,
    /// Speedup over plain decoding, per repetition.
    speedups: Vec<f64>,
}

impl<'a> Summary<'a> {
    fn new(records: &'a [Record], drafter: DrafterKind) -> Summary<'a> {
        let rate = |record: &Record| record.stats.tokens_per_second();
        let speedup = |record: &Record| {
            let is_its_plain =
                |plain: &&Record| plain.drafter == DrafterKind::None && plain.repetition == record.repetition;
            records.iter().find(is_its_plain).map_or(f64::NAN, |plain| rate(record) / rate(plain))
        };
        let records_of: Vec<&Record> = records.iter().filter(|record| record.drafter == drafter).collect();
        let speedups = records_of.iter().map(|record| speedup(record)).collect();
        Summary { records: records_of, speedups }
    }

    fn median(&self, value: impl Fn(&Stats) -> f64) -> f64 {
        median(&self.records.iter().map(|record| value(&record.stats)).collect::<Vec<_>>())
    }
}

/// One row per kind and drafter, then one per drafter over all prompts.
fn summary(drafters: &[DrafterKind], by_prompt: &[Vec<Record>]) -> Vec<Row> {
    let kind_of = |records: &Vec<Record>| records[0].kind.clone();
    let mut kinds: Vec<String> = Vec::new();
    for kind in by_prompt.iter().map(kind_of) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let mut rows = Vec::new();
    for kind in kinds.iter().map(Some).chain([None]) {
        let prompts: Vec<_> =
            by_prompt.iter().filter(|records| kind.is_none_or(|kind| *kind == kind_of(records))).collect();
        for &drafter in drafters {
            let summaries: Vec<Summary<'_>> = prompts.iter().map(|records| Summary::new(records, drafter)).collect();
            rows.push(row(kind.map_or("all", String::as_str), drafter, &summaries));
        }
    }
    rows
}

fn row(kind: &str, drafter: DrafterKind, prompts: &[Summary<'_>]) -> Row {
    let over_prompts = |value: &dyn Fn(&Summary<'_>) -> f64| prompts.iter().map(value).collect::<Vec<f64>>();
    let medians = over_prompts(&|prompt| median(&prompt.speedups));
    // The speedup that each single repetition would have shown.
    let per_repetition: Vec<f64> =
        (0..prompts[0].speedups.len()).map(|n| geometric_mean(&over_prompts(&|prompt| prompt.speedups[n]))).collect();
    let spread = range(&per_repetition);
    let by_speedup = |a: &usize, b: &usize| medians[*a].total_cmp(&medians[*b]);
    let worst = (0..prompts.len()).min_by(by_speedup).unwrap_or(0);
    let best = (0..prompts.len()).max_by(by_speedup).unwrap_or(0);
    let extreme = |n: usize| format!("{:.2} {}", medians[n], prompts[n].records[0].id);
    let all = || prompts.iter().flat_map(|prompt| &prompt.records);
    let sum = |value: &dyn Fn(&Record) -> usize| all().map(|record| value(record)).sum::<usize>();
    let n_equal = prompts.iter().filter(|prompt| prompt.records.iter().all(|record| record.is_equal())).count();
    let share_equal = sum(&|record| record.n_equal) as f64 / sum(&|record| record.n_plain).max(1) as f64;
    Row::default()
        .text("kind", "kind", kind)
        .text("drafter", "drafter", &name(drafter))
        .number(
            "tokens_per_second",
            "tokens/s",
            mean(&over_prompts(&|prompt| prompt.median(Stats::tokens_per_second))),
            1,
        )
        .number("speedup", "speed-up", geometric_mean(&medians), 2)
        .number("speedup_min", "min – max", spread.0, 2)
        .shown(format!("{:.2} – {:.2}", spread.0, spread.1))
        .hidden("speedup_max", spread.1)
        .number("speedup_worst", "worst prompt", medians[worst], 2)
        .shown(extreme(worst))
        .hidden("worst_id", &prompts[worst].records[0].id)
        .number("speedup_best", "best prompt", medians[best], 2)
        .shown(extreme(best))
        .hidden("best_id", &prompts[best].records[0].id)
        .number(
            "tokens_per_step",
            "tokens/step",
            mean(&over_prompts(&|prompt| prompt.median(Stats::tokens_per_step))),
            2,
        )
        .percent("share_drafting", "drafting", mean(&over_prompts(&|prompt| prompt.median(share_drafting))), 1)
        .percent("share_equal_tokens", "equal tokens", share_equal, 1)
        .count("n_equal_texts", "equal texts", n_equal)
        .shown(format!("{n_equal}/{}", prompts.len()))
        .hidden("n_texts", prompts.len())
        .hidden("predicted_n", sum(&|record| record.stats.n_predicted))
        .hidden("predicted_ms", all().map(|record| record.stats.predicted_ms).sum::<f64>())
        .hidden("speedups", per_repetition)
}

fn share_drafting(stats: &Stats) -> f64 {
    stats.draft_ms / stats.predicted_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, drafter: DrafterKind, repetition: usize, predicted_ms: f64, n_equal: usize) -> Record {
        let stats =
            Stats { n_predicted: 10, n_steps: 5, predicted_ms, draft_ms: predicted_ms / 10.0, ..Stats::default() };
        let (id, kind) = (id.to_owned(), id[..1].to_owned());
        Record {
            id,
            kind,
            drafter,
            repetition,
            tokens: vec![Token(1); 10],
            n_equal,
            n_plain: 10,
            stats,
            n_predictions: None,
        }
    }

    #[test]
    fn ratios_are_of_one_repetition_and_the_rest_follows() {
        use DrafterKind::{Auto, None as Plain};
        // Speedups by repetition: a1 has 2, 4, 3 and a2 has 1, 1, 1/2, although the machine was slow at times.
        let prompt = |id: &str, plain: [f64; 3], auto: [f64; 3], n_equal: usize| {
            let of = |kind, ms: [f64; 3], n_equal| {
                (0..3).map(move |n| record(id, kind, n, ms[n], n_equal)).collect::<Vec<_>>()
            };
            [of(Plain, plain, 10), of(Auto, auto, n_equal)].concat()
        };
        let by_prompt = [
            prompt("a1", [100.0, 400.0, 300.0], [50.0, 100.0, 100.0], 10),
            prompt("a2", [100.0, 100.0, 100.0], [100.0, 100.0, 200.0], 4),
        ];
        let rows = summary(&[Plain, Auto], &by_prompt);
        let rows: Vec<serde_json::Value> = rows.iter().map(|row| serde_json::to_value(row).unwrap()).collect();
        assert_eq!(rows.len(), 4, "kind a and all, two drafters");
        assert_eq!(rows[1]["speedups"], rows[3]["speedups"]);
        let auto = &rows[1];
        let figure = |key: &str| (auto[key].as_f64().unwrap() * 1e6).round() / 1e6;
        assert_eq!(figure("speedup"), 1.732_051, "medians 3 and 1");
        assert_eq!((figure("speedup_min"), figure("speedup_max")), (1.224_745, 2.0), "1.5^(1/2) and 4^(1/2)");
        assert_eq!((figure("speedup_worst"), figure("speedup_best")), (1.0, 3.0));
        assert_eq!((&auto["worst_id"], &auto["best_id"]), (&"a2".into(), &"a1".into()));
        assert_eq!((figure("tokens_per_step"), figure("share_drafting")), (2.0, 0.1));
        assert_eq!((figure("share_equal_tokens"), figure("n_equal_texts"), figure("n_texts")), (0.7, 1.0, 2.0));
        assert_eq!((figure("predicted_n"), figure("predicted_ms")), (60.0, 650.0));
        assert_eq!(rows[0]["speedup"].as_f64(), Some(1.0), "plain decoding is what it is compared with");
    }

    #[test]
    fn drafters_have_their_command_lines_names() {
        assert_eq!(name(DrafterKind::Auto), "auto");
    }

    #[test]
    fn a_longer_answer_is_another_one() {
        let mut record = record("a", DrafterKind::Auto, 0, 1.0, 10);
        assert!(record.is_equal());
        record.tokens.push(Token(2));
        assert!(!record.is_equal());
    }
}
