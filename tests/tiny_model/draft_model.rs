//! A draft model beside the target: what it predicts, and that it changes no text.

use std::cell::Cell;

use chaski::draft::draft_model::{Assisted, DraftModel};
use chaski::draft::table::Successor;
use chaski::draft::top::TopK;
use chaski::llama::engine::draft_model::{EngineDraftModel as _, LlamaDraftModel};
use chaski::tune::Settings;

use super::*;

const SETTINGS: Settings =
    Settings { flash_attention: FlashAttention::Off, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F32 };

/// Calls `test` with a target and a draft model.
fn with_models(target: &[u8], draft: &[u8], test: impl FnOnce(&Model, &Model)) {
    with_model(target, |target| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(draft).unwrap();
        let config =
            ModelConfig { path: file.path().to_owned(), n_gpu_layers: super::support::gpu_layers(), lora: None };
        test(target, &target.load_beside(&config, |_| true).unwrap());
    });
}

fn drafting<'m>(target: &Model, draft: &'m Model, n_ctx: usize) -> LlamaDraftModel<'m> {
    let mut model = LlamaDraftModel::new(draft, target, || ControlFlow::Continue(()));
    model.prepare(1, n_ctx, &SETTINGS);
    model
}

/// A draft model at a price that always pays on the [`flat_curve`].
struct Cheap<'a, 'm>(&'a mut LlamaDraftModel<'m>);

impl DraftModel for Cheap<'_, '_> {
    fn price_ms(&self, _text: &[Token], _path: &[Token]) -> f64 {
        0.01
    }

    fn catch_up_ms(&self, _text: &[Token]) -> f64 {
        0.0
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        self.0.predict(text, path)
    }
}

#[test]
fn a_draft_model_changes_no_text() {
    // The target itself predicts greedy text without a mistake; another model predicts nothing.
    let drafts = [(tiny::tiny_llama(3), 2.0), (tiny::tiny_llama(4), 1.0), (tiny::tiny_gemma3(3), 1.0)];
    for (draft, least_per_step) in drafts.into_iter().take(n_cases(3, 1)) {
        with_models(&LLAMA, &draft, |target, draft| {
            let mut context = session(target, 2048);
            let (mut model, mut compared) = (drafting(target, draft, 2048), Comparisons::default());
            for (n, sampling) in samplings().into_iter().enumerate() {
                let new_sampler = || sampler(&sampling, target, &prompt());
                let plain = Schedule::everything(CostCurve::default());
                let n_tokens = n_cases(200, 40);
                let (plain, _) = generate_sampled(&mut context, &mut NoDraft, plain, new_sampler(), n_tokens);
                let (mut auto, mut cheap) = (Auto::default(), Cheap(&mut model));
                let mut drafter = Assisted::new(&mut auto, &mut cheap);
                let schedule = Schedule::cost_aware(flat_curve());
                let (drafted, stats) = generate_sampled(&mut context, &mut drafter, schedule, new_sampler(), n_tokens);
                compared.add(drafted.compare(&plain, &format!("sampling {n}")));
                assert!(auto.n_predictions() > 0, "sampling {n}");
                if sampling.temperature == 0.0 && sampling.dry_multiplier == 0.0 {
                    assert!(stats.tokens_per_step() >= least_per_step, "sampling {n}: {stats:?}");
                }
            }
            compared.check();
            assert_eq!(model.take_failure(), None);
        });
    }
}

#[test]
fn predictions_are_those_of_the_text_whatever_was_asked_before() {
    with_models(&tiny::tiny_llama(5), &LLAMA, |target, draft| {
        let mut dice = Dice(7);
        let mut model = drafting(target, draft, 1024);
        let mut plain = session(draft, 1024);
        let mut text = prompt();
        for round in 0..n_cases(150, 15) {
            let path: Vec<Token> = (0..dice.roll(4)).map(|_| dice.token()).collect();
            let whole = [&text[..], &path].concat();
            let expected = TopK::default().of(&plain_logits(&mut plain, &whole), 8).to_vec();
            let predicted = model.predict(&text, &path).to_vec();
            assert_eq!(predicted.len(), 8);
            for (found, expected) in predicted.iter().zip(&expected) {
                assert!(
                    (found.weight - expected.weight).abs() < rounding(1e-4),
                    "round {round}: {predicted:?} {expected:?}"
                );
            }
            assert_eq!(model.catch_up_ms(&text), 0.0, "its past is decoded");
            assert_eq!(model.price_ms(&text, &path), 0.0, "the prediction is at hand");
            assert_eq!(model.predict(&text, &path), predicted);
            assert!(model.price_ms(&text, &[&path[..], &[Token(300)]].concat()) > 0.0);
            match dice.roll(20) {
                0 => text = (0..1 + dice.roll(300)).map(|_| dice.token()).collect(),
                1 => text.truncate(1 + dice.roll(text.len())),
                _ => text.extend((0..1 + dice.roll(3)).map(|_| dice.token())),
            }
        }
    });
}

