//! `src/llama` with a model small enough for thousands of decodes: each node of a tree sees exactly its own path, keep
//! and rollback leave nothing behind, and drafted text equals plain text.
//!
//! Model and cache are F32, so the kernels for one row and for many rows differ only in rounding. `scripts/test-vulkan.sh` runs
//! these tests on a GPU, where rounding may change a draw ([`support::sampled`]).

#![cfg(feature = "llama")]

#[path = "../support/mod.rs"]
mod support;

mod draft_model;
mod engine;
mod forms;
mod hidden_states;
mod recurrent;
mod samplers;
mod states;
mod tokenize;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use chaski::accept::Sampler;
use chaski::cost::CostCurve;
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::{Drafter, NoDraft};
use chaski::generate::{Generation, Length};
use chaski::llama::model::{Model, ModelConfig};
use chaski::llama::sampler::{Sampling, sampler};
use chaski::llama::session::{FlashAttention, KvType, Session, SessionConfig};
use chaski::sampling::SamplerKind;
use chaski::schedule::Schedule;
use chaski::target::{Rows as _, Target, TargetError};
use chaski::token::Token;
use chaski::tree::{NodeId, TokenTree};
use support::loop_parts::{Dice, Still, flat_curve};
use support::sampled::{Comparisons, Rows, Sampled, greatest_difference, rounding};
use support::{n_cases, tiny};

/// llama.cpp is initialized once per process, so the tests run one at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

trait Draws {
    fn token(&mut self) -> Token;
    fn tree(&mut self, root: Token, max_nodes: usize) -> TokenTree;
}

impl Draws for Dice {
    fn token(&mut self) -> Token {
        // An ordinary token, after the control and byte tokens.
        Token(i32::try_from(260 + self.roll(100)).unwrap())
    }

    /// A random tree within the limits.
    fn tree(&mut self, root: Token, max_nodes: usize) -> TokenTree {
        let mut tree = TokenTree::new(root);
        for _ in 0..self.roll(max_nodes + 1) {
            let parent = tree.nodes().nth(self.roll(tree.len())).unwrap();
            let _ = tree.push(parent, self.token());
        }
        tree
    }
}

fn with_model(bytes: &[u8], test: impl FnOnce(&Model)) {
    let _turn = turn();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    chaski::llama::logs::capture(false);
    let config = ModelConfig { path: file.path().to_owned(), n_gpu_layers: support::gpu_layers(), lora: None };
    let model = Model::load(&config, |_| true).unwrap();
    test(&model);
}

fn session(model: &Model, n_ctx: usize) -> Session<'_> {
    let config = SessionConfig {
        n_ctx,
        n_threads: 1,
        n_threads_batch: 1,
        flash_attention: FlashAttention::Off,
        kv_type: KvType::F32,
    };
    Session::new(model, &config).unwrap()
}

fn sync(session: &mut Session<'_>, prefix: &[Token]) {
    session.sync(prefix, &mut |_, _| ControlFlow::Continue(())).unwrap();
}

/// The logits after `text`, decoded token by token from an empty context.
fn plain_logits(session: &mut Session<'_>, text: &[Token]) -> Vec<f32> {
    sync(session, &[]);
    let (last, before) = text.split_last().unwrap();
    sync(session, before);
    session.verify(&TokenTree::new(*last)).unwrap();
    let logits = session.logits(NodeId::ROOT).to_vec();
    session.keep(&[]).unwrap();
    logits
}

const PROMPT: [i32; 9] = [1, 300, 310, 320, 300, 310, 330, 300, 310];

fn prompt() -> Vec<Token> {
    PROMPT.into_iter().map(Token).collect()
}

static LLAMA: LazyLock<Vec<u8>> = LazyLock::new(|| tiny::tiny_llama(3));

#[test]
fn tree_logits_are_those_of_each_path_alone() {
    // Gemma's logits are larger, and so are their rounding errors.
    for (name, bytes, bound) in [("llama", tiny::tiny_llama(3), 1e-4), ("gemma3", tiny::tiny_gemma3(3), 3e-4)] {
        with_model(&bytes, |model| {
            let mut dice = Dice(1);
            let mut drafted = session(model, 512);
            let mut plain = session(model, 512);
            for round in 0..n_cases(20, 1) {
                let prefix: Vec<Token> = (0..1 + dice.roll(40)).map(|_| dice.token()).collect();
                let root = dice.token();
                let tree = dice.tree(root, 63);
                sync(&mut drafted, &prefix);
                drafted.verify(&tree).unwrap();
                for node in tree.nodes().filter(|node| node.index() % 3 == round % 3) {
                    let path = tree.path(node).into_iter().map(|node| tree.token(node));
                    let text: Vec<Token> = prefix.iter().copied().chain(path).collect();
                    let difference = greatest_difference(drafted.logits(node), &plain_logits(&mut plain, &text));
                    assert!(difference < rounding(bound), "{name}, round {round}, node {node:?}: {difference}");
                }
            }
        });
    }
}

