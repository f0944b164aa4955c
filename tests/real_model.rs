//! A real quantized model: drafted text equals plain text with every drafter, greedy and seeded. With our kernels, the
//! logits of every emitted token have the same bits too.
//!
//! `scripts/test.sh` runs this on SmolLM2-135M-Instruct, where each drafter answers a share of the prompts. With
//! `CHASKI_TEST_ALL=1` each answers all. Any model works; `CHASKI_TEST_TOKENS` shortens the answers of a large one:
//!
//! ```sh
//! eval "$(scripts/build.sh --print-env)"
//! CHASKI_TEST_MODEL=MODEL.gguf CHASKI_TEST_ALL=1 cargo test --release --locked --test real_model -- --nocapture
//! ```

#![cfg(feature = "llama")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use chaski::llama::sampler::{Sampling, sampler};
use chaski::llama::session::Session;
use support::real::{self, Counts, DRAFTERS, Way};

/// Each drafter answers every n-th prompt, unless `CHASKI_TEST_ALL` is set: all prompts would take ten minutes.
const SHARES: [usize; DRAFTERS.len()] = [2, 4, 8, 8, 8, 8, 2, 2, 8];

const PROMPTS: [&str; 32] = [
    "What should I look for when I buy a used bicycle?",
    "Write a Python function that counts the words of a text.",
    "Repeat this list and add one line at the end:\n- apples\n- oranges\n- pears\n- plums\n- cherries\n- apricots\n",
    "Summarize: The ferry leaves at seven, but on Sundays at nine. Tickets are sold on board. Dogs travel free of charge.",
    "Copy the sentence that names the price. The room has two beds. The price is 80 euros a night. Breakfast is extra.",
    "A train travels 180 km in 2 hours and then 60 km in 1 hour. What is its average speed? Show the steps.",
    "Give name and age as JSON for each: Ana is 31. Ben is 27. Carla is 45. David is 19.",
    "Translate to Spanish: The library is closed on Mondays, but the reading room stays open.",
    "Hello",
    "Write a poem about the sea in four lines.",
    "List the planets of the solar system with one fact each.",
    "Why is the sky blue? Explain it to a child.",
    "Correct the spelling: Teh quik brown foxx jumps ovver teh lazi dog.",
    "Rename the variable x to total:\nx = 0\nfor item in items:\n    x += item.price\nprint(x)\n",
    "Schreibe einen kurzen Brief an meinen Nachbarn, dessen Hund nachts bellt.",
    "Explique la différence entre une pomme et une poire.",
    "Write the numbers from 1 to 40, separated by commas.",
    "What does this print?\nfor i in range(3):\n    for j in range(i):\n        print(i, j)\n",
    "Name three rivers in Africa and three in South America. Use a table.",
    "Continue the story: The door was open, although she had locked it in the morning.",
    "Write an SQL query for the five customers with the most orders in 2023.",
    "Explain in two sentences what a hash table is.",
    "Give me a recipe for pancakes, with amounts for two people.",
    "Write a regular expression for dates such as 2024-05-31.",
    "Who wrote Don Quixote, and when?",
    "Convert to HTML:\n# Title\nSome *text* and a [link](https://example.org).\n- one\n- two\n",
    "日本の首都はどこですか。",
    "Make this polite: Send me the report now.",
    "Write a haiku about winter, then one about summer.",
    "Compare TCP and UDP in a list of five points.",
    "Add type hints:\ndef mean(xs):\n    return sum(xs) / len(xs)\n\ndef median(xs):\n    xs = sorted(xs)\n    return xs[len(xs) // 2]\n",
    "Extract all e-mail addresses: Write to ana@example.org or, after Friday, to ben.b@example.com; info@example.net is closed.",
];

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn drafted_text_is_plain_text() {
    let Some(path) = real::path("real_model") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut target = Session::new(&model, &real::config()).unwrap();
    let is_exact = real::is_exact();
    let (wants_all, n_tokens) = (number("CHASKI_TEST_ALL").is_some(), number("CHASKI_TEST_TOKENS").unwrap_or(128));
    let mut base = Counts::default();
    // Per drafter: answers, bit-exact answers, accepted tokens, seconds.
    let mut told: BTreeMap<&str, (usize, usize, usize, f64)> = BTreeMap::new();
    let (mut differences, mut n_other_texts) = (Vec::new(), 0);
    for (i, text) in PROMPTS.into_iter().enumerate() {
        // Mixed so that a drafter with every fourth or eighth prompt also gets greedy and seeded answers.
        let is_greedy = (i + i / 4 + i / 8) % 2 == 0;
        let temperature = if is_greedy { 0.0 } else { 0.8 };
        let sampling = Sampling { temperature, seed: 7 + i as u32, ..Sampling::default() };
        let prompt = real::chat(&model, text);
        let start = Instant::now();
        let plain = real::plain(&model, &mut target, &prompt, n_tokens, sampler(&sampling, &model, &prompt));
        told.entry("(plain)").or_default().3 += start.elapsed().as_secs_f64();
        base.add(&plain.tokens);
        let shared = Arc::new(std::mem::take(&mut base));
        for (k, name) in DRAFTERS.into_iter().enumerate() {
            if !wants_all && i % SHARES[k] != k % SHARES[k] {
                continue;
            }
            let start = Instant::now();
            let (mut drafter, schedule) = real::drafter(name, &plain, prompt.len(), &shared, 1 + i as u64);
            let way = Way { drafter: drafter.as_mut(), schedule, chunks: &[usize::MAX] };
            let sampler = sampler(&sampling, &model, &prompt);
            let (difference, n_accepted) = real::compare(&model, &mut target, &prompt, n_tokens, sampler, way, &plain);
            drop(drafter);
            let told = told.entry(name).or_default();
            told.0 += 1;
            told.1 += usize::from(difference.is_none());
            told.2 += n_accepted;
            told.3 += start.elapsed().as_secs_f64();
            if let Some(difference) = difference {
                n_other_texts += usize::from(difference.is_text);
                differences.push(format!("{name}, temperature {temperature}, {text:?}: {difference}"));
            }
        }
        base = Arc::into_inner(shared).expect("the drafters are gone");
    }
    let mut stderr = std::io::stderr();
    for (name, (n, n_equal, n_accepted, s)) in &told {
        let _ = writeln!(stderr, "{name}: {n_equal} of {n} equal, {n_accepted} drafted tokens accepted, {s:.1} s");
        assert!(*n == 0 || *n_accepted > 0, "{name}: no drafted token was ever accepted");
    }
    if is_exact {
        assert!(differences.is_empty(), "{differences:#?}");
    } else {
        // ggml's kernels round differently for several rows than for one, so near-ties can flip.
        let n: usize = told.values().map(|told| told.0).sum();
        let _ = writeln!(stderr, "not exact (ggml's kernels): {n_other_texts} of {n} texts differ");
        assert!(n_other_texts * 2 < n, "{differences:#?}");
    }
}
