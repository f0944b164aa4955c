//! Losslessness: drafts never change the text.
//!
//! On an exact target, speculative output equals plain output for every drafter, sampler, seed, vocabulary and limit.

mod support;

use std::ops::ControlFlow;

use chaski::accept::{Greedy, Sampler};
use chaski::cost::CostCurve;
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::{Draft, Drafter, NoDraft, Verified};
use chaski::generate::{Generated, Generation, Length};
use chaski::schedule::Schedule;
use chaski::target::{Rows as _, Scripted, Target, TargetError, TreeLimits};
use chaski::token::Token;
use chaski::tree::{NodeId, TokenTree};
use proptest::prelude::*;
use support::loop_parts::{Dice, Still, flat_curve};

/// Samples from the softmax with a penalty on earlier tokens: its state must advance once per emitted token.
struct Seeded {
    dice: Dice,
    temperature: f32,
    penalty: f32,
    emitted: Vec<Token>,
}

impl Sampler for Seeded {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        let weight = |(id, logit): (usize, &f32)| {
            let n_before = self.emitted.iter().filter(|token| token.index() == id).count();
            ((logit - self.penalty * n_before as f32) / self.temperature).exp()
        };
        let weights: Vec<f32> = logits.iter().enumerate().map(weight).collect();
        let mut left = self.dice.roll(1 << 24) as f32 / (1 << 24) as f32 * weights.iter().sum::<f32>();
        let id = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let token = Token(i32::try_from(id.unwrap_or(logits.len() - 1)).unwrap());
        self.emitted.push(token);
        Ok(token)
    }
}

/// Random trees of every shape. Half of the nodes are the target's choice.
struct Wild(Dice, Scripted);

impl Drafter for Wild {
    fn begin(&mut self, _prompt: &[Token]) {}

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let mut draft = Draft::none(*context.last().unwrap());
        for _ in 0..self.0.roll(2 * limits.max_nodes) {
            let parent = draft.tree.nodes().nth(self.0.roll(draft.tree.len())).unwrap();
            let path = draft.tree.path(parent);
            let text: Vec<Token> =
                context.iter().copied().chain(path[1..].iter().map(|&node| draft.tree.token(node))).collect();
            let logits = self.1.logits_after(&text);
            let token = match self.0.roll(2) {
                0 => Greedy.sample(&logits).unwrap(),
                _ => Token(i32::try_from(self.0.roll(logits.len())).unwrap()),
            };
            let mut grown = draft.tree.clone();
            if grown.push(parent, token).is_ok()
                && grown.len() <= limits.max_nodes
                && grown.n_leaves() <= limits.max_leaves
            {
                draft.tree = grown;
                draft.p.push(0.9);
            }
        }
        draft
    }

    fn learn(&mut self, _context: &[Token], _from: usize, _verified: Verified<'_>) {}
}

#[derive(Clone, Debug)]
struct Case {
    n_vocab: usize,
    order: usize,
    seed: u64,
    /// 0 is greedy.
    temperature: f32,
    penalty: f32,
    limits: TreeLimits,
    prompt: Vec<Token>,
    length: Length,
    stop_token: Option<Token>,
}

fn cases() -> impl Strategy<Value = Case> {
    let limits = prop_oneof![
        4 => Just(TreeLimits::TREE),
        1 => (1usize..20, 1usize..8).prop_map(|(max_nodes, max_leaves)| TreeLimits { max_nodes, max_leaves, ..TreeLimits::TREE }),
        1 => (2usize..20).prop_map(|max_nodes| TreeLimits { max_nodes, max_leaves: 1, ..TreeLimits::TREE }),
    ];
    let prompt = prop::collection::vec(0i32..2, 1..30);
    let sampling = (prop_oneof![Just(0.0f32), 0.05f32..2.0], prop_oneof![Just(0.0f32), 0.0f32..1.0]);
    let length = (1usize..120, 30usize..120).prop_map(|(max_tokens, n_ctx)| Length { max_tokens, n_ctx });
    (2usize..40, 1usize..4, any::<u64>(), sampling, limits, prompt, length, prop::option::of(0i32..40)).prop_map(
        |(n_vocab, order, seed, (temperature, penalty), limits, prompt, length, stop)| Case {
            n_vocab,
            order,
            seed: seed | 1,
            temperature,
            penalty,
            limits,
            prompt: prompt.into_iter().map(Token).collect(),
            length,
            stop_token: stop.map(Token),
        },
    )
}

