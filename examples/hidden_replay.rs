//! Replays recorded answers with a drafter on hidden states as `chaski run` uses it: with what it learned in practice, a base,
//! and a new drafter for each answer. Prints a table of the speed-ups with it and without it, by kind, on the curve of Chaski's
//! kernels.
//!
//! ```text
//! cargo run --release --locked --example hidden_replay -- TRACES PREDICTIONS DRAFTER.hidden BASE [TOKENS [PRICE [MOST CONFIDENCE]]]
//! ```
//!
//! `hidden_predictions` (an example too) writes TRACES and PREDICTIONS. TOKENS cuts the answers, and PRICE is the time of a
//! prediction as a share of a plain step (0.01). Above MOST CONFIDENCE of the free sources the drafter is not asked.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::read_to_string;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::sync::Arc;

use chaski::cost::CostCurve;
use chaski::draft::auto::Auto;
use chaski::draft::base::Base;
use chaski::draft::with_model::ModelExperience;
use chaski::replay::KERNELS;
use chaski::replay::predictions::Predictions;
use chaski::replay::score::{Score, replay, replay_with_source};
use chaski::replay::target::SimulatedClock;
use chaski::replay::trace::Trace;
use chaski::schedule::Schedule;
use chaski::store::drafter_file::DrafterFile;
use chaski::store::hidden_file::HiddenFile;

/// Widest tree of the replays.
const MOST_ROWS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [traces, predictions, hidden, base, rest @ ..] = arguments.as_slice() else {
        return Err("expected TRACES PREDICTIONS DRAFTER.hidden BASE".into());
    };
    let n_tokens = rest.first().map_or(Ok(usize::MAX), |n| n.parse())?;
    let price = rest.get(1).map_or(Ok(0.01), |price| price.parse())?;
    let most_confidence: Option<f32> = rest.get(2).map(|p| p.parse()).transpose()?;
    let traces = Trace::parse_all(&read_to_string(traces)?)?;
    let predictions = Predictions::parse_all(&read_to_string(predictions)?)?;
    let experience = HiddenFile::open_any(Path::new(hidden))?.experience.ok_or("this drafter never practised")?;
    let experience: ModelExperience = serde_json::from_str(&experience)?;
    let base: Arc<dyn Base> = Arc::new(DrafterFile::open_any(Path::new(base))?);
    let curve = CostCurve::exact(KERNELS);
    let schedule = || Schedule::cost_aware(curve.clone()).with_max_rows(MOST_ROWS);
    let mut scores: BTreeMap<String, [Score; 2]> = BTreeMap::new();
    for mut trace in traces {
        let found = predictions.iter().find(|predictions| predictions.id == trace.id);
        let mut predictions = found.ok_or_else(|| format!("no predictions for {}", trace.id))?.clone();
        predictions.most_confidence = most_confidence.unwrap_or(predictions.most_confidence);
        trace.tokens.truncate(n_tokens);
        trace.top.truncate(n_tokens);
        predictions.rows.truncate(n_tokens);
        let auto = || Auto::new(Auto::sources(Some(Arc::clone(&base))), None);
        let wall = SimulatedClock::default();
        let without = replay(&trace, &curve, &mut auto(), schedule(), &wall)?;
        let mut auto = auto().with_model_experience(experience.clone());
        let with = replay_with_source(&trace, &curve, &mut auto, (&predictions, price), schedule(), &wall)?;
        for kind in [trace.kind(), "all"] {
            let [all_without, all_with] = scores.entry(kind.to_owned()).or_default();
            all_without.merge(&without);
            all_with.merge(&with);
        }
    }
    writeln!(stdout(), "| kind | without | with | ratio | predictions/token |\n|---|---:|---:|---:|---:|")?;
    for (kind, [without, with]) in scores {
        let (old, new) = (without.speedup(), with.speedup());
        let asked = with.n_predictions as f64 / with.stats.n_predicted as f64;
        writeln!(stdout(), "| {kind} | {old:.2} | {new:.2} | {:.3} | {asked:.2} |", new / old)?;
    }
    Ok(())
}
