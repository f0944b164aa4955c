//! Trains the initial state of the mixer on recorded answers.
//!
//! Training is the mixer's normal learning over many answers, with a high learning rate first. The calibrator is not
//! trained: how often paths are accepted depends on which drafts pay on a machine, so it is learned there.

use crate::cost::{Clock, CostCurve};
use crate::draft::Source;
use crate::draft::auto::{Auto, Experience};
use crate::draft::calibration::Calibrator;
use crate::replay::score::replay;
use crate::replay::trace::Trace;
use crate::schedule::Schedule;
use crate::target::TargetError;

/// The learning rate of each pass over all traces, as a factor on the default.
const RATES: [f32; 4] = [3.0, 1.0, 0.3, 0.1];

/// Trains a drafter on all `traces` in several passes. `sources` creates fresh sources for each trace.
///
/// # Errors
/// If a trace contradicts itself.
pub fn train(
    traces: &[Trace],
    sources: &dyn Fn() -> Vec<Box<dyn Source>>,
    wall: &dyn Clock,
) -> Result<Experience, TargetError> {
    // Alternate between the kinds of prompts, or the mixer would fit the last kind best.
    let number = |trace: &Trace| trace.id[trace.kind().len()..].to_owned();
    let mut traces: Vec<&Trace> = traces.iter().collect();
    traces.sort_by_key(|trace| number(trace));
    // Without a curve nothing is drafted, but every token is still scored.
    let (one_row, plain) = (CostCurve::exact([(1, 1.0)]), Schedule::cost_aware(CostCurve::default()));
    let mut auto = Auto::new(sources(), Some(&Experience::fresh(&sources())));
    for rate in RATES {
        auto = auto.with_rate(rate);
        for trace in &traces {
            auto = auto.with_sources(sources());
            replay(trace, &one_row, &mut auto, plain.clone(), wall)?;
        }
    }
    Ok(Experience { calibrator: Calibrator::default(), ..auto.experience() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::target::SimulatedClock;
    use crate::replay::trace::tests::trace;

    #[test]
    fn training_teaches_what_repetition_is_worth() {
        let tokens: Vec<i32> = (0..140).map(|at| 10 + at % 7).collect();
        let traces = [trace(&[1, 2, 3], &tokens, 0.9)];
        let clock = SimulatedClock::default();
        let trained = || train(&traces, &|| Auto::sources(None), &clock).unwrap();
        let state = trained();
        assert!(state.is_sound() && state == trained(), "the same again");
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<Experience>(&json).unwrap(), state);

        let curve = CostCurve::exact((1..=64).map(|n| (n, 1.0 + 0.01 * (n - 1) as f64)));
        let n_steps = |experience: &Experience| {
            let mut auto = Auto::new(Auto::sources(None), Some(experience));
            replay(&traces[0], &curve, &mut auto, Schedule::cost_aware(curve.clone()), &clock).unwrap().stats.n_steps
        };
        assert!(n_steps(&state) < n_steps(&Experience::fresh(&Auto::sources(None))));
    }
}
