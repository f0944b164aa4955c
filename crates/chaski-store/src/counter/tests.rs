//! Compares the counter with a map, with buffers so small that everything spills.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Reference implementation: counts by context and token.
fn naive(texts: &[Vec<i32>], weights: &[f32]) -> BTreeMap<Context, BTreeMap<i32, f64>> {
    let mut counts: BTreeMap<Context, BTreeMap<i32, f64>> = BTreeMap::new();
    for (text, &weight) in texts.iter().zip(weights.iter().cycle()) {
        let text: Vec<Token> = text.iter().copied().map(Token).collect();
        for at in 0..text.len() {
            for order in 0..=at.min(2) {
                let context = Context::new(&text[at - order..at]).unwrap();
                *counts.entry(context).or_default().entry(text[at].0).or_default() += f64::from(weight);
            }
        }
    }
    counts
}

fn count(texts: &[Vec<i32>], weights: &[f32], max_bytes: usize) -> Vec<BaseRow> {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = TrigramCounter::new(40, folder.path(), max_bytes);
    for (text, &weight) in texts.iter().zip(weights.iter().cycle()) {
        let text: Vec<Token> = text.iter().copied().map(Token).collect();
        for at in 0..text.len() {
            counter.add(&text[..at], text[at], weight).unwrap();
        }
    }
    let rows = counter.finish().unwrap().collect::<io::Result<_>>().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "temporary files have no names");
    rows
}

proptest! {
    #[test]
    fn agrees_with_its_naive_twin(
        texts in prop::collection::vec(prop::collection::vec(0i32..40, 0..60), 0..20),
        // Powers of two, whose sums are exact in any order.
        weights in prop::collection::vec(prop::sample::select(vec![1.0f32, 0.5, 0.125]), 1..4),
        max_entries in 0usize..2000,
    ) {
        let rows = count(&texts, &weights, max_entries * size_of::<Entry>());
        let expected = naive(&texts, &weights);
        prop_assert_eq!(rows.len(), expected.len());
        prop_assert!(rows.is_sorted_by_key(|row| KeySpace::new(40).key(row.context.tokens())));
        for row in &rows {
            let counts = &expected[&row.context];
            prop_assert_eq!(row.total, counts.values().sum::<f64>() as f32);
            let found: BTreeMap<i32, f64> =
                row.successors.iter().map(|successor| (successor.token.0, f64::from(successor.weight))).collect();
            prop_assert_eq!(&found, counts);
        }
    }
}

#[test]
fn many_runs_are_merged_on_the_way() {
    // 16 entries fill the smallest buffer, so this makes far more runs than may be open at once.
    let text: Vec<i32> = (0..5000).map(|i| (i * i + i / 7) % 40).collect();
    let rows = count(std::slice::from_ref(&text), &[1.0], 0);
    let expected = naive(&[text], &[1.0]);
    assert_eq!(rows.len(), expected.len());
    assert!(rows.iter().all(|row| row.total == expected[&row.context].values().sum::<f64>() as f32));
}

#[test]
fn counts_do_not_stop_at_the_precision_of_a_float() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = TrigramCounter::new(2, folder.path(), 1 << 20);
    let text = [Token(0), Token(1)];
    (0..1 << 20).for_each(|_| counter.add(&text[..1], text[1], 32.0).unwrap());
    counter.add(&text[..1], text[1], 1.0).unwrap();
    let rows: Vec<BaseRow> = counter.finish().unwrap().map(Result::unwrap).collect();
    assert!(rows.iter().all(|row| (row.total - (1 << 25) as f32).abs() <= 4.0), "{rows:?}");
}

#[test]
fn what_cannot_be_counted_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = TrigramCounter::new(10, folder.path(), 1 << 20);
    for (context, token, weight) in [
        (vec![], 10, 1.0),
        (vec![], -1, 1.0),
        (vec![11], 1, 1.0),
        (vec![-1, 1], 1, 1.0),
        (vec![], 1, 0.0),
        (vec![], 1, f32::NAN),
        (vec![], 1, f32::INFINITY),
    ] {
        let context: Vec<Token> = context.into_iter().map(Token).collect();
        assert!(counter.add(&context, Token(token), weight).is_err(), "{context:?} {token} {weight}");
    }
    let gone = TrigramCounter::new(10, &folder.path().join("none"), 0);
    let text: Vec<Token> = (0..100).map(|i| Token(i % 10)).collect();
    let mut gone = gone;
    assert!(gone.add_text(&text, 0).is_err(), "no folder for the runs");
}

/// `cargo test --release --no-default-features --lib counter -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stderr, reason = "it prints what it measures")]
fn speed() {
    let folder = tempfile::tempdir().unwrap();
    for n_bytes in [256 << 20, 16 << 20] {
        let mut counter = TrigramCounter::new(150_000, folder.path(), n_bytes);
        // Zipf-like and with memory, so that tri-grams repeat as in text.
        let mut state = 1_u64;
        let mut text = Vec::new();
        let n = 10_000_000;
        for _ in 0..n {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let uniform = (state >> 11) as f64 / (1_u64 << 53) as f64;
            let rank = (150_000_f64.powf(uniform * uniform) - 1.0) as i32;
            let last = text.last().map_or(0, |token: &Token| token.0);
            text.push(Token((rank + last * 7 % 1000) % 150_000));
        }
        let start = std::time::Instant::now();
        counter.add_text(&text, 0).unwrap();
        let counted = start.elapsed();
        let n_rows = counter.finish().unwrap().map(Result::unwrap).count();
        let all = start.elapsed();
        let rate = f64::from(n) / all.as_secs_f64() / 1e6;
        eprintln!(
            "{} MiB: {n} tokens counted in {counted:.2?}, {n_rows} rows after {all:.2?}: {rate:.2} M tokens/s",
            n_bytes >> 20
        );
    }
}

#[test]
fn a_rest_counts_in_totals_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut counter = TrigramCounter::new(40, folder.path(), 0);
    let text = [Token(39), Token(0)];
    for _ in 0..50 {
        counter.add(&text, Token(5), 0.5).unwrap();
        counter.add_rest(&text, 0.25).unwrap();
    }
    assert!(counter.add_rest(&[Token(40)], 1.0).is_err() && counter.add_rest(&text, f32::NAN).is_err());
    let rows: Vec<BaseRow> = counter.finish().unwrap().collect::<io::Result<_>>().unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_eq!((row.total, row.successors), (37.5, vec![Successor { token: Token(5), weight: 25.0 }]));
    }
    assert!(TrigramCounter::new(1 << 21, folder.path(), 0).add_rest(&[], 1.0).is_err());
}
