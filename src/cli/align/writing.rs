//! From prompts to the log: feeds a worker with requests, and keeps what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::align::prompts::Dice;
use crate::chat::template::{ChatTemplate, Message, RenderOptions, Segment};
use crate::cli::align::AlignArgs;
use crate::cli::failure::Failure;
use crate::cli::output::{Bars, stderr_line};
use crate::gguf::Gguf;
use crate::llama::parallel::worker::{Emitted, Event, ParallelConfig, ParallelWorker, Request};
use crate::llama::sampler::Sampling;
use crate::llama::worker::Loaded;
use crate::store::align_log::{AlignLog, LogError, MAX_BEFORE, Piece, Said};
use crate::token::Token;

/// Every so many-th text is sampled; the others take the likeliest tokens.
const SAMPLED_EVERY: u64 = 4;

/// Tokens of a text that are kept in memory before they go into the log: what a kill can lose.
const N_UNLOGGED: usize = 64;

/// Has the model write until the log and what is pending make up `n_tokens`, or the prompts are used up.
pub(super) fn write(
    config: ParallelConfig,
    gguf: &Gguf,
    feeder: &mut Feeder<'_>,
    keeper: &mut Keeper<'_>,
    n_tokens: u64,
    interrupt: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let mut bars = Bars::default();
    let (worker, loaded) = start(config, interrupt, &mut bars)?;
    let renderer = Renderer::new(gguf, loaded)?;
    let (start, n_before) = (Instant::now(), keeper.n_tokens());
    feeder.feed(&worker, &renderer, keeper)?;
    while feeder.n_open > 0 && keeper.n_tokens() < n_tokens {
        match worker.next_event() {
            Some(Event::Begun { id, prompt }) => keeper.begin(id, &prompt[prompt.len().saturating_sub(MAX_BEFORE)..]),
            Some(Event::Step(emitted)) => {
                for emitted in emitted {
                    feeder.n_open -= usize::from(emitted.is_last);
                    if keeper.n_tokens() < n_tokens {
                        keeper.keep(emitted)?;
                    }
                }
                bars.writing(keeper.n_tokens(), n_tokens);
            }
            Some(Event::Refused { id, failure }) => {
                feeder.n_open -= 1;
                bars.suspend(|| stderr_line(&format!("notice: prompt {id} is skipped: {failure}")));
            }
            Some(Event::Failed(failure)) => return Err(failure.into()),
            Some(Event::Loading(_) | Event::Loaded(_)) => {}
            None => return Err(Failure::new("the engine stopped")),
        }
        feeder.feed(&worker, &renderer, keeper)?;
    }
    bars.clear();
    let (n, seconds) = (keeper.n_tokens() - n_before, start.elapsed().as_secs_f64());
    stderr_line(&format!("{n} tokens in {seconds:.1} s: {:.1} tokens/s", n as f64 / seconds));
    if keeper.n_tokens() < n_tokens {
        let done = keeper.n_tokens();
        stderr_line(&format!("notice: no prompts are left after {done} of {n_tokens} tokens"));
    }
    Ok(())
}

/// Starts a worker and waits until its model is loaded.
fn start(
    config: ParallelConfig,
    interrupt: Arc<AtomicBool>,
    bars: &mut Bars,
) -> Result<(ParallelWorker, Loaded), Failure> {
    let spawned = ParallelWorker::spawn(config, interrupt);
    let worker = spawned.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    loop {
        match worker.next_event() {
            Some(Event::Loading(share)) => bars.loading(share),
            Some(Event::Loaded(loaded)) => {
                bars.clear();
                return Ok((worker, *loaded));
            }
            Some(Event::Failed(failure)) => {
                bars.clear();
                return Err(failure.into());
            }
            Some(event) => {
                return Err(Failure::new(format!("unexpected message from the engine while loading: {event:?}")));
            }
            None => return Err(Failure::new("the engine stopped while loading the model")),
        }
    }
}

/// Prompts as the model wants them: in its template, or as they are.
struct Renderer {
    template: Option<ChatTemplate>,
    loaded: Loaded,
}

