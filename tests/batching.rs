//! The batch engine on tiny models, fast enough for thousands of decodes: a text in a batch equals the text alone for
//! any number of lanes, and every way an answer can end is reported.
//!
//! Model and cache are F32, so the kernels for one row and for many rows differ only in rounding.

#![cfg(feature = "llama")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use chaski::batching::chains::Drafting;
use chaski::batching::schedule::BatchSchedule;
use chaski::batching::{Batcher, EmittedToken, Text};
use chaski::chat::template::Segment;
use chaski::cost::CostCurve;
use chaski::draft::NoDraft;
use chaski::draft::auto::Auto;
use chaski::engine::PromptCacheConfig;
use chaski::engine::{Answer, Constraint, End, Engine as _, Event, Request, Shorter};
use chaski::generate::{Generation, Length};
use chaski::llama::engine::drafters::DraftersConfig;
use chaski::llama::engine::{Engine, EngineConfig, ManyTexts, Mode};
use chaski::llama::model::{Model, ModelConfig};
use chaski::llama::parallel::Parallel;
use chaski::llama::sampler::{Sampling, sampler};
use chaski::llama::session::{FlashAttention, KvType, Session, SessionConfig};
use chaski::schedule::Schedule;
use chaski::text::TextAssembler;
use chaski::tune::{BySpan, Settings};
use support::loop_parts::{Dice, Still};
use support::sampled::{Compared, Comparisons, Rows, Sampled};
use support::{n_cases, tiny};

/// llama.cpp is initialized once per process, so the tests run one at a time.
static TURN: Mutex<()> = Mutex::new(());

const SETTINGS: Settings =
    Settings { flash_attention: FlashAttention::Off, n_threads: 1, n_threads_batch: 1, kv_type: KvType::F32 };

/// A model file, and the lock for llama.cpp.
struct Fixture {
    file: tempfile::NamedTempFile,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new(bytes: &[u8]) -> Fixture {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        chaski::llama::logs::capture(false);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Fixture { file, _turn: turn }
    }

    fn engine(&self, n_parallel: Option<usize>, n_ctx: Option<usize>) -> Engine {
        engine(self.file.path(), n_parallel, n_ctx, Arc::default())
    }
}

fn engine(path: &Path, n_parallel: Option<usize>, n_ctx: Option<usize>, interrupt: Arc<AtomicBool>) -> Engine {
    let mode = Mode::ManyTexts(ManyTexts { n_parallel, n_ctx, drafts: true, states: false, prompt_cache: None });
    Engine::start(engine_config(path), mode, interrupt, &mut |_| {}).unwrap().0
}

fn engine_config(path: &Path) -> EngineConfig {
    let model = ModelConfig { path: path.to_owned(), n_gpu_layers: support::gpu_layers(), lora: None };
    let settings = BySpan { short: SETTINGS, long: SETTINGS };
    EngineConfig {
        model,
        draft_model: None,
        settings,
        curves: None,
        drafters: DraftersConfig::default(),
        shape: None,
        secret: None,
    }
}

fn segments(text: &str) -> Vec<Segment> {
    vec![Segment { text: text.to_owned(), parse_special: false }]
}

fn greedy() -> Sampling {
    Sampling::greedy()
}

fn request(id: u64, text: &str, max_tokens: usize) -> Request {
    Request {
        id,
        prompt: segments(text),
        max_tokens: Some(max_tokens),
        sampling: greedy(),
        n_top: Some(3),
        ..Request::default()
    }
}

