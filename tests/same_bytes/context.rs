//! One context: results do not depend on prompt chunks, the history of cells or the number of threads, and hold for all
//! cache types, adapters, samplers and constraints.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use chaski::accept::Sampler;
use chaski::gguf::Gguf;
use chaski::llama::constrained_sampler::Constrainer;
use chaski::llama::model::{Lora, Model};
use chaski::llama::sampler::sampler;
use chaski::llama::session::{KvType, Session, SessionConfig};
use chaski::sampling::{SamplerKind, Sampling};
use chaski::structure::Constraint;
use chaski::target::Target as _;
use chaski::token::Token;
use chaski::tree::TokenTree;
use chaski::tune::CacheType;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::support::gguf_writer::{GgufWriter, Meta};
use super::support::loop_parts::Dice;
use super::support::real::{self, Counts, Plain, Way, config};
use super::{exact_model, forget, last_row, prompt, seeded};

const N_TOKENS: usize = 48;

fn runner(n_cases: u32) -> TestRunner {
    TestRunner::new(Config { cases: n_cases, failure_persistence: None, ..Config::default() })
}

fn plain(model: &Model, config: &SessionConfig, prompt: &[Token], sampling: &Sampling) -> Plain {
    let mut target = Session::new(model, config).unwrap();
    real::plain(model, &mut target, prompt, N_TOKENS, sampler(sampling, model, prompt))
}

/// Generates an answer with this drafter and asserts that it equals the plain one.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "what is compared, and the two ways to it")]
fn hold(
    what: &str,
    model: &Model,
    target: &mut Session<'_>,
    prompt: &[Token],
    sampler: Box<dyn Sampler>,
    drafter: &str,
    chunks: &[usize],
    plain: &Plain,
) -> usize {
    let (mut drafter, schedule) = real::drafter(drafter, plain, prompt.len(), &Arc::new(Counts::default()), 5);
    let way = Way { drafter: drafter.as_mut(), schedule, chunks };
    let (difference, n_accepted) = real::compare(model, target, prompt, N_TOKENS, sampler, way, plain);
    if let Some(difference) = difference {
        panic!("{what}: {difference}");
    }
    n_accepted
}

#[test]
fn a_prompt_is_read_in_chunks_of_any_size() {
    let Some(path) = exact_model("chunks") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut target = Session::new(&model, &config()).unwrap();
    let text = prompt(&model, &mut Dice(1), 330);
    let whole = last_row(&mut target, &text, &[256]);
    for chunks in [&[1][..], &[7], &[64], &[200], &[3, 250, 1]] {
        forget(&mut target);
        assert!(last_row(&mut target, &text, chunks) == whole, "chunks of {chunks:?}");
    }
    let sizes = (prop::collection::vec(prop_oneof![1usize..9, 1usize..257], 1..4), 1u64..1000, 2usize..300);
    let property = |(chunks, seed, n): (Vec<usize>, u64, usize)| {
        let text = prompt(&model, &mut Dice(seed), n);
        forget(&mut target);
        let whole = last_row(&mut target, &text, &[256]);
        forget(&mut target);
        prop_assert!(last_row(&mut target, &text, &chunks) == whole, "{} tokens in chunks of {:?}", text.len(), chunks);
        Ok(())
    };
    let property = std::cell::RefCell::new(property);
    runner(8).run(&sizes, |case| (property.borrow_mut())(case)).unwrap();
}

#[test]
fn threads_make_no_difference() {
    let Some(path) = exact_model("threads") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let text = prompt(&model, &mut Dice(2), 90);
    for sampling in [Sampling::greedy(), seeded(3)] {
        let plain = plain(&model, &SessionConfig { n_threads: 1, n_threads_batch: 1, ..config() }, &text, &sampling);
        for (n_threads, n_threads_batch) in [(1, 2), (2, 1), (3, 3)] {
            let config = SessionConfig { n_threads, n_threads_batch, ..config() };
            let mut target = Session::new(&model, &config).unwrap();
            for (drafter, chunks) in [("none", &[33][..]), ("wild trees", &[256])] {
                let what = format!("-t {n_threads} -tb {n_threads_batch}, {drafter}, {sampling:?}");
                let sampler = sampler(&sampling, &model, &text);
                forget(&mut target);
                hold(&what, &model, &mut target, &text, sampler, drafter, chunks, &plain);
            }
        }
    }
}