#[test]
fn a_long_past_has_its_own_price() {
    with_models(&LLAMA, &LLAMA, |target, draft| {
        let text: Vec<Token> = (0..600).map(|i| Token(260 + i % 90)).collect();
        let path = [Token(300), Token(301)];
        // If another process takes time from a measurement, further tokens seem to cost nothing.
        let model = (0..5).map(|_| drafting(target, draft, 1024)).find_map(|model| {
            let price = model.price_ms(&text, &[]);
            let has_prices = price > 0.0 && model.catch_up_ms(&text) > 0.0 && model.price_ms(&text, &path) > price;
            has_prices.then_some(model)
        });
        let mut model = model.expect("the past, and further tokens of the path, cost more");
        model.predict(&text, &path);
        assert_eq!((model.catch_up_ms(&text), model.price_ms(&text, &path)), (0.0, 0.0));
        assert!(model.catch_up_ms(&text[..100]) == 0.0, "an earlier text is held too");
        assert!(model.row_ms().is_some_and(|ms| ms > 0.0));
    });
}

#[test]
fn texts_beyond_its_context_are_not_predicted() {
    with_models(&LLAMA, &LLAMA, |target, draft| {
        let mut model = drafting(target, draft, 256);
        let text = vec![Token(300); 257];
        assert_eq!((model.price_ms(&text, &[]), model.predict(&text, &[]).len()), (f64::INFINITY, 0));
        assert_eq!(model.predict(&text[1..], &[]).len(), 8);
        assert_eq!(model.take_failure(), None, "that is no failure");
        model.prepare(1, 512, &SETTINGS);
        assert_eq!(model.predict(&text, &[]).len(), 8);
        model.drop_context();
        assert_eq!(model.price_ms(&text, &[]), f64::INFINITY);
    });
}

#[test]
fn an_interrupt_ends_a_prediction_and_nothing_else() {
    with_models(&LLAMA, &LLAMA, |target, draft| {
        let is_interrupted = Cell::new(false);
        let go_on = || if is_interrupted.get() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let mut model = LlamaDraftModel::new(draft, target, go_on);
        model.prepare(1, 1024, &SETTINGS);
        is_interrupted.set(true);
        assert_eq!(model.predict(&prompt(), &[]), []);
        is_interrupted.set(false);
        assert_eq!((model.predict(&prompt(), &[]).len(), model.take_failure()), (8, None));
    });
}

#[test]
fn a_failure_is_reported_once_and_ends_the_predictions() {
    let nan = tiny::tiny(&tiny::TinyOptions { nan_weights: true, ..tiny::TinyOptions::default() });
    with_models(&LLAMA, &nan, |target, draft| {
        let mut model = drafting(target, draft, 256);
        assert_eq!(model.predict(&prompt(), &[]), []);
        assert_eq!((model.take_failure(), model.take_failure()), (Some(TargetError::NotFinite), None));
        model.prepare(1, 256, &SETTINGS);
        assert_eq!((model.price_ms(&prompt(), &[]), model.predict(&prompt(), &[]).len()), (f64::INFINITY, 0));
    });
}

#[test]
fn what_a_draft_model_computes_makes_no_text_inexact() {
    use chaski::llama::exact;
    with_models(&LLAMA, &LLAMA, |target, draft| {
        let inexact = Settings { flash_attention: FlashAttention::On, ..SETTINGS };
        exact::reset();
        let mut model = LlamaDraftModel::new(draft, target, || ControlFlow::Continue(()));
        model.prepare(1, 256, &inexact);
        assert_eq!(model.predict(&prompt(), &[]).len(), 8);
        let exactness = exact::of_work(&SETTINGS);
        assert_eq!(
            exactness,
            exact::of_setup(&SETTINGS, super::support::gpu_layers()),
            "flash attention of the draft model does not count"
        );
        if exactness.is_exact() {
            let config = SessionConfig::new(256, &inexact);
            sync(&mut Session::new(target, &config).unwrap(), &prompt());
            assert!(!exact::of_work(&SETTINGS).is_exact(), "the target's does");
        }
    });
}
