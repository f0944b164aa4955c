use std::ops::ControlFlow;

use super::*;
use crate::accept::Greedy;
use crate::cost::{Clock as _, CostCurve};
use crate::draft::NoDraft;
use crate::generate::{Generated, Generation, Length};
use crate::replay::target::SimulatedClock;
use crate::schedule::Schedule;
use crate::target::{Progress, Rows, Scripted, Target, TargetError};
use crate::tree::{NodeId, TokenTree};
use proptest::prelude::*;

const PLAIN_MS: f64 = 100.0;

/// A scripted text and what it takes to generate it.
#[derive(Clone, Debug)]
struct World {
    n_vocab: usize,
    order: usize,
    seed: u64,
    /// Cost of a further row in plain steps.
    row: f64,
    n_prompt: i32,
    n_tokens: usize,
}

/// A text whose next token depends on the last five of 500: nothing repeats.
const FOREIGN: World = World { n_vocab: 500, order: 5, seed: 1, row: 0.02, n_prompt: 20, n_tokens: 300 };

/// A text that repeats itself after a while.
const FAMILIAR: World = World { n_vocab: 60, order: 1, ..FOREIGN };

impl World {
    fn curve(&self) -> CostCurve {
        CostCurve::exact((1..=64).map(|n| (n, PLAIN_MS * (1.0 + self.row * (n - 1) as f64))))
    }

    fn scripted(&self) -> Scripted {
        Scripted::new(self.n_vocab, self.order, self.seed)
    }

    fn generate(&self, drafter: &mut dyn Drafter, clock: &SimulatedClock, schedule: Schedule) -> Generated {
        let mut schedule = schedule;
        let mut target = Timed { inner: self.scripted(), clock, row: self.row };
        let prompt: Vec<Token> = (0..self.n_prompt).map(|id| Token(id % 2)).collect();
        let mut go_on = |_, _| ControlFlow::Continue(());
        let prefilled = Generation::prefill(&mut target, clock, &prompt, &mut go_on).unwrap();
        let mut generation = Generation {
            target: &mut target,
            drafter,
            schedule: &mut schedule,
            sampler: &mut Greedy,
            clock,
            observer: &mut (),
        };
        let length = Length { max_tokens: self.n_tokens, n_ctx: 10_000 };
        generation.run(&prompt, prefilled, length, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn plain(&self) -> Generated {
        self.generate(&mut NoDraft, &SimulatedClock::default(), Schedule::cost_aware(self.curve()))
    }

    fn alone(&self) -> Generated {
        self.generate(&mut Auto::default(), &SimulatedClock::default(), Schedule::cost_aware(self.curve()))
    }

    /// With a fresh drafter and a draft model.
    fn assisted(&self, model: Model) -> (Generated, u64) {
        self.assisted_by(&mut Auto::default().with_draft_model_source(), model)
    }

    fn assisted_by(&self, auto: &mut Auto, model: Model) -> (Generated, u64) {
        let clock = SimulatedClock::default();
        let mut simulated = Simulated::new(model, self, &clock);
        let drafted =
            self.generate(&mut Assisted::new(auto, &mut simulated), &clock, Schedule::cost_aware(self.curve()));
        (drafted, auto.n_predictions())
    }

    /// The time with a draft model as a share of the time without it.
    fn relative(&self, model: Model) -> f64 {
        let (with, without) = (self.assisted(model).0, self.alone());
        assert_eq!(with.tokens, without.tokens);
        with.stats.predicted_ms / without.stats.predicted_ms
    }
}

/// A scripted target whose verifies take time.
struct Timed<'a> {
    inner: Scripted,
    clock: &'a SimulatedClock,
    row: f64,
}

impl Rows for Timed<'_> {
    fn logits(&self, node: NodeId) -> &[f32] {
        self.inner.logits(node)
    }
}

impl Target for Timed<'_> {
    fn limits(&self) -> TreeLimits {
        self.inner.limits()
    }

    fn n_past(&self) -> usize {
        self.inner.n_past()
    }

    fn sync(&mut self, prefix: &[Token], progress: &mut Progress<'_>) -> Result<(), TargetError> {
        self.inner.sync(prefix, progress)
    }

    fn verify(&mut self, tree: &TokenTree) -> Result<(), TargetError> {
        self.clock.advance(PLAIN_MS * (1.0 + self.row * (tree.len() - 1) as f64));
        self.inner.verify(tree)
    }

    fn keep(&mut self, path: &[NodeId]) -> Result<(), TargetError> {
        self.inner.keep(path)
    }
}