#[test]
fn every_type_of_cache_is_read_alike() {
    let Some(path) = exact_model("types of the cache") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let text = prompt(&model, &mut Dice(3), 120);
    let types = [
        (CacheType::F32, CacheType::F32),
        (CacheType::F16, CacheType::F16),
        (CacheType::Bf16, CacheType::Bf16),
        (CacheType::F16, CacheType::Bf16),
        (CacheType::Q8_0, CacheType::F16),
        (CacheType::Q8_0, CacheType::Bf16),
    ];
    for (k, v) in types {
        let config = SessionConfig { kv_type: KvType { k, v }, ..config() };
        for sampling in [Sampling::greedy(), seeded(4)] {
            let plain = plain(&model, &config, &text, &sampling);
            let mut target = Session::new(&model, &config).unwrap();
            for (drafter, chunks) in [("auto", &[7, 64][..]), ("wild trees", &[256])] {
                let what = format!("-ctk {k:?} -ctv {v:?}, {drafter}, temperature {}", sampling.temperature);
                forget(&mut target);
                hold(&what, &model, &mut target, &text, sampler(&sampling, &model, &text), drafter, chunks, &plain);
            }
        }
    }
}

/// Decodes and drops trees and texts, so that the cells of the cache are out of order and some are unused.
pub(super) fn stir(target: &mut Session<'_>, dice: &mut Dice, n_vocab: usize, base: &[Token]) {
    let any = |dice: &mut Dice| Token(i32::try_from(dice.roll(n_vocab)).unwrap());
    for _ in 0..1 + dice.roll(4) {
        let n_kept = dice.roll(base.len());
        let other: Vec<Token> = (0..dice.roll(60)).map(|_| any(dice)).collect();
        real::read(target, &[&base[..n_kept], &other].concat(), &[1 + dice.roll(100)]);
        for _ in 0..dice.roll(6) {
            let mut tree = TokenTree::new(any(dice));
            for _ in 0..dice.roll(40) {
                let parent = tree.nodes().nth(dice.roll(tree.len())).unwrap();
                let _ = tree.push(parent, any(dice));
            }
            target.verify(&tree).unwrap();
            let leaf = tree.nodes().nth(dice.roll(tree.len())).unwrap();
            let path = tree.path(leaf);
            target.keep(&path[..dice.roll(path.len() + 1)]).unwrap();
        }
    }
}

#[test]
fn what_was_decoded_before_leaves_no_trace() {
    let Some(path) = exact_model("traces") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut fresh = Session::new(&model, &config()).unwrap();
    let mut used = Session::new(&model, &config()).unwrap();
    for seed in 1..=12 {
        let mut dice = Dice(seed);
        let n = 2 + dice.roll(200);
        let text = prompt(&model, &mut dice, n);
        forget(&mut fresh);
        let expected = last_row(&mut fresh, &text, &[256]);
        stir(&mut used, &mut dice, model.n_vocab(), &text);
        assert!(last_row(&mut used, &text, &[1 + dice.roll(50)]) == expected, "case {seed}");
    }
}

#[test]
fn a_state_goes_on_as_the_context_that_it_is_of() {
    let Some(path) = exact_model("states") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut fresh = Session::new(&model, &config()).unwrap();
    let mut used = Session::new(&model, &config()).unwrap();
    for seed in 1..=6 {
        let mut dice = Dice(seed);
        let text = prompt(&model, &mut dice, 150);
        let sampling = if seed % 2 == 0 { seeded(seed as u32) } else { Sampling::greedy() };
        forget(&mut fresh);
        let plain = real::plain(&model, &mut fresh, &text, N_TOKENS, sampler(&sampling, &model, &text));
        stir(&mut used, &mut dice, model.n_vocab(), &text);
        let n_read = 1 + dice.roll(text.len() - 1);
        real::read(&mut used, &text[..n_read], &[1 + dice.roll(99)]);
        let state = used.state().unwrap();
        // Restore into a context of another size and with other threads, and continue differently from the state.
        let config = SessionConfig { n_ctx: 2048, n_threads: 1, n_threads_batch: 3, ..config() };
        let mut restored = Session::new(&model, &config).unwrap();
        restored.restore(&text[..n_read], &state).unwrap();
        for (drafter, n_cut) in [("none", 0), ("wild trees", 5)] {
            if restored.can_truncate() {
                real::read(&mut restored, &text[..n_read.saturating_sub(n_cut)], &[256]);
            }
            let what = format!("case {seed}: {n_read} of {} tokens restored, {drafter}", text.len());
            let sampler = sampler(&sampling, &model, &text);
            hold(&what, &model, &mut restored, &text, sampler, drafter, &[256], &plain);
        }
    }
}

