use proptest::prelude::*;

use super::*;

fn chain(sampling: &Sampling, n_vocab: usize, prompt: &[Token]) -> Chain {
    Chain::with(sampling, &Surroundings { n_vocab, model: None, prompt })
}

/// Candidates that a chain keeps, with their logits, most likely first.
fn left(sampling: &Sampling, prompt: &[Token], logits: &[f32]) -> Vec<(usize, f32)> {
    let mut chain = chain(sampling, logits.len(), prompt);
    chain.fill_all(logits);
    chain.links.apply(&mut chain.candidates);
    let rows = chain.candidates.data.iter().map(|row| (usize::try_from(row.id().0).unwrap(), row.logit()));
    sorted(rows.filter(|row| row.1 != f32::NEG_INFINITY).collect())
}

fn sorted(mut rows: Vec<(usize, f32)>) -> Vec<(usize, f32)> {
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    rows
}

fn rows(logits: &[f32]) -> Vec<(usize, f32)> {
    sorted(logits.iter().copied().enumerate().collect())
}

fn probabilities(rows: &[(usize, f32)]) -> Vec<f64> {
    let weights: Vec<f64> = rows.iter().map(|row| f64::from(row.1 - rows[0].1).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Parameters with only these samplers, to test them alone.
fn only(kinds: &[SamplerKind]) -> Sampling {
    Sampling { samplers: Some(kinds.to_vec()), ..Sampling::default() }
}

#[track_caller]
fn same(found: &[(usize, f32)], naive: &[(usize, f32)]) {
    assert_eq!(found.len(), naive.len(), "{found:?} {naive:?}");
    for (a, b) in found.iter().zip(naive) {
        assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-4, "{found:?} {naive:?}");
    }
}

/// Distinct logits, well apart, so that rounding decides nothing at a threshold.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let shuffled = Just((0..40).collect::<Vec<i32>>()).prop_shuffle();
    (shuffled, 0.05f32..0.6).prop_map(|(ranks, step)| ranks.into_iter().map(|rank| rank as f32 * step - 3.0).collect())
}

