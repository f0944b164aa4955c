//! Random combinations of everything, for as long as wanted: `scripts/soak.sh` runs this.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaski::accept::Sampler;
use chaski::llama::constrained_sampler::Constrainer;
use chaski::llama::model::Model;
use chaski::llama::sampler::sampler;
use chaski::llama::session::{KvType, Session, SessionConfig};
use chaski::sampling::{SamplerKind, Sampling};
use chaski::structure::Constraint;
use chaski::token::Token;
use chaski::tune::CacheType;

use super::context::stir;
use super::lanes::{Line, Side, side_by_side};
use super::support::loop_parts::Dice;
use super::support::real::{self, Counts, DRAFTERS, Way, config};
use super::{exact_model, prompt, seeded};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A random element.
fn pick<T: Clone>(dice: &mut Dice, all: &[T]) -> T {
    all[dice.roll(all.len())].clone()
}

fn random_sampling(dice: &mut Dice, text: &[Token]) -> Sampling {
    let usual = seeded(dice.roll(1 << 30) as u32);
    let temperature = pick(dice, &[0.3, 0.8, 1.2, 2.0]);
    let usual = Sampling { temperature, ..usual };
    match dice.roll(9) {
        0 | 1 => Sampling::greedy(),
        2 => Sampling { repeat_penalty: 1.15, repeat_last_n: pick(dice, &[8, 64, -1]), ..usual },
        3 => Sampling { dry_multiplier: 0.8, frequency_penalty: 0.2, ..usual },
        4 => Sampling { mirostat: 1 + dice.roll(2) as i32, ..usual },
        5 => Sampling { top_k: 0, top_p: 0.9, min_p: 0.0, xtc_probability: 0.3, ..usual },
        6 => Sampling { logit_bias: vec![(pick(dice, text), 3.0)], ignore_eos: true, ..usual },
        7 => {
            Sampling { adaptive_target: 0.4, samplers: Some(vec![SamplerKind::TopK, SamplerKind::AdaptiveP]), ..usual }
        }
        _ => usual,
    }
}

fn random_config(dice: &mut Dice, n_ctx: usize) -> SessionConfig {
    use CacheType::{Bf16, F16, F32, Q8_0};
    let (k, v) = pick(dice, &[(F16, F16), (F16, F16), (F16, F16), (F32, F32), (Bf16, Bf16), (Q8_0, F16)]);
    // Rarely more than the cores of a small machine: its threads would wait for each other.
    let mut n = || if dice.roll(12) == 0 { 3 } else { 1 + dice.roll(2) };
    let (n_threads, n_threads_batch) = (n(), n());
    SessionConfig { n_ctx, n_threads, n_threads_batch, kv_type: KvType { k, v }, ..config() }
}

fn random_chunks(dice: &mut Dice) -> Vec<usize> {
    let size = |dice: &mut Dice| {
        let most = pick(dice, &[4, 33, 256]);
        1 + dice.roll(most)
    };
    (0..1 + dice.roll(3)).map(|_| size(dice)).collect()
}

fn random_prompt(model: &Model, dice: &mut Dice) -> Vec<Token> {
    let most = pick(dice, &[8, 60, 300, 600]);
    let n = 1 + dice.roll(most);
    match dice.roll(3) {
        // Tokens that no tokenizer would produce.
        0 => (0..n + 1).map(|_| Token(dice.roll(model.n_vocab()) as i32)).collect(),
        _ => {
            // A word can be several tokens.
            let mut text = prompt(model, dice, n);
            text.truncate(most);
            text
        }
    }
}

const SCHEMA: &str = r#"{"type": "object", "properties": {"a": {"type": "string", "maxLength": 12}, "b": {"type": "number"}},
    "required": ["a", "b"], "additionalProperties": false}"#;

