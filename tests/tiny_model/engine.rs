//! The engine of one text: what it keeps between answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chaski::chat::template::Segment;
use chaski::engine::{Alone, Answer, DrafterKind, Event, Request};
use chaski::llama::engine::drafters::DraftersConfig;
use chaski::llama::engine::{Engine, EngineConfig, Mode};
use chaski::llama::model::ModelConfig;
use chaski::llama::sampler::Sampling;
use chaski::llama::session::{FlashAttention, KvType};
use chaski::token::Token;
use chaski::tune::{BySpan, Settings};

use super::support::tiny::{self, Arch, TinyOptions};
use super::{LLAMA, turn};

const SETTINGS: Settings =
    Settings { flash_attention: FlashAttention::Off, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F32 };

fn config(model: &Path) -> EngineConfig {
    EngineConfig {
        model: ModelConfig { path: model.to_owned(), n_gpu_layers: super::support::gpu_layers(), lora: None },
        draft_model: None,
        settings: BySpan { short: SETTINGS, long: SETTINGS },
        curves: None,
        drafters: DraftersConfig::default(),
        shape: None,
        secret: None,
    }
}

fn engine(config: EngineConfig) -> Engine {
    Engine::start(config, Mode::OneText, Arc::default(), &mut |_| {}).unwrap().0
}

/// The answer to a request, and the notices.
fn answer(engine: &Engine, request: Request) -> (Answer, String) {
    let mut notices = String::new();
    engine.submit(request);
    loop {
        match engine.next().unwrap() {
            Event::Done(answer) => return (*answer, notices),
            Event::Notice { text, .. } => notices += &text,
            Event::Refused { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
}

#[test]
fn a_session_goes_on_from_its_own_state() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let (model, state) = (folder.path().join("model.gguf"), folder.path().join("session/state"));
    std::fs::write(&model, &*LLAMA).unwrap();
    // Per prompt: the answer's tokens, the number of cached prompt tokens, and the notices.
    let answer = |prompts: &[&str]| -> Vec<(Vec<Token>, usize, String)> {
        let engine = engine(EngineConfig { secret: Some(folder.path().join("secret")), ..config(&model) });
        let request = |prompt: &&str| Request {
            prompt: vec![Segment { text: (*prompt).to_owned(), parse_special: false }],
            max_tokens: Some(20),
            sampling: Sampling { seed: 3, ..Sampling::default() },
            // It measures and learns nothing.
            alone: Alone {
                n_ctx: Some(1000),
                drafter: DrafterKind::None,
                state_file: Some(state.clone()),
                ..Alone::default()
            },
            ..Request::default()
        };
        let answers = prompts.iter().map(|prompt| answer(&engine, request(prompt)));
        answers.map(|(answer, notices)| (answer.details.unwrap().tokens, answer.stats.n_cached, notices)).collect()
    };
    let (short, long) = ("the rain in the station ".repeat(9), "the rain in the station ".repeat(18));
    let first = answer(&[&short, &long]);
    assert!(first[0].1 == 0 && first[1].1 > 50, "{first:?}");
    let again = answer(&[&long]);
    let n_long = again[0].1;
    assert!(n_long > 2 * first[1].1 - 9, "all but the last token: {again:?}");
    assert_eq!((&again[0].0, again[0].2.as_str()), (&first[1].0, ""));
    // First a part of the prompt, then a longer one in the same process.
    let back = answer(&[&short, &long]);
    assert_eq!((&back[0].0, &back[1].0), (&first[0].0, &first[1].0));

    let good = std::fs::read(&state).unwrap();
    for bad in [&good[..good.len() - 1], &[&good[..], b"x"].concat(), b"", b"chaski state 1\n"] {
        std::fs::write(&state, bad).unwrap();
        let read_anew = answer(&[&long]);
        assert_eq!((&read_anew[0].0, read_anew[0].1), (&first[1].0, 0));
        assert!(read_anew[0].2.contains("damaged"), "{read_anew:?}");
    }
    // A state of other weights is ignored without a notice.
    std::fs::write(&model, tiny::tiny_llama(4)).unwrap();
    let other = answer(&[&long]);
    assert_eq!((other[0].1, other[0].2.as_str()), (0, ""));
}

#[test]
fn a_draft_model_changes_no_answer() {
    let _turn = turn();
    draft_models_change_no_answer(&LLAMA);
    draft_models_change_no_answer(&tiny::tiny(&TinyOptions { seed: 3, arch: Arch::Lfm2, ..TinyOptions::default() }));
}

fn draft_models_change_no_answer(target: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let (model, draft) = (folder.path().join("model.gguf"), folder.path().join("draft.gguf"));
    std::fs::write(&model, target).unwrap();
    std::fs::write(&draft, tiny::tiny_llama(4)).unwrap();
    let same = folder.path().join("same.gguf");
    std::fs::write(&same, &*LLAMA).unwrap();
    let answers = |draft_model: Option<&Path>| -> Vec<(Vec<Token>, bool)> {
        let draft_model = draft_model.map(|path| ModelConfig {
            path: path.to_owned(),
            n_gpu_layers: super::support::gpu_layers(),
            lora: None,
        });
        let engine = engine(EngineConfig { draft_model, ..config(&model) });
        let answers = ["the rain in the station", "he said that", "the rain in the rain"].map(|prompt| {
            let request = Request {
                prompt: vec![Segment { text: prompt.to_owned(), parse_special: false }],
                max_tokens: Some(40),
                sampling: Sampling { seed: 3, ..Sampling::default() },
                alone: Alone { curve_budget: Duration::from_millis(20), ..Alone::default() },
                ..Request::default()
            };
            let (answer, notices) = answer(&engine, request);
            assert_eq!(notices, "");
            let details = answer.details.unwrap();
            (details.tokens, details.draft_model.is_some_and(|draft| draft.row_ms.is_some()))
        });
        answers.to_vec()
    };
    let plain = answers(None);
    assert!(plain.iter().all(|(_, has_draft_model)| !has_draft_model));
    for draft in [&same, &draft] {
        for ((drafted, has_draft_model), (plain, _)) in answers(Some(draft)).iter().zip(&plain) {
            assert_eq!((drafted, *has_draft_model), (plain, true));
        }
    }
}
