//! Recurrent and hybrid models: chains are verified, and a rejected token takes the state back to a checkpoint. The
//! accepted tokens are decoded again with the next step, except where llama.cpp keeps snapshots (LFM2).

use std::ops::ControlFlow;

use super::support::loop_parts::{Dice, flat_curve};
use super::support::sampled::{Comparisons, rounding};
use super::support::tiny::{Arch, TinyOptions, tiny};
use super::support::{is_few, n_cases, on_gpu};
use super::{
    Draws as _, generate, generate_sampled, greatest_difference, plain_logits, prompt, samplings, session, sync,
    with_model,
};
use chaski::accept::{Greedy, argmax};
use chaski::cost::{CostCurve, time_of};
use chaski::draft::aded::Aded;
use chaski::draft::auto::Auto;
use chaski::draft::{Draft, Drafter, NoDraft, Verified};
use chaski::llama::kernels;
use chaski::llama::model::Model;
use chaski::llama::sampler::sampler;
use chaski::llama::session::Session;
use chaski::schedule::Schedule;
use chaski::target::{Rows as _, Target as _, TargetError, TreeLimits};
use chaski::token::Token;
use chaski::tree::{NodeId, TokenTree};

const ARCHITECTURES: [Arch; 4] = [Arch::Mamba, Arch::Mamba2, Arch::Lfm2, Arch::GraniteHybrid];

/// Calls `test` with a model of each architecture, in F32 and in Q8_0. The few are one that loses tokens and one that does not.
fn with_each(seed: u64, mut test: impl FnMut(&str, &Model)) {
    let all = ARCHITECTURES.into_iter().flat_map(|arch| [(arch, false), (arch, true)]);
    let few = [(Arch::Mamba, false), (Arch::Lfm2, true)];
    let models: Vec<(Arch, bool)> = if is_few() { few.to_vec() } else { all.collect() };
    for (arch, is_quantized) in models {
        let bytes = tiny(&TinyOptions { seed, arch, is_quantized, ..TinyOptions::default() });
        with_model(&bytes, |model| {
            assert!(model.is_recurrent());
            test(&format!("{arch:?}, quantized: {is_quantized}"), model);
        });
    }
}

/// The greatest difference that rounding may make: none with our kernels on the CPU, which compute each row alone.
fn bound() -> f32 {
    if matches!(kernels::in_use(), Ok(Some(_))) && !on_gpu() { 0.0 } else { rounding(1e-3) }
}

fn chain(root: Token, drafted: &[Token]) -> TokenTree {
    TokenTree::chain(root, drafted).unwrap()
}

fn path(n: usize) -> Vec<NodeId> {
    chain(Token(0), &vec![Token(0); n - 1]).nodes().collect()
}

#[test]
fn a_chain_gives_the_logits_of_single_steps() {
    with_each(3, |name, model| {
        let mut dice = Dice(1);
        let (mut chained, mut plain) = (session(model, 512), session(model, 512));
        for round in 0..n_cases(6, 1) {
            let prefix: Vec<Token> = (0..1 + dice.roll(40)).map(|_| dice.token()).collect();
            let tokens: Vec<Token> = (0..2 + dice.roll(40)).map(|_| dice.token()).collect();
            sync(&mut plain, &prefix);
            sync(&mut chained, &prefix);
            let tree = chain(tokens[0], &tokens[1..]);
            chained.verify(&tree).unwrap();
            for (node, &token) in tree.nodes().zip(&tokens) {
                plain.verify(&TokenTree::new(token)).unwrap();
                let difference = greatest_difference(chained.logits(node), plain.logits(NodeId::ROOT));
                assert!(difference <= bound(), "{name}, round {round}, node {node:?}: {difference}");
                plain.keep(&[NodeId::ROOT]).unwrap();
            }
        }
    });
}

