//! The default drafter on recorded answers of Qwen2.5-Coder-0.5B-Instruct Q4_K_M, one per kind of prompt.
//!
//! The bounds are a little looser than the scores when they were set: a retuned drafter passes, a worse one fails.

use std::collections::BTreeMap;
use std::time::Duration;

use chaski::cost::{Clock, CostCurve};
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::{Drafter, NoDraft};
use chaski::replay::policies::Fixed;
use chaski::replay::predictions::Predictions;
use chaski::replay::score::{Score, replay, replay_with_source};
use chaski::replay::trace::Trace;
use chaski::schedule::Schedule;
use chaski::tree::MAX_NODES;

/// Drafting takes no time.
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

fn traces() -> Vec<Trace> {
    Trace::parse_all(include_str!("data/traces.jsonl")).unwrap()
}

/// Each further row costs this share of the first.
fn even(share: f64) -> CostCurve {
    CostCurve::exact((1..=MAX_NODES).map(|n| (n, 1.0 + share * (n - 1) as f64)))
}

/// Milliseconds of a 1.5B Q4_K_M model on two AVX-512 cores.
fn laptop() -> CostCurve {
    CostCurve::exact([
        (1, 62.0),
        (2, 96.0),
        (4, 107.0),
        (5, 139.5),
        (8, 191.0),
        (12, 238.7),
        (16, 229.0),
        (32, 415.0),
        (64, 725.0),
    ])
}

/// Scores of each trace, with a fresh drafter for each.
fn scores(curve: &CostCurve, drafter: impl Fn() -> Box<dyn Drafter>) -> Vec<(String, Score)> {
    let score = |trace: &Trace| {
        replay(trace, curve, drafter().as_mut(), Schedule::cost_aware(curve.clone()), &Stopped).unwrap()
    };
    traces().iter().map(|trace| (trace.id.clone(), score(trace))).collect()
}

fn sum(scores: &[(String, Score)]) -> Score {
    scores.iter().fold(Score::default(), |mut sum, (_, score)| {
        sum.merge(score);
        sum
    })
}

fn auto() -> Box<dyn Drafter> {
    Box::new(Auto::default())
}

#[test]
fn every_kind_has_an_answer() {
    let kinds: std::collections::BTreeSet<String> = traces().iter().map(|trace| trace.kind().to_owned()).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
}

#[test]
fn auto_is_as_good_as_it_was() {
    for (name, curve, least_speedup, least_tokens_per_step) in
        [("1% a row", even(0.01), 1.87, 2.08), ("5% a row", even(0.05), 1.60, 1.82), ("laptop", laptop(), 1.31, 1.62)]
    {
        let all = sum(&scores(&curve, auto));
        let (speedup, tokens_per_step) = (all.speedup(), all.stats.tokens_per_step());
        assert!(
            speedup >= least_speedup && tokens_per_step >= least_tokens_per_step,
            "{name}: {speedup:.3}x, {tokens_per_step:.3} tokens a step"
        );
        assert!(speedup < 10.0, "{name}: {speedup:.3}x is too good to be true");
        let aded = sum(&scores(&curve, || Box::new(Aded::default()))).speedup();
        assert!(speedup >= aded, "{name}: {speedup:.3}x, and ADED's drafts cut to what pays {aded:.3}x");
    }
}

#[test]
fn auto_never_loses_on_a_laptop() {
    for (id, score) in scores(&laptop(), auto) {
        assert!(score.speedup() >= 0.98, "{id}: {:.3}x", score.speedup());
    }
}

#[test]
fn auto_knows_what_it_does() {
    let calibration = sum(&scores(&even(0.01), auto)).calibration;
    let n = calibration.n() as f64;
    let (hoped, accepted) = calibration.bins.iter().fold((0.0, 0), |(p, n), bin| (p + bin.sum_p, n + bin.n_accepted));
    assert!((hoped - accepted as f64).abs() < 0.03 * n, "{hoped:.0} hoped for, {accepted} accepted of {n}");
    assert!(calibration.log_loss / n < 0.28, "log-loss {:.3}", calibration.log_loss / n);
    // A fresh drafter without a base on eight answers: a bin of 372 predicts 5.7 points too little.
    for bin in calibration.bins.iter().filter(|bin| bin.n >= 200) {
        let (predicted, realized) = (bin.sum_p / bin.n as f64, bin.n_accepted as f64 / bin.n as f64);
        assert!((predicted - realized).abs() < 0.07, "{predicted:.3} predicted, {realized:.3} realized: {bin:?}");
    }
}

/// The time of each kind of text in plain steps, with the recorded predictions of a draft model at this price and a fresh
/// drafter for each answer. It asks at nodes that are at least `least_p` likely, if given, else where it chooses.
fn times_with_a_draft_model(curve: &CostCurve, price: f64, least_p: Option<f32>) -> BTreeMap<String, f64> {
    let traces = Trace::parse_all(include_str!("../bench/traces/qwen2.5-coder-1.5b-instruct.jsonl")).unwrap();
    let predictions = include_str!("../bench/traces/qwen2.5-coder-1.5b-instruct-draft-0.5b.jsonl");
    let predictions = Predictions::parse_all(predictions).unwrap();
    let mut times = BTreeMap::new();
    for trace in &traces {
        let own = predictions.iter().find(|own| own.id == trace.id).unwrap();
        let fixed = least_p.map(|least_p| Box::new(Fixed { least_p }));
        let mut auto = fixed.into_iter().fold(Auto::default(), |auto, fixed| auto.with_policy(fixed));
        let schedule = Schedule::cost_aware(curve.clone());
        let score = replay_with_source(trace, curve, &mut auto, (own, price), schedule, &Stopped).unwrap();
        *times.entry(trace.kind().to_owned()).or_insert(0.0) += score.stats.predicted_ms / curve.plain_ms(0).unwrap();
    }
    times
}

#[test]
fn a_draft_model_is_asked_where_that_pays() {
    let curve = even(0.05);
    let never = times_with_a_draft_model(&curve, 0.2, Some(2.0));
    let always = times_with_a_draft_model(&curve, 0.2, Some(0.5));
    for (kind, time) in times_with_a_draft_model(&curve, 0.2, None) {
        let best = never[&kind].min(always[&kind]);
        assert!(time < 1.06 * best, "{kind}: {time:.1} plain steps, and {best:.1} with the better of always and never");
    }
}

#[test]
fn drafting_is_deterministic() {
    let twice = [(); 2].map(|()| scores(&even(0.05), auto));
    assert_eq!(format!("{:?}", twice[0]), format!("{:?}", twice[1]));
}

#[test]
fn plain_decoding_is_the_unit() {
    let plain = sum(&scores(&laptop(), || Box::new(NoDraft)));
    assert_eq!((plain.stats.n_drafted, plain.stats.tokens_per_step()), (0, 1.0));
    assert!((plain.speedup() - 1.0).abs() < 1e-6, "{}", plain.speedup());
}