/// Submits all requests as the engine takes them, and collects the answers and refusals.
fn answer_all(engine: &Engine, requests: &[Request]) -> (BTreeMap<u64, Answer>, BTreeMap<u64, String>) {
    let (mut answers, mut refused, mut begun) = (BTreeMap::new(), BTreeMap::new(), 0);
    let (mut prompts, mut n_tokens) = (BTreeMap::new(), BTreeMap::<u64, usize>::new());
    let mut coming = requests.iter().cloned().peekable();
    while answers.len() + refused.len() < requests.len() {
        while let Some(request) = coming.peek()
            && engine.try_submit(request.clone()).is_ok()
        {
            coming.next();
        }
        match engine.next_event().unwrap() {
            Event::Begun { .. } => begun += 1,
            Event::Prompt { id, tokens } => assert!(prompts.insert(id, tokens.len()).is_none()),
            Event::Token(emitted) => {
                assert_eq!(emitted.top.len(), 3);
                *n_tokens.entry(emitted.id).or_default() += 1;
            }
            Event::Done(answer) => {
                assert_eq!(prompts.get(&answer.id), Some(&answer.stats.n_prompt));
                assert_eq!(n_tokens.get(&answer.id), Some(&answer.stats.n_predicted), "every token was reported");
                assert!(answers.insert(answer.id, *answer).is_none());
            }
            Event::Refused { id, error } => assert!(refused.insert(id, error.code().to_owned()).is_none()),
            Event::Notice { id: None, text } => panic!("{text}"),
            _ => {}
        }
    }
    assert_eq!(begun, answers.len());
    (answers, refused)
}

/// Requests with various lengths, temperatures and seeds. Many prompts share a prefix.
fn mixed(n: u64) -> Vec<Request> {
    let mut dice = Dice(7);
    let shared = "this is the beginning that all of them have in common, with some words more than are needed ";
    let words = ["the ", "sun ", "in ", "and ", "water ", "on ", "it ", "for "];
    let one = |id| {
        let own: String = (0..1 + dice.roll(60)).map(|_| words[dice.roll(words.len())]).collect();
        let text = if dice.roll(3) == 0 { own } else { format!("{shared}{own}") };
        let temperature = [0.0, 0.7, 1.5][dice.roll(3)];
        let repeat_penalty = if dice.roll(4) == 0 { 1.2 } else { 1.0 };
        let sampling = Sampling { temperature, repeat_penalty, seed: dice.roll(1000) as u32, ..greedy() };
        Request { sampling, ..request(id, &text, 1 + dice.roll(60)) }
    };
    (0..n).map(one).collect()
}

