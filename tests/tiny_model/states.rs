//! Saved states: a restored state equals the decoded tokens.

use super::support::loop_parts::Dice;
use super::support::tiny::{self, Arch, TinyOptions};
use super::{Draws as _, LLAMA, greatest_difference, prompt, session, sync, with_model};
use chaski::llama::session::Session;
use chaski::target::Rows as _;
use chaski::target::Target as _;
use chaski::token::Token;
use chaski::tree::{NodeId, TokenTree};

/// Compares bits. For a sliding window llama.cpp leaves cells out of a state, which changes the order of sums.
#[test]
fn a_state_stands_for_the_tokens_it_holds() {
    let models = [
        ("llama", tiny::tiny_llama(3), 0.0),
        ("gemma3", tiny::tiny_gemma3(3), 1e-4),
        ("mamba", tiny::tiny_mamba(3), 0.0),
        ("lfm2", tiny::tiny(&TinyOptions { seed: 3, arch: Arch::Lfm2, ..TinyOptions::default() }), 0.0),
    ];
    for (name, bytes, bound) in models {
        with_model(&bytes, |model| {
            let mut dice = Dice(5);
            let text: Vec<Token> = (0..300).map(|_| dice.token()).collect();
            let (mut computed, mut restored) = (session(model, 512), session(model, 512));
            sync(&mut computed, &text);
            sync(&mut restored, &text[..7]);
            let state = computed.state().unwrap();
            assert_eq!(state.len(), computed.n_state_bytes());
            restored.restore(&text, &state).unwrap();
            assert_eq!(restored.committed(), text);
            let logits = |session: &mut Session<'_>, root: Token| {
                session.verify(&TokenTree::new(root)).unwrap();
                session.logits(NodeId::ROOT).to_vec()
            };
            let root = dice.token();
            let difference = greatest_difference(&logits(&mut restored, root), &logits(&mut computed, root));
            assert!(difference <= bound, "{name}: {difference}");
            assert_eq!(restored.can_truncate(), name == "llama");
            if !model.is_recurrent() {
                let prefix = &text[..150];
                let (mut tree, mut dice) = (TokenTree::new(root), Dice(6));
                for _ in 0..20 {
                    let parent = tree.nodes().nth(dice.roll(tree.len())).unwrap();
                    let _ = tree.push(parent, dice.token());
                }
                for session in [&mut restored, &mut computed] {
                    sync(session, prefix);
                    session.verify(&tree).unwrap();
                }
                for node in tree.nodes() {
                    let difference = greatest_difference(restored.logits(node), computed.logits(node));
                    assert!(difference <= bound, "{name}, a part of it: {difference}");
                }
            }
        });
    }
}

#[test]
fn a_state_that_does_not_fit_is_an_error_and_leaves_nothing() {
    let of_gemma = {
        let mut bytes = Vec::new();
        with_model(&tiny::tiny_gemma3(3), |model| {
            let mut session = session(model, 512);
            sync(&mut session, &prompt());
            bytes = session.state().unwrap();
        });
        bytes
    };
    with_model(&LLAMA, |model| {
        let mut session = session(model, 512);
        sync(&mut session, &prompt());
        let state = session.state().unwrap();
        let long: Vec<Token> = prompt().into_iter().cycle().take(1000).collect();
        for (tokens, state) in
            [(&prompt()[1..], &state), (&prompt()[..], &of_gemma), (&prompt()[..], &Vec::new()), (&long, &state)]
        {
            assert!(session.restore(tokens, state).is_err());
            assert_eq!((session.n_past(), session.committed()), (0, &[][..]));
        }
        session.restore(&prompt(), &state).unwrap();
        assert_eq!(session.n_past(), prompt().len());
    });
}
