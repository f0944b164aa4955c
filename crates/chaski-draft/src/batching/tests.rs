//! A text must come out the same whatever is decoded beside it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::accept::{Greedy, argmax};
use crate::batching::target::Scripted;
use crate::cost::CostCurve;
use crate::draft::auto::Auto;
use crate::target;

const N_CTX: usize = 160;

/// A clock that advances 0.1 ms each time it is read, so drafting looks cheap beside a row.
#[derive(Default)]
struct Ticking(Cell<u64>);

impl Clock for Ticking {
    fn now(&self) -> Duration {
        self.0.set(self.0.get() + 1);
        Duration::from_micros(100 * self.0.get())
    }
}

/// A sampler that adds a random bonus to one token's logit, as a seeded sampler would differ from greedy.
struct Loaded(u64);

impl Sampler for Loaded {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bent = logits.to_vec();
        bent[(self.0 >> 33) as usize % logits.len()] += 3.0;
        argmax(&bent).map(|at| Token(at as i32)).ok_or(TargetError::NotFinite)
    }
}

fn sampler(id: u64) -> Box<dyn Sampler> {
    if id.is_multiple_of(2) { Box::new(Greedy) } else { Box::new(Loaded(id)) }
}

/// A token that ends a text, so that some end early.
fn ends(token: Token) -> bool {
    token == Token(3)
}

/// One text to generate: the length of the shared and of its own part of the prompt, its tokens, and how many steps
/// pass before it is admitted.
#[derive(Clone, Copy, Debug)]
struct Asked {
    n_shared: usize,
    n_own: usize,
    max_tokens: usize,
    delay: usize,
}

fn asked() -> impl Strategy<Value = Asked> {
    (0usize..70, 1usize..60, 1usize..50, 0usize..6).prop_map(|(n_shared, n_own, max_tokens, delay)| Asked {
        n_shared,
        n_own,
        max_tokens,
        delay,
    })
}

fn prompt(id: usize, asked: Asked) -> Vec<Token> {
    let shared = (0..asked.n_shared).map(|at| Token((at * at % 7) as i32));
    shared.chain((0..asked.n_own).map(|at| Token(((at + id) % 9) as i32))).collect()
}

/// The naive twin: one text, token by token, without a cache.
fn alone(model: &target::Scripted, id: usize, asked: Asked) -> (Vec<Token>, End) {
    let mut text = prompt(id, asked);
    let n_prompt = text.len();
    let mut sampler = sampler(id as u64);
    loop {
        let token = sampler.sample(&model.logits_after(&text)).unwrap();
        text.push(token);
        let n = text.len() - n_prompt;
        let end = match n {
            _ if ends(token) => End::Broken,
            n if n == asked.max_tokens => End::Limit,
            _ if text.len() == N_CTX => End::Full,
            _ => continue,
        };
        return (text.split_off(n_prompt), end);
    }
}

/// The tokens of each text, and why it ended.
type Texts = Vec<(Vec<Token>, End)>;

