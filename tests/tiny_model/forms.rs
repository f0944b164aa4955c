//! Structured output with drafts: forced tokens are drafted, verified and accepted, and the text equals the one without
//! drafts.

use std::cell::Cell;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use chaski::cost::{Clock, CostCurve};
use chaski::draft::auto::Auto;
use chaski::draft::{Drafter, NoDraft};
use chaski::generate::{Generation, Length};
use chaski::llama::constrained_sampler::Constrainer;
use chaski::llama::model::{Model, ModelConfig};
use chaski::llama::sampler::Sampling;
use chaski::schedule::Schedule;
use chaski::stats::Stats;
use chaski::structure::Constraint;
use chaski::token::Token;
use chaski::tree::MAX_NODES;

use super::{LLAMA, prompt, session, turn};

const STEP_MS: u64 = 10;

/// A clock on which every action takes the same time. With a real clock drafting would take longer than this tiny
/// model, so nothing would be drafted.
#[derive(Default)]
struct Even(Cell<u64>);

impl Clock for Even {
    fn now(&self) -> Duration {
        self.0.set(self.0.get() + STEP_MS);
        Duration::from_millis(self.0.get())
    }
}

/// A text under this constraint, plain or drafted.
fn text(model: &Rc<Model>, form: &Constraint, sampling: &Sampling, drafts: bool) -> (Vec<Token>, Stats) {
    let mut target = session(model, 2048);
    let (mut sampler, narrow) = Constrainer::new(model.clone()).sampler_and_filter(form, sampling, &prompt()).unwrap();
    let (mut auto, mut none) = (Auto::default(), NoDraft);
    auto.set_filter(narrow);
    let drafter: &mut dyn Drafter = if drafts { &mut auto } else { &mut none };
    let mut schedule = Schedule::cost_aware(CostCurve::exact((1..=MAX_NODES).map(|n| (n, STEP_MS as f64))));
    let clock = Even::default();
    let prefilled = Generation::prefill(&mut target, &clock, &prompt(), &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut generation = Generation {
        target: &mut target,
        drafter,
        schedule: &mut schedule,
        sampler: sampler.as_mut(),
        clock: &clock,
        observer: &mut (),
    };
    let length = Length { max_tokens: 500, n_ctx: 2048 };
    let mut until_end = |token| if model.is_end(token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let generated = generation.run(&prompt(), prefilled, length, &mut until_end).unwrap();
    (generated.tokens, generated.stats)
}

/// No source knows this text, so only forced tokens are drafted. Where a character has a token, its byte token and
/// longer tokens are banned: this random model might spell the text differently.
#[test]
fn what_a_schema_forces_is_drafted_verified_and_accepted() {
    let _turn = turn();
    chaski::llama::logs::capture(false);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&LLAMA).unwrap();
    let config = ModelConfig { path: file.path().to_owned(), n_gpu_layers: super::support::gpu_layers(), lora: None };
    let model = Rc::new(Model::load(&config, |_| true).unwrap());
    let schema = r#"{"type": "object", "properties": {"qjx": {"const": "kvzqjxkqzvkjqxz"},
        "kvz": {"enum": ["qx", "jz"]}, "zqj": {"const": "xqkzjvqkxzjqkzvxqj"}},
        "required": ["qjx", "kvz", "zqj"], "additionalProperties": false}"#;
    let form = Constraint::JsonSchema(schema.to_owned());
    let (bytes, pieces) = (3..259, 259..382);
    let spelled = |token: i32| model.bytes(Token(token));
    let has_piece = |byte: &i32| pieces.clone().any(|piece| spelled(piece) == spelled(*byte));
    let ruled_out = bytes.filter(has_piece).chain(pieces.clone().filter(|&piece| spelled(piece).len() > 1));
    let logit_bias: Vec<(Token, f32)> = ruled_out.map(|token| (Token(token), f32::NEG_INFINITY)).collect();
    for temperature in [0.0, 0.8] {
        let sampling = Sampling { temperature, seed: 4, logit_bias: logit_bias.clone(), ..Sampling::default() };
        let (plain, without) = text(&model, &form, &sampling, false);
        let (drafted, with) = text(&model, &form, &sampling, true);
        assert_eq!(plain, drafted);
        let said: Vec<u8> = plain.iter().flat_map(|&token| model.bytes(token)).collect();
        assert!(said.ends_with(br#""zqj": "xqkzjvqkxzjqkzvxqj"}"#), "{}", String::from_utf8_lossy(&said));
        assert_eq!((without.n_drafted, without.n_steps), (0, plain.len()));
        assert!(with.n_accepted > 10 && with.n_steps + 10 < without.n_steps, "{with:?}");
    }
}