proptest! {
    #[test]
    fn truncating_samplers_are_their_naive_twins(logits in logits(), p in 0.05f64..0.98, k in 1i32..50, n in 0.2f32..3.0) {
        let all = rows(&logits);
        let shares = probabilities(&all);
        let k_kept = all[..all.len().min(k as usize)].to_vec();
        same(&left(&Sampling { top_k: k, ..only(&[SamplerKind::TopK]) }, &[], &logits), &k_kept);

        let mut sum = 0.0;
        let n_top = shares.iter().take_while(|share| { let before = sum; sum += **share; before < p }).count();
        let top_p = left(&Sampling { top_p: p as f32, ..only(&[SamplerKind::TopP]) }, &[], &logits);
        same(&top_p, &all[..n_top]);

        let likely = all.iter().zip(&shares).filter(|(_, share)| **share >= p * shares[0]).map(|(row, _)| *row);
        let min_p = left(&Sampling { min_p: p as f32, ..only(&[SamplerKind::MinP]) }, &[], &logits);
        same(&min_p, &likely.collect::<Vec<_>>());

        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        let deviation = (logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / logits.len() as f32).sqrt();
        let within: Vec<_> = all.iter().copied().filter(|row| row.1 >= all[0].1 - n * deviation).collect();
        same(&left(&Sampling { top_n_sigma: n, ..only(&[SamplerKind::TopNSigma]) }, &[], &logits), &within);

        let entropy: f64 = shares.iter().map(|share| -share * share.ln()).sum();
        let mut typical: Vec<usize> = (0..all.len()).collect();
        let strangeness = |at: &usize| (-shares[*at].ln() - entropy).abs();
        typical.sort_by(|a, b| strangeness(a).total_cmp(&strangeness(b)));
        let mut sum = 0.0;
        let n_typical = typical.iter().take_while(|at| { let before = sum; sum += shares[**at]; before <= p }).count();
        let naive = sorted(typical[..n_typical].iter().map(|&at| all[at]).collect());
        same(&left(&Sampling { typical_p: p as f32, ..only(&[SamplerKind::Typical]) }, &[], &logits), &naive);
    }

    /// llama.cpp's penalties: divide a positive logit and multiply a negative one, then subtract frequency and
    /// presence.
    #[test]
    fn penalties_are_their_naive_twin(
        logits in logits(),
        prompt in prop::collection::vec(0i32..40, 0..30),
        last_n in 1i32..40,
        (repeat, frequency, presence) in (0.6f32..2.0, -1.0f32..1.0, -1.0f32..1.0),
    ) {
        let prompt: Vec<Token> = prompt.into_iter().map(Token).collect();
        let sampling = Sampling {
            repeat_last_n: last_n,
            repeat_penalty: repeat,
            frequency_penalty: frequency,
            presence_penalty: presence,
            ..only(&[SamplerKind::Penalties])
        };
        let recent = &prompt[prompt.len().saturating_sub(last_n as usize)..];
        let penalized = logits.iter().enumerate().map(|(id, &logit)| {
            let n = recent.iter().filter(|token| token.index() == id).count() as f32;
            if n == 0.0 { return (id, logit); }
            let divided = if logit <= 0.0 { logit * repeat } else { logit / repeat };
            (id, divided - n * frequency - presence)
        });
        same(&left(&sampling, &prompt, &logits), &sorted(penalized.collect()));
    }

    /// With probability 1, XTC keeps only the least likely of the tokens above the threshold.
    #[test]
    fn xtc_and_temperatures_are_their_naive_twins(logits in logits(), threshold in 0.01f64..0.4, t in 0.2f32..2.0, range in 0.0f32..1.5) {
        let all = rows(&logits);
        let shares = probabilities(&all);
        let n_above = shares.iter().filter(|share| **share >= threshold).count();
        let sampling = Sampling { xtc_probability: 1.0, xtc_threshold: threshold as f32, ..only(&[SamplerKind::Xtc]) };
        same(&left(&sampling, &[], &logits), &all[n_above.saturating_sub(1)..]);

        let scaled: Vec<_> = all.iter().map(|row| (row.0, row.1 / t)).collect();
        same(&left(&Sampling { temperature: t, ..only(&[SamplerKind::Temperature]) }, &[], &logits), &scaled);

        let entropy = shares.iter().map(|share| -share * share.ln()).sum::<f64>() / (all.len() as f64).ln();
        let (low, high) = ((t - range).max(0.0), t + range);
        let dynamic = low + (high - low) * entropy.powf(1.3) as f32;
        let scaled: Vec<_> = all.iter().map(|row| (row.0, row.1 / dynamic)).collect();
        let sampling =
            Sampling { temperature: t, dynatemp_range: range, dynatemp_exponent: 1.3, ..only(&[SamplerKind::Temperature]) };
        let naive = if range > 0.0 { scaled } else { all.iter().map(|row| (row.0, row.1 / t)).collect() };
        let found = left(&sampling, &[], &logits);
        prop_assert_eq!(found.len(), naive.len());
        for (a, b) in found.iter().zip(&naive) {
            prop_assert!(a.0 == b.0 && (a.1 - b.1).abs() <= 1e-3 * (1.0 + b.1.abs()), "{found:?} {naive:?}");
        }
    }

    #[test]
    fn biases_come_first_and_rule_out(logits in logits(), token in 0i32..40, bias in -5.0f32..5.0) {
        let biased = Sampling { logit_bias: vec![(Token(token), bias), (Token((token + 1) % 40), f32::NEG_INFINITY)], ..only(&[]) };
        let naive = logits.iter().enumerate().filter(|(id, _)| *id != (token as usize + 1) % 40);
        let naive = naive.map(|(id, &logit)| (id, if id == token as usize { logit + bias } else { logit }));
        same(&left(&biased, &[], &logits), &sorted(naive.collect()));
    }

    #[test]
    fn what_is_picked_is_what_the_chain_would_keep(
        rows in prop::collection::vec(prop::collection::vec(-9.0f32..9.0, 200), 1..8),
        top_k in 1i32..60,
        temperature in -1.0f32..2.0,
        seed in 0u32..1000,
    ) {
        let sampling = Sampling { temperature, top_k, seed, ..Sampling::default() };
        let mut picking = chain(&sampling, 200, &[]);
        let mut naive = Chain { n_likeliest: None, ..chain(&sampling, 200, &[]) };
        prop_assert!(picking.n_likeliest.is_some());
        for row in &rows {
            prop_assert_eq!(picking.sample(row), naive.sample(row));
        }
    }

    /// At temperature 0, every chain that keeps the most likely token chooses it.
    #[test]
    fn greedy_is_the_chain_at_temperature_0(logits in logits(), top_k in 0i32..50, mirostat in 0i32..3) {
        let sampling = Sampling { top_k, mirostat, ..Sampling::greedy() };
        prop_assert!(sampling.is_greedy());
        prop_assert_eq!(chain(&sampling, 40, &[]).sample(&logits), Greedy.sample(&logits));
    }
}

