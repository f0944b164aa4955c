//! What it is worth to keep what a drafter learned from earlier answers: nothing, all, or a share of each answer.
//!
//! usage: cargo run --release -p chaski-draft --example keeping -- TRACES [ORDERS]
//!
//! The answers are replayed in ORDERS (6) random orders with the curve of Chaski's kernels, without a base. Each answer meets a
//! new drafter that starts from what was kept.

#![allow(clippy::print_stdout, reason = "an example that prints")]

use std::collections::BTreeMap;
use std::error::Error;

use chaski_draft::cost::CostCurve;
use chaski_draft::draft::auto::{Auto, Experience};
use chaski_draft::replay::KERNELS;
use chaski_draft::replay::score::{Score, replay};
use chaski_draft::replay::target::SimulatedClock;
use chaski_draft::replay::trace::Trace;
use chaski_draft::schedule::Schedule;

/// What is kept after an answer.
type Keep = fn(&Auto) -> Option<Experience>;

const KEPT: [(&str, Keep); 3] = [
    ("nothing", |_| None),
    ("all", |auto| Some(auto.experience())),
    ("a share", |auto| Some(auto.experience_to_keep())),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: keeping TRACES [ORDERS]")?;
    let n_orders: u64 = arguments.next().map_or(Ok(6), |n| n.parse())?;
    let traces = Trace::parse_all(&std::fs::read_to_string(path)?)?;
    let curve = CostCurve::exact(KERNELS);
    let mut speedups: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (_, keep) in KEPT {
        let mut scores: BTreeMap<String, Score> = BTreeMap::new();
        for seed in 0..n_orders {
            let mut kept = None;
            for trace in shuffled(&traces, seed) {
                let mut auto = Auto::new(Auto::sources(None), kept.as_ref());
                let schedule = Schedule::cost_aware(curve.clone());
                let score = replay(trace, &curve, &mut auto, schedule, &SimulatedClock::default())?;
                for kind in [trace.kind(), "~ all"] {
                    scores.entry(kind.to_owned()).or_default().merge(&score);
                }
                kept = keep(&auto);
            }
        }
        for (kind, score) in scores {
            speedups.entry(kind).or_default().push(score.speedup());
        }
    }
    println!("| kind | {} |\n|---|---:|---:|---:|", KEPT.map(|(name, _)| name).join(" | "));
    for (kind, speedups) in speedups {
        let cells = speedups.iter().map(|speedup| format!("{speedup:.3} ({:.3})", speedup / speedups[0]));
        println!("| {kind} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}

/// The traces in an order that depends on `seed`.
fn shuffled(traces: &[Trace], seed: u64) -> Vec<&Trace> {
    let mut dice = seed;
    let mut roll = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        dice >> 33
    };
    let mut order: Vec<(u64, &Trace)> = traces.iter().map(|trace| (roll(), trace)).collect();
    order.sort_by_key(|(rolled, _)| *rolled);
    order.into_iter().map(|(_, trace)| trace).collect()
}
