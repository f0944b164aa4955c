//! The last stage: writes results in groups, syncs them, and reports progress.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::{BatchError, Doubt, OutputShape, Ticket, Watcher, WriterMessage};
use crate::chat::thinking::{Split, split};
use crate::engine::{Answer, End};
use crate::in_flight::InFlight;
use crate::input::shard::Shard;
use crate::journal::{Finished, Journal, Totals};
use crate::ledger::{EngineLog, Ledger};
use crate::progress::Progress;
use crate::record::{Label, Origin, text_line};
use crate::refuse::Refusal;
use crate::reorder::Reorder;

/// How often progress is reported; also the longest wait for a message.
const TICK: Duration = Duration::from_millis(100);
/// How long a record may stay unsynced; with the time of a sync, still less than a second.
const SYNC_AFTER: Duration = Duration::from_millis(800);
/// Unsynced records that force a sync.
const MAX_BEHIND: usize = 4096;
/// Messages handled before the clock is read again.
const GROUP: usize = 256;

/// The destination of results.
pub enum Sink<'d> {
    /// A file with a journal.
    Ledger(Box<Ledger<'d>>),
    /// A stream. It has no journal, so the job cannot be resumed.
    Stream(Box<dyn Write + 'd>),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sink::Ledger(ledger) => ledger.fmt(f),
            Sink::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Sink<'_> {
    /// The journal with the results of earlier runs.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        match self {
            Sink::Ledger(ledger) => Some(ledger.journal()),
            Sink::Stream(_) => None,
        }
    }

    pub(super) fn engine_log(&self) -> Option<EngineLog> {
        match self {
            Sink::Ledger(ledger) => Some(ledger.engine_log()),
            Sink::Stream(_) => None,
        }
    }

    fn record(&mut self, finished: Finished, record: &str) -> Result<(), BatchError> {
        match self {
            Sink::Ledger(ledger) => Ok(ledger.record(finished, record.as_bytes())?),
            Sink::Stream(stream) => stream.write_all(record.as_bytes()).map_err(BatchError::Stream),
        }
    }

    fn write(&mut self) -> Result<(), BatchError> {
        match self {
            Sink::Ledger(ledger) => Ok(ledger.write()?),
            Sink::Stream(stream) => stream.flush().map_err(BatchError::Stream),
        }
    }
}

pub(super) struct Writer<'d, 'g> {
    sink: Sink<'d>,
    origin: Origin,
    form: OutputShape,
    in_flight: &'g InFlight,
    early: Reorder<(Ticket, Result<Answer, Refusal>)>,
    progress: Progress,
    start: Instant,
}

impl<'d, 'g> Writer<'d, 'g> {
    pub(super) fn new(
        sink: Sink<'d>,
        origin: Origin,
        form: OutputShape,
        shard: Shard,
        in_flight: &'g InFlight,
        n_lines: u64,
    ) -> Writer<'d, 'g> {
        let totals = sink.journal().map_or_else(Totals::default, Journal::totals);
        let progress = Progress { n_lines: shard.n_of(n_lines), totals, ..Progress::default() };
        Writer { sink, origin, form, in_flight, early: Reorder::default(), progress, start: Instant::now() }
    }