/// A draft model in numbers. Times are in plain steps.
#[derive(Clone, Copy, Debug)]
struct Model {
    /// How often its best token is the target's.
    accuracy: f64,
    /// The time of a prediction.
    price: f64,
    /// The time of decoding one token of the past.
    past: f64,
    /// The probability it gives its best token.
    confidence: f32,
    /// It fails after this many predictions.
    n_until_failure: usize,
}

const GOOD: Model = Model { accuracy: 0.7, price: 0.1, past: 0.0, confidence: 0.7, n_until_failure: usize::MAX };

struct Simulated<'a> {
    model: Model,
    scripted: Scripted,
    n_vocab: usize,
    clock: &'a SimulatedClock,
    n_predicted: usize,
    /// How many tokens of the text it has decoded.
    n_past: usize,
    dice: u64,
    predicted: Vec<Successor>,
}

impl<'a> Simulated<'a> {
    fn new(model: Model, world: &World, clock: &'a SimulatedClock) -> Simulated<'a> {
        let (scripted, n_vocab) = (world.scripted(), world.n_vocab);
        Simulated { model, scripted, n_vocab, clock, n_predicted: 0, n_past: 0, dice: world.seed, predicted: Vec::new() }
    }

    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 40) as f64 / (1 << 24) as f64
    }
}

impl DraftModel for Simulated<'_> {
    fn price_ms(&self, _text: &[Token], _path: &[Token]) -> f64 {
        PLAIN_MS * self.model.price
    }

    fn catch_up_ms(&self, text: &[Token]) -> f64 {
        PLAIN_MS * self.model.past * (text.len() - 1).saturating_sub(self.n_past) as f64
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        self.clock.advance(self.price_ms(text, path) + self.catch_up_ms(text));
        self.n_past = text.len();
        self.predicted.clear();
        self.n_predicted += 1;
        if self.n_predicted <= self.model.n_until_failure {
            let after: Vec<Token> = text.iter().chain(path).copied().collect();
            let right = crate::accept::argmax(&self.scripted.logits_after(&after)).unwrap();
            let is_right = self.roll() < self.model.accuracy;
            let best = if is_right { right } else { (right + 1) % self.n_vocab };
            let other = (best + 1) % self.n_vocab;
            let rest = (1.0 - self.model.confidence) / 4.0;
            for (id, weight) in [(best, self.model.confidence), (other, rest)] {
                self.predicted.push(Successor { token: Token(i32::try_from(id).unwrap()), weight });
            }
        }
        &self.predicted
    }
}

#[test]
fn figures() {
    for (name, world) in [("foreign", FOREIGN), ("familiar", FAMILIAR), ("40", World { n_vocab: 12, order: 3, ..FOREIGN }), ("steep", World { row: 0.25, ..FOREIGN })] {
        for price in [0.05, 0.1, 0.2, 0.4, 1.0] {
            for accuracy in [0.0, 0.1, 0.3, 0.5, 0.7, 0.9] {
                let mut worst = (0.0f64, 0.0, 0.0, 0);
                let n = 10;
                for seed in 1..=n {
                    let world = World { seed, ..world.clone() };
                    let model = Model { accuracy, price, ..GOOD };
                    let relative = world.relative(model);
                    let alone = world.alone().stats.predicted_ms;
                    worst.0 = worst.0.max(relative);
                    worst.1 += relative / n as f64;
                    worst.2 += world.plain().stats.predicted_ms / alone / n as f64;
                    worst.3 += world.assisted(model).1 / n;
                }
                println!("{name} price {price} a {accuracy}: worst {:.3} mean {:.3} | auto alone {:.2}x, with {:.2}x, asked {}", worst.0, worst.1, worst.2, worst.2 / worst.1, worst.3);
            }
        }
    }
}

#[test]
fn detail() {
    for (price, accuracy) in [(0.05, 0.0), (0.1, 0.1), (0.2, 0.3)] {
        for seed in 1..=10 {
            let world = World { n_vocab: 12, order: 3, seed, ..FOREIGN };
            let alone = world.alone();
            let (with, n) = world.assisted(Model { accuracy, price, ..GOOD });
            let show = |g: &Generated| format!("{:.1} steps of time, {} steps, {} drafted, verify {:.1} draft {:.2}", g.stats.predicted_ms / 100.0, g.stats.n_steps, g.stats.n_drafted, g.stats.verify_ms/100.0, g.stats.draft_ms / 100.0);
            println!("{price} {accuracy} {seed}: asked {n}; alone {}; with {}", show(&alone), show(&with));
        }
    }
}