/// Compares one text, plain and in a random way. Returns a description of the first difference.
fn one_text(model: &Rc<Model>, constrainer: &mut Constrainer, dice: &mut Dice) -> Option<String> {
    let text = random_prompt(model, dice);
    let mut sampling = random_sampling(dice, &text);
    let n_tokens = 4 + dice.roll(60);
    let form = [None, None, None, Some(Constraint::JsonSchema(SCHEMA.to_owned()))][dice.roll(4)].clone();
    // A complete JSON value can only end, so `run` refuses this together.
    sampling.ignore_eos &= form.is_none();
    let mut chooser = || -> Box<dyn Sampler> {
        match &form {
            Some(form) => constrainer.sampler_and_filter(form, &sampling, &text).unwrap().0,
            None => sampler(&sampling, model, &text),
        }
    };
    let config = random_config(dice, 1024);
    let plain = {
        let mut target = Session::new(model, &config).unwrap();
        real::plain(model, &mut target, &text, n_tokens, chooser())
    };

    let other = SessionConfig { kv_type: config.kv_type, ..random_config(dice, 2048) };
    let mut target = Session::new(model, &other).unwrap();
    let is_stirred = dice.roll(2) == 0;
    if is_stirred {
        stir(&mut target, dice, model.n_vocab(), &text);
    }
    let chunks = random_chunks(dice);
    let n_restored = if dice.roll(3) == 0 { dice.roll(text.len()) } else { 0 };
    if n_restored > 0 {
        real::read(&mut target, &text[..n_restored], &chunks);
        let state = target.state().unwrap();
        target = Session::new(model, &other).unwrap();
        target.restore(&text[..n_restored], &state).unwrap();
    }
    let names: Vec<&str> = DRAFTERS.into_iter().chain(["none"]).filter(|_| dice.roll(3) > 0).collect();
    let name = if names.is_empty() { "auto" } else { pick(dice, &names) };
    let mut base = Counts::default();
    base.add(&plain.tokens);
    let (mut drafter, schedule) = real::drafter(name, &plain, text.len(), &Arc::new(base), dice.0);
    let way = Way { drafter: drafter.as_mut(), schedule, chunks: &chunks };
    let (difference, _) = real::compare(model, &mut target, &text, n_tokens, chooser(), way, &plain);
    difference.map(|difference| {
        format!(
            "{difference}; {} tokens of prompt, {n_tokens} of answer, drafter {name}, chunks of {chunks:?}, stirred: {is_stirred}, restored: \
             {n_restored}, a form: {}, {sampling:?}, plain {config:?}, other {other:?}",
            text.len(),
            form.is_some()
        )
    })
}

/// Compares several texts in one batch.
fn some_texts(model: &Model, dice: &mut Dice) -> Option<String> {
    let config = SessionConfig { n_ctx: 768, ..random_config(dice, 768) };
    let n_lanes = 1 + dice.roll(12);
    let mut shared = prompt(model, dice, 50);
    shared.truncate(64);
    let mut target = Session::new(model, &config).unwrap();
    let lines: Vec<Line> = (0..n_lanes + dice.roll(6))
        .map(|_| {
            let own = random_prompt(model, dice);
            let prompt = if dice.roll(2) == 0 { own } else { [&shared[..], &own].concat() };
            let sampling = random_sampling(dice, &prompt);
            let n_tokens = 1 + dice.roll(16);
            super::forget(&mut target);
            let plain = real::plain(model, &mut target, &prompt, n_tokens, sampler(&sampling, model, &prompt));
            Line { prompt, sampling, n_tokens, plain }
        })
        .collect();
    drop(target);
    let mut order: Vec<usize> = (0..lines.len()).collect();
    (1..order.len()).rev().for_each(|i| order.swap(i, dice.roll(i + 1)));
    let other = random_config(dice, 768);
    let side = Side {
        n_lanes,
        max_more: pick(dice, &[1, 16, 100, 256]),
        drafts: dice.roll(2) == 0,
        config: SessionConfig { kv_type: config.kv_type, ..other },
    };
    let (differences, _) = side_by_side(model, &lines, &order, &side);
    let told = |(id, difference): &(usize, real::Difference)| {
        let line = &lines[*id];
        format!(
            "line {id} of {}: {difference}; {} tokens of prompt, {:?}",
            lines.len(),
            line.prompt.len(),
            line.sampling
        )
    };
    let all: Vec<String> = differences.iter().map(told).collect();
    (!all.is_empty()).then(|| format!("{}; {side:?}, plain {config:?}", all.join("; ")))
}

#[test]
#[ignore = "as long as one likes: scripts/soak.sh"]
fn soak() {
    let path = exact_model("soak").expect("a model, and kernels that promise something");
    let _turn = real::turn();
    let model = Rc::new(real::load(&path, None));
    let mut constrainer = Constrainer::new(model.clone());
    let seconds = Duration::from_secs(number("CHASKI_SOAK_SECONDS").unwrap_or(60));
    let (first, most) = (number("CHASKI_SOAK_SEED").unwrap_or(1), number("CHASKI_SOAK_CASES").unwrap_or(u64::MAX));
    let mut stdout = std::io::stdout();
    let (start, mut told) = (Instant::now(), Instant::now());
    let (mut n_cases, mut n_different) = (0, 0);
    while n_cases < most && start.elapsed() < seconds {
        let seed = first + n_cases;
        // Neighbouring seeds start with similar numbers, so mix them.
        let mut dice = Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..4).for_each(|_| _ = dice.roll(2));
        let difference = match dice.roll(4) {
            0 => some_texts(&model, &mut dice),
            _ => one_text(&model, &mut constrainer, &mut dice),
        };
        n_cases += 1;
        if let Some(difference) = difference {
            n_different += 1;
            let _ = writeln!(stdout, "DIFFERENT: {difference}\nrepeat: scripts/soak.sh --seed {seed} --cases 1");
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            let _ = writeln!(stdout, "{} s: {n_cases} cases, {n_different} differences", start.elapsed().as_secs());
        }
    }
    let s = start.elapsed().as_secs();
    let _ = writeln!(stdout, "{n_cases} cases in {s} s from seed {first}: {n_different} differences");
    assert_eq!(n_different, 0, "differences");
}
