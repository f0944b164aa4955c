//! Compares policies for where a source with a price is asked, on recorded answers and predictions.
//!
//! usage: cargo run --release -p chaski-draft --example policies -- TRACES PREDICTIONS [PRICE...]
//!
//! Loss is the time lost against the best single choice for each answer in hindsight, always or never: in percent of that
//! time, over all answers and for the worst one. Each kind's figure is the speed-up divided by that of the better single
//! choice for the kind. "Always" asks at every root and at deeper nodes down to the least probability that is best over
//! all answers. The linear policy is trained on the answers with odd numbers for those with even ones, and the reverse.

#![allow(clippy::print_stdout, reason = "an example that prints")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;

use chaski_draft::cost::CostCurve;
use chaski_draft::draft::asking::Policy;
use chaski_draft::draft::auto::{Auto, Experience};
use chaski_draft::replay::KERNELS;
use chaski_draft::replay::policies::{Bandit, Exploration, Fixed, Linear, N_FEATURES, Weights};
use chaski_draft::replay::predictions::Predictions;
use chaski_draft::replay::score::{Score, replay_with_source};
use chaski_draft::replay::target::SimulatedClock;
use chaski_draft::replay::trace::Trace;
use chaski_draft::schedule::Schedule;
use chaski_draft::tree::MAX_NODES;

const PRICES: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.4];

/// Least probabilities of nodes at which "always" asks.
const LEAST_P: [f32; 5] = [0.2, 0.35, 0.5, 0.7, 0.9];

type MakePolicy<'a> = dyn Fn() -> Option<Rc<RefCell<dyn Policy>>> + 'a;

struct Answer {
    trace: Trace,
    predictions: Predictions,
}

struct World<'a> {
    answers: &'a [Answer],
    curve: CostCurve,
    price: f64,
    /// Keep what was learned from one answer for the next.
    keep: bool,
}

impl World<'_> {
    fn run(&self, make: &MakePolicy<'_>) -> Result<Vec<Score>, Box<dyn Error>> {
        let mut kept: Option<Experience> = None;
        let mut policy = make();
        let mut scores = Vec::new();
        for Answer { trace, predictions } in self.answers {
            if !self.keep {
                policy = make();
            }
            let mut auto = Auto::new(Auto::sources(None), kept.as_ref());
            if let Some(policy) = &policy {
                auto = auto.with_policy(Box::new(Rc::clone(policy)));
            }
            let schedule = Schedule::cost_aware(self.curve.clone()).with_max_rows(MAX_NODES);
            let source = (predictions, self.price);
            scores.push(replay_with_source(
                trace,
                &self.curve,
                &mut auto,
                source,
                schedule,
                &SimulatedClock::default(),
            )?);
            kept = self.keep.then(|| auto.experience_to_keep());
        }
        Ok(scores)
    }

    fn fixed(&self, least_p: f32) -> Result<Vec<Score>, Box<dyn Error>> {
        self.run(&|| Some(Rc::new(RefCell::new(Fixed { least_p }))))
    }

    /// The linear policy on each answer, with weights trained on those of the other parity.
    fn linear(&self) -> Result<Vec<Score>, Box<dyn Error>> {
        let by_parity = [0, 1].map(|parity| {
            let weights: Weights = Rc::new(RefCell::new([0.0; N_FEATURES]));
            for rate in [0.03, 0.01, 0.003] {
                for answer in self.answers.iter().filter(|answer| number(&answer.trace) % 2 != parity) {
                    let one = World { answers: std::slice::from_ref(answer), curve: self.curve.clone(), ..*self };
                    one.run(&|| Some(Rc::new(RefCell::new(Linear::training(Rc::clone(&weights), rate, 0.3)))))?;
                }
            }
            self.run(&|| Some(Rc::new(RefCell::new(Linear::new(Rc::clone(&weights))))))
        });
        let [even, odd] = by_parity;
        let both = even?.into_iter().zip(odd?).zip(self.answers);
        Ok(both.map(|((even, odd), answer)| if number(&answer.trace).is_multiple_of(2) { even } else { odd }).collect())
    }
}

/// The number in a trace's id.
fn number(trace: &Trace) -> usize {
    trace.id.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

fn ms(scores: &[Score]) -> f64 {
    scores.iter().map(|score| score.stats.predicted_ms).sum()
}

fn by_kind(answers: &[Answer], scores: &[Score]) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (answer, score) in answers.iter().zip(scores) {
        *all.entry(answer.trace.kind().to_owned()).or_insert(0.0) += score.stats.predicted_ms;
    }
    all
}