#[test]
fn hundreds_of_random_chains_leave_no_trace() {
    with_each(4, |name, model| {
        let mut dice = Dice(2);
        let (mut target, mut fresh) = (session(model, 2048), session(model, 2048));
        let mut text = prompt();
        sync(&mut target, &text[..text.len() - 1]);
        let (mut n_redone, mut n_cut) = (0, 0);
        for step in 0..n_cases(300, 60) {
            let most = target.limits().max_nodes.min(20) - 1;
            let drafted: Vec<Token> = (0..dice.roll(most + 1)).map(|_| dice.token()).collect();
            let tree = chain(*text.last().unwrap(), &drafted);
            n_redone += target.n_lost();
            target.verify(&tree).unwrap();
            if step % 10 == 0 {
                let whole = [&text[..], &drafted].concat();
                let last = tree.nodes().last().unwrap();
                let difference = greatest_difference(target.logits(last), &plain_logits(&mut fresh, &whole));
                assert!(difference <= bound(), "{name}, step {step}: {difference}");
            }
            // A draft that is dropped with its root, as when batches are timed; or verified and then forgotten.
            if drafted.len() > 3 && dice.roll(8) == 0 {
                let n_lost = target.n_lost();
                let kept = if dice.roll(2) == 0 { target.keep(&[]) } else { Ok(()) };
                if target.loses_tokens() {
                    assert_eq!((kept, target.n_past(), target.n_lost()), (Ok(()), text.len() - 1, n_lost), "{name}");
                } else {
                    // The state before a batch cannot be a snapshot of a batch before.
                    assert!(kept.is_ok() || target.n_past() == 0);
                    sync(&mut target, &text[..text.len() - 1]);
                }
                continue;
            }
            let n_kept = 1 + dice.roll(tree.len());
            target.keep(&path(n_kept)).unwrap();
            n_cut += usize::from(n_kept < tree.len() && target.n_lost() == 0);
            text.extend(&drafted[..n_kept - 1]);
            text.push(dice.token());
            assert_eq!(target.n_past(), text.len() - 1);
            match dice.roll(20) {
                // The next message of a chat.
                0 => {
                    text.extend((0..dice.roll(30)).map(|_| dice.token()));
                    sync(&mut target, &text[..text.len() - 1]);
                    assert_eq!(target.n_lost(), 0);
                }
                // Saved and restored, here and elsewhere.
                1 => {
                    let state = target.state().unwrap();
                    assert_eq!((target.n_lost(), state.len()), (0, target.n_state_bytes()));
                    fresh.restore(&text[..text.len() - 1], &state).unwrap();
                    target.restore(&text[..text.len() - 1], &state).unwrap();
                    assert_eq!(target.n_past(), fresh.n_past());
                }
                // An edited message: the text is read anew.
                2 => {
                    text.truncate(2 + dice.roll(text.len() - 2));
                    sync(&mut target, &text[..text.len() - 1]);
                }
                _ => {}
            }
        }
        match target.loses_tokens() {
            true => assert!(n_redone > n_cases(100, 15), "{name}: {n_redone}"),
            false => assert!(n_redone == 0 && n_cut > n_cases(30, 5), "{name}: {n_redone} {n_cut}"),
        }
    });
}

/// Random chains, half of whose tokens are the target's own choice when it was asked before.
struct Wild<'a>(Dice, &'a [Token]);

impl Drafter for Wild<'_> {
    fn begin(&mut self, _prompt: &[Token]) {}

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let n = self.0.roll(limits.max_nodes.min(limits.max_depth + 1).min(12));
        let known = self.1.get(context.len()..).unwrap_or_default();
        let n_right = self.0.roll(n + 1).min(known.len());
        let wrong = (n_right..n).map(|_| self.0.token());
        let drafted: Vec<Token> = known[..n_right].iter().copied().chain(wrong).collect();
        Draft {
            tree: chain(*context.last().unwrap(), &drafted),
            p: vec![0.9; drafted.len() + 1],
            ..Draft::none(Token(0))
        }
    }

    fn learn(&mut self, _context: &[Token], _from: usize, _verified: Verified<'_>) {}
}

