//! Predictions against single steps of the network, and the prices of what is kept.

use super::*;
use crate::hidden::testing::{EMBD, Random, VOCAB, matrices, network, small};

fn net() -> HiddenNet {
    HiddenNet::new(&network(small(48), "q8_0", 3), matrices("q8_0"), 1).unwrap()
}

fn tokens(ids: &[i32]) -> Vec<Token> {
    ids.iter().copied().map(Token).collect()
}

/// A drafter after a text whose last state is random.
fn drafter(text: &[Token], seed: u64) -> HiddenDraftModel {
    let last = LastState { n_past: text.len() - 1, state: Random(seed).numbers(EMBD) };
    HiddenDraftModel::new(net(), StateCell::new(last.into())).unwrap()
}

/// The state and the likeliest tokens after a state and some tokens, step by step.
fn steps(net: &mut HiddenNet, state: &[f32], tokens: &[Token]) -> Vec<Successor> {
    let (mut state, mut top) = (state.to_vec(), Vec::new());
    for token in tokens {
        let mut step = net.step(&[(&state, *token)]).unwrap();
        top = step.top(0, N_PREDICTED).collect();
        state = step.state(0).to_vec();
    }
    top
}

#[test]
fn paths_are_predicted_step_by_step_and_once() {
    let text = tokens(&[5, 9, 17]);
    let mut drafter = drafter(&text, 1);
    let (mut twin, state) = (net(), drafter.cell.borrow().state.clone());
    // The price in steps, then the predictions kept.
    for (path, n_missing, n_nodes) in [
        (&[4, 8][..], 3, 3),
        (&[], 0, 3),
        (&[4], 0, 3),
        (&[4, 9, 3], 2, 5),
        (&[8], 1, 6),
        (&[4, 9], 0, 6),
        (&[8], 0, 6),
    ] {
        let path = tokens(path);
        let expected = n_missing as f64 * drafter.step_ms;
        assert_eq!((drafter.price_ms(&text, &path), drafter.catch_up_ms(&text)), (expected, 0.0), "{path:?}");
        let all = [&text[2..], &path].concat();
        assert_eq!(drafter.predict(&text, &path), steps(&mut twin, &state, &all), "{path:?}");
        assert_eq!((drafter.n_nodes, drafter.price_ms(&text, &path)), (n_nodes, 0.0));
    }
    assert_eq!(drafter.take_failure(), None);
}

#[test]
fn another_state_or_token_starts_again() {
    let text = tokens(&[5, 9, 17]);
    let mut drafter = drafter(&text, 1);
    let first = drafter.predict(&text, &[]).to_vec();
    drafter.predict(&text, &tokens(&[1, 2]));
    let other = tokens(&[5, 9, 18]);
    assert_eq!(drafter.price_ms(&other, &[]), drafter.step_ms, "another root");
    assert_ne!(drafter.predict(&other, &[]), first);
    assert_eq!(drafter.n_nodes, 1);
    assert_eq!(drafter.predict(&text, &[]), first);
    *drafter.cell.borrow_mut() = LastState { n_past: 4, state: Random(2).numbers(EMBD) };
    let longer = tokens(&[5, 9, 17, 3, 17]);
    assert_eq!(drafter.price_ms(&longer, &tokens(&[1])), 2.0 * drafter.step_ms, "another state");
    assert_ne!(drafter.predict(&longer, &[]), first);
    assert_eq!(drafter.n_nodes, 1);
}

#[test]
fn without_a_state_nothing_can_be_asked() {
    let text = tokens(&[5, 9, 17]);
    let mut drafter = drafter(&text, 1);
    let assert_impossible = |drafter: &mut HiddenDraftModel, text: &[Token]| {
        assert_eq!((drafter.price_ms(text, &[]), drafter.catch_up_ms(text)), (f64::INFINITY, f64::INFINITY));
        assert!(drafter.predict(text, &[]).is_empty() && drafter.take_failure().is_none());
    };
    assert_impossible(&mut drafter, &text[..2]);
    assert_impossible(&mut drafter, &[]);
    let known = drafter.cell.replace(LastState::default());
    assert_impossible(&mut drafter, &text);
    assert_impossible(&mut drafter, &text[..1]);
    drafter.cell.replace(LastState { n_past: 2, state: vec![0.0; EMBD + 1] });
    assert_impossible(&mut drafter, &text);
    drafter.cell.replace(known);
    assert_eq!(drafter.predict(&text, &[]).len(), N_PREDICTED);
    // Padding beyond the matrices.
    assert_eq!(drafter.price_ms(&text, &tokens(&[VOCAB as i32])), f64::INFINITY);
}

#[test]
fn a_state_that_is_no_number_predicts_nothing_and_the_next_one_does() {
    let text = tokens(&[5, 9, 17]);
    let mut drafter = drafter(&text, 1);
    drafter.cell.borrow_mut().state[7] = f32::NAN;
    assert!(drafter.price_ms(&text, &[]).is_finite());
    assert!(drafter.predict(&text, &[]).is_empty());
    drafter.cell.borrow_mut().state[7] = 0.0;
    assert_eq!(drafter.predict(&text, &[]).len(), N_PREDICTED);
    assert_eq!(drafter.take_failure(), None);
}

#[test]
fn the_price_follows_the_times_seen() {
    let mut mean = 1.0;
    (0..100).for_each(|_| mean = mean_with(mean, 0.5));
    assert!((mean - 0.5).abs() < 0.01);
    assert!(mean_with(1.0, 1000.0) <= 1.0 + RATE, "an outlier");
}
