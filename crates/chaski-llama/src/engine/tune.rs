//! Measures settings for `chaski tune`. [`crate::tune`] decides what to measure and what to choose.
//!
//! Each setting needs its own context. It is measured in turns with the context of the default settings, which exists
//! throughout, so that a machine that slows down affects both. There are never more than two contexts. Long contexts
//! are filled with copies (`Session::fill`). Nothing is written to disk here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use crate::chat::template::Segment;
use crate::cost::{Clock as _, CostCurve, time_of};
use crate::engine::{Failure, N_WAITING, WallClock, load};
use crate::model::{Model, ModelConfig};
use crate::session::{Session, SessionConfig};
use crate::target::TargetError;
use crate::thread::{EngineThread, Outbox};
use crate::token::Token;
use crate::tree::MAX_NODES;
use crate::tune::{BySpan, CacheType, LONG, Plan, SHORT, Settings, Times, Trial, WIDTHS, chosen};

/// Most samples per width.
const MAX_PASSES: usize = 5;

/// If plain decoding is slower than the default by this factor, one pass is enough: the setting will not be chosen.
const HOPELESS: f64 = 1.15;

/// Share of the budget for completing the curves of the chosen settings.
const SHARE_CURVES: f64 = 0.15;

/// Configuration of a tuning run.
#[derive(Clone, Debug)]
pub struct TuneConfig {
    /// The model.
    pub model: ModelConfig,
    /// The settings to measure.
    pub plan: Plan,
    /// Time for measuring. The default settings are measured even if it is too short.
    pub budget: Duration,
}

/// Result of a tuning run.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// All measured settings, the default first.
    pub trials: Vec<Trial>,
    /// The chosen settings.
    pub settings: BySpan<Settings>,
    /// Cost curves of the chosen settings.
    pub curves: Vec<(Settings, CostCurve)>,
    /// Positions of the long context: [`LONG`], or fewer if the model was trained on fewer.
    pub n_long: usize,
    /// False if the time ran out before the plan was finished.
    pub is_complete: bool,
}

/// Milliseconds of the samples, by width.
type Samples = BTreeMap<usize, Vec<f64>>;

/// Events of a tuning run.
#[derive(Debug)]
pub enum Tuning {
    /// Fraction of the model loaded, from 0 to 1.
    Loading(f32),
    /// Fraction of the time spent, and the settings being measured.
    Measuring(f32, String),
}

/// Messages of the thread that measures.
enum Message {
    Tuning(Tuning),
    Tuned(Result<Box<Tuned>, Failure>),
}

/// Loads the model and measures settings, on a thread of its own; `see` receives the events. Setting `interrupt` stops
/// it.
///
/// # Errors
/// If the model cannot be loaded, its default settings cannot be measured, or the user interrupts.
pub fn tune(config: TuneConfig, interrupt: Arc<AtomicBool>, see: &mut dyn FnMut(Tuning)) -> Result<Tuned, Failure> {
    let work = move |_: &Receiver<()>, outbox: &Outbox<Message>| {
        outbox.send(Message::Tuned(measure(&config, outbox).map(Box::new)));
    };
    let thread = EngineThread::spawn(N_WAITING, interrupt, work).map_err(Failure::Thread)?;
    loop {
        match thread.next_event() {
            Some(Message::Tuning(event)) => see(event),
            Some(Message::Tuned(tuned)) => return tuned.map(|tuned| *tuned),
            None => return Err(Failure::Ended),
        }
    }
}

fn measure(config: &TuneConfig, outbox: &Outbox<Message>) -> Result<Tuned, Failure> {
    let model = load(&config.model, outbox, |share| Message::Tuning(Tuning::Loading(share)))?;
    if model.is_recurrent() {
        return Err(Failure::NothingToTune);
    }
    let n_long = LONG.min(model.n_ctx_train().saturating_sub(MAX_NODES));
    if n_long <= SHORT {
        return Err(TargetError::ContextFull { needed: SHORT, n_ctx: model.n_ctx_train() }.into());
    }
    let words = model.tokenize(&[Segment { text: " the".to_owned(), parse_special: false }]);
    let filler = words.last().copied().unwrap_or(Token(0));
    let clock = WallClock(Instant::now());
    Tuner { model: &model, config, outbox, clock, filler, n_long, trials: Vec::new() }.run()
}