/// The answers of single texts, computed by the loop of `chaski run`.
fn alone(path: &Path, requests: &[Request]) -> Vec<String> {
    let model =
        Model::load(&ModelConfig { path: path.to_owned(), n_gpu_layers: support::gpu_layers(), lora: None }, |_| true)
            .unwrap();
    let mut target = Session::new(&model, &SessionConfig::new(2048, &SETTINGS)).unwrap();
    let text_of = |request: &Request| {
        let prompt = model.tokenize(&request.prompt);
        let prefilled =
            Generation::prefill(&mut target, &Still, &prompt, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let mut sampler = sampler(&request.sampling, &model, &prompt);
        let mut generation = Generation {
            target: &mut target,
            drafter: &mut NoDraft,
            schedule: &mut Schedule::everything(CostCurve::default()),
            sampler: sampler.as_mut(),
            clock: &Still,
            observer: &mut (),
        };
        let length = Length { max_tokens: request.max_tokens.unwrap(), n_ctx: 2048 };
        let mut emit = |token| if model.is_end(token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let generated = generation.run(&prompt, prefilled, length, &mut emit).unwrap();
        let mut assembler = TextAssembler::new(Vec::new()).unwrap();
        let tokens = generated.tokens.iter().filter(|token| !model.is_end(**token));
        let bytes: Vec<u8> = tokens.flat_map(|&token| model.bytes(token)).collect();
        let text = assembler.push(&bytes).to_owned();
        text + assembler.finish()
    };
    requests.iter().map(text_of).collect()
}

#[test]
fn texts_side_by_side_are_the_texts_alone() {
    for bytes in [tiny::tiny_llama(3), tiny::tiny_mamba(1), tiny::tiny_gemma3(5)].into_iter().take(n_cases(3, 2)) {
        let fixture = Fixture::new(&bytes);
        let requests = mixed(n_cases(40, 8) as u64);
        let expected = alone(fixture.file.path(), &requests);
        for n_parallel in [Some(7), Some(1), None].into_iter().take(n_cases(3, 1)) {
            let (answers, refused) = answer_all(&fixture.engine(n_parallel, None), &requests);
            assert!(refused.is_empty(), "{refused:?}");
            let mut compared = Comparisons::default();
            for (id, answer) in &answers {
                let (text, expected) = (&answer.text, &expected[*id as usize]);
                assert!(text == expected || support::on_gpu(), "text {id} of {n_parallel:?} side by side");
                let n_same = text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
                compared.add(Compared { n_tokens: expected.chars().count(), n_same, is_same: text == expected });
            }
            compared.check();
        }
    }
}

/// The texts of a batcher with this cost curve, and the number of accepted draft tokens.
fn batched_texts(model: &Model, requests: &[Request], n_lanes: usize, curve: &CostCurve) -> (Vec<Sampled>, usize) {
    let schedule = BatchSchedule::new(curve.clone());
    let config = SessionConfig::new(512, &SETTINGS);
    let target = Parallel::new(model, &config, n_lanes, schedule.max_rows(n_lanes)).unwrap();
    let mut batcher = Batcher::new(target, schedule).with_drafting(Drafting::new(Auto::default(), n_lanes));
    let (mut texts, mut n_accepted) = (vec![Vec::new(); requests.len()], 0);
    let rows: Vec<Rows> = requests.iter().map(|_| Rows::default()).collect();
    let mut coming = requests.iter().peekable();
    while coming.peek().is_some() || batcher.n_working() > 0 {
        while batcher.has_lane()
            && let Some(request) = coming.next()
        {
            let prompt = model.tokenize(&request.prompt);
            let sampler = rows[request.id as usize].of(sampler(&request.sampling, model, &prompt));
            batcher.admit(Text {
                id: request.id,
                prompt,
                max_tokens: request.max_tokens.unwrap(),
                sampler: Box::new(sampler),
                filter: None,
            });
        }
        let mut listener = |said: EmittedToken<'_>| {
            texts[said.id as usize].push(said.token);
            if model.is_end(said.token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ended = batcher.step(&Still, &mut listener).unwrap();
        n_accepted += ended.iter().map(|ended| ended.n_accepted).sum::<usize>();
    }
    (rows.iter().zip(texts).map(|(rows, tokens)| rows.text(tokens)).collect(), n_accepted)
}

#[test]
fn drafted_texts_side_by_side_are_plain_texts() {
    for bytes in [tiny::tiny_llama(3), tiny::tiny_gemma3(5)].into_iter().take(n_cases(2, 1)) {
        let fixture = Fixture::new(&bytes);
        let config =
            ModelConfig { path: fixture.file.path().to_owned(), n_gpu_layers: support::gpu_layers(), lora: None };
        let model = Model::load(&config, |_| true).unwrap();
        let requests: Vec<Request> = mixed(n_cases(30, 8) as u64)
            .into_iter()
            .map(|request| Request { max_tokens: Some(n_cases(120, 50)), ..request })
            .collect();
        // With the first curve no draft pays off, with the second every draft does.
        let dear = CostCurve::exact([(1, 10.0), (64, 640.0)]);
        let free = CostCurve::exact([(1, 10.0), (64, 11.0)]);
        let (plain, n_none) = batched_texts(&model, &requests, 5, &dear);
        assert_eq!(n_none, 0);
        for n_lanes in [4, 1, 9].into_iter().take(n_cases(3, 1)) {
            let (drafted, n_accepted) = batched_texts(&model, &requests, n_lanes, &free);
            let mut compared = Comparisons::default();
            for (id, (drafted, plain)) in drafted.iter().zip(&plain).enumerate() {
                compared.add(drafted.compare(plain, &format!("text {id}, {n_lanes} lanes")));
            }
            compared.check();
            assert!(
                n_accepted > n_cases(50, 5),
                "{n_lanes} lanes: only {n_accepted} drafted tokens were ever accepted"
            );
        }
    }
}

#[test]
fn a_common_beginning_is_read_once() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let shared = "the sun in the water and ".repeat(20);
    let requests: Vec<Request> = (0..12).map(|id| request(id, &format!("{shared} number {id}"), 8)).collect();
    let (answers, _) = answer_all(&fixture.engine(Some(4), None), &requests);
    let n_read: usize = answers.values().map(|answer| answer.stats.n_prompt - answer.stats.n_cached).sum();
    let longest = answers[&11].stats.n_prompt;
    assert!(n_read < longest + 12 * 32, "{n_read} tokens read for prompts of {longest}");
    let cold = answers.values().filter(|answer| answer.stats.n_cached == 0).count();
    assert_eq!(cold, 1);
}

#[test]
fn a_slow_client_loses_no_common_beginning() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let shared = "the sun in the water and ".repeat(20);
    let engine = fixture.engine(Some(4), None);
    for id in 0..4 {
        // Each request comes when the one before is answered.
        let (answers, _) = answer_all(&engine, &[request(id, &format!("{shared} number {id}"), 8)]);
        assert_eq!(answers[&id].stats.n_cached == 0, id == 0);
    }
}

/// A job whose lines share a prefix, and a later job with the same prefix.
#[test]
fn what_lines_have_in_common_is_kept_between_jobs() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let folder = tempfile::tempdir().unwrap();
    let job = |question: &str, n_lanes: usize, keeps: bool| {
        let config = EngineConfig { secret: Some(folder.path().join("secret")), ..engine_config(fixture.file.path()) };
        let cache = PromptCacheConfig { folder: folder.path().join("prompts"), max_bytes: 1 << 30 };
        let prompt_cache = keeps.then_some(cache);
        let mode = Mode::ManyTexts(ManyTexts {
            n_parallel: Some(n_lanes),
            n_ctx: Some(1000),
            drafts: false,
            states: false,
            prompt_cache,
        });
        let engine = Engine::start(config, mode, Arc::default(), &mut |_| {}).unwrap().0;
        let shared = "the rain in the station and the sun on the water ".repeat(12);
        let requests: Vec<Request> =
            (0..7).map(|id| request(id, &format!("{shared} {question} {}", id * 7), 20)).collect();
        let (answers, refused) = answer_all(&engine, &requests);
        assert!(answers.len() == 7 && refused.is_empty());
        let n_read: usize = answers.values().map(|answer| answer.stats.n_prompt - answer.stats.n_cached).sum();
        (answers.into_values().map(|answer| answer.text).collect::<Vec<_>>(), n_read)
    };
    let states = || std::fs::read_dir(folder.path().join("prompts")).map_or(0, Iterator::count);
    let (texts, n_cold) = job("is it", 3, false);
    assert_eq!(states(), 0);
    let (first, n_first) = job("is it", 3, true);
    assert_eq!((&first, n_first, states()), (&texts, n_cold, 1));
    let (second, n_second) = job("is it", 3, true);
    assert_eq!((&second, states()), (&texts, 1));
    assert!(n_second + 200 < n_cold, "{n_second} tokens read, {n_cold} without");
    // Other lines with the same prefix. The number of lanes is part of a state's key.
    let (other, n_other) = job("he said", 3, true);
    assert_eq!(other, job("he said", 3, false).0);
    assert!(n_other + 200 < n_cold);
    assert_eq!((job("is it", 2, true).0, states()), (texts, 2));
}

