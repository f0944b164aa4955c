//! DRY against a naive implementation. It needs a vocabulary for its sequence breakers; the other samplers are tested
//! in `src/llama/sampler/tests.rs`.

use chaski::llama::model::Model;
use chaski::llama::sampler::{Sampling, sampler};
use chaski::sampling::SamplerKind;
use chaski::token::Token;

use super::support::loop_parts::Dice;
use super::{LLAMA, with_model};

/// DRY's penalty for each of `tokens` after `text`: `multiplier * base ^ (n - allowed)` for the longest earlier
/// occurrence of the last `n` tokens that was followed by the token and contains no breaker.
fn penalties(sampling: &Sampling, text: &[Token], tokens: &[Token], is_breaker: impl Fn(Token) -> bool) -> Vec<f64> {
    let seen = &text[text.len().saturating_sub(sampling.dry_penalty_last_n as usize)..];
    let allowed = sampling.dry_allowed_length as usize;
    let n_since_breaker = seen.iter().rev().take_while(|&&token| !is_breaker(token)).count();
    let penalty = |&token: &Token| {
        let before = (1..seen.len()).filter(|&at| seen[at] == token).map(|at| &seen[..at]);
        let n_same =
            before.map(|before| seen.iter().rev().zip(before.iter().rev()).take_while(|(a, b)| a == b).count());
        let longest = n_same.max().map(|n| n.min(n_since_breaker)).filter(|&n| n >= allowed);
        let is_free = is_breaker(token) || seen.len() <= allowed || n_since_breaker < allowed;
        let n_beyond = longest.filter(|_| !is_free).map(|n| (n - allowed) as i32);
        n_beyond.map_or(0.0, |n| f64::from(sampling.dry_multiplier) * f64::from(sampling.dry_base).powi(n))
    };
    tokens.iter().map(penalty).collect()
}

/// Whether `token` with this logit is chosen over a new token with logit 0.
fn is_chosen(model: &Model, sampling: &Sampling, text: &[Token], token: Token, logit: f64) -> bool {
    const NEVER_SAID: usize = 300;
    let mut logits = vec![-1e30; model.n_vocab()];
    logits[NEVER_SAID] = 0.0;
    logits[token.index()] = logit as f32;
    // The sampler gets half of the text as its prompt and half token by token.
    let (prompt, said) = text.split_at(text.len() / 2);
    let mut sampler = sampler(sampling, model, prompt);
    for &token in said {
        let mut sure = vec![-1e30; model.n_vocab()];
        sure[token.index()] = 1e30;
        assert_eq!(sampler.sample(&sure), Ok(token));
    }
    sampler.sample(&logits) == Ok(token)
}

#[test]
fn dry_is_its_naive_twin() {
    with_model(&LLAMA, |model| {
        let spells = |token: Token, text: &str| model.bytes(token) == text.as_bytes();
        let token = |text: &str| (259..).map(Token).find(|&token| spells(token, text)).unwrap();
        let tokens = ["a", "b", "c", "d", "z"].map(token);
        let is_breaker = |token: Token| token == tokens[4];
        let (mut dice, mut n_penalties) = (Dice(7), 0);
        for round in 0..300 {
            let sampling = Sampling {
                temperature: 0.0,
                samplers: Some(vec![SamplerKind::Dry, SamplerKind::Temperature]),
                dry_multiplier: 0.1 + 0.1 * dice.roll(30) as f32,
                dry_base: 1.0 + 0.1 * dice.roll(15) as f32,
                dry_allowed_length: dice.roll(5) as i32,
                dry_penalty_last_n: 1 + dice.roll(40) as i32,
                dry_breakers: Some(vec!["z".to_owned()]),
                ..Sampling::default()
            };
            // From texts that repeat one token to texts that hardly repeat any.
            let n_kinds = 1 + dice.roll(tokens.len());
            let text: Vec<Token> = (0..dice.roll(40)).map(|_| tokens[dice.roll(n_kinds)]).collect();
            for (&token, penalty) in tokens.iter().zip(penalties(&sampling, &text, &tokens, is_breaker)) {
                let margin = 1e-3 + 1e-4 * penalty;
                let is_chosen = |logit| is_chosen(model, &sampling, &text, token, logit);
                assert!(is_chosen(penalty + margin), "round {round}: more than {penalty} for {token:?} after {text:?}");
                assert!(
                    !is_chosen(penalty - margin),
                    "round {round}: less than {penalty} for {token:?} after {text:?}"
                );
                n_penalties += usize::from(penalty > 0.0);
            }
        }
        assert!(n_penalties > 300, "only {n_penalties} penalties were looked at");
    });
}
