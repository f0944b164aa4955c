//! throw-away lab
use chaski::cost::{Clock, CostCurve};
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::auto::Experience;
use chaski::draft::search::Search;
use chaski::draft::{Drafter, Source};
use chaski::replay::score::{Score, replay};
use chaski::replay::trace::Trace;
use chaski::schedule::Schedule;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
struct W(Instant);
impl Clock for W {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
fn flat(p: f64) -> CostCurve {
    CostCurve::exact((1..=64).map(|n| (n, 60.0 * (1.0 + p * (n - 1) as f64))))
}
fn load(p: &str) -> Vec<Trace> {
    Trace::parse_all(&std::fs::read_to_string(p).unwrap()).unwrap()
}
fn base() -> Option<std::sync::Arc<dyn chaski::draft::base::Base>> {
    std::env::var("BASE").ok().map(|p| {
        let b: std::sync::Arc<dyn chaski::draft::base::Base> =
            std::sync::Arc::new(chaski::store::drafter_file::DrafterFile::open_any(std::path::Path::new(&p)).unwrap());
        b
    })
}
fn sources(without: &str) -> Vec<Box<dyn Source>> {
    Auto::sources(base()).into_iter().filter(|s| !without.split(',').any(|w| w == s.name())).collect()
}
fn train(traces: &[Trace], without: &str) -> Experience {
    chaski::replay::train::train(traces, &|| sources(without), &W(Instant::now())).unwrap()
}
fn main() {
    if std::env::var("TRAINED").is_ok() {}

    let a: Vec<String> = std::env::args().collect();
    let tr: Vec<Trace> = a[1].split(',').flat_map(load).collect();
    let te: Vec<Trace> = load(&a[2]);
    let c15 = CostCurve::exact([
        (1, 62.0),
        (2, 96.0),
        (4, 107.0),
        (5, 139.5),
        (8, 191.0),
        (16, 229.0),
        (32, 415.0),
        (64, 725.0),
    ]);
    let curves = [("1%", flat(0.01)), ("5%", flat(0.05)), ("1.5B", c15)];
    let withouts: Vec<&str> = a.get(3).map_or(vec![""], |s| s.split(';').collect());
    for without in withouts {
        let mut state = train(&tr, without);
        if std::env::var("NOCAL").is_ok() {
            state.calibrator = Default::default();
        }
        for (name, curve) in &curves {
            let mut kinds: BTreeMap<String, Score> = BTreeMap::new();
            let mut all = Score::default();
            let mut kept = Auto::new(sources(without), &state);
            for t in &te {
                if std::env::var("KEEP").is_ok() {
                    kept = kept.with_sources(sources(without));
                    let s = replay(
                        t,
                        curve,
                        &mut kept,
                        Schedule::cost_aware(curve.clone()).with_max_rows(64),
                        &W(Instant::now()),
                    )
                    .unwrap();
                    kinds.entry(t.kind().to_string()).or_default().merge(&s);
                    all.merge(&s);
                    continue;
                }
                let mut d: Box<dyn Drafter> = match without {
                    "aded" => Box::new(Aded::default()),
                    "mcts" => Box::new(Auto::new(sources(""), &state).with_search(Search::Mcts)),
                    _ => Box::new(Auto::new(sources(without), &state)),
                };
                let s = replay(
                    t,
                    curve,
                    d.as_mut(),
                    Schedule::cost_aware(curve.clone()).with_max_rows(64),
                    &W(Instant::now()),
                )
                .unwrap();
                kinds.entry(t.kind().to_string()).or_default().merge(&s);
                all.merge(&s);
            }
            print!(
                "{without:10} {name:5} all {:.3} tps {:.2} us/step {:.0} ll/node {:.4} n {}",
                all.speedup(),
                all.stats.tokens_per_step(),
                all.drafting_ms * 1e3 / all.stats.n_steps as f64,
                all.calibration.log_loss / all.calibration.n() as f64,
                all.calibration.n()
            );
            for (k, s) in &kinds {
                print!(" {k} {:.2}", s.speedup());
            }
            println!();
            if a.len() > 4 {
                for b in all.calibration.bins {
                    print!("  [{} {:.3} {:.3}]", b.n, b.sum_p / b.n as f64, b.n_accepted as f64 / b.n as f64);
                }
                println!();
            }
        }
    }
}