#[test]
fn every_sampler_chooses_the_same_with_any_draft() {
    let Some(path) = exact_model("samplers") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut target = Session::new(&model, &config()).unwrap();
    let text = prompt(&model, &mut Dice(5), 60);
    let samplings = [
        Sampling { repeat_penalty: 1.2, ..Sampling::greedy() },
        Sampling { repeat_penalty: 1.1, frequency_penalty: 0.3, presence_penalty: 0.2, repeat_last_n: -1, ..seeded(1) },
        Sampling { dry_multiplier: 0.8, ..seeded(2) },
        Sampling { mirostat: 1, ..seeded(3) },
        Sampling { mirostat: 2, ..seeded(4) },
        Sampling { xtc_probability: 0.5, dynatemp_range: 0.4, ..seeded(5) },
        Sampling { typical_p: 0.8, top_k: 0, top_n_sigma: 1.5, ..seeded(6) },
        Sampling { adaptive_target: 0.3, samplers: Some(vec![SamplerKind::MinP, SamplerKind::AdaptiveP]), ..seeded(7) },
        Sampling { logit_bias: vec![(text[3], 4.0)], top_k: 0, top_p: 1.0, min_p: 0.0, ignore_eos: true, ..seeded(8) },
    ];
    for sampling in samplings {
        forget(&mut target);
        let plain = real::plain(&model, &mut target, &text, N_TOKENS, sampler(&sampling, &model, &text));
        for drafter in ["auto", "wild trees"] {
            let what = format!("{drafter}, {sampling:?}");
            hold(&what, &model, &mut target, &text, sampler(&sampling, &model, &text), drafter, &[64], &plain);
        }
    }
}

#[test]
fn an_answer_of_a_form_is_the_same_with_any_draft() {
    let Some(path) = exact_model("forms") else { return };
    let _turn = real::turn();
    let model = Rc::new(real::load(&path, None));
    let mut target = Session::new(&model, &config()).unwrap();
    let mut constrainer = Constrainer::new(model.clone());
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "bb", "ccc"]}, "maxItems": 4}}, "required": ["name", "age", "tags"],
        "additionalProperties": false}"#;
    let forms = [Constraint::JsonSchema(schema.to_owned()), Constraint::Regex("([a-z]+, ){6}[a-z]+\\.".to_owned())];
    let text = real::chat(&model, "Name, age and tags of Ana, who is 31.");
    for form in &forms {
        for sampling in [Sampling::greedy(), seeded(9)] {
            let mut held = || constrainer.sampler_and_filter(form, &sampling, &text).unwrap().0;
            let plain = real::plain(&model, &mut target, &text, N_TOKENS, held());
            for drafter in ["auto", "wild trees", "wild chains"] {
                let what = format!("{form:?}, {drafter}, temperature {}", sampling.temperature);
                hold(&what, &model, &mut target, &text, held(), drafter, &[64], &plain);
            }
        }
    }
}

/// A LoRA adapter of rank 8 for matrices of the model's first layers.
pub(super) fn adapter(path: &Path) -> Vec<u8> {
    let gguf = Gguf::open(path).unwrap();
    let mut dice = Dice(7);
    let mut numbers = |n: usize, scale: f32| -> Vec<f32> {
        (0..n).map(|_| (dice.roll(2001) as f32 / 1000.0 - 1.0) * scale).collect()
    };
    let mut writer = GgufWriter::default();
    writer
        .meta("general.type", Meta::str("adapter"))
        .meta("general.architecture", Meta::str(gguf.architecture().unwrap()))
        .meta("adapter.type", Meta::str("lora"))
        .meta("adapter.lora.alpha", Meta::F32(8.0));
    for name in ["attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down"] {
        for layer in 0..4 {
            let name = format!("blk.{layer}.{name}.weight");
            let matrix = gguf.tensors().iter().find(|tensor| tensor.name == name).expect("every model here has it");
            let (n_columns, n_rows) = (matrix.dims[0] as usize, matrix.dims[1] as usize);
            writer.tensor_f32(&format!("{name}.lora_a"), &[n_columns, 8], &numbers(8 * n_columns, 0.2)).tensor_f32(
                &format!("{name}.lora_b"),
                &[8, n_rows],
                &numbers(8 * n_rows, 0.2),
            );
        }
    }
    writer.finish()
}

#[test]
fn an_adapter_is_added_alike_in_every_batch() {
    let Some(path) = exact_model("adapters") else { return };
    let _turn = real::turn();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("style.gguf");
    std::fs::write(&file, adapter(&path)).unwrap();
    let text_of = |model: &Model| prompt(model, &mut Dice(6), 80);
    let without = {
        let model = real::load(&path, None);
        plain(&model, &config(), &text_of(&model), &Sampling::greedy())
    };
    let model = real::load(&path, Some(Lora { path: file, scale: 1.0 }));
    let text = text_of(&model);
    for sampling in [Sampling::greedy(), seeded(10)] {
        let plain = plain(&model, &config(), &text, &sampling);
        assert_ne!(plain.rows[0], without.rows[0], "the adapter does something");
        for n_threads_batch in [1, 2, 3] {
            let mut target = Session::new(&model, &SessionConfig { n_threads_batch, ..config() }).unwrap();
            for (drafter, chunks) in [("none", &[1, 7, 64][..]), ("wild trees", &[256])] {
                let what = format!("{drafter}, -tb {n_threads_batch}, temperature {}", sampling.temperature);
                forget(&mut target);
                hold(&what, &model, &mut target, &text, sampler(&sampling, &model, &text), drafter, chunks, &plain);
            }
        }
    }
}