fn generate(case: &Case, drafter: &mut dyn Drafter, mut schedule: Schedule) -> Generated {
    let mut target = Scripted::new(case.n_vocab, case.order, case.seed).with_limits(case.limits);
    let mut seeded = Seeded {
        dice: Dice(case.seed),
        temperature: case.temperature,
        penalty: case.penalty,
        emitted: case.prompt.clone(),
    };
    let sampler: &mut dyn Sampler = if case.temperature == 0.0 { &mut Greedy } else { &mut seeded };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let prefilled = Generation::prefill(&mut target, &Still, &case.prompt, &mut go_on).unwrap();
    let mut generation =
        Generation { target: &mut target, drafter, schedule: &mut schedule, sampler, clock: &Still, observer: &mut () };
    let mut streamed = Vec::new();
    let mut emit = |token| {
        streamed.push(token);
        if Some(token) == case.stop_token { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generated = generation.run(&case.prompt, prefilled, case.length, &mut emit).unwrap();
    assert_eq!(streamed, generated.tokens, "what is streamed is what is returned");
    // The cache holds every committed token except the last one.
    let whole: Vec<Token> = case.prompt.iter().chain(&generated.tokens).copied().collect();
    if !generated.tokens.is_empty() {
        assert_eq!(target.n_past(), whole.len() - 1);
        target.verify(&TokenTree::new(*whole.last().unwrap())).unwrap();
        let expected = Scripted::new(case.n_vocab, case.order, case.seed).logits_after(&whole);
        assert_eq!(target.logits(NodeId::ROOT), expected);
    }
    let stats = generated.stats;
    assert_eq!(stats.n_predicted, generated.tokens.len());
    assert!(stats.n_accepted <= stats.n_drafted && stats.n_steps <= stats.n_predicted);
    generated
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn drafted_text_is_plain_text(case in cases()) {
        let plain = generate(&case, &mut NoDraft, Schedule::everything(CostCurve::default()));
        prop_assert_eq!(plain.stats.n_steps, plain.tokens.len());
        let scripted = Scripted::new(case.n_vocab, case.order, case.seed);
        let drafters: [(&str, Box<dyn Drafter>, Schedule); 5] = [
            ("auto", Box::new(Auto::default()), Schedule::cost_aware(flat_curve())),
            ("auto, everything", Box::new(Auto::default()), Schedule::everything(CostCurve::default())),
            ("aded", Box::new(Aded::default()), Schedule::everything(CostCurve::default())),
            ("aded, cost-aware", Box::new(Aded::default()), Schedule::cost_aware(flat_curve())),
            ("wild", Box::new(Wild(Dice(case.seed), scripted)), Schedule::everything(CostCurve::default())),
        ];
        for (name, mut drafter, schedule) in drafters {
            let drafted = generate(&case, drafter.as_mut(), schedule);
            prop_assert_eq!(&drafted.tokens, &plain.tokens, "{}", name);
            prop_assert_eq!(drafted.stopped, plain.stopped, "{}", name);
        }
    }
}

/// Losslessness would be trivial if nothing were ever drafted.
#[test]
fn drafts_are_made_and_accepted() {
    let case = Case {
        n_vocab: 20,
        order: 1,
        seed: 7,
        temperature: 0.0,
        penalty: 0.0,
        limits: TreeLimits::TREE,
        prompt: vec![Token(1), Token(2)],
        length: Length { max_tokens: 200, n_ctx: 1000 },
        stop_token: None,
    };
    let auto = generate(&case, &mut Auto::default(), Schedule::cost_aware(flat_curve())).stats;
    assert!(auto.tokens_per_step() > 4.0, "{auto:?}");
    let aded = generate(&case, &mut Aded::default(), Schedule::everything(CostCurve::default())).stats;
    assert!(aded.tokens_per_step() > 2.0, "{aded:?}");
    let again = generate(&case, &mut Auto::default(), Schedule::cost_aware(flat_curve())).stats;
    assert_eq!((auto.n_steps, auto.n_drafted), (again.n_steps, again.n_drafted), "the same calls draft the same");
}
