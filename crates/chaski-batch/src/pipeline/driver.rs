//! The third stage: submits requests to the engine and passes its events to the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};

use super::{BatchError, Ready, Ticket, WriterMessage};
use crate::engine::{Engine, Event};
use crate::ledger::EngineLog;

/// How long an idle driver waits before it checks for an interrupt.
const PATIENCE: Duration = Duration::from_millis(50);

/// How the engine ended.
pub(super) struct Driven {
    pub(super) is_interrupted: bool,
    /// Answers that were begun but not finished.
    pub(super) n_broken_off: usize,
}

/// Runs the engine until all requests are done, or until one of `interrupts` is set. The engine sees only the first.
pub(super) fn drive(
    engine: Box<dyn Engine + '_>,
    log: Option<&EngineLog>,
    ready: &Receiver<Ready>,
    to_writer: &Sender<WriterMessage>,
    interrupts: [&AtomicBool; 2],
) -> Result<Driven, BatchError> {
    let done = |is_interrupted, n_broken_off| Ok(Driven { is_interrupted, n_broken_off });
    let begun = BTreeSet::new();
    let mut driver = Driver { engine, log, waiting: None, at_work: BTreeMap::new(), begun, is_alone: false };
    let mut is_over = false;
    let [interrupt, _] = interrupts;
    while !interrupts.iter().any(|interrupt| interrupt.load(Ordering::Relaxed)) {
        is_over |= driver.submit(ready)?;
        if driver.at_work.is_empty() && driver.waiting.is_none() {
            if is_over {
                return done(false, 0);
            }
            match ready.recv_timeout(PATIENCE) {
                Ok(ready) => driver.waiting = Some(ready),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => is_over = true,
            }
            continue;
        }
        let event = match driver.engine.next_event() {
            Ok(event) => event,
            // The engine sees the interrupt too and ends by itself.
            Err(_) if interrupt.load(Ordering::Relaxed) => return done(true, driver.begun.len()),
            Err(message) => return Err(BatchError::Engine(message)),
        };
        let Some(told) = driver.told(event)? else { continue };
        if to_writer.send(told).is_err() {
            return done(false, 0);
        }
    }
    // Keep the answers finished before the engine saw the interrupt. An abandoned engine finishes all of them.
    while !driver.at_work.is_empty()
        && let Ok(event) = driver.engine.next_event()
    {
        let told = driver.told(event)?;
        if told.is_some_and(|told| to_writer.send(told).is_err()) {
            break;
        }
    }
    done(true, driver.begun.len())
}

struct Driver<'e, 's> {
    engine: Box<dyn Engine + 'e>,
    log: Option<&'s EngineLog>,
    /// The next request, refused by a full engine, and whether the journal has its `begun` entry.
    waiting: Option<Ready>,
    at_work: BTreeMap<u64, Ticket>,
    /// Lines of `at_work` that have a lane.
    begun: BTreeSet<u64>,
    /// Whether the line at work is a suspect, which runs alone.
    is_alone: bool,
}

impl Driver<'_, '_> {
    /// Submits requests until the engine is full. Returns true if there are no more requests.
    ///
    /// The journal records a line before the engine sees it. A suspect is recorded and decoded alone, so that no other
    /// line can be blamed for a crash.
    fn submit(&mut self, ready: &Receiver<Ready>) -> Result<bool, BatchError> {
        loop {
            let Ready { ticket, request } = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match ready.try_recv() {
                    Ok(ready) => ready,
                    Err(TryRecvError::Empty) => return Ok(false),
                    Err(TryRecvError::Disconnected) => return Ok(true),
                },
            };
            let must_wait = self.is_alone || ticket.is_suspect && !self.at_work.is_empty();
            if must_wait || !self.engine.has_room() {
                self.waiting = Some(Ready { ticket, request });
                return Ok(false);
            }
            if let Some(log) = self.log {
                log.begin(ticket.index)?;
            }
            let submitted = self.engine.try_submit(request);
            submitted.map_err(|_| BatchError::Engine("the engine has no room, though it said so".to_owned()))?;
            self.is_alone = ticket.is_suspect;
            self.at_work.insert(ticket.index, ticket);
        }
    }

    fn told(&mut self, event: Event) -> Result<Option<WriterMessage>, BatchError> {
        let (id, outcome) = match event {
            // The next request is submitted after every event.
            Event::Taken { .. } => return Ok(None),
            Event::Begun { id } => {
                self.begun.insert(id);
                return Ok(None);
            }
            Event::Notice { id, text } => {
                let ticket = id.and_then(|id| self.at_work.get(&id));
                let line = ticket.map_or_else(String::new, |ticket| format!("line {}: ", ticket.number));
                return Ok(Some(WriterMessage::Notice(format!("{line}{text}"))));
            }
            Event::Progress(progress) => return Ok(Some(WriterMessage::Progress(progress))),
            // Requests of a batch do not set `n_top`.
            Event::Prompt { .. } | Event::Token(_) => return Ok(None),
            Event::Done(answer) => (answer.id, Ok(*answer)),
            Event::Refused { id, error } => (id, Err(error.into())),
            // Only an engine of one text sends these.
            Event::Prefill(..) | Event::Measuring | Event::Text(_) | Event::Step(_) => return Ok(None),
        };
        self.begun.remove(&id);
        let ticket = self.at_work.remove(&id);
        let ticket =
            ticket.ok_or_else(|| BatchError::Engine(format!("the engine answered line {id}, which is not at work")))?;
        self.is_alone = false;
        if let Some(log) = self.log {
            log.answered(id)?;
        }
        Ok(Some(WriterMessage::Settled(ticket, Box::new(outcome))))
    }
}
