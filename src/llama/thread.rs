//! The thread that owns an engine, and the two bounded channels it speaks through: requests in, events out.
//!
//! A reader that stalls makes the engine wait, a reader that is gone makes it stop. What the messages mean is the
//! business of [`crate::llama::worker`] and [`crate::llama::batching`].

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, never};

/// Some tokenizers recurse once per character of an unbroken run. The pages are reserved, not used.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// Events in flight before the engine waits for its reader.
const N_EVENTS: usize = 256;

/// A running engine. Dropping it breaks off the work at hand and waits for the thread: llama.cpp's own clean-up at the
/// end of the process must not meet a decode.
#[derive(Debug)]
pub struct EngineThread<Request, Event> {
    requests: Sender<Request>,
    events: Receiver<Event>,
    is_unwanted: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<Request: Send + 'static, Event: Send + 'static> EngineThread<Request, Event> {
    /// Runs `work` until it returns. `interrupt` asks it to break off; at most `n_requests` wait for it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn spawn(
        n_requests: usize,
        interrupt: Arc<AtomicBool>,
        work: impl FnOnce(&Receiver<Request>, &Outbox<Event>) + Send + 'static,
    ) -> io::Result<EngineThread<Request, Event>> {
        let (requests, queue) = bounded(n_requests);
        let (event_queue, events) = bounded(N_EVENTS);
        let is_unwanted = Arc::new(AtomicBool::new(false));
        let outbox = Outbox { events: event_queue, interrupt, is_unwanted: is_unwanted.clone() };
        let work = move || work(&queue, &outbox);
        let thread = thread::Builder::new().name("engine".into()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(EngineThread { requests, events, is_unwanted, thread: Some(thread) })
    }

    /// Hands in a request, when there is room for it.
    pub fn submit(&self, request: Request) {
        // An engine that is gone has said why in its last event.
        let _ = self.requests.send(request);
    }

    /// Hands in a request, or gives it back while as many as may are waiting.
    ///
    /// # Errors
    /// The request.
    pub fn try_submit(&self, request: Request) -> Result<(), Request> {
        match self.requests.try_send(request) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(request)) => Err(request),
        }
    }

    /// The next event; `None` when the engine is gone.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        self.events.recv().ok()
    }
}

impl<Request, Event> Drop for EngineThread<Request, Event> {
    fn drop(&mut self) {
        self.is_unwanted.store(true, Ordering::Relaxed);
        // Closed channels: it finds no further request, and nobody to tell.
        self.requests = bounded(0).0;
        self.events = never();
        if let Some(thread) = self.thread.take() {
            // A panic was printed by its own thread.
            let _ = thread.join();
        }
    }
}

/// The engine's way to its reader.
#[derive(Debug)]
pub struct Outbox<Event> {
    events: Sender<Event>,
    /// The user's.
    interrupt: Arc<AtomicBool>,
    /// Set when nobody listens any more.
    is_unwanted: Arc<AtomicBool>,
}

impl<Event> Clone for Outbox<Event> {
    fn clone(&self) -> Outbox<Event> {
        let Outbox { events, interrupt, is_unwanted } = self;
        Outbox { events: events.clone(), interrupt: interrupt.clone(), is_unwanted: is_unwanted.clone() }
    }
}

impl<Event> Outbox<Event> {
    /// Tells something. A reader that is gone counts as an interrupt.
    pub fn send(&self, event: Event) {
        if self.events.send(event).is_err() {
            self.is_unwanted.store(true, Ordering::Relaxed);
        }
    }

    /// Whether to break off.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed) || self.is_unwanted.load(Ordering::Relaxed)
    }

    /// The same for what asks whether to go on.
    pub fn go_on(&self) -> ControlFlow<()> {
        if self.is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