#[test]
fn what_cannot_be_answered_is_refused_and_the_rest_goes_on() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let schema = |schema: &str| Some(Constraint::JsonSchema(schema.to_owned()));
    let long = "the sun ".repeat(400);
    let requests = [
        request(0, "the sun", 5),
        request(1, &long, 5),
        Request { stop: vec![String::new()], ..request(2, "the sun", 5) },
        Request { constraint: schema("{\"type\":"), ..request(3, "the sun", 5) },
        Request { constraint: schema("[]"), ..request(4, "the sun", 5) },
        Request { constraint: schema(r#"{"type":"nonsense"}"#), ..request(5, "the sun", 5) },
        Request { constraint: schema(&"[".repeat(10_000)), ..request(6, "the sun", 5) },
        Request { constraint: schema(r##"{"$ref":"#/nowhere"}"##), ..request(7, "the sun", 5) },
        request(8, "the sun", 5),
    ];
    let (answers, refused) = answer_all(&fixture.engine(Some(2), Some(300)), &requests);
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [0, 8]);
    assert_eq!(answers[&0].text, answers[&8].text);
    let codes: Vec<&str> = refused.values().map(String::as_str).collect();
    let grammar = "invalid_grammar";
    assert_eq!(codes, ["context_length_exceeded", "invalid_stop", grammar, grammar, grammar, grammar, grammar]);
}

#[test]
fn a_prompt_may_fill_the_context_but_for_one_token() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(2), Some(50));
    // One token per repetition, plus BOS and a space.
    let requests: Vec<Request> = (0..3).map(|id| request(id, &" the".repeat(47 + id as usize), 9)).collect();
    let (answers, refused) = answer_all(&engine, &requests);
    assert_eq!(answers.values().map(|answer| answer.stats.n_prompt).collect::<Vec<_>>(), [49]);
    assert_eq!((&answers[&0].end, answers[&0].stats.n_predicted), (&End::Context { n_ctx: 50 }, 1));
    assert_eq!(refused.len(), 2, "50 and 51 of 50 positions");
}