#[test]
fn drafted_text_is_plain_text() {
    let mut totals = [(0, 0); 3];
    for seed in [3, 5].into_iter().take(n_cases(2, 1)) {
        with_each(seed, |name, model| {
            let (mut target, n_tokens) = (session(model, 2048), n_cases(200, 40));
            let (mut counts, mut compared) = ([(0, 0); 3], Comparisons::default());
            for (n, sampling) in samplings().into_iter().enumerate() {
                let text = |target: &mut Session<'_>, drafter: &mut dyn Drafter, schedule| {
                    generate_sampled(target, drafter, schedule, sampler(&sampling, model, &prompt()), n_tokens)
                };
                let (plain, stats) = text(&mut target, &mut NoDraft, Schedule::everything(CostCurve::default()));
                assert_eq!((stats.n_steps, stats.n_drafted), (n_tokens, 0));
                let whole = [&prompt()[..], &plain.tokens].concat();
                let cost_aware = || Schedule::cost_aware(flat_curve()).with_redone_tokens(true);
                let drafters = [
                    ("auto", Box::new(Auto::default()) as Box<dyn Drafter>, cost_aware()),
                    ("aded", Box::new(Aded::default()), Schedule::everything(CostCurve::default())),
                    ("wild", Box::new(Wild(Dice(1 + n as u64), &whole)), Schedule::everything(CostCurve::default())),
                ];
                for ((kind, mut drafter, schedule), (n_accepted, n_rejected)) in drafters.into_iter().zip(&mut counts) {
                    let (drafted, stats) = text(&mut target, drafter.as_mut(), schedule);
                    let what = format!("{name}, seed {seed}, {kind}, sampling {n}");
                    let comparison = drafted.compare(&plain, &what);
                    compared.add(comparison);
                    *n_accepted += stats.n_accepted;
                    *n_rejected += stats.n_drafted - stats.n_accepted;
                    if !comparison.is_same {
                        continue;
                    }
                    // What is in the cache is the text: a chat goes on from it.
                    let next: Vec<Token> = [&whole[..], &[Token(300), Token(310)]].concat();
                    let mut n_cached = None;
                    target
                        .sync(&next, &mut |done, _| {
                            n_cached.get_or_insert(done);
                            ControlFlow::Continue(())
                        })
                        .unwrap();
                    assert!(n_cached.is_some_and(|n| n + 64 > whole.len()), "{name}, {kind}: {n_cached:?}");
                    if n == 0 {
                        target.verify(&TokenTree::new(Token(320))).unwrap();
                        let text = [&next[..], &[Token(320)]].concat();
                        let expected = plain_logits(&mut session(model, 2048), &text);
                        let difference = greatest_difference(target.logits(NodeId::ROOT), &expected);
                        assert!(difference <= bound(), "{name}, {kind}: {difference}");
                    }
                }
            }
            compared.check();
            let drafts_all = counts.iter().all(|&(n_accepted, n_rejected)| n_accepted + n_rejected > 0);
            assert!(drafts_all || is_few(), "{name}, seed {seed}: {counts:?}");
            let (n_accepted, n_rejected) = counts[2];
            let least = if is_few() { 5 } else { 20 };
            assert!(n_accepted > least && n_rejected > least, "{name}, seed {seed}, wild: {counts:?}");
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total = (total.0 + count.0, total.1 + count.1));
        });
    }
    // How much `auto` and `aded` draft in one text depends on the processor, since it decides how a random text repeats itself.
    let drafts_both = totals.iter().all(|&(n_accepted, n_rejected)| n_accepted > 20 && n_rejected > 20);
    assert!(drafts_both || is_few(), "accepted and rejected by auto, aded and wild: {totals:?}");
}

