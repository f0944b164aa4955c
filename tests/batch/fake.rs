//! An engine without a model: its answers depend on the request alone.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use chaski::engine::{Answer, End, Engine, Event, Progress, Request, RequestError};
use chaski::stats::Stats;

/// A prompt that contains this crashes the process.
pub(crate) const ABORT: &str = "ABORT";
/// A prompt that contains this is refused.
pub(crate) const REFUSE: &str = "REFUSE";
/// A prompt that contains this makes the engine fail.
pub(crate) const FAIL: &str = "FAIL";

/// Answers `n_lanes` requests at a time, one token per step.
pub(crate) struct Fake {
    n_lanes: usize,
    step: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    running: Vec<(Request, usize)>,
    events: VecDeque<Event>,
    progress: Progress,
}

impl Fake {
    pub(crate) fn new(n_lanes: usize, step: Duration) -> Fake {
        Fake { n_lanes, step, state: Mutex::default() }
    }
}

/// The text of a request's prompt.
pub(crate) fn prompt(request: &Request) -> String {
    request.prompt.iter().map(|segment| segment.text.as_str()).collect()
}

fn n_tokens(request: &Request) -> usize {
    let wanted = 1 + prompt(request).len() % 7;
    request.max_tokens.map_or(wanted, |max| wanted.min(max))
}

/// An answer that depends on the prompt, the sampling parameters, the limit and the stop strings.
pub(crate) fn answer(request: &Request) -> Answer {
    let text = prompt(request);
    let reversed: String = text.chars().rev().collect();
    let sampling = &request.sampling;
    Answer {
        id: request.id,
        text: format!("{reversed}\n[{} {} {:?}]", sampling.temperature, sampling.seed, request.stop),
        reasoning: None,
        end: if request.max_tokens.is_some_and(|max| max < 1 + text.len() % 7) { End::Limit } else { End::Eos },
        stats: Stats {
            n_prompt: text.len(),
            n_predicted: n_tokens(request),
            prompt_ms: 1.0,
            predicted_ms: 2.0,
            ..Stats::default()
        },
        details: None,
        logprobs: Vec::new(),
    }
}

impl Engine for Fake {
    fn has_room(&self) -> bool {
        self.state.lock().unwrap().waiting.len() < self.n_lanes
    }

    fn try_submit(&self, request: Request) -> Result<(), Box<Request>> {
        let mut state = self.state.lock().unwrap();
        if state.waiting.len() >= self.n_lanes {
            return Err(Box::new(request));
        }
        state.waiting.push_back(request);
        Ok(())
    }

    fn next_event(&self) -> Result<Event, String> {
        let state = &mut *self.state.lock().unwrap();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Ok(event);
            }
            while state.running.len() < self.n_lanes
                && let Some(request) = state.waiting.pop_front()
            {
                state.events.push_back(Event::Begun { id: request.id });
                let text = prompt(&request);
                if text.contains(REFUSE) {
                    let error = RequestError::PromptTooLong { n_prompt: 9, n_ctx: 8, n_ctx_train: 8 };
                    state.events.push_back(Event::Refused { id: request.id, error });
                } else if text.contains(FAIL) {
                    return Err("the engine is out of order".to_owned());
                } else {
                    let n_tokens = n_tokens(&request);
                    state.running.push((request, n_tokens));
                }
            }
            if state.running.is_empty() && state.events.is_empty() {
                return Err("nothing was asked".to_owned());
            }
            if !self.step.is_zero() {
                thread::sleep(self.step);
            }
            step(state);
        }
    }
}

fn step(state: &mut State) {
    state.progress.n_running = state.running.len();
    for (request, n_left) in &mut state.running {
        if prompt(request).contains(ABORT) {
            std::process::abort();
        }
        *n_left -= 1;
        state.progress.n_predicted += 1;
        state.progress.n_steps += 1;
    }
    let (done, running) = std::mem::take(&mut state.running).into_iter().partition(|(_, n_left)| *n_left == 0);
    state.running = running;
    let done: Vec<(Request, usize)> = done;
    state.events.extend(done.iter().map(|(request, _)| Event::Done(Box::new(answer(request)))));
    state.events.push_back(Event::Progress(state.progress));
}