#[test]
fn hundreds_of_random_steps_leave_no_trace() {
    with_model(&LLAMA, |model| {
        let mut dice = Dice(2);
        let mut target = session(model, 2048);
        let mut fresh = session(model, 2048);
        let mut text = prompt();
        sync(&mut target, &text[..text.len() - 1]);
        for step in 0..n_cases(400, 50) {
            let tree = dice.tree(*text.last().unwrap(), 40);
            target.verify(&tree).unwrap();
            let end = tree.nodes().nth(dice.roll(tree.len())).unwrap();
            let path = tree.path(end);
            if dice.roll(8) == 0 {
                target.keep(&[]).unwrap();
                continue;
            }
            target.keep(&path).unwrap();
            text.extend(path[1..].iter().map(|&node| tree.token(node)));
            text.push(dice.token());
            assert_eq!(target.n_past(), text.len() - 1);
            if dice.roll(30) == 0 {
                // Go back to an earlier position, as when a user edits a chat.
                text.truncate(2 + dice.roll(text.len() - 2));
                sync(&mut target, &text[..text.len() - 1]);
            }
            if step % 20 == 0 {
                target.verify(&TokenTree::new(*text.last().unwrap())).unwrap();
                let difference = greatest_difference(target.logits(NodeId::ROOT), &plain_logits(&mut fresh, &text));
                assert!(difference < 1e-4, "step {step}: {difference}");
                target.keep(&[]).unwrap();
            }
            if text.len() > 1900 {
                text = prompt();
                sync(&mut target, &text[..text.len() - 1]);
            }
        }
    });
}

fn generate(
    target: &mut Session<'_>,
    drafter: &mut dyn Drafter,
    mut schedule: Schedule,
    sampler: &mut dyn Sampler,
    n: usize,
) -> (Vec<Token>, chaski::stats::Stats) {
    let mut go_on = |_, _| ControlFlow::Continue(());
    let prefilled = Generation::prefill(target, &Still, &prompt(), &mut go_on).unwrap();
    let mut generation =
        Generation { target, drafter, schedule: &mut schedule, sampler, clock: &Still, observer: &mut () };
    let length = Length { max_tokens: n, n_ctx: 2048 };
    let generated = generation.run(&prompt(), prefilled, length, &mut |_| ControlFlow::Continue(())).unwrap();
    (generated.tokens, generated.stats)
}

/// The same with the logits.
fn generate_sampled(
    target: &mut Session<'_>,
    drafter: &mut dyn Drafter,
    schedule: Schedule,
    sampler: Box<dyn Sampler>,
    n: usize,
) -> (Sampled, chaski::stats::Stats) {
    let rows = Rows::default();
    let (tokens, stats) = generate(target, drafter, schedule, &mut rows.of(sampler), n);
    (rows.text(tokens), stats)
}

/// Configurations that use every sampler, including those with a memory.
fn samplings() -> Vec<Sampling> {
    let changes: [fn(&mut Sampling); 13] = [
        |_| {},
        |s| s.temperature = 0.0,
        |s| (s.temperature, s.repeat_penalty) = (1.5, 1.1),
        |s| (s.frequency_penalty, s.presence_penalty, s.repeat_last_n) = (0.3, 0.2, 20),
        |s| (s.temperature, s.dry_multiplier, s.dry_allowed_length) = (0.3, 0.8, 1),
        |s| (s.temperature, s.dry_multiplier) = (0.0, 2.0),
        |s| (s.top_n_sigma, s.typical_p) = (1.5, 0.8),
        |s| (s.xtc_probability, s.xtc_threshold) = (0.5, 0.05),
        |s| (s.dynatemp_range, s.dynatemp_exponent) = (0.5, 1.5),
        |s| (s.mirostat, s.mirostat_tau) = (1, 3.0),
        |s| (s.mirostat, s.mirostat_tau) = (2, 3.0),
        |s| (s.samplers, s.adaptive_target) = (Some(vec![SamplerKind::TopK, SamplerKind::AdaptiveP]), 0.4),
        |s| (s.logit_bias, s.ignore_eos) = (vec![(Token(300), 4.0), (Token(301), f32::NEG_INFINITY)], true),
    ];
    let sampling = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling { temperature: 0.7, seed: 11, ..Sampling::default() };
        change(&mut sampling);
        sampling
    };
    changes.into_iter().take(n_cases(usize::MAX, 3)).map(sampling).collect()
}