#[test]
fn only_chains_are_verified_and_what_is_lost_is_decoded_again() {
    with_each(1, |name, model| {
        let mut target = session(model, 2048);
        let loses = target.loses_tokens();
        let max_nodes = if loses { 64 } else { 8 };
        assert_eq!(target.limits(), TreeLimits { max_nodes, max_leaves: 1, ..TreeLimits::TREE });
        sync(&mut target, &prompt());
        let mut fork = chain(Token(300), &[Token(301)]);
        fork.push(NodeId::ROOT, Token(302)).unwrap();
        assert!(matches!(target.verify(&fork), Err(TargetError::TooWide { .. })), "{name}");
        let tree = chain(Token(300), &[Token(301), Token(302), Token(303)]);
        target.verify(&tree).unwrap();
        target.keep(&path(2)).unwrap();
        let n_lost = if loses { 2 } else { 0 };
        assert_eq!((target.n_past(), target.n_lost()), (prompt().len() + 2, n_lost));
        let max_nodes = target.limits().max_nodes;
        assert_eq!(max_nodes, if loses { 62 } else { 8 });
        let wide = chain(Token(300), &vec![Token(301); max_nodes]);
        assert!(matches!(target.verify(&wide), Err(TargetError::TooWide { .. })), "{name}");
        if loses {
            target.verify(&tree).unwrap();
            target.keep(&[]).unwrap();
            assert_eq!((target.n_past(), target.n_lost()), (prompt().len() + 2, 2));
        }
        target.verify(&TokenTree::new(Token(305))).unwrap();
        let text = [&prompt()[..], &[300, 301, 305].map(Token)].concat();
        let expected = plain_logits(&mut session(model, 512), &text);
        assert_eq!(argmax(target.logits(NodeId::ROOT)), argmax(&expected), "{name}");
        target.keep(&[NodeId::ROOT]).unwrap();
        assert_eq!(target.n_lost(), 0);
        // However often drafts are rejected, a batch has at most 64 rows.
        let mut n_lost = Vec::new();
        for _ in 0..n_cases(200, 20) {
            let n_drafted = target.limits().max_nodes - 1;
            target.verify(&chain(Token(300), &vec![Token(301); n_drafted])).unwrap();
            target.keep(&path(n_drafted.clamp(1, 7))).unwrap();
            n_lost.push(target.n_lost());
        }
        assert!(n_lost.contains(&0) && n_lost.iter().all(|&n| n < 64), "{name}: {n_lost:?}");

        // Timing batches takes everything back, at any length.
        for text in [&[][..], &prompt()] {
            sync(&mut target, text);
            for width in [1, 4, 1, 64] {
                time_of(width, &mut target, &super::Still, Token(300)).unwrap();
                assert_eq!((target.n_past(), target.n_lost()), (text.len(), 0), "{name}");
            }
        }
        // Also where the text ends in a rejected draft.
        target.verify(&tree).unwrap();
        target.keep(&path(3)).unwrap();
        let text = [&prompt()[..], &[300, 301, 302].map(Token)].concat();
        let mut n_cached = None;
        let mut progress = |done, _| {
            n_cached.get_or_insert(done);
            ControlFlow::Continue(())
        };
        target.sync(&text, &mut progress).unwrap();
        // None of it is read again where the draft was cut off.
        assert_eq!(n_cached, Some(if loses { prompt().len() } else { text.len() }), "{name}");
        for width in [4, 2] {
            time_of(width, &mut target, &super::Still, Token(300)).unwrap();
            assert_eq!((target.n_past(), target.n_lost()), (text.len(), 0), "{name}");
        }
        target.verify(&tree).unwrap();
        let whole = [&text[..], &[300, 301].map(Token)].concat();
        let expected = plain_logits(&mut session(model, 512), &whole);
        let difference = greatest_difference(target.logits(path(2)[1]), &expected);
        assert!(difference <= bound(), "{name}: {difference}");
        target.keep(&[]).unwrap();
        // There is no checkpoint before a plain step, so it can only be forgotten.
        target.verify(&TokenTree::new(Token(300))).unwrap();
        target.keep(&[NodeId::ROOT]).unwrap();
        target.verify(&TokenTree::new(Token(300))).unwrap();
        assert!(target.keep(&[]).is_err() && target.n_past() == 0, "{name}");
        sync(&mut target, &prompt());
        for _ in 0..2 {
            target.verify(&TokenTree::new(Token(300))).unwrap();
            target.keep(&[NodeId::ROOT]).unwrap();
        }
        target.verify(&TokenTree::new(Token(300))).unwrap();
        assert!(target.verify(&TokenTree::new(Token(300))).is_err() && target.n_past() == 0, "{name}");
        let (text, stats) =
            generate(&mut target, &mut NoDraft, Schedule::everything(CostCurve::default()), &mut Greedy, 9);
        assert_eq!((text.len(), stats.n_steps), (9, 9));
    });
}

