//! A real quantized model: drafted text is plain text.
//!
//! With kernels of ours every row of logits that a token is chosen from has the same bits, drafted or plain.
//!
//! ggml's kernels for one row and for many round differently, so where two tokens are almost equally likely a drafted answer
//! may take the other one. What is checked there is that nothing else ever makes a difference: at the first token that
//! differs, the two logits rows agree to within rounding, and (when greedy) the two tokens are that close.
//!
//! Needs `CHASKI_TEST_MODEL`, which `scripts/test.sh` sets to SmolLM2-135M-Instruct.

#![cfg(feature = "llama")]

mod support;

use std::io::Write as _;
use std::ops::ControlFlow;

use chaski::accept::Sampler;
use chaski::chat::template::Segment;
use chaski::cost::CostCurve;
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::{Drafter, NoDraft};
use chaski::generate::{Generation, Length};
use chaski::llama::model::{Model, ModelConfig};
use chaski::llama::sampler::{Sampling, sampler};
use chaski::llama::session::{FlashAttention, KvType, Session, SessionConfig};
use chaski::schedule::Schedule;
use chaski::target::TargetError;
use chaski::token::Token;
use support::loop_parts::{Still, flat_curve};

/// Greatest difference of two logits rows of the same text, decoded one row at a time and in a batch. llama.cpp's own
/// was 0.6 on average and 1.36 at most over 149 rows of a plain text decoded as chains of 2 to 64 rows (the standard
/// deviation of a row is 3.1); this test has printed up to 1.09. Too wide to notice a subtle fault: `tests/tiny_model/` does.
const ROUNDING: f32 = 2.0;

/// Greatest distance of two tokens that may change places when greedy; 0.02 to 0.23 were seen.
const NEAR_TIE: f32 = 0.75;

const N_TOKENS: usize = 64;

const PROMPTS: [&str; 8] = [
    "What should I look for when I buy a used bicycle?",
    "Write a Python function that counts the words of a text.",
    "Repeat this list and add one line at the end:\n- apples\n- oranges\n- pears\n- plums\n- cherries\n- apricots\n",
    "Summarize: The ferry leaves at seven, but on Sundays at nine. Tickets are sold on board. Dogs travel free of charge.",
    "Copy the sentence that names the price. The room has two beds. The price is 80 euros a night. Breakfast is extra.",
    "A train travels 180 km in 2 hours and then 60 km in 1 hour. What is its average speed? Show the steps.",
    "Give name and age as JSON for each: Ana is 31. Ben is 27. Carla is 45. David is 19.",
    "Translate to Spanish: The library is closed on Mondays, but the reading room stays open.",
];

/// Keeps each logits row that a token was chosen from.
struct Recording {
    inner: Box<dyn Sampler>,
    rows: Vec<Vec<f32>>,
}

impl Sampler for Recording {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.rows.push(logits.to_vec());
        self.inner.sample(logits)
    }
}

struct Answer {
    tokens: Vec<Token>,
    rows: Vec<Vec<f32>>,
    n_accepted: usize,
}

fn answer(
    model: &Model,
    target: &mut Session<'_>,
    prompt: &[Token],
    sampling: &Sampling,
    drafter: &mut dyn Drafter,
    mut schedule: Schedule,
) -> Answer {
    let prefilled = Generation::prefill(target, &Still, prompt, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut recording = Recording { inner: sampler(sampling, model, prompt), rows: Vec::new() };
    let mut generation = Generation {
        target,
        drafter,
        schedule: &mut schedule,
        sampler: &mut recording,
        clock: &Still,
        observer: &mut (),
    };
    let length = Length { max_tokens: N_TOKENS, n_ctx: 1024 };
    let mut emit = |token| {
        if model.is_end(token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generated = generation.run(prompt, prefilled, length, &mut emit).unwrap();
    Answer { tokens: generated.tokens, rows: recording.rows, n_accepted: generated.stats.n_accepted }
}

fn prompt(model: &Model, text: &str) -> Vec<Token> {
    let text = format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    model.tokenize(&[Segment { text, parse_special: true }])
}

#[test]
fn drafted_text_is_plain_text() {
    let Some(path) = std::env::var_os("CHASKI_TEST_MODEL") else {
        let _ = writeln!(std::io::stderr(), "skipped: CHASKI_TEST_MODEL is not set (scripts/test.sh sets it)");
        return;
    };
    chaski::llama::logs::capture(false);
    let config = ModelConfig { path: path.into(), n_gpu_layers: Some(0), lora: None };
    let model = Model::load(&config, |_| true).unwrap();
    let config = SessionConfig {
        n_ctx: 1024,
        n_threads: 2,
        n_threads_batch: 2,
        flash_attention: FlashAttention::Off,
        kv_type: KvType::F16,
    };
    let mut target = Session::new(&model, &config).unwrap();
    let is_exact = chaski::llama::kernels::in_use().unwrap().is_some();
    let (mut n_accepted, mut n_equal, mut n_answers) = (0, 0, 0);
    for text in PROMPTS {
        let prompt = prompt(&model, text);
        for (temperature, seed) in [(0.0, 0), (0.8, 7)] {
            let sampling = Sampling { temperature, seed, ..Sampling::default() };
            let plain = Schedule::everything(CostCurve::default());
            let plain = answer(&model, &mut target, &prompt, &sampling, &mut NoDraft, plain);
            for (name, mut drafter, schedule) in [
                ("auto", Box::new(Auto::default()) as Box<dyn Drafter>, Schedule::cost_aware(flat_curve())),
                ("aded", Box::new(Aded::default()), Schedule::everything(CostCurve::default())),
            ] {
                let drafted = answer(&model, &mut target, &prompt, &sampling, drafter.as_mut(), schedule);
                n_accepted += drafted.n_accepted;
                n_answers += 1;
                if is_exact {
                    assert_eq!(plain.tokens, drafted.tokens, "{name}, temperature {temperature}, {text:?}");
                    for (i, (a, b)) in plain.rows.iter().zip(&drafted.rows).enumerate() {
                        let is_equal = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(is_equal, "{name}, temperature {temperature}, {text:?}: row {i} has other bits");
                    }
                }
                let n_common = plain.tokens.iter().zip(&drafted.tokens).take_while(|(a, b)| a == b).count();
                if plain.tokens == drafted.tokens {
                    n_equal += 1;
                    continue;
                }
                let what = format!("{name}, temperature {temperature}, token {n_common} of the answer to {text:?}");
                let (a, b) = (&plain.rows[n_common], &drafted.rows[n_common]);
                let rounding = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(rounding < ROUNDING, "{what}: the logits differ by {rounding}");
                if temperature == 0.0 {
                    let margin = a[plain.tokens[n_common].index()] - a[drafted.tokens[n_common].index()];
                    assert!(margin < NEAR_TIE, "{what}: not a near-tie: {margin}");
                    let _ = writeln!(std::io::stderr(), "{what}: margin {margin:.3}, rounding {rounding:.3}");
                } else {
                    let _ = writeln!(std::io::stderr(), "{what}: rounding {rounding:.3}");
                }
            }
        }
    }
    let _ = writeln!(std::io::stderr(), "{n_equal} of {n_answers} answers equal, {n_accepted} drafted tokens accepted");
    assert!(n_accepted > 100, "only {n_accepted} drafted tokens were ever accepted");
    assert!(n_equal * 2 > n_answers, "only {n_equal} of {n_answers} answers are equal");
}