#[test]
fn drafted_text_is_plain_text() {
    let models = [("llama 3", tiny::tiny_llama(3)), ("gemma3", tiny::tiny_gemma3(5)), ("llama 4", tiny::tiny_llama(4))];
    for (name, bytes) in models.into_iter().take(n_cases(3, 2)) {
        with_model(&bytes, |model| {
            let (mut target, n_tokens) = (session(model, 2048), n_cases(300, 40));
            let (mut n_accepted, mut compared) = (0, Comparisons::default());
            for (n, sampling) in samplings().into_iter().enumerate() {
                let mut text = |drafter: &mut dyn Drafter, schedule| {
                    let sampler = sampler(&sampling, model, &prompt());
                    generate_sampled(&mut target, drafter, schedule, sampler, n_tokens)
                };
                let (plain, stats) = text(&mut NoDraft, Schedule::everything(CostCurve::default()));
                assert_eq!((stats.n_steps, stats.n_drafted), (n_tokens, 0));
                for (kind, mut drafter, schedule) in [
                    ("auto", Box::new(Auto::default()) as Box<dyn Drafter>, Schedule::cost_aware(flat_curve())),
                    ("aded", Box::new(Aded::default()), Schedule::everything(CostCurve::default())),
                ] {
                    let (drafted, stats) = text(drafter.as_mut(), schedule);
                    compared.add(drafted.compare(&plain, &format!("{name}, {kind}, sampling {n}")));
                    n_accepted += stats.n_accepted;
                }
            }
            compared.check();
            assert!(n_accepted > n_cases(50, 2), "{name}: only {n_accepted} drafted tokens were ever accepted");
        });
    }
}

#[test]
fn mistakes_are_errors_and_leave_the_timeline_alone() {
    with_model(&LLAMA, |model| {
        let mut target = session(model, 256);
        let text = prompt();
        sync(&mut target, &text);
        let before = plain_logits(&mut session(model, 256), &[&text[..], &[Token(300)]].concat());

        assert_eq!(target.keep(&[NodeId::ROOT]), Err(TargetError::NotAPath), "nothing was verified");
        let tree = TokenTree::chain(Token(300), &[Token(1000)]).unwrap();
        let unknown = TargetError::UnknownToken { token: Token(1000), n_vocab: tiny::N_VOCAB };
        assert_eq!(target.verify(&tree), Err(unknown));

        let tree = TokenTree::chain(Token(300), &[Token(301)]).unwrap();
        target.verify(&tree).unwrap();
        let child = tree.leaves()[0];
        assert_eq!(target.keep(&[child]), Err(TargetError::NotAPath));
        assert_eq!(target.keep(&[NodeId::ROOT]), Err(TargetError::NotAPath), "the refused verify is gone");

        // A verify without a keep must leave nothing behind.
        target.verify(&tree).unwrap();
        target.verify(&tree).unwrap();

        sync(&mut target, &text);
        target.verify(&TokenTree::new(Token(300))).unwrap();
        assert!(greatest_difference(target.logits(NodeId::ROOT), &before) < 1e-4);
        target.keep(&[]).unwrap();

        let long: Vec<Token> = vec![Token(300); target.n_ctx() - 3];
        sync(&mut target, &long);
        assert_eq!(target.limits().max_nodes, 3);
        let tree = TokenTree::chain(Token(300), &[Token(301); 3]).unwrap();
        assert_eq!(target.verify(&tree), Err(TargetError::ContextFull { needed: 257, n_ctx: 256 }));
        let too_long = vec![Token(300); 257];
        let refused = target.sync(&too_long, &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(refused, Err(TargetError::ContextFull { needed: 257, n_ctx: 256 }));
    });
}

#[test]
fn an_interrupted_prefill_is_taken_up_again() {
    with_model(&LLAMA, |model| {
        let mut target = session(model, 2048);
        let text: Vec<Token> = (0..1000).map(|i| Token(260 + i % 90)).collect();
        let mut n_chunks = 0;
        let interrupted = target.sync(&text, &mut |done, total| {
            assert_eq!(total, 1000);
            n_chunks += 1;
            if done >= 512 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((interrupted, target.n_past()), (Err(TargetError::Interrupted), 512));
        let mut first = None;
        target
            .sync(&text, &mut |done, _| {
                first.get_or_insert(done);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!((first, target.n_past()), (Some(512), 1000), "the longest common prefix is reused");
    });
}

#[test]
fn a_model_that_answers_nan_is_reported() {
    let bytes = tiny::tiny(&tiny::TinyOptions { nan_weights: true, ..tiny::TinyOptions::default() });
    with_model(&bytes, |model| {
        let mut target = session(model, 256);
        sync(&mut target, &prompt());
        target.verify(&TokenTree::new(Token(300))).unwrap();
        for temperature in [0.0, 0.8] {
            let sampling = Sampling { temperature, seed: 1, ..Sampling::default() };
            let sampled = sampler(&sampling, model, &[]).sample(target.logits(NodeId::ROOT));
            assert_eq!(sampled, Err(TargetError::NotFinite));
        }
    });
}

/// A quantized model for the commands that `scripts/test-vulkan.sh` runs.
#[test]
#[ignore = "it writes a file for a script"]
fn write_a_model() {
    let path = std::env::var_os("CHASKI_TEST_WRITE").expect("a path in CHASKI_TEST_WRITE");
    let options = tiny::TinyOptions { seed: 3, is_quantized: true, ..tiny::TinyOptions::default() };
    std::fs::write(path, tiny::tiny(&options)).unwrap();
}
