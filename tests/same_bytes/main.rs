//! The same model, prompt, settings and seed give the same bytes. Each test varies one thing that could make a
//! difference, on a real quantized model (`CHASKI_TEST_MODEL`), and compares the bits of logits where it can.
//!
//! Drafts have their own test, `tests/real_model.rs`. `soak` mixes everything at random; `scripts/soak.sh` runs it.
//!
//! ggml's kernels promise none of this: with them every test reports that it is skipped.

#![cfg(feature = "llama")]

#[path = "../cli/harness.rs"]
#[expect(dead_code, reason = "shared with tests/cli, which uses the rest")]
mod harness;
#[path = "../support/mod.rs"]
mod support;

mod commands;
mod context;
mod lanes;
mod soak;

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;

use chaski::chat::template::Segment;
use chaski::llama::model::Model;
use chaski::llama::session::Session;
use chaski::sampling::Sampling;
use chaski::target::{Rows as _, Target as _};
use chaski::token::Token;
use chaski::tree::{NodeId, TokenTree};
use support::loop_parts::Dice;
use support::real;

/// The model, if there is one and our kernels compute it.
fn exact_model(test: &str) -> Option<PathBuf> {
    let path = real::path(test)?;
    if !real::is_exact() {
        let _ = writeln!(std::io::stderr(), "skipped: {test}: ggml's kernels are used");
        return None;
    }
    Some(path)
}

const WORDS: [&str; 24] = [
    "the ", "river ", "runs ", "12 ", "km ", "to ", "a ", "harbour", ". ", "\n", "fn ", "main", "() ", "{ ", "} ",
    "Then ", "she ", "said: ", "\"no\"", ", ", "été ", "水", "x = ", "and ",
];

/// A text of about `n` tokens.
fn words(dice: &mut Dice, n: usize) -> String {
    (0..n).map(|_| WORDS[dice.roll(WORDS.len())]).collect()
}

/// A prompt of about `n` tokens.
fn prompt(model: &Model, dice: &mut Dice, n: usize) -> Vec<Token> {
    model.tokenize(&[Segment { text: format!("{}\n", words(dice, n)), parse_special: false }])
}

fn seeded(seed: u32) -> Sampling {
    Sampling { temperature: 0.8, seed, ..Sampling::default() }
}

/// The bits of the logits after all of `text`.
fn last_row(target: &mut Session<'_>, text: &[Token], chunks: &[usize]) -> Vec<u32> {
    let (last, before) = text.split_last().unwrap();
    real::read(target, before, chunks);
    target.verify(&TokenTree::new(*last)).unwrap();
    let row = target.logits(NodeId::ROOT).iter().map(|logit| logit.to_bits()).collect();
    target.keep(&[]).unwrap();
    row
}

fn forget(target: &mut Session<'_>) {
    target.sync(&[], &mut |_, _| ControlFlow::Continue(())).unwrap();
}
