//! The first two stages: read lines, render requests, and order them within the look-ahead.

use std::collections::{BTreeMap, VecDeque};

use crossbeam::channel::{Receiver, Sender};
use crossbeam::select;

use super::{Parsed, Ready, Ticket, WriterMessage};
use crate::chat::thinking::Opening;
use crate::engine::{Alone, Request};
use crate::in_flight::InFlight;
use crate::input::parameters::{Defaults, Parameters};
use crate::input::request::{Ask, Endpoint, Prompt};
use crate::input::shard::Shard;
use crate::input::source::{Item, Source, SourceError};
use crate::journal::{Journal, MAX_CRASHES};
use crate::refuse::{ENGINE_CRASHED, INVALID_VALUE, Refusal, refuse};
use crate::render::Renderer;
use crate::window::{KEY_BYTES, Window};

/// Reads the lines of this shard that are not done.
pub(super) fn read(
    mut source: Source,
    shard: Shard,
    journal: Option<&Journal>,
    in_flight: &InFlight,
    to_renderer: &Sender<Parsed>,
) -> Result<(), SourceError> {
    let mut place = 0;
    while let Some(item) = source.next_item()? {
        let index = item.index;
        if !shard.has(index) || journal.is_some_and(|journal| journal.is_done(index)) {
            continue;
        }
        let parsed = parsed(item, place, journal.map_or(0, |journal| journal.n_crashes(index)));
        place += 1;
        if !in_flight.enter(parsed.ticket.n_bytes) || to_renderer.send(parsed).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn parsed(item: Item, place: u64, n_crashes: u32) -> Parsed {
    let Item { index, number, n_bytes, ask } = item;
    let (custom_id, endpoint, ask) = match ask {
        Ok(Ask { custom_id, endpoint, prompt, parameters }) => {
            let ask = match n_crashes {
                MAX_CRASHES.. => Err(refuse(ENGINE_CRASHED, "the engine crashed twice while this line ran")),
                _ => Ok((prompt, parameters)),
            };
            (Some(custom_id), endpoint, ask)
        }
        Err(rejected) => (rejected.custom_id, Endpoint::Chat, Err(rejected.refusal)),
    };
    let wants_logprobs = ask.as_ref().is_ok_and(|(_, parameters)| parameters.n_logprobs.is_some());
    let is_suspect = n_crashes > 0;
    let ticket = Ticket {
        place,
        index,
        number,
        n_bytes,
        custom_id,
        endpoint,
        wants_logprobs,
        seed: None,
        is_suspect,
        is_thinking_open: None,
    };
    Parsed { ticket, ask }
}

/// Renders prompts, and orders them so that prompts with a common beginning follow each other.
pub(super) fn render(
    renderer: &Renderer,
    defaults: &Defaults,
    parsed: &Receiver<Parsed>,
    to_engine: &Sender<Ready>,
    refused: &Sender<WriterMessage>,
) {
    let mut waiting = Waiting::default();
    let mut is_over = false;
    while !is_over || !waiting.is_empty() {
        let received = match waiting.next.take().or_else(|| waiting.take()) {
            None => parsed.recv(),
            Some(ready) if is_over => match to_engine.send(ready) {
                Ok(()) => continue,
                Err(_) => return,
            },
            Some(ready) => {
                waiting.next = Some(ready);
                select! {
                    recv(parsed) -> received => received,
                    send(to_engine, waiting.next.take().expect("just put there")) -> sent => match sent {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
            }
        };
        let Ok(Parsed { mut ticket, ask }) = received else {
            is_over = true;
            continue;
        };
        match request(renderer, defaults, &mut ticket, ask) {
            Ok(request) => waiting.insert(Ready { ticket, request }),
            Err(refusal) => {
                if refused.send(WriterMessage::Settled(ticket, Box::new(Err(refusal)))).is_err() {
                    return;
                }
            }
        }
    }
}

fn request(
    renderer: &Renderer,
    defaults: &Defaults,
    ticket: &mut Ticket,
    ask: Result<(Prompt, Parameters), Refusal>,
) -> Result<Request, Refusal> {
    let (prompt, parameters) = ask?;
    let sampling = parameters.sampling(&defaults.sampling, ticket.custom_id.as_deref().unwrap_or_default());
    if parameters.constraint.is_some() && sampling.ignore_eos {
        return Err(refuse(
            INVALID_VALUE,
            "ignore_eos cannot be used together with a constraint: the answer could not end",
        ));
    }
    ticket.seed = Some(sampling.seed);
    let shorter = renderer.shorter(&prompt, &parameters.template)?;
    let thinks = renderer.is_templated(&prompt);
    let prompt = renderer.render(prompt, parameters.template)?;
    let opening = if thinks { renderer.opening(&prompt) } else { Opening::Never };
    ticket.is_thinking_open = thinks.then_some(opening == Opening::Open);
    Ok(Request {
        id: ticket.index,
        shorter,
        prompt,
        max_tokens: if parameters.is_unlimited { None } else { parameters.max_tokens.or(defaults.max_tokens) },
        sampling,
        stop: parameters.stop.unwrap_or_else(|| defaults.stop.clone()),
        constraint: parameters.constraint.map(|form| form.after(opening, renderer.is_thinking_unwanted)),
        n_logprobs: parameters.n_logprobs,
        n_top: None,
        alone: Alone::default(),
    })
}

/// Requests waiting for the engine; `InFlight` bounds their number.
#[derive(Default)]
struct Waiting {
    /// Suspects go first: each runs alone, so interleaving them would stall the other lines again and again.
    suspects: VecDeque<Ready>,
    window: Window,
    requests: BTreeMap<u64, Ready>,
    /// The request chosen to go next.
    next: Option<Ready>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.suspects.is_empty() && self.requests.is_empty() && self.next.is_none()
    }

    fn insert(&mut self, ready: Ready) {
        if ready.ticket.is_suspect {
            return self.suspects.push_back(ready);
        }
        let id = ready.ticket.index;
        let mut key = Vec::new();
        for segment in &ready.request.prompt {
            key.extend(segment.text.bytes().take(KEY_BYTES - key.len().min(KEY_BYTES)));
        }
        self.window.insert(id, &key);
        self.requests.insert(id, ready);
    }

    fn take(&mut self) -> Option<Ready> {
        if let Some(suspect) = self.suspects.pop_front() {
            return Some(suspect);
        }
        let id = self.window.take()?;
        self.requests.remove(&id)
    }
}
