//! Feeds prompts to the engine and writes its tokens to the log of `chaski drafter align`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use half::f16;

use crate::align::prompts::Dice;
use crate::chat::template::{ChatTemplate, Message, RenderOptions, Segment};
use crate::cli::align::AlignArgs;
use crate::cli::engine::start;
use crate::cli::failure::Failure;
use crate::cli::output::{Bars, stderr_line};
use crate::engine::{Emitted, Engine as _, Event, Request};
use crate::gguf::Gguf;
use crate::llama::engine::{Engine, EngineConfig, Loaded, Mode};
use crate::llama::sampler::Sampling;
use crate::store::align_log::{AlignLog, LogError, LoggedToken, MAX_BEFORE, MAX_TOP, Piece};
use crate::token::Token;

/// Every Nth text is sampled; the others are greedy.
const SAMPLED_EVERY: u64 = 4;

/// Tokens of a text buffered in memory before they go to the log; a kill loses at most these.
const N_UNLOGGED: usize = 64;

/// Decodes until logged and pending tokens reach `n_tokens`, or no prompts are left.
pub(super) fn write(
    (config, mode): (EngineConfig, Mode),
    gguf: &Gguf,
    feeder: &mut Feeder<'_>,
    keeper: &mut Keeper<'_>,
    n_tokens: u64,
    interrupt: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let mut bars = Bars::default();
    let (engine, loaded) = start(config, mode, interrupt, &mut bars)?;
    let renderer = Renderer::new(gguf, loaded)?;
    let (start, n_before) = (Instant::now(), keeper.n_tokens());
    feeder.feed(&engine, &renderer, keeper)?;
    while feeder.n_open > 0 && keeper.n_tokens() < n_tokens {
        match engine.next()? {
            Event::Prompt { id, tokens } => keeper.begin(id, &tokens[tokens.len().saturating_sub(MAX_BEFORE)..]),
            Event::Token(emitted) if keeper.n_tokens() < n_tokens => {
                keeper.keep(emitted)?;
                bars.writing(keeper.n_tokens(), n_tokens);
            }
            Event::Done(answer) => {
                feeder.n_open -= 1;
                keeper.end(answer.id)?;
            }
            Event::Refused { id, error } => {
                feeder.n_open -= 1;
                bars.suspend(|| stderr_line(&format!("notice: prompt {id} is skipped: {error}")));
            }
            Event::Notice { text, .. } => bars.suspend(|| stderr_line(&format!("notice: {text}"))),
            _ => {}
        }
        feeder.feed(&engine, &renderer, keeper)?;
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

/// Renders prompts with the model's chat template, or unchanged if it has none.
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

/// Submits requests until the engine's queue is full.
pub(super) struct Feeder<'a> {
    args: &'a AlignArgs,
    texts: Box<dyn Iterator<Item = (u64, String)>>,
    /// The request that the engine refused last; it is submitted first next time.
    waiting: Option<Request>,
    /// Submitted texts that have not ended.
    n_open: usize,
}

impl<'a> Feeder<'a> {
    pub(super) fn new(args: &'a AlignArgs, texts: impl Iterator<Item = String> + 'static) -> Feeder<'a> {
        Feeder { args, texts: Box::new((0..).zip(texts)), waiting: None, n_open: 0 }
    }

    fn feed(&mut self, engine: &Engine, renderer: &Renderer, keeper: &Keeper<'_>) -> Result<(), Failure> {
        loop {
            let request = match self.waiting.take() {
                Some(request) => request,
                // Skip texts that an earlier run started: they stay as long as they are.
                None => match self.texts.by_ref().find(|(id, _)| !keeper.log.has(*id)) {
                    Some((id, text)) => self.request(id, renderer.render(text)?),
                    None => return Ok(()),
                },
            };
            if let Err(request) = engine.try_submit(request) {
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
            // llama.cpp treats seed 0xFFFFFFFF as "choose a random one", so the top bit stays 0.
            seed: (Dice(u64::from(self.args.seed) << 32 ^ id).next_u64() >> 33) as u32,
            ..Sampling::default()
        };
        Request {
            id,
            prompt,
            max_tokens: Some(self.args.n_predict),
            sampling,
            n_top: Some(MAX_TOP),
            ..Request::default()
        }
    }
}

/// Collects tokens into pieces for the log.
pub(super) struct Keeper<'a> {
    log: &'a mut AlignLog,
    /// Tokens not yet in the log, by text.
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
        let state = emitted.state.into_iter().map(f16::from_f32).collect();
        piece.said.push(LoggedToken { token: emitted.token, top: emitted.top, state });
        self.n_pending += 1;
        if piece.said.len() >= N_UNLOGGED {
            self.n_pending -= piece.said.len() as u64;
            self.log.append(piece)?;
            piece.advance();
        }
        Ok(())
    }

    /// Logs the rest of a finished text.
    fn end(&mut self, text: u64) -> Result<(), LogError> {
        match self.pending.remove(&text) {
            Some(piece) if !piece.said.is_empty() => {
                self.n_pending -= piece.said.len() as u64;
                self.log.append(&piece)
            }
            _ => Ok(()),
        }
    }

    /// Writes all pending tokens to the log and syncs it to disk.
    pub(super) fn flush_all(&mut self) -> Result<(), LogError> {
        self.n_pending = 0;
        for piece in std::mem::take(&mut self.pending).into_values().filter(|piece| !piece.said.is_empty()) {
            self.log.append(&piece)?;
        }
        self.log.sync()
    }
}
