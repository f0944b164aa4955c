//! Scores a drafter on recorded answers: runs the generation loop on a target that repeats a trace.

use std::ops::ControlFlow;

use crate::cost::{Clock, CostCurve};
use crate::draft::auto::Auto;
use crate::draft::draft_model::Assisted;
use crate::draft::{Draft, Drafter, Verified};
use crate::generate::{Generation, Length, Observer, Step};
use crate::replay::predictions::{Predictions, RecordedSource};
use crate::replay::target::{Recorded, Replayed, SimulatedClock};
use crate::replay::trace::{Trace, tokens};
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::target::{TargetError, TreeLimits};
use crate::token::Token;

/// The number of bins, of equal width between 0 and 1.
pub const N_CALIBRATION_BINS: usize = 10;

/// Predicted and actual acceptance of verified nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Bins by predicted probability.
    pub bins: [CalibrationBin; N_CALIBRATION_BINS],
    /// Sum of -ln p(outcome) over all nodes.
    pub log_loss: f64,
    /// Sum of (p - outcome)^2 over all nodes; the outcome is 1 if accepted, else 0.
    pub brier: f64,
}

/// The nodes whose predicted probability falls into a bin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CalibrationBin {
    /// How many nodes.
    pub n: usize,
    /// Sum of their predicted probabilities.
    pub sum_p: f64,
    /// How many were accepted.
    pub n_accepted: usize,
}

impl Calibration {
    fn add(&mut self, p: f32, is_accepted: bool) {
        let p = f64::from(p);
        let bin = &mut self.bins[((p * N_CALIBRATION_BINS as f64) as usize).min(N_CALIBRATION_BINS - 1)];
        bin.n += 1;
        bin.sum_p += p;
        bin.n_accepted += usize::from(is_accepted);
        let happened = f64::from(u8::from(is_accepted));
        self.brier += (p - happened).powi(2);
        self.log_loss -= if is_accepted { p } else { 1.0 - p }.max(1e-9).ln();
    }

    /// The number of verified nodes.
    #[must_use]
    pub fn n(&self) -> usize {
        self.bins.iter().map(|bin| bin.n).sum()
    }

    /// Adds the counts of another replay.
    pub fn merge(&mut self, other: &Calibration) {
        for (bin, other) in self.bins.iter_mut().zip(&other.bins) {
            bin.n += other.n;
            bin.sum_p += other.sum_p;
            bin.n_accepted += other.n_accepted;
        }
        self.log_loss += other.log_loss;
        self.brier += other.brier;
    }
}

/// The score of a drafter on one trace or more.
#[derive(Clone, Copy, Debug, Default)]
pub struct Score {
    /// Counts, and times according to the cost curve.
    pub stats: Stats,
    /// Time of plain decoding according to the cost curve, in milliseconds.
    pub plain_ms: f64,
    /// Calibration of the drafter's probabilities.
    pub calibration: Calibration,
    /// Real time spent drafting and learning, in milliseconds.
    pub drafting_ms: f64,
    /// Sum of the probabilities of all verified nodes: the expected accepted tokens.
    pub mass: f64,
    /// How often the source with a price was asked.
    pub n_predictions: u64,
}

impl Score {
    /// Time of plain decoding over the time taken.
    #[must_use]
    pub fn speedup(&self) -> f64 {
        if self.stats.predicted_ms > 0.0 { self.plain_ms / self.stats.predicted_ms } else { 1.0 }
    }

    /// Adds the score of another trace.
    pub fn merge(&mut self, other: &Score) {
        self.stats.n_predicted += other.stats.n_predicted;
        self.stats.n_steps += other.stats.n_steps;
        self.stats.n_drafted_steps += other.stats.n_drafted_steps;
        self.stats.n_drafted += other.stats.n_drafted;
        self.stats.n_accepted += other.stats.n_accepted;
        self.stats.predicted_ms += other.stats.predicted_ms;
        self.plain_ms += other.plain_ms;
        self.calibration.merge(&other.calibration);
        self.drafting_ms += other.drafting_ms;
        self.mass += other.mass;
        self.n_predictions += other.n_predictions;
    }
}

/// Replays one answer with `drafter` under `curve`. `wall` measures the drafter's real time, which is reported apart.
///
/// # Errors
/// If the trace contradicts itself, or the curve has no time for a width asked for.
pub fn replay(
    trace: &Trace,
    curve: &CostCurve,
    drafter: &mut dyn Drafter,
    schedule: Schedule,
    wall: &dyn Clock,
) -> Result<Score, TargetError> {
    replay_at(&SimulatedClock::default(), trace, curve, drafter, schedule, wall)
}

/// [`replay`] with a source that has a price: its predictions along the answer, and the time of one as a share of the
/// time of one row.
///
/// # Errors
/// Those of [`replay`], and if the predictions are for another answer.
pub fn replay_with_source(
    trace: &Trace,
    curve: &CostCurve,
    auto: &mut Auto,
    (predictions, price): (&Predictions, f64),
    schedule: Schedule,
    wall: &dyn Clock,
) -> Result<Score, TargetError> {
    let clock = SimulatedClock::default();
    let source = RecordedSource::new(predictions, trace, price, curve, &clock);
    let mut source = source.map_err(TargetError::Engine)?;
    let n_before = auto.n_predictions();
    let score = replay_at(&clock, trace, curve, &mut Assisted::new(auto, &mut source), schedule, wall)?;
    Ok(Score { n_predictions: auto.n_predictions() - n_before, ..score })
}