fn together(
    model: &target::Scripted,
    all: &[Asked],
    n_lanes: usize,
    schedule: BatchSchedule,
    drafts: bool,
) -> (Texts, Vec<Ended>, Counts) {
    let mut batcher = Batcher::new(Scripted::new(model.clone(), n_lanes, N_CTX), schedule);
    if drafts {
        batcher = batcher.with_drafting(Drafting::new(Auto::default(), n_lanes));
    }
    let mut said: BTreeMap<u64, Vec<Token>> = BTreeMap::new();
    let mut ended: BTreeMap<u64, Ended> = BTreeMap::new();
    let mut coming = all.iter().enumerate().peekable();
    let mut delay = 0;
    while ended.len() < all.len() {
        while let Some(&(id, &asked)) = coming.peek().filter(|(_, asked)| asked.delay <= delay && batcher.has_lane()) {
            delay = 0;
            coming.next();
            let id = id as u64;
            let Asked { max_tokens, .. } = asked;
            batcher.admit(Text {
                id,
                prompt: prompt(id as usize, asked),
                max_tokens,
                sampler: sampler(id),
                filter: None,
            });
        }
        delay += 1;
        let now = batcher.step(&Ticking::default(), &mut |token| {
            said.entry(token.id).or_default().push(token.token);
            if ends(token.token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        ended.extend(now.unwrap().into_iter().map(|ended| (ended.id, ended)));
    }
    assert_eq!(batcher.n_working(), 0);
    let texts = said.into_values().zip(ended.values().map(|ended| ended.end.clone())).collect();
    (texts, ended.into_values().collect(), batcher.counts())
}

/// Three curves: everything pays, little pays, and nothing is known.
fn curves() -> [CostCurve; 3] {
    [
        CostCurve::exact([(1, 10.0), (64, 11.0)]),
        CostCurve::exact([(1, 10.0), (4, 14.0), (16, 37.0), (64, 111.0)]),
        CostCurve::default(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_text_is_the_same_whatever_is_beside_it(
        all in prop::collection::vec(asked(), 1..20),
        n_lanes in 1usize..9,
        max_more in 0usize..100,
        curve in 0usize..3,
        drafts: bool,
        seed in 0u64..50,
    ) {
        let model = target::Scripted::new(16, 2, seed);
        let schedule = BatchSchedule::new(curves()[curve].clone()).with_max_more(max_more);
        let (texts, ended, counts) = together(&model, &all, n_lanes, schedule, drafts);
        for (id, &asked) in all.iter().enumerate() {
            prop_assert_eq!(&texts[id], &alone(&model, id, asked), "text {}", id);
        }
        let n_predicted: usize = texts.iter().map(|(tokens, _)| tokens.len()).sum();
        let n_prompt: usize = all.iter().map(|asked| asked.n_shared + asked.n_own).sum();
        let n_cached: usize = ended.iter().map(|ended| ended.n_cached).sum();
        prop_assert_eq!(counts.n_predicted, n_predicted as u64);
        prop_assert_eq!(counts.n_prompt, (n_prompt - n_cached) as u64);
    }
}

#[test]
fn drafts_save_steps_and_lines_teach_each_other() {
    let asked = Asked { n_shared: 2, n_own: 3, max_tokens: 48, delay: 0 };
    let [free, ..] = curves();
    let schedule = || BatchSchedule::new(free.clone());
    // One token determines the next, so texts repeat themselves. Pick a seed with which few end early.
    let plain = |seed| (together(&target::Scripted::new(12, 1, seed), &[asked; 30], 4, schedule(), false), seed);
    let is_long = |((_, _, counts), _): &((Texts, Vec<Ended>, Counts), u64)| counts.n_predicted > 30 * 40;
    let ((plain, _, plain_counts), seed) = (0..).map(plain).find(is_long).unwrap();
    let model = target::Scripted::new(12, 1, seed);
    let (drafted, ended, counts) = together(&model, &[asked; 30], 4, schedule(), true);
    assert_eq!(drafted, plain);
    assert_eq!(plain_counts.n_predicted, plain_counts.n_steps);
    let n_accepted: usize = ended.iter().map(|ended| ended.n_accepted).sum();
    let n_saved = (counts.n_predicted - counts.n_steps) as usize;
    assert!((n_saved..=n_saved + 30).contains(&n_accepted), "a text that ends on an accepted token has no bonus");
    assert!(counts.n_steps * 2 < plain_counts.n_steps, "{counts:?} instead of {plain_counts:?}");
    let share = |from: usize, to: usize| {
        let n_accepted: usize = ended[from..to].iter().map(|ended| ended.n_accepted).sum();
        n_accepted as f64 / plain[from..to].iter().map(|(tokens, _)| tokens.len() as f64).sum::<f64>()
    };
    let (first, last) = (share(0, 4), share(20, 30));
    assert!(last > first, "what the first lines taught: {first}, then {last}");
}

#[test]
fn a_long_beginning_is_read_once() {
    let model = target::Scripted::new(16, 2, 1);
    let asked = Asked { n_shared: 70, n_own: 5, max_tokens: 8, delay: 0 };
    let (_, ended, counts) = together(&model, &[asked; 12], 4, BatchSchedule::new(CostCurve::default()), false);
    assert!(ended[0].n_cached == 0 && ended[1..].iter().all(|ended| ended.n_cached >= 70), "{ended:?}");
    assert!(counts.n_prompt <= 70 + 12 * 5);
}