#[test]
fn a_shorter_prompt_stands_in_where_the_answer_has_no_room() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let shorter = |n_left_out: usize| Shorter { n_left_out, prompt: segments(&" the".repeat(50 - n_left_out)) };
    let long = |id| Request { shorter: [10, 20, 30].map(shorter).to_vec(), ..request(id, &" the".repeat(50), 15) };
    let engine = fixture.engine(Some(2), Some(50));
    engine.try_submit(long(3)).unwrap();
    while !matches!(engine.next_event(), Ok(Event::Notice { id: Some(3), text }) if text.contains("oldest 20 messages"))
    {
    }
    drop(engine);
    let (answers, _) = answer_all(&fixture.engine(Some(2), Some(50)), &[long(0), request(1, &" the".repeat(30), 15)]);
    assert_eq!(
        (answers[&0].stats.n_prompt, &answers[&0].text),
        (32, &answers[&1].text),
        "32 and 15 have room, 42 and 15 not"
    );
    let (answers, _) = answer_all(&fixture.engine(Some(2), Some(100)), &[long(0)]);
    assert_eq!(answers[&0].stats.n_prompt, 52, "nothing is left out where there is room");
}

#[test]
fn a_longer_request_gets_a_larger_context() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(3), None);
    let requests: Vec<Request> =
        (0..9).map(|id| request(id, &"the sun ".repeat(1 + 300 * usize::from(id % 4 == 3)), 20)).collect();
    let (answers, refused) = answer_all(&engine, &requests[..3]);
    assert!(answers.len() == 3 && refused.is_empty());
    let (answers, refused) = answer_all(&engine, &requests[3..]);
    assert!(answers.len() == 6 && refused.is_empty());
    assert!(answers[&3].stats.n_prompt > 300 && answers[&7].stats.n_prompt > 300);
}

#[test]
fn a_stop_text_ends_an_answer_and_is_no_part_of_it() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(2), None);
    let (answers, _) = answer_all(&engine, &[request(0, "the sun", 60)]);
    let whole = answers[&0].text.clone();
    let at = whole.char_indices().nth(30).unwrap().0;
    let stop: String = whole[at..].chars().take(3).collect();
    let stopped = Request { stop: vec![stop.clone()], ..request(1, "the sun", 60) };
    let (answers, _) = answer_all(&engine, &[stopped]);
    assert_eq!(answers[&1].text, whole[..whole.find(&stop).unwrap()]);
    assert_eq!(answers[&1].end, End::Word(stop));
}

#[test]
fn an_answer_is_held_to_its_schema() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(2), None);
    let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"},"n":{"enum":[17,23]}},"required":["ok","n"],"additionalProperties":false}"#;
    let held = |id, temperature| Request {
        sampling: Sampling { temperature, seed: id as u32, ..greedy() },
        constraint: Some(Constraint::JsonSchema(schema.to_owned())),
        ..request(id, "the sun", 400)
    };
    let requests: Vec<Request> = (0..6).map(|id| held(id, if id < 2 { 0.0 } else { 1.0 })).collect();
    let (answers, refused) = answer_all(&engine, &requests);
    assert!(refused.is_empty());
    for answer in answers.values().filter(|answer| answer.end == End::Eos) {
        let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert!(value["ok"].is_boolean() && [17, 23].contains(&value["n"].as_i64().unwrap()), "{value}");
    }
    assert!(answers.values().any(|answer| answer.end == End::Eos));
    assert_eq!(answers[&0].text, answers[&1].text);
}

