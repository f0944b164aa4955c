//! The worker: what it keeps between answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chaski::chat::template::Segment;
use chaski::llama::model::ModelConfig;
use chaski::llama::sampler::Sampling;
use chaski::llama::session::{FlashAttention, KvType};
use chaski::llama::worker::drafters::DraftersConfig;
use chaski::llama::worker::{Answer, DrafterKind, Event, Job, Worker, WorkerConfig};
use chaski::token::Token;
use chaski::tune::{BySpan, Settings};

use super::support::tiny;
use super::{LLAMA, turn};

const SETTINGS: Settings =
    Settings { flash_attention: FlashAttention::Off, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F32 };

fn config(model: &Path) -> WorkerConfig {
    WorkerConfig {
        model: ModelConfig { path: model.to_owned(), n_gpu_layers: Some(0), lora: None },
        settings: BySpan { short: SETTINGS, long: SETTINGS },
        curves: None,
        drafters: DraftersConfig::default(),
        shape: None,
        secret: None,
    }
}

fn worker(config: WorkerConfig) -> Worker {
    Worker::spawn(config, Arc::default()).unwrap()
}

/// A job that measures and saves nothing.
fn job(prompt: &str) -> Job {
    Job {
        prompt: vec![Segment { text: prompt.to_owned(), parse_special: false }],
        max_tokens: None,
        n_ctx: Some(1000),
        sampling: Sampling::greedy(),
        constraint: None,
        n_logprobs: None,
        stops: Vec::new(),
        drafter: DrafterKind::None,
        curve_budget: Duration::ZERO,
        record: false,
        learns: false,
        explain: false,
        prompt_cache: None,
        state_file: None,
    }
}

/// The answer to a job, and its notices.
fn answer(worker: &Worker, job: Job) -> (Answer, String) {
    let mut notices = String::new();
    worker.submit(job);
    loop {
        match worker.next_event().unwrap() {
            Event::Done(answer) => return (*answer, notices),
            Event::Notice(notice) => notices += &notice.to_string(),
            Event::Failed(failure) => panic!("{failure}"),
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
        let worker = worker(WorkerConfig { secret: Some(folder.path().join("secret")), ..config(&model) });
        let job = |prompt: &&str| Job {
            max_tokens: Some(20),
            sampling: Sampling { seed: 3, ..Sampling::default() },
            state_file: Some(state.clone()),
            ..job(prompt)
        };
        let answers = prompts.iter().map(|prompt| answer(&worker, job(prompt)));
        answers.map(|(answer, notices)| (answer.tokens, answer.stats.n_cached, notices)).collect()
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