struct Tuner<'a> {
    model: &'a Model,
    config: &'a TuneConfig,
    outbox: &'a Outbox<Message>,
    clock: WallClock,
    filler: Token,
    n_long: usize,
    trials: Vec<Trial>,
}

impl<'a> Tuner<'a> {
    fn run(&mut self) -> Result<Tuned, Failure> {
        let plan = &self.config.plan;
        let soft_end = self.config.budget.mul_f64(1.0 - SHARE_CURVES);
        let mut reference = self.session(&plan.default)?;
        let times = self.alone(&mut reference, soft_end / u32::try_from(plan.n_expected()).unwrap_or(1))?;
        let baseline = times.clone();
        self.trials.push(Trial { settings: plan.default, times });
        let mut is_complete = true;
        while let Some(settings) = plan.next(&self.trials) {
            let now = self.clock.now();
            if now + self.pass_time(&baseline) > soft_end {
                is_complete = false;
                break;
            }
            let n_left = plan.n_expected().saturating_sub(self.trials.len()).max(1);
            let until = now + (soft_end - now) / u32::try_from(n_left).unwrap_or(1);
            let times = match self.beside(&mut reference, settings, &baseline, until) {
                Err(TargetError::Interrupted) => return Err(TargetError::Interrupted.into()),
                // This machine cannot run these settings, so they are not a choice.
                Err(_) => BySpan { short: None, long: None },
                Ok(times) => times,
            };
            self.trials.push(Trial { settings, times });
        }
        drop(reference);
        let settings =
            chosen(&self.trials, plan.allow_lossy).unwrap_or(BySpan { short: plan.default, long: plan.default });
        let mut curves = vec![(settings.short, self.curve(&settings.short)?)];
        if settings.long != settings.short {
            curves.push((settings.long, self.curve(&settings.long)?));
        }
        Ok(Tuned { trials: self.trials.clone(), settings, curves, n_long: self.n_long, is_complete })
    }