    /// Writes until all other stages have ended. Also returns the number of answers that could not be written.
    pub(super) fn write(
        mut self,
        told: Receiver<WriterMessage>,
        watcher: &mut dyn Watcher,
    ) -> Result<(Progress, usize), BatchError> {
        let (mut behind_since, mut shown) = (None, None::<Instant>);
        loop {
            match told.recv_timeout(TICK) {
                Ok(first) => {
                    for told in std::iter::once(first).chain(told.try_iter().take(GROUP)) {
                        self.take(told, watcher)?;
                    }
                    self.sink.write()?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Sink::Ledger(ledger) = &mut self.sink
                && ledger.n_behind() > 0
                && (behind_since.get_or_insert_with(Instant::now).elapsed() >= SYNC_AFTER
                    || ledger.n_behind() >= MAX_BEHIND)
            {
                ledger.sync(unix_ms())?;
                behind_since = None;
            }
            if shown.is_none_or(|shown| shown.elapsed() >= TICK) {
                shown = Some(Instant::now());
                self.progress.seconds = self.start.elapsed().as_secs_f64();
                watcher.progress(&self.progress);
            }
        }
        let n_unwritten = self.write_early()?;
        self.progress.seconds = self.start.elapsed().as_secs_f64();
        match self.sink {
            Sink::Ledger(ledger) => drop(ledger.close(unix_ms(), self.form.is_ordered)?),
            Sink::Stream(mut stream) => stream.flush().map_err(BatchError::Stream)?,
        }
        Ok((self.progress, n_unwritten))
    }

    /// Writes the results that still wait for their turn when the job ends. A file of records is sorted once the job is
    /// done. In a stream or a text file they would be taken for other lines, so there they are only counted.
    fn write_early(&mut self) -> Result<usize, BatchError> {
        let early = std::mem::take(&mut self.early).into_rest();
        if self.form.is_text || matches!(self.sink, Sink::Stream(_)) {
            return Ok(early.len());
        }
        for (ticket, outcome) in early {
            self.put(&ticket, &outcome)?;
        }
        Ok(0)
    }

    fn take(&mut self, told: WriterMessage, watcher: &mut dyn Watcher) -> Result<(), BatchError> {
        match told {
            WriterMessage::Progress(progress) => self.progress.engine = progress,
            WriterMessage::Notice(text) => watcher.notice(&text),
            WriterMessage::Settled(ticket, outcome) => {
                let mut outcome = *outcome;
                if let (Some(is_open), Ok(answer)) = (ticket.is_thinking_open, &mut outcome) {
                    let Split { thinking, answer: text, is_cut } = split(&answer.text, is_open);
                    if is_cut {
                        watcher.doubtful(ticket.number, Doubt::ThinkingOnly);
                    }
                    (answer.text, answer.reasoning) = (text, Some(thinking).filter(|text| !text.is_empty()));
                }
                match &outcome {
                    Err(refusal) => watcher.failed(ticket.number, refusal),
                    Ok(Answer { end: End::Context { n_ctx }, .. }) => {
                        watcher.doubtful(ticket.number, Doubt::ContextFull { n_ctx: *n_ctx });
                    }
                    Ok(Answer { end: End::DefaultLimit, stats, .. }) => {
                        watcher.doubtful(ticket.number, Doubt::DefaultLimit { n_tokens: stats.n_predicted });
                    }
                    Ok(_) => {}
                }
                if !self.form.is_ordered {
                    return self.put(&ticket, &outcome);
                }
                self.early.insert(ticket.place, (ticket, outcome));
                while let Some((ticket, outcome)) = self.early.take() {
                    self.put(&ticket, &outcome)?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, ticket: &Ticket, outcome: &Result<Answer, Refusal>) -> Result<(), BatchError> {
        let Ticket { number, endpoint, wants_logprobs, seed, .. } = *ticket;
        let label = Label { custom_id: ticket.custom_id.as_deref(), number, endpoint, wants_logprobs, seed };
        let record = match self.form.is_text {
            true => text_line(outcome),
            false => self.origin.record(&label, outcome, unix_ms() / 1000),
        };
        let count = |n: fn(&Answer) -> usize| outcome.as_ref().map_or(0, n) as u64;
        let finished = Finished {
            line: ticket.index,
            end: 0,
            n_prompt: count(|answer| answer.stats.n_prompt),
            n_predicted: count(|answer| answer.stats.n_predicted),
            error: outcome.as_ref().err().map(|refusal| refusal.code.clone()),
        };
        let totals = &mut self.progress.totals;
        *(if outcome.is_ok() { &mut totals.n_ok } else { &mut totals.n_failed }) += 1;
        totals.n_prompt += finished.n_prompt;
        totals.n_predicted += finished.n_predicted;
        self.progress.n_done_now += 1;
        self.progress.n_ok_now += u64::from(outcome.is_ok());
        self.sink.record(finished, &record)?;
        self.in_flight.leave(ticket.n_bytes);
        Ok(())
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