impl Renderer {
    fn new(gguf: &Gguf, loaded: Loaded) -> Result<Renderer, Failure> {
        let template = gguf.chat_template().map(|source| ChatTemplate::parse(source, loaded.specials.clone()));
        let template = template.transpose().map_err(|error| Failure::new(error.to_string()))?;
        Ok(Renderer { template, loaded })
    }

    fn render(&self, text: String) -> Result<Vec<Segment>, Failure> {
        let Some(template) = &self.template else { return Ok(vec![Segment { text, parse_special: false }]) };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let rendered = template.render(&[Message::new("user", text)], &options, &self.loaded.guard);
        rendered.map(|rendered| rendered.segments).map_err(|error| Failure::new(error.to_string()))
    }
}

/// Hands out requests, as many as the worker takes.
pub(super) struct Feeder<'a> {
    args: &'a AlignArgs,
    texts: Box<dyn Iterator<Item = (u64, String)>>,
    /// Not taken yet.
    waiting: Option<Request>,
    /// Texts handed out that have not ended.
    n_open: usize,
}

impl<'a> Feeder<'a> {
    pub(super) fn new(args: &'a AlignArgs, texts: impl Iterator<Item = String> + 'static) -> Feeder<'a> {
        Feeder { args, texts: Box::new((0..).zip(texts)), waiting: None, n_open: 0 }
    }

    fn feed(&mut self, worker: &ParallelWorker, renderer: &Renderer, keeper: &Keeper<'_>) -> Result<(), Failure> {
        loop {
            let request = match self.waiting.take() {
                Some(request) => request,
                // A text that an earlier run has begun stays as long as it became.
                None => match self.texts.by_ref().find(|(id, _)| !keeper.log.has(*id)) {
                    Some((id, text)) => self.request(id, renderer.render(text)?),
                    None => return Ok(()),
                },
            };
            if let Err(request) = worker.try_submit(request) {
                self.waiting = Some(*request);
                return Ok(());
            }
            self.n_open += 1;
        }
    }

    fn request(&self, id: u64, prompt: Vec<Segment>) -> Request {
        let is_sampled = id % SAMPLED_EVERY == SAMPLED_EVERY - 1;
        let sampling = Sampling {
            temperature: if is_sampled { self.args.temp } else { 0.0 },
            // The top bit is llama.cpp's: it means a seed of its own choice.
            seed: (Dice(u64::from(self.args.seed) << 32 ^ id).next_u64() >> 33) as u32,
            ..Sampling::default()
        };
        Request { id, prompt, max_tokens: self.args.n_predict, sampling }
    }
}

/// Collects tokens to pieces of some length for the log.
pub(super) struct Keeper<'a> {
    log: &'a mut AlignLog,
    /// What is not in the log yet, by text.
    pending: BTreeMap<u64, Piece>,
    n_pending: u64,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(log: &'a mut AlignLog) -> Keeper<'a> {
        Keeper { log, pending: BTreeMap::new(), n_pending: 0 }
    }

    fn n_tokens(&self) -> u64 {
        self.log.n_tokens() + self.n_pending
    }

    fn begin(&mut self, text: u64, before: &[Token]) {
        self.pending.insert(text, Piece { text, before: before.to_vec(), said: Vec::new() });
    }

    fn keep(&mut self, emitted: Emitted) -> Result<(), LogError> {
        let Some(piece) = self.pending.get_mut(&emitted.id) else { return Ok(()) };
        piece.said.push(Said { token: emitted.token, top: emitted.top });
        self.n_pending += 1;
        let is_end = emitted.is_last;
        if is_end || piece.said.len() >= N_UNLOGGED {
            self.n_pending -= piece.said.len() as u64;
            self.log.append(piece)?;
            piece.advance();
        }
        if is_end {
            self.pending.remove(&emitted.id);
        }
        Ok(())
    }

    /// Puts everything into the log, and the log onto the disk.
    pub(super) fn flush_all(&mut self) -> Result<(), LogError> {
        self.n_pending = 0;
        for piece in std::mem::take(&mut self.pending).into_values().filter(|piece| !piece.said.is_empty()) {
            self.log.append(&piece)?;
        }
        self.log.sync()
    }
}
