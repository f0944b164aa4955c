//! The thread that owns an engine, and its two bounded channels: requests in, events out.
//!
//! If the reader of events stalls, the engine waits; if it is gone, the engine stops. [`crate::engine`] defines the
//! messages.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, never};

/// Some tokenizers recurse once per character of an unbroken run. The pages are reserved, not committed.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// Capacity of the event channel.
const N_EVENTS: usize = 256;

/// A running engine. Dropping it interrupts the current work and waits for the thread, because llama.cpp's clean-up at
/// process exit must not run during a decode.
#[derive(Debug)]
pub struct EngineThread<Request, Event> {
    requests: Sender<Request>,
    events: Receiver<Event>,
    is_abandoned: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<Request: Send + 'static, Event: Send + 'static> EngineThread<Request, Event> {
    /// Runs `work` on a new thread. Setting `interrupt` asks it to stop; at most `n_requests` requests wait in the
    /// channel.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn spawn(
        n_requests: usize,
        interrupt: Arc<AtomicBool>,
        work: impl FnOnce(&Receiver<Request>, &Outbox<Event>) + Send + 'static,
    ) -> io::Result<EngineThread<Request, Event>> {
        let (requests, queue) = bounded(n_requests);
        let (event_queue, events) = bounded(N_EVENTS);
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let outbox = Outbox { events: event_queue, interrupt, is_abandoned: is_abandoned.clone() };
        let work = move || work(&queue, &outbox);
        let thread = thread::Builder::new().name("engine".into()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(EngineThread { requests, events, is_abandoned, thread: Some(thread) })
    }

    /// Submits a request; waits while the channel is full.
    pub fn submit(&self, request: Request) {
        // If the engine has ended, its last event gave the reason.
        let _ = self.requests.send(request);
    }

    /// Submits a request without waiting.
    ///
    /// # Errors
    /// Returns the request if the channel is full.
    pub fn try_submit(&self, request: Request) -> Result<(), Request> {
        match self.requests.try_send(request) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(request)) => Err(request),
        }
    }

    /// Whether a request can be submitted without waiting.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.requests.is_full()
    }

    /// Waits for the next event; `None` if the engine has ended.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        self.events.recv().ok()
    }
}

impl<Request, Event> Drop for EngineThread<Request, Event> {
    fn drop(&mut self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        // With both channels closed the engine gets no further request, and its sends fail.
        self.requests = bounded(0).0;
        self.events = never();
        if let Some(thread) = self.thread.take() {
            // The thread printed its own panic.
            let _ = thread.join();
        }
    }
}

/// The engine's sender of events, and its view of interrupts.
#[derive(Debug)]
pub struct Outbox<Event> {
    events: Sender<Event>,
    /// Set by the user.
    interrupt: Arc<AtomicBool>,
    /// Set when nobody reads events any more.
    is_abandoned: Arc<AtomicBool>,
}

impl<Event> Clone for Outbox<Event> {
    fn clone(&self) -> Outbox<Event> {
        let Outbox { events, interrupt, is_abandoned } = self;
        Outbox { events: events.clone(), interrupt: interrupt.clone(), is_abandoned: is_abandoned.clone() }
    }
}

impl<Event> Outbox<Event> {
    /// Sends an event; waits while the channel is full. If the reader is gone, that counts as an interrupt.
    pub fn send(&self, event: Event) {
        if self.events.send(event).is_err() {
            self.is_abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the engine should stop.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed) || self.is_abandoned.load(Ordering::Relaxed)
    }

    /// The same as a [`ControlFlow`].
    pub fn go_on(&self) -> ControlFlow<()> {
        if self.is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