    fn session(&self, settings: &Settings) -> Result<Session<'a>, TargetError> {
        Session::new(self.model, &SessionConfig::new(self.n_long + MAX_NODES, settings))
    }

    /// Time of one pass at both lengths for a setting in turns with the default.
    fn pass_time(&self, baseline: &BySpan<Option<Times>>) -> Duration {
        let pass = |times: &Times| times.ms.values().sum::<f64>() + times.plain_ms() * (WIDTHS.len() - 2) as f64;
        let ms: f64 = [&baseline.short, &baseline.long].into_iter().flatten().map(pass).sum();
        Duration::from_secs_f64(2.0 * ms / 1e3)
    }

    fn positions(&self) -> BySpan<usize> {
        BySpan { short: SHORT, long: self.n_long }
    }

    /// Times of the default settings.
    fn alone(&self, session: &mut Session<'a>, until: Duration) -> Result<BySpan<Option<Times>>, TargetError> {
        let mut at = |n_positions, until| {
            let [samples] = self.sample([session], &self.config.plan.default, n_positions, until)?;
            Ok::<_, TargetError>(Times::from_samples(&samples))
        };
        let BySpan { short, long } = self.positions();
        Ok(BySpan { short: at(short, until / 2)?, long: at(long, until)? })
    }

    /// Times of `settings`, measured in turns with the default.
    fn beside(
        &self,
        reference: &mut Session<'a>,
        settings: Settings,
        baseline: &BySpan<Option<Times>>,
        until: Duration,
    ) -> Result<BySpan<Option<Times>>, TargetError> {
        let mut session = self.session(&settings)?;
        let mut at = |n_positions, baseline: &Option<Times>, until| {
            let [then, own] = self.sample([reference, &mut session], &settings, n_positions, until)?;
            let [then, own] = [then, own].map(|samples| Times::from_samples(&samples));
            let corrected = own.zip(then).zip(baseline.as_ref());
            Ok::<_, TargetError>(corrected.map(|((own, then), baseline)| own.corrected(baseline, &then)))
        };
        let BySpan { short, long } = self.positions();
        let half = self.clock.now() + until.saturating_sub(self.clock.now()) / 2;
        let short = at(short, &baseline.short, half)?;
        // A Q8_0 cache needs a real prefill, slower than all the rest, so measure it only if it may be chosen.
        let is_slow_to_fill = settings.kv_type.k == CacheType::Q8_0 && !self.config.plan.allow_lossy;
        let long = if is_slow_to_fill { None } else { at(long, &baseline.long, until)? };
        Ok(BySpan { short, long })
    }

    /// Samples of all widths on top of `n_positions`, with the sessions in turns; at least one pass. One row is
    /// measured before every other width, because plain decoding depends on it. The last session is that of `settings`.
    fn sample<const N: usize>(
        &self,
        mut sessions: [&mut Session<'a>; N],
        settings: &Settings,
        n_positions: usize,
        until: Duration,
    ) -> Result<[Samples; N], TargetError> {
        for session in &mut sessions {
            session.fill(n_positions, self.filler, &mut |_, _| self.outbox.go_on())?;
            // The first batches include allocations and page faults that later ones do not have.
            for width in [1, WIDTHS[WIDTHS.len() - 1]] {
                time_of(width, *session, &self.clock, self.filler)?;
            }
        }
        let mut samples = [const { Samples::new() }; N];
        for pass in 0..MAX_PASSES {
            let start = self.clock.now();
            for &width in WIDTHS.iter().filter(|&&width| width > 1) {
                for (session, samples) in sessions.iter_mut().zip(&mut samples) {
                    for width in [1, width] {
                        if self.outbox.go_on().is_break() {
                            return Err(TargetError::Interrupted);
                        }
                        let ms = time_of(width, *session, &self.clock, self.filler)?;
                        samples.entry(width).or_default().push(ms);
                    }
                }
                self.tell(settings, n_positions);
            }
            let now = self.clock.now();
            if now + (now - start) > until || pass == 0 && is_hopeless(&samples) {
                break;
            }
        }
        Ok(samples)
    }

    /// The cost curve of chosen settings: their samples, and the remaining useful widths measured now.
    fn curve(&self, settings: &Settings) -> Result<CostCurve, TargetError> {
        let mut curve = CostCurve::default();
        let Some(trial) = self.trials.iter().find(|trial| trial.settings == *settings) else { return Ok(curve) };
        for (times, n_positions) in [(&trial.times.short, SHORT), (&trial.times.long, self.n_long)] {
            if let Some(times) = times {
                times.ms.iter().for_each(|(&width, &ms)| curve.put(width, n_positions, ms, times.n_samples));
            }
        }
        let mut session = self.session(settings)?;
        session.fill(SHORT, self.filler, &mut |_, _| self.outbox.go_on())?;
        let budget = self.config.budget.saturating_sub(self.clock.now()).max(self.config.budget.mul_f64(0.02));
        let mut go_on = || {
            self.tell(settings, SHORT);
            self.outbox.go_on()
        };
        curve.measure(&mut session, &self.clock, budget, MAX_NODES, self.filler, &mut go_on)?;
        Ok(curve)
    }

    fn tell(&self, settings: &Settings, n_positions: usize) {
        let share = self.clock.now().as_secs_f64() / self.config.budget.as_secs_f64();
        let what = format!("{settings}, {n_positions} tokens");
        self.outbox.send(Message::Tuning(Tuning::Measuring(share.min(1.0) as f32, what)));
    }
}

fn is_hopeless(samples: &[Samples]) -> bool {
    let plain_ms = |samples: &Samples| Times::from_samples(samples).map(|times| times.plain_ms());
    let (first, last) = (samples.first().and_then(plain_ms), samples.last().and_then(plain_ms));
    first.zip(last).is_some_and(|(first, last)| last > first * HOPELESS)
}