fn report(world: &World<'_>, curve: &str) -> Result<(), Box<dyn Error>> {
    let never = world.fixed(2.0)?;
    let mut always: Option<(f32, Vec<Score>)> = None;
    for least_p in LEAST_P {
        let scores = world.fixed(least_p)?;
        if always.as_ref().is_none_or(|(_, best)| ms(&scores) < ms(best)) {
            always = Some((least_p, scores));
        }
    }
    let (least_p, always) = always.expect("there are several");
    let bandit = |exploration| {
        let curve = &world.curve;
        world.run(&move || Some(Rc::new(RefCell::new(Bandit::new(exploration, least_p, curve.clone())))))
    };
    let rows = [
        ("never".to_owned(), never.clone()),
        (format!("always, p ≥ {least_p}"), always.clone()),
        ("ε-greedy, ε = 0.1".to_owned(), bandit(Exploration::EpsilonGreedy(0.1))?),
        ("UCB1, width 1".to_owned(), bandit(Exploration::Ucb1(1.0))?),
        ("UCB1, width 0.3".to_owned(), bandit(Exploration::Ucb1(0.3))?),
        ("linear, trained".to_owned(), world.linear()?),
        ("ours".to_owned(), world.run(&|| None)?),
    ];
    let (never_by_kind, always_by_kind) = (by_kind(world.answers, &never), by_kind(world.answers, &always));
    let plain_ms: f64 = never.iter().map(|score| score.plain_ms).sum();
    for (name, scores) in &rows {
        let best = || never.iter().zip(&always).map(|(a, b)| a.stats.predicted_ms.min(b.stats.predicted_ms));
        let losses = || scores.iter().zip(best()).map(|(score, best)| score.stats.predicted_ms / best - 1.0);
        let loss = ms(scores) / best().sum::<f64>() - 1.0;
        let worst = losses().fold(f64::MIN, f64::max);
        let n_tokens: usize = scores.iter().map(|score| score.stats.n_predicted).sum();
        let n_asked: u64 = scores.iter().map(|score| score.n_predictions).sum();
        let kept = if world.keep { "kept" } else { "fresh" };
        print!("| {curve} | {} | {kept} | {name} | {:.3} |", world.price, plain_ms / ms(scores));
        print!(" {:+.1} | {:+.1} | {:.2} |", 100.0 * loss, 100.0 * worst, n_asked as f64 / n_tokens as f64);
        for (kind, ms) in by_kind(world.answers, scores) {
            print!(" {:.3} |", never_by_kind[&kind].min(always_by_kind[&kind]) / ms);
        }
        println!();
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [traces, predictions, prices @ ..] = arguments.as_slice() else {
        return Err("usage: policies TRACES PREDICTIONS [PRICE...]".into());
    };
    let read = |path: &String| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let all = Predictions::parse_all(&read(predictions)?).map_err(|error| format!("{predictions}: {error}"))?;
    let mut all: BTreeMap<String, Predictions> = all.into_iter().map(|one| (one.id.clone(), one)).collect();
    let mut answers = Vec::new();
    for trace in Trace::parse_all(&read(traces)?).map_err(|error| format!("{traces}: {error}"))? {
        let own = all.remove(&trace.id).ok_or_else(|| format!("{predictions}: nothing about {}", trace.id))?;
        answers.push(Answer { trace, predictions: own });
    }
    let prices: Vec<f64> = prices.iter().map(|price| price.parse()).collect::<Result<_, _>>()?;
    let prices = if prices.is_empty() { PRICES.to_vec() } else { prices };

    let kinds: std::collections::BTreeSet<&str> = answers.iter().map(|answer| answer.trace.kind()).collect();
    print!("| curve | price | experience | policy | speed-up | loss, % | worst answer, % | predictions/token |");
    kinds.iter().for_each(|kind| print!(" {kind} |"));
    println!("\n|---|---:|---|---|---:|---:|---:|---:|{}", "---:|".repeat(kinds.len()));
    let five_percent = CostCurve::exact((1..=MAX_NODES).map(|n| (n, 100.0 + 5.0 * (n - 1) as f64)));
    for (name, curve) in [("kernels", CostCurve::exact(KERNELS)), ("5%", five_percent)] {
        for &price in &prices {
            for keep in [false, true] {
                report(&World { answers: &answers, curve: curve.clone(), price, keep }, name)?;
            }
        }
    }
    Ok(())
}