/// Mirostat 2 as in its paper: drop tokens with a surprise above mu, then move mu by the error.
#[test]
fn mirostat_cuts_what_surprises_and_learns() {
    let logits: Vec<f32> = (0..40).map(|rank| -0.2 * rank as f32).collect();
    let (tau, eta) = (1.5f64, 0.4f64);
    let sampling = Sampling {
        mirostat: 2,
        mirostat_tau: 1.5,
        mirostat_eta: 0.4,
        temperature: 1.0,
        seed: 5,
        ..Sampling::default()
    };
    let mut chain = chain(&sampling, 40, &[]);
    let shares = probabilities(&rows(&logits));
    let mut mu = 2.0 * tau;
    for _ in 0..50 {
        let token = chain.sample(&logits).unwrap().index();
        let n_kept = shares.iter().take_while(|share| -share.log2() <= mu).count().max(1);
        assert!(token < n_kept, "{token} of {n_kept}");
        let kept: f64 = shares[..n_kept].iter().sum();
        mu -= eta * (-(shares[token] / kept).log2() - tau);
    }
}

/// With a target, adaptive-p chooses tokens near it; without one it samples normally.
#[test]
fn adaptive_p_keeps_to_its_target() {
    let logits: Vec<f32> = [0.5f32, 0.25, 0.15, 0.07, 0.03].map(f32::ln).to_vec();
    let mean = |adaptive_target: f32| {
        let kinds = vec![SamplerKind::AdaptiveP];
        let sampling = Sampling { samplers: Some(kinds), adaptive_target, seed: 3, ..Sampling::default() };
        let mut chain = chain(&sampling, 5, &[]);
        let chosen = (0..400).map(|_| f64::from(logits[chain.sample(&logits).unwrap().index()].exp()));
        chosen.sum::<f64>() / 400.0
    };
    // The sum of squares: the mean probability of tokens drawn by their probabilities.
    assert!((mean(-1.0) - 0.3409).abs() < 0.04, "{}", mean(-1.0));
    assert!((mean(0.2) - 0.2).abs() < 0.04, "{}", mean(0.2));
    assert!((mean(0.45) - 0.45).abs() < 0.05, "{}", mean(0.45));
}

#[test]
fn nothing_finite_is_an_error() {
    for top_k in [0, 40] {
        let mut chain = chain(&Sampling { top_k, ..Sampling::default() }, 3, &[]);
        assert_eq!(chain.sample(&[0.0, f32::NAN, 1.0]), Err(TargetError::NotFinite));
        assert_eq!(chain.sample(&[f32::NEG_INFINITY; 3]), Err(TargetError::NotFinite));
    }
    let never = (0..3).map(|id| (Token(id), f32::NEG_INFINITY)).collect();
    let mut chain = chain(&Sampling { logit_bias: never, ..Sampling::default() }, 3, &[]);
    assert!(matches!(chain.sample(&[0.0, 1.0, 2.0]), Err(TargetError::Engine(_))));
}