#[test]
fn lost_tokens_outlive_a_step_that_fails() {
    with_each(2, |name, model| {
        let mut target = session(model, 512);
        if !target.loses_tokens() {
            return;
        }
        let tree = chain(Token(300), &[Token(301), Token(302), Token(303)]);
        let text = [&prompt()[..], &[300, 301].map(Token)].concat();
        let lose = |target: &mut Session<'_>| {
            sync(target, &prompt());
            target.verify(&tree).unwrap();
            target.keep(&path(2)).unwrap();
            assert_eq!((target.n_past(), target.n_lost()), (text.len(), 2), "{name}");
        };
        let check = |target: &mut Session<'_>| {
            target.verify(&tree).unwrap();
            let whole = [&text[..], &[300, 301, 302].map(Token)].concat();
            let expected = plain_logits(&mut session(model, 512), &whole);
            let difference = greatest_difference(target.logits(path(3)[2]), &expected);
            assert!(difference <= bound(), "{name}: {difference}");
        };

        // Refused before the batch is decoded: the next one decodes them.
        lose(&mut target);
        for tokens in [[Token(301), Token(-1)], [Token(i32::MAX), Token(301)]] {
            let refused = target.verify(&chain(Token(300), &tokens));
            assert!(matches!(refused, Err(TargetError::UnknownToken { .. })), "{name}: {refused:?}");
            assert_eq!((target.n_past(), target.n_lost()), (text.len(), 2), "{name}");
        }
        check(&mut target);

        // Interrupted before they are decoded: the text ends before them, and the rest can be read.
        sync(&mut target, &[]);
        lose(&mut target);
        let long: Vec<Token> = text.iter().copied().chain(std::iter::repeat_n(Token(310), 20)).collect();
        let interrupted = target.sync(&long, &mut |_, _| ControlFlow::Break(()));
        assert_eq!(interrupted, Err(TargetError::Interrupted), "{name}");
        assert_eq!((target.n_past(), target.n_lost()), (prompt().len(), 0), "{name}");
        sync(&mut target, &text);
        check(&mut target);

        // Refused because the context is full.
        let mut small = session(model, 256);
        let most = small.n_ctx();
        let long: Vec<Token> = std::iter::repeat_n(Token(310), most - 8).collect();
        sync(&mut small, &long);
        small.verify(&tree).unwrap();
        small.keep(&path(3)).unwrap();
        assert_eq!((small.n_past(), small.n_lost()), (most - 5, 3), "{name}");
        let refused = small.verify(&chain(Token(300), &[Token(301); 5]));
        assert!(matches!(refused, Err(TargetError::ContextFull { .. })), "{name}: {refused:?}");
        assert_eq!((small.n_past(), small.n_lost(), small.limits().max_nodes), (most - 5, 3, 5), "{name}");
        small.verify(&chain(Token(300), &[Token(301); 4])).unwrap();
        let whole = [&long[..], &[300, 301, 302, 300].map(Token)].concat();
        let expected = plain_logits(&mut session(model, 512), &whole);
        let difference = greatest_difference(small.logits(NodeId::ROOT), &expected);
        assert!(difference <= bound(), "{name}: {difference}");
    });
}
