//! Hidden states beside logits: they are the states that the head turns into these logits, and asking for them changes no
//! bit.

use std::cell::RefCell;
use std::rc::Rc;

use chaski::gguf::Gguf;
use chaski::llama::hidden::{LastState, TargetMatrices};

use super::support::on_gpu;
use super::support::tiny::{Arch, TinyOptions};
use super::*;

/// The logits that the head of the model gives for `state`.
fn through_the_head(matrices: &TargetMatrices, state: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; matrices.n_embd()];
    let logit = |token| {
        matrices.head(Token(token), &mut row);
        row.iter().zip(state).map(|(a, b)| a * b).sum()
    };
    (0..i32::try_from(tiny::N_VOCAB).unwrap()).map(logit).collect()
}

#[test]
fn a_session_keeps_the_state_behind_each_root() {
    let archs = [Arch::Llama, Arch::Gemma3, Arch::Mamba, Arch::Mamba2, Arch::GraniteHybrid];
    let (n_archs, n_rounds) = (n_cases(5, 3), n_cases(30, 6));
    for arch in archs.into_iter().take(n_archs) {
        let bytes = tiny::tiny(&TinyOptions { seed: 3, arch, ..TinyOptions::default() });
        let matrices =
            TargetMatrices::new(vec![Gguf::from_bytes(bytes.clone(), "tiny.gguf".as_ref()).unwrap()]).unwrap();
        with_model(&bytes, |model| {
            let cell = Rc::new(RefCell::new(LastState::default()));
            let (mut with, mut without) = (session(model, 512), session(model, 512));
            with.keep_states(model, Rc::clone(&cell)).unwrap();
            let mut dice = Dice(9);
            let mut text: Vec<Token> = (0..40).map(|_| dice.token()).collect();
            for round in 0..n_rounds {
                if round == n_rounds / 3 * 2 {
                    text.truncate(10);
                }
                let root = dice.token();
                let limits = with.limits();
                let tree = match limits.max_leaves {
                    1 => TokenTree::chain(root, &[dice.token(), dice.token()]).unwrap(),
                    _ => dice.tree(root, 8),
                };
                for session in [&mut with, &mut without] {
                    sync(session, &text);
                    session.verify(&tree).unwrap();
                }
                for node in tree.nodes() {
                    let difference = greatest_difference(with.logits(node), without.logits(node));
                    // On a GPU, the state as an output leaves fewer operations to be fused.
                    assert!(
                        with.logits(node) == without.logits(node) || on_gpu() && difference < 1e-4,
                        "{arch:?}, round {round}: {difference}"
                    );
                }
                for node in tree.nodes() {
                    let state = with.hidden_state(node).expect("each verified row has a state");
                    let difference = greatest_difference(&through_the_head(&matrices, state), with.logits(node));
                    assert!(difference < 1e-4, "{arch:?}, round {round}: {difference}");
                    assert!(without.hidden_state(node).is_none());
                }
                let last = tree.nodes().nth(dice.roll(tree.len())).unwrap();
                let logits = with.logits(last).to_vec();
                let path = tree.path(last);
                text.extend(path.iter().map(|&node| tree.token(node)));
                with.keep(&path).unwrap();
                without.keep(&path).unwrap();
                let LastState { n_past, state } = &*cell.borrow();
                assert_eq!(*n_past, text.len());
                let difference = greatest_difference(&through_the_head(&matrices, state), &logits);
                assert!(difference < 1e-4, "{arch:?}, round {round}: {difference}");
            }
            sync(&mut with, &text[..5]);
            assert_eq!(cell.borrow().n_past, 0, "another text has another state");
        });
    }
}

/// Asked for hidden states, llama.cpp's graph of LFM2 computes no logits.
#[test]
fn a_model_that_gives_states_instead_of_logits_is_refused() {
    let bytes = tiny::tiny(&TinyOptions { seed: 3, arch: Arch::Lfm2, ..TinyOptions::default() });
    let gguf = Gguf::from_bytes(bytes.clone(), "tiny.gguf".as_ref()).unwrap();
    assert!(
        TargetMatrices::new(vec![gguf]).unwrap_err().to_string().contains("either logits or hidden states of lfm2")
    );
    with_model(&bytes, |model| {
        let mut session = session(model, 256);
        session.keep_states(model, Rc::default()).unwrap_err();
    });
}