/// Needs `CHASKI_TEST_MODEL`, which `scripts/test.sh` sets: a real vocabulary has more than single letters.
#[test]
fn a_real_model_is_held_to_its_schema() {
    let Some(path) = std::env::var_os("CHASKI_TEST_MODEL") else {
        let _ = writeln!(std::io::stderr(), "skipped: CHASKI_TEST_MODEL is not set (scripts/test.sh sets it)");
        return;
    };
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    chaski::llama::logs::capture(false);
    let engine = engine(Path::new(&path), Some(4), None, Arc::default());
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer",
        "minimum":0,"maximum":120}},"required":["name","age"],"additionalProperties":false}"#;
    let beginning =
        "Give the name and the age of the person as JSON. Ana, who is 31, lives in Lima and works in a library. "
            .repeat(3);
    let people = ["Ben is 27.", "Carla is 45.", "David is 19.", "Elena is 62.", "Farid is 8.", "Greta is 33."];
    let ask = |(id, person): (usize, &&str)| Request {
        constraint: Some(Constraint::JsonSchema(schema.to_owned())),
        sampling: Sampling { temperature: if id % 2 == 0 { 0.0 } else { 0.8 }, ..greedy() },
        ..request(id as u64, &format!("{beginning}{person} JSON: "), 80)
    };
    let requests: Vec<Request> = people.iter().enumerate().map(ask).collect();
    let (answers, refused) = answer_all(&engine, &requests);
    assert!(refused.is_empty(), "{refused:?}");
    assert!(answers.values().filter(|answer| answer.stats.n_cached > 32).count() >= 5);
    for answer in answers.values().filter(|answer| answer.end == End::Eos) {
        let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert!(value["name"].is_string() && (0..=120).contains(&value["age"].as_i64().unwrap()), "{value}");
    }
    assert!(answers.values().filter(|answer| answer.end == End::Eos).count() >= 4, "{answers:?}");
}

#[test]
fn logprobs_are_those_of_the_tokens_said() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(2), None);
    let (answers, _) = answer_all(&engine, &[Request { n_logprobs: Some(3), ..request(0, "the sun", 12) }]);
    let answer = &answers[&0];
    let text: Vec<u8> = answer.logprobs.iter().flat_map(|token| token.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&text), answer.text);
    for token in &answer.logprobs {
        assert_eq!(token.top.len(), 3);
        assert_eq!((&token.bytes, token.logprob), (&token.top[0].0, token.top[0].1), "greedy takes the likeliest");
        assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1));
        let sum: f32 = token.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!(sum > 0.0 && sum < 1.0 + 1e-4, "{sum}");
    }
}

#[test]
fn a_model_that_answers_nan_is_told_line_by_line() {
    let options = tiny::TinyOptions { nan_weights: true, ..tiny::TinyOptions::default() };
    let fixture = Fixture::new(&tiny::tiny(&options));
    let engine = fixture.engine(Some(2), None);
    for request in [request(0, "the sun", 5), request(1, "the sun", 5)] {
        engine.try_submit(request).unwrap();
    }
    let mut codes = Vec::new();
    while codes.len() < 2 {
        if let Event::Refused { error, .. } = engine.next_event().unwrap() {
            codes.push(error.code());
        }
    }
    assert_eq!(codes, ["not_finite", "not_finite"]);
}

#[test]
fn an_interrupt_ends_the_engine() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let interrupt = Arc::new(AtomicBool::new(false));
    let busy = engine(fixture.file.path(), Some(2), None, interrupt.clone());
    busy.try_submit(request(0, "the sun", 60_000)).unwrap();
    while !matches!(busy.next_event(), Ok(Event::Begun { .. })) {}
    interrupt.store(true, Ordering::Relaxed);
    let end = std::iter::repeat_with(|| busy.next_event()).find_map(Result::err);
    assert_eq!(end.as_deref(), Some("interrupted"));
    drop(busy);

    let interrupt = Arc::new(AtomicBool::new(false));
    let idle = engine(fixture.file.path(), Some(2), None, interrupt.clone());
    interrupt.store(true, Ordering::Relaxed);
    assert_eq!(idle.next_event(), Err("interrupted".to_owned()));
}

#[test]
fn an_engine_that_is_dropped_breaks_off() {
    let fixture = Fixture::new(&tiny::tiny_llama(3));
    let engine = fixture.engine(Some(2), None);
    engine.try_submit(request(0, "the sun", 60_000)).unwrap();
    drop(engine);
}
