use std::ops::ControlFlow;

use super::*;
use crate::accept::Greedy;
use crate::cost::CostCurve;
use crate::draft::NoDraft;
use crate::draft::auto::Experience;
use crate::draft::with_model::ModelExperience;
use crate::generate::{Generated, Generation, Length};
use crate::loss_budget::LossBudget;
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

    fn generate(&self, drafter: &mut dyn Drafter, clock: &SimulatedClock, mut schedule: Schedule) -> Generated {
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
        self.assisted_by(&mut Auto::default(), model)
    }

    fn assisted_by(&self, auto: &mut Auto, model: Model) -> (Generated, u64) {
        let clock = SimulatedClock::default();
        let mut simulated = Simulated::new(model, self, &clock);
        let n_before = auto.n_predictions();
        let drafted =
            self.generate(&mut Assisted::new(auto, &mut simulated), &clock, Schedule::cost_aware(self.curve()));
        let n_predictions = auto.n_predictions() - n_before;
        assert_eq!(n_predictions, simulated.n_predicted as u64);
        (drafted, n_predictions)
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
        Simulated {
            model,
            scripted,
            n_vocab,
            clock,
            n_predicted: 0,
            n_past: 0,
            dice: world.seed,
            predicted: Vec::new(),
        }
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

/// The time with a draft model less the time without, in plain steps: the mean over seeds, and the worst.
fn more_steps(world: &World, model: Model) -> (f64, f64) {
    const N_SEEDS: u64 = 10;
    let more = (1..=N_SEEDS).map(|seed| {
        let world = World { seed, ..world.clone() };
        let (with, without) = (world.assisted(model).0, world.alone());
        assert_eq!(with.tokens, without.tokens);
        (with.stats.predicted_ms - without.stats.predicted_ms) / PLAIN_MS
    });
    more.fold((0.0, f64::MIN), |(mean, worst), more| (mean + more / N_SEEDS as f64, worst.max(more)))
}

#[test]
fn a_cheap_model_that_is_often_right_pays() {
    // 300 plain steps; measured 136 less on average, and 128 less at worst.
    let (mean, worst) = more_steps(&FOREIGN, GOOD);
    assert!(mean < -125.0 && worst < -110.0, "{mean} {worst}");
    // The free sources need 24 steps; measured 0.4 less.
    let (mean, worst) = more_steps(&FAMILIAR, GOOD);
    assert!(mean < 0.0 && worst < 2.0, "{mean} {worst}");
    // Measured 44 less.
    let (mean, _) = more_steps(&FOREIGN, Model { price: 0.4, ..GOOD });
    assert!(mean < -30.0, "{mean}");
}

#[test]
fn a_model_that_does_not_pay_costs_a_hundredth() {
    let poor = Model { accuracy: 0.1, confidence: 0.1, ..GOOD };
    let n_plain = FOREIGN.n_tokens as f64;
    for price in [0.1, 0.4, 1.0] {
        for (world, model) in [(&FOREIGN, poor), (&FAMILIAR, poor), (&FAMILIAR, GOOD)] {
            let (mean, worst) = more_steps(world, Model { price, ..model });
            assert!(mean < 0.01 * n_plain && worst < 0.015 * n_plain, "{price} {model:?}: {mean} {worst}");
        }
    }
    // A whole step is more than a token can be worth.
    assert_eq!(FOREIGN.assisted(Model { price: 1.0, ..GOOD }).1, 0);
}

/// Texts of several kinds, prices and rows, and models that are right, wrong, unsure or boastful.
fn worlds() -> impl Iterator<Item = (World, Model)> {
    let texts = [(500, 5), (60, 1), (12, 3), (4, 2), (200, 2)];
    let models = [(0.9, 0.9), (0.5, 0.5), (0.1, 0.1), (0.1, 0.9)];
    let rows = [0.02, 0.1, 0.25].into_iter();
    rows.flat_map(move |row| {
        texts.into_iter().flat_map(move |(n_vocab, order)| {
            [0.05, 0.2, 0.4].into_iter().flat_map(move |price| {
                models.into_iter().map(move |(accuracy, confidence)| {
                    (World { n_vocab, order, row, ..FOREIGN }, Model { accuracy, confidence, price, ..GOOD })
                })
            })
        })
    })
}

#[test]
fn no_text_is_slower_than_plain_decoding_by_more_than_the_loss_budget() {
    for (world, model) in worlds() {
        for seed in 1..=3 {
            let world = World { seed, ..world.clone() };
            let n_plain = world.assisted(model).0.stats.predicted_ms / PLAIN_MS;
            let most = LossBudget::RESERVE + LossBudget::OVERDRAFT + (1.0 + LossBudget::INCOME) * world.n_tokens as f64;
            // Within the rounding of the clock.
            assert!(n_plain <= most + 1e-3, "{n_plain} of at most {most}: {world:?} {model:?}");
        }
    }
}

#[test]
fn a_long_prompt_is_an_investment() {
    // Decoding the prompt takes 10 steps, and a prediction brings half a step.
    let world = World { n_prompt: 201, ..FOREIGN };
    let model = Model { past: 0.05, ..GOOD };
    let short = World { n_tokens: 10, ..world.clone() };
    assert_eq!(short.assisted(model).1, 0, "not worth it for the tokens seen so far");
    let (mean, worst) = more_steps(&world, model);
    assert!(mean < -90.0 && worst < -70.0, "{mean} {worst}");
    let (_, worst) = more_steps(&world, Model { accuracy: 0.0, ..model });
    assert!(worst < 10.0 + 0.015 * world.n_tokens as f64, "the investment is lost once: {worst}");
}

#[test]
fn what_is_known_about_a_model_changes_no_draft_without_it() {
    let mut auto = Auto::default();
    FOREIGN.assisted_by(&mut auto, GOOD);
    let experience = Experience { model: auto.experience().model, ..Auto::default().experience() };
    assert!(experience.model.is_some());
    let world = World { n_vocab: 12, order: 3, ..FOREIGN };
    let with = |mut auto: Auto| {
        let drafted = world.generate(&mut auto, &SimulatedClock::default(), Schedule::cost_aware(world.curve()));
        assert!(drafted.stats.n_accepted > 50);
        let learned = auto.experience();
        (drafted.stats, learned.mixer, learned.calibrator)
    };
    assert_eq!(with(Auto::new(Auto::sources(None), Some(&experience))), with(Auto::default()));
}

#[test]
fn what_was_learned_about_a_model_is_used_again() {
    let mut auto = Auto::default();
    FOREIGN.assisted_by(&mut auto, GOOD);
    let learned = auto.experience();
    assert!(learned.is_sound() && learned.model.is_some());
    let json = serde_json::to_string(&learned).unwrap();
    assert_eq!(serde_json::from_str::<Experience>(&json).unwrap(), learned);
    // A run without a model keeps it.
    let kept = Auto::new(Auto::sources(None), Some(&learned)).experience().model;
    assert_eq!(kept.map(|model| model.gains), learned.model.map(|model| model.gains));
    // A model that was learned to be useless is asked less.
    let useless = Model { accuracy: 0.0, confidence: 0.9, ..GOOD };
    let (_, n_first) = FOREIGN.assisted_by(&mut auto, useless);
    let (_, n_then) = FOREIGN.assisted_by(&mut auto, useless);
    assert!(n_then < n_first, "{n_then} {n_first}");
}

#[test]
fn of_each_text_a_share_is_kept() {
    let mut auto = Auto::default();
    let before = auto.experience();
    FAMILIAR.assisted_by(&mut auto, GOOD);
    let (after, kept) = (auto.experience(), auto.experience_to_keep());
    assert_ne!(before.mixer, after.mixer);
    assert_eq!(kept.mixer, before.mixer.towards(&after.mixer, 0.1));
    assert_eq!(kept.calibrator, before.calibrator.towards(&after.calibrator, 0.1));
    assert!(kept.is_sound() && kept.model.is_some());
    assert_ne!(kept.mixer, after.mixer);
    // What was known about a model stays as it is if that is not asked.
    FOREIGN.assisted_by(&mut auto, GOOD);
    let known = auto.experience().model.unwrap();
    let unasked = Auto::default().with_model_experience(known.clone()).experience_to_keep().model.unwrap();
    let state = |model: &ModelExperience| {
        (model.calibrator.clone(), model.gains.clone(), model.mixer.towards(&known.mixer, 1.0))
    };
    assert_eq!(state(&unasked), state(&known));
    assert_ne!(known.calibrator, ModelExperience::default().calibrator);
}

#[test]
fn a_damaged_experience_is_found() {
    let sound = ModelExperience::default();
    assert!(sound.is_sound());
    let json = serde_json::to_string(&sound).unwrap();
    let damaged = |from: &str, to: &str| {
        let changed = json.replacen(from, to, 1);
        assert_ne!(changed, json);
        serde_json::from_str::<ModelExperience>(&changed).unwrap()
    };
    assert!(!damaged("\"free\"", "\"other\"").is_sound());
    assert!(!damaged("[0.0,0.0,0.0],", "[0.0,0.0],").is_sound(), "a weight is missing");
    assert!(!damaged("[0.0,0.0,0.0],", "").is_sound(), "a set is missing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn drafted_text_is_plain_text(
        n_vocab in 2usize..60,
        order in 1usize..5,
        seed in any::<u64>(),
        n_tokens in 1usize..120,
        (accuracy, confidence) in (0.0f64..1.0, 0.0f32..1.0),
        (price, past) in (prop_oneof![Just(0.0), Just(f64::NAN), 0.0..2.0], prop_oneof![Just(0.0), 0.0..0.5]),
        n_until_failure in prop_oneof![Just(usize::MAX), 0usize..20],
    ) {
        let world = World { n_vocab, order, seed, n_tokens, ..FOREIGN };
        let model = Model { accuracy, confidence, price, past, n_until_failure };
        let (drafted, n_predictions) = world.assisted(model);
        prop_assert_eq!(drafted.tokens, world.plain().tokens);
        prop_assert!(n_predictions as usize <= n_until_failure.saturating_add(1), "a model that failed is asked again");
    }
}