fn replay_at(
    clock: &SimulatedClock,
    trace: &Trace,
    curve: &CostCurve,
    drafter: &mut dyn Drafter,
    mut schedule: Schedule,
    wall: &dyn Clock,
) -> Result<Score, TargetError> {
    let mut target = Replayed::new(trace, curve, clock);
    let prompt = tokens(&trace.prompt);
    let prefilled = Generation::prefill(&mut target, clock, &prompt, &mut |_, _| ControlFlow::Continue(()))?;
    let mut timed = Timed { inner: drafter, wall, ms: 0.0 };
    let mut watch = Watch::default();
    let length = Length { max_tokens: trace.tokens.len(), n_ctx: prompt.len() + trace.tokens.len() };
    let mut generation = Generation {
        target: &mut target,
        drafter: &mut timed,
        schedule: &mut schedule,
        sampler: &mut Recorded(trace.tokens.iter()),
        clock,
        observer: &mut watch,
    };
    let generated = generation.run(&prompt, prefilled, length, &mut |_| ControlFlow::Continue(()))?;
    let plain_at = |at: usize| curve.plain_ms(prompt.len() + at).unwrap_or(0.0);
    Ok(Score {
        stats: generated.stats,
        plain_ms: (0..trace.tokens.len()).map(plain_at).sum(),
        calibration: watch.calibration,
        drafting_ms: timed.ms,
        mass: watch.mass,
        n_predictions: 0,
    })
}

#[derive(Default)]
struct Watch {
    calibration: Calibration,
    mass: f64,
}

impl Observer for Watch {
    fn step(&mut self, step: &Step<'_>) {
        for node in step.verified.tree.nodes().skip(1) {
            let p = step.draft.p[node.index()];
            self.mass += f64::from(p);
            self.calibration.add(p, step.path.contains(&node));
        }
    }
}

/// A drafter with a stopwatch.
struct Timed<'a> {
    inner: &'a mut dyn Drafter,
    wall: &'a dyn Clock,
    ms: f64,
}

impl Timed<'_> {
    fn time<T>(&mut self, work: impl FnOnce(&mut dyn Drafter) -> T) -> T {
        let start = self.wall.now();
        let result = work(self.inner);
        self.ms += (self.wall.now() - start).as_secs_f64() * 1e3;
        result
    }
}

impl Drafter for Timed<'_> {
    fn begin(&mut self, prompt: &[Token]) {
        self.time(|inner| inner.begin(prompt));
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        self.time(|inner| inner.draft(context, limits))
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.time(|inner| inner.learn(context, from, verified));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::NoDraft;
    use crate::draft::auto::Auto;
    use crate::replay::trace::tests::trace;
    use crate::tree::MAX_NODES;

    fn curve() -> CostCurve {
        CostCurve::exact((1..=MAX_NODES).map(|n| (n, 100.0 + (n - 1) as f64)))
    }

    /// An answer that repeats the same seven tokens.
    fn repeating() -> Trace {
        let tokens: Vec<i32> = (0..140).map(|at| 10 + at % 7).collect();
        trace(&[1, 2, 3], &tokens, 0.9)
    }

    fn scored(drafter: &mut dyn Drafter) -> Score {
        let clock = SimulatedClock::default();
        replay(&repeating(), &curve(), drafter, Schedule::cost_aware(curve()), &clock).unwrap()
    }

    #[test]
    fn plain_decoding_scores_one() {
        let score = scored(&mut NoDraft);
        assert!((score.speedup() - 1.0).abs() < 1e-9, "{}", score.speedup());
        assert_eq!((score.stats.n_predicted, score.stats.n_steps, score.calibration.n()), (140, 140, 0));
        assert_eq!(Score::default().speedup(), 1.0, "nothing was said");
    }

    #[test]
    fn a_text_that_repeats_is_drafted() {
        let score = scored(&mut Auto::default());
        assert_eq!(score.stats.n_predicted, 140);
        assert!(score.speedup() > 2.0, "{}", score.speedup());
    }

    #[test]
    fn calibration_counts_each_verified_node_once() {
        let score = scored(&mut Auto::default());
        let bins = &score.calibration.bins;
        assert_eq!(score.calibration.n(), score.stats.n_drafted);
        assert_eq!(bins.iter().map(|bin| bin.n_accepted).sum::<usize>(), score.stats.n_accepted);
        assert!((bins.iter().map(|bin| bin.sum_p).sum::<f64>() - score.mass).abs() < 1e-6);
        for (at, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.n > 0) {
            let mean = bin.sum_p / bin.n as f64 * N_CALIBRATION_BINS as f64;
            assert!((at as f64 - 1e-6..=at as f64 + 1.0 + 1e-6).contains(&mean), "{at}: {bin:?}");
        }
    }

    #[test]
    fn scores_add_up() {
        let one = scored(&mut Auto::default());
        let mut two = one;
        two.merge(&one);
        assert_eq!((two.stats.n_predicted, two.calibration.n()), (280, 2 * one.calibration.n()));
        assert!((two.speedup() - one.speedup()).abs() < 1e-9);
        assert!((two.calibration.log_loss - 2.0 * one.calibration.log_loss).abs() < 1e-9);
    }

    #[test]
    fn losses_are_those_of_the_textbook() {
        let mut calibration = Calibration::default();
        calibration.add(0.25, true);
        calibration.add(1.0, false);
        assert!((calibration.brier - (0.5625 + 1.0)).abs() < 1e-9);
        assert!((calibration.log_loss - (4f64.ln() + 1e9f64.ln())).abs() < 1e-6, "certain and wrong is not infinite");
        assert_eq!((calibration.bins[2].n, calibration.bins[9].n), (1, 1));
    }
}
