//! A small model with a context of its own, which predicts what follows a text.
//!
//! Nothing has to tell it what happened to the text since its last prediction. It compares the text with what its
//! context holds, drops what differs, and decodes what is missing together with the row it predicts from.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::draft::draft_model::DraftModel;
use crate::draft::table::Successor;
use crate::draft::top::TopK;
use crate::hidden::StateCell;
use crate::kernels;
use crate::model::Model;
use crate::session::{Session, SessionConfig};
use crate::target::TargetError;
use crate::token::Token;
use crate::tune::Settings;

/// Tokens in a prediction.
const N_PREDICTED: usize = 8;

/// Rows of the batch that measures what further rows cost.
const N_FURTHER: usize = 16;

/// Single rows that are measured at first.
const N_SINGLE: usize = 3;

/// Weight of a new time in a running mean.
const RATE: f64 = 0.1;

/// A prediction counts at most this many times the mean.
const MOST_JUMP: f64 = 2.0;

/// What the engine of one text needs of a draft model beside its predictions.
pub trait EngineDraftModel: DraftModel {
    /// Makes sure that texts of `n_ctx` tokens after a prompt of `n_prompt` can be followed, with these settings. After a
    /// failure there are no predictions; [`EngineDraftModel::take_failure`] has the reason.
    fn prepare(&mut self, n_prompt: usize, n_ctx: usize, settings: &Settings);

    /// Frees the memory of its context.
    fn drop_context(&mut self);

    /// Why there are no predictions any more; given once.
    fn take_failure(&mut self) -> Option<TargetError>;

    /// Measured time of a prediction after one new token, in milliseconds; `None` before anything was measured.
    fn row_ms(&self) -> Option<f64>;

    /// Where it reads the target's hidden states, if it does.
    fn states(&self) -> Option<StateCell> {
        None
    }
}

/// Says whether to go on; breaks after an interrupt.
type GoOn<'m> = dyn Fn() -> ControlFlow<()> + 'm;

/// A draft model of llama.cpp.
pub struct LlamaDraftModel<'m> {
    model: &'m Model,
    /// Tokens of the vocabulary that the target has too.
    n_vocab: usize,
    go_on: Box<GoOn<'m>>,
    context: Option<Context<'m>>,
    /// Measured with the first context; later contexts go on from it.
    pace: Option<Pace>,
    failure: Option<TargetError>,
    has_failed: bool,
    top_k: TopK,
    /// The last prediction.
    top: Vec<Successor>,
    /// Length of the text that `top` follows; 0 if there is no prediction.
    n_read: usize,
}

struct Context<'m> {
    session: Session<'m>,
    settings: Settings,
}

impl<'m> LlamaDraftModel<'m> {
    /// Wraps `model`, which drafts for `target`. `go_on` is asked before each piece of work.
    pub fn new(model: &'m Model, target: &Model, go_on: impl Fn() -> ControlFlow<()> + 'm) -> LlamaDraftModel<'m> {
        LlamaDraftModel {
            model,
            // One of them may have padding at the end of its vocabulary.
            n_vocab: model.n_vocab().min(target.n_vocab()),
            go_on: Box::new(go_on),
            context: None,
            pace: None,
            failure: None,
            has_failed: false,
            top_k: TopK::default(),
            top: Vec::new(),
            n_read: 0,
        }
    }

    fn open(&mut self, n_ctx: usize, settings: &Settings) -> Result<(), TargetError> {
        let mut session = Session::new(self.model, &SessionConfig::new(n_ctx, settings))?;
        if self.pace.is_none() {
            self.pace = Some(Pace::measure(&mut session, &*self.go_on)?);
        }
        self.context = Some(Context { session, settings: *settings });
        Ok(())
    }

    fn fail(&mut self, error: TargetError) {
        // The next answer goes on from what an interrupt leaves.
        if error != TargetError::Interrupted {
            self.drop_context();
            self.has_failed = true;
            self.failure = Some(error);
        }
    }

    /// The longest text that it follows, in tokens. A context is rounded up, and some models have no positions beyond
    /// their trained length.
    fn longest(&self, session: &Session<'_>) -> usize {
        session.n_ctx().min(self.model.n_ctx_train())
    }

    /// Tokens that must be decoded to predict what follows `text` and `path`; `None` if that is impossible.
    fn missing(&self, text: &[Token], path: &[Token]) -> Option<Missing> {
        let session = &self.context.as_ref()?.session;
        let (n_past, n) = (text.len().checked_sub(1)?, text.len() + path.len());
        if n > self.longest(session) {
            return None;
        }
        let has_token = |token: &Token| token.index() < self.n_vocab;
        let known = session.committed();
        let n_same = known.iter().zip(text.iter().chain(path)).take_while(|(known, wanted)| known == wanted).count();
        let has_prediction = n_same == n && self.n_read == n;
        // The target may have padding tokens beyond this vocabulary.
        if !text.iter().chain(path).skip(n_same).all(has_token) {
            return None;
        }
        // Without a prediction at hand, at least the last token is decoded.
        let n_kept = if has_prediction { n } else { n_same.min(n - 1) };
        Some(Missing { n_past: n_past.saturating_sub(n_kept), n_new: n - n_kept.max(n_past) })
    }

    /// Decodes the last `n_missing` tokens of `text`, and keeps the prediction after them.
    fn read(&mut self, text: &[Token], n_missing: usize) -> Result<(), TargetError> {
        let (Some(Context { session, .. }), Some(pace)) = (&mut self.context, &mut self.pace) else { return Ok(()) };
        let start = Instant::now();
        let logits = session.read(text, &mut |_, _| (self.go_on)())?;
        self.top.extend(self.top_k.of(&logits[..self.n_vocab], N_PREDICTED));
        if self.top.is_empty() {
            return Err(TargetError::NotFinite);
        }
        self.n_read = text.len();
        pace.record(n_missing, ms_since(start));
        Ok(())
    }
}

