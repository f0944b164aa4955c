//! The network as a source with a price: it predicts from the state that the session keeps.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use crate::draft::draft_model::DraftModel;
use crate::draft::table::Successor;
use crate::engine::draft_model::EngineDraftModel;
use crate::hidden::error::HiddenError;
use crate::hidden::matrices::TargetMatrices;
use crate::hidden::net::HiddenNet;
use crate::hidden::{LastState, StateCell};
use crate::store::hidden_file::HiddenFile;
use crate::target::TargetError;
use crate::token::Token;
use crate::tune::Settings;

/// Tokens in a prediction.
const N_PREDICTED: usize = 8;

/// Steps that are timed at first.
const N_TIMED: usize = 5;

/// Bytes read between two of them, so that the weights come from memory as they do after a step of the target.
const N_EVICTED: usize = 64 << 20;

/// Weight of a new time in the running mean.
const RATE: f64 = 0.05;

/// A step counts at most this many times the mean: another process may have run meanwhile.
const MOST_JUMP: f64 = 3.0;

/// Most predictions kept for one text: more than a draft asks for.
const MOST_KEPT: usize = 64;

/// What the network predicted after some drafted tokens.
struct Predicted {
    path: Vec<Token>,
    state: Vec<f32>,
    top: Vec<Successor>,
}

/// A drafter on hidden states.
pub struct HiddenDraftModel {
    net: HiddenNet,
    states: StateCell,
    /// The last state that predictions were made from, and the root after it.
    start: (LastState, Option<Token>),
    /// Predictions after that root.
    known: Vec<Predicted>,
    /// Expected time of a step, in milliseconds.
    step_ms: f64,
    failure: Option<TargetError>,
    has_failed: bool,
}

impl HiddenDraftModel {
    /// Prepares the network of `file` for the model in `target`, and measures its time.
    ///
    /// # Errors
    /// If the network does not fit the model, or its matrices cannot be read.
    pub fn open(file: &HiddenFile, target: &Path, n_threads: usize) -> Result<HiddenDraftModel, HiddenError> {
        let mut net = HiddenNet::new(file, TargetMatrices::open(target)?, n_threads)?;
        let step_ms = time_of_step(&mut net)?;
        Ok(HiddenDraftModel {
            net,
            states: Rc::new(RefCell::new(LastState::default())),
            start: (LastState::default(), None),
            known: Vec::new(),
            step_ms,
            failure: None,
            has_failed: false,
        })
    }

    /// The width of a hidden state.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.net.n_embd()
    }

    /// Where it reads the target's states.
    #[must_use]
    pub fn cell(&self) -> StateCell {
        Rc::clone(&self.states)
    }

    /// Whether the last state is the one before the last token of `text`.
    fn is_ready(&self, text: &[Token]) -> bool {
        let last = self.states.borrow();
        !self.has_failed && last.n_past > 0 && text.len() == last.n_past + 1 && last.state.len() == self.n_embd()
    }

    /// How many of the predictions along `path`, from the root on, are not known yet. `None` if the network cannot
    /// predict there.
    fn n_missing(&self, text: &[Token], path: &[Token]) -> Option<usize> {
        let takes = |token: &Token| self.net.knows(*token);
        if !self.is_ready(text) || !text.iter().rev().take(1).chain(path).all(takes) {
            return None;
        }
        let n_all = path.len() + 1;
        if !self.is_current(text) {
            return Some(n_all);
        }
        Some((0..n_all).rev().take_while(|&n| self.known_at(&path[..n]).is_none()).count())
    }

    /// Whether `known` is about this text.
    fn is_current(&self, text: &[Token]) -> bool {
        let (state, root) = &self.start;
        *root == text.last().copied() && *state == *self.states.borrow()
    }

    fn known_at(&self, path: &[Token]) -> Option<usize> {
        self.known.iter().position(|predicted| predicted.path == path)
    }

    /// Predicts along the whole path, as far as that is not known, and returns where the last prediction is.
    fn compute(&mut self, text: &[Token], path: &[Token]) -> Result<usize, HiddenError> {
        if !self.is_current(text) || self.known.len() >= MOST_KEPT {
            self.known.clear();
            self.start = (self.states.borrow().clone(), text.last().copied());
        }
        let root = *text.last().ok_or_else(|| HiddenError::Input("an empty text".to_owned()))?;
        let mut at = None;
        for n in 0..=path.len() {
            if let Some(known) = self.known_at(&path[..n]) {
                at = Some(known);
                continue;
            }
            let state = at.map_or(&self.start.0.state, |before| &self.known[before].state);
            let token = if n == 0 { root } else { path[n - 1] };
            let started = Instant::now();
            let mut step = self.net.step(&[(state, token)])?;
            let predicted = Predicted {
                path: path[..n].to_vec(),
                top: step.top(0, N_PREDICTED).collect(),
                state: step.state(0).to_vec(),
            };
            let ms = started.elapsed().as_secs_f64() * 1e3;
            self.step_ms += RATE * (ms.min(MOST_JUMP * self.step_ms) - self.step_ms);
            self.known.push(predicted);
            at = Some(self.known.len() - 1);
        }
        Ok(at.expect("at least the root was predicted"))
    }
}

/// The time of a step whose weights come from memory, in milliseconds.
fn time_of_step(net: &mut HiddenNet) -> Result<f64, HiddenError> {
    let state = vec![0.0; net.n_embd()];
    let evicting = vec![1_u8; N_EVICTED];
    let mut times = Vec::new();
    for _ in 0..=N_TIMED {
        let sum = evicting.iter().step_by(64).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        std::hint::black_box(sum);
        let started = Instant::now();
        let mut step = net.step(&[(&state, Token(0))])?;
        std::hint::black_box(step.top(0, N_PREDICTED).count());
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    // The first one builds the graph.
    times.remove(0);
    times.sort_by(f64::total_cmp);
    Ok(times[N_TIMED / 2])
}

impl DraftModel for HiddenDraftModel {
    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64 {
        self.n_missing(text, path).map_or(f64::INFINITY, |n| n as f64 * self.step_ms)
    }

    fn catch_up_ms(&self, text: &[Token]) -> f64 {
        if self.is_ready(text) { 0.0 } else { f64::INFINITY }
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        if self.n_missing(text, path).is_none() {
            return &[];
        }
        match self.compute(text, path) {
            Ok(at) => &self.known[at].top,
            Err(error) => {
                self.has_failed = true;
                self.failure = Some(TargetError::Engine(error.to_string()));
                &[]
            }
        }
    }
}

impl EngineDraftModel for HiddenDraftModel {
    fn prepare(&mut self, _n_prompt: usize, _n_ctx: usize, _settings: &Settings) {}

    fn drop_context(&mut self) {}

    fn take_failure(&mut self) -> Option<TargetError> {
        self.failure.take()
    }

    fn row_ms(&self) -> Option<f64> {
        Some(self.step_ms)
    }

    fn states(&self) -> Option<StateCell> {
        Some(self.cell())
    }
}