impl EngineDraftModel for LlamaDraftModel<'_> {
    fn prepare(&mut self, n_prompt: usize, n_ctx: usize, settings: &Settings) {
        // Beyond its trained length a model predicts noise.
        let n_ctx = n_ctx.min(self.model.n_ctx_train());
        let fits = |context: &Context<'_>| context.session.n_ctx() >= n_ctx && context.settings == *settings;
        if self.has_failed || n_prompt > n_ctx || self.context.as_ref().is_some_and(fits) {
            return;
        }
        self.drop_context();
        if let Err(error) = kernels::without_audit(|| self.open(n_ctx, settings)) {
            self.fail(error);
        }
    }

    fn drop_context(&mut self) {
        self.context = None;
        self.n_read = 0;
    }

    fn take_failure(&mut self) -> Option<TargetError> {
        self.failure.take()
    }

    fn row_ms(&self) -> Option<f64> {
        self.pace.as_ref().map(|pace| pace.row_ms)
    }
}

impl DraftModel for LlamaDraftModel<'_> {
    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64 {
        let missing = self.missing(text, path);
        missing.zip(self.pace.as_ref()).map_or(f64::INFINITY, |(missing, pace)| pace.ms(missing.n_new))
    }

    fn catch_up_ms(&self, text: &[Token]) -> f64 {
        let missing = self.missing(text, &[]);
        missing.zip(self.pace.as_ref()).map_or(f64::INFINITY, |(missing, pace)| pace.further_ms(missing.n_past))
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        let n_missing = self.missing(text, path).map(|missing| missing.n_past + missing.n_new);
        if n_missing == Some(0) {
            return &self.top;
        }
        self.top.clear();
        self.n_read = 0;
        if let Some(n_missing) = n_missing {
            let text = [text, path].concat();
            let read = kernels::without_audit(|| self.read(&text, n_missing));
            read.unwrap_or_else(|error| self.fail(error));
        }
        &self.top
    }
}

/// Tokens that are not decoded yet.
struct Missing {
    /// Of the text without its last token.
    n_past: usize,
    /// Of the rest: the last token of the text, and the path.
    n_new: usize,
}

/// How long decodes of the draft model take, in milliseconds: running means.
struct Pace {
    /// One row.
    row_ms: f64,
    /// Each further row in the same batch.
    further_row_ms: f64,
}

impl Pace {
    /// Measures a few decodes in an empty context.
    fn measure(session: &mut Session<'_>, go_on: &GoOn<'_>) -> Result<Pace, TargetError> {
        let text = [Token(0); 1 + N_SINGLE + N_FURTHER + 1];
        let mut time_of = |n: usize| {
            let start = Instant::now();
            session.read(&text[..n], &mut |_, _| go_on())?;
            Ok::<f64, TargetError>(ms_since(start))
        };
        // The first decode reads the weights from the disk.
        time_of(1)?;
        let singles = (0..N_SINGLE).map(|n| time_of(2 + n)).collect::<Result<Vec<f64>, _>>()?;
        let row_ms = singles.into_iter().fold(f64::INFINITY, f64::min);
        let mut pace = Pace { row_ms, further_row_ms: row_ms };
        pace.further_row_ms = pace.further(1 + N_FURTHER, time_of(text.len())?);
        Ok(pace)
    }

    /// Expected time of a decode of `n_rows`.
    fn ms(&self, n_rows: usize) -> f64 {
        n_rows.checked_sub(1).map_or(0.0, |n_further| self.row_ms + self.further_ms(n_further))
    }

    /// Expected time of further rows in a batch.
    fn further_ms(&self, n_rows: usize) -> f64 {
        n_rows as f64 * self.further_row_ms
    }

    /// What each row but the first took.
    fn further(&self, n_rows: usize, ms: f64) -> f64 {
        (ms - self.row_ms).max(0.0) / (n_rows - 1) as f64
    }

    /// Learns from a decode.
    fn record(&mut self, n_rows: usize, ms: f64) {
        if n_rows == 1 {
            // Only predictions correct this price, so an outlier must not end them.
            self.row_ms += RATE * (ms.min(MOST_JUMP * self.row_ms) - self.row_ms);
        } else {
            self.further_row_ms += RATE * (self.further(n_rows, ms) - self.further_row_ms);
        }
    }
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_follows_the_times_seen() {
        let mut pace = Pace { row_ms: 10.0, further_row_ms: 2.0 };
        assert_eq!([0, 1, 2, 11].map(|n| pace.ms(n)), [0.0, 10.0, 12.0, 30.0]);
        for _ in 0..100 {
            pace.record(1, 20.0);
            pace.record(5, 24.0);
        }
        assert!((pace.ms(1) - 20.0).abs() < 0.01 && (pace.ms(5) - 24.0).abs() < 0.01);
        pace.record(2, 1.0);
        assert!(pace.further_row_ms >= 0.0, "a fast batch is no negative price");
    }
}
