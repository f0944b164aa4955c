//! The network as a source of drafts with a price.
//!
//! What follows a path of drafted tokens is predicted from what follows the path without its last token, so the
//! predictions of a step are kept as a tree. They depend on nothing but the target's last state and the tokens after it.

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use crate::draft::draft_model::DraftModel;
use crate::draft::table::Successor;
use crate::engine::draft_model::EngineDraftModel;
use crate::hidden::{HiddenError, HiddenNet, LastState, StateCell, TargetMatrices};
use crate::store::hidden_file::HiddenFile;
use crate::target::TargetError;
use crate::token::Token;
use crate::tune::Settings;

/// Tokens in a prediction.
const N_PREDICTED: usize = 8;

/// Steps that are measured at first.
const N_MEASURED: usize = 3;

/// Memory that is written before each of them, so that the weights are not in a cache: the target reads more between
/// two predictions.
const COLD_BYTES: usize = 64 << 20;

/// Half of its first candidates are right. Asked in copies as well, it made quoting and editing 10% slower. By replay of the
/// shipped prompts (`examples/hidden_replay.rs`), 0.5 and 0.55 bring most over all kinds, of 0.35 to 0.6; long edits gain more with 0.5.
pub const MOST_CONFIDENCE: f32 = 0.5;

/// Weight of a new time in the running mean.
const RATE: f64 = 0.1;

/// A step counts at most this many times the mean.
const MOST_JUMP: f64 = 2.0;

/// A network that drafts from the state that the target's session leaves in a cell.
#[derive(Debug)]
pub struct HiddenDraftModel {
    net: HiddenNet,
    cell: StateCell,
    /// The predictions from `origin` and `root`. Those beyond `n_nodes` are unused memory.
    nodes: Vec<Node>,
    n_nodes: usize,
    /// The target's state before the first node.
    origin: Vec<f32>,
    /// The token after that state.
    root: Token,
    /// Running mean of the time of a step, in milliseconds.
    step_ms: f64,
    failure: Option<TargetError>,
    has_failed: bool,
}

/// A prediction.
#[derive(Debug, Default)]
struct Node {
    /// The prediction that this one continues; `None` for the first one.
    parent: Option<usize>,
    /// The number of the token after which it predicts.
    token: i32,
    /// The predicted state.
    state: Vec<f32>,
    top: Vec<Successor>,
}

impl HiddenDraftModel {
    /// Wraps a network. The session writes the target's last state to `cell`. Measures a few steps, which takes some ten
    /// milliseconds.
    ///
    /// # Errors
    /// If the network cannot compute.
    pub fn new(mut net: HiddenNet, cell: StateCell) -> Result<HiddenDraftModel, HiddenError> {
        let step_ms = measure(&mut net)?;
        Ok(HiddenDraftModel {
            net,
            cell,
            nodes: Vec::new(),
            n_nodes: 0,
            origin: Vec::new(),
            root: Token(0),
            step_ms,
            failure: None,
            has_failed: false,
        })
    }

    /// Prepares the network of `file` for the model in `target`.
    ///
    /// # Errors
    /// If the network does not fit the model, or its matrices cannot be read.
    pub fn open(file: &HiddenFile, target: &Path, n_threads: usize) -> Result<HiddenDraftModel, HiddenError> {
        let net = HiddenNet::new(file, TargetMatrices::open(target)?, n_threads)?;
        HiddenDraftModel::new(net, StateCell::default())
    }

    /// The width of a hidden state.
    #[must_use]
    pub fn n_embd(&self) -> usize {
        self.net.n_embd()
    }

    /// Where it reads the target's state.
    #[must_use]
    pub fn cell(&self) -> StateCell {
        Rc::clone(&self.cell)
    }

    fn fail(&mut self, error: TargetError) {
        self.n_nodes = 0;
        self.has_failed = true;
        self.failure = Some(error);
    }

    /// The last token of `text`, if `last` is the state before it.
    fn root_of(&self, text: &[Token], last: &LastState) -> Option<Token> {
        let is_usable = text.len() == last.n_past + 1 && last.state.len() == self.net.n_embd();
        text.last().copied().filter(|_| is_usable && !self.has_failed)
    }

    /// Whether the kept predictions start from this state and this token.
    fn starts_at(&self, root: Token, state: &[f32]) -> bool {
        self.n_nodes > 0 && self.root == root && self.origin == state
    }

    /// The prediction that continues `parent` with `token`.
    fn child(&self, parent: Option<usize>, token: Token) -> Option<usize> {
        self.nodes[..self.n_nodes].iter().position(|node| node.parent == parent && node.token == token.0)
    }

    /// Predictions that are missing for the one after `text` and `path`; `None` if it is impossible.
    fn n_missing(&self, text: &[Token], path: &[Token]) -> Option<usize> {
        let last = self.cell.borrow();
        let root = self.root_of(text, &last)?;
        let n = 1 + path.len();
        if ![root].iter().chain(path).all(|token| self.net.knows(*token)) {
            return None;
        }
        if !self.starts_at(root, &last.state) {
            return Some(n);
        }
        let (mut node, mut n_known) = (None, 0);
        for token in [root].iter().chain(path) {
            match self.child(node, *token) {
                None => break,
                known => node = known,
            }
            n_known += 1;
        }
        Some(n - n_known)
    }

    /// The prediction after `text` and `path`, with those before it.
    fn node(&mut self, text: &[Token], path: &[Token]) -> Result<Option<usize>, TargetError> {
        {
            let last = self.cell.borrow();
            let Some(root) = self.root_of(text, &last) else { return Ok(None) };
            if !self.starts_at(root, &last.state) {
                // ggml's quantized products would hide it. The next state may be sound.
                if !last.state.iter().all(|x| x.is_finite()) {
                    return Ok(None);
                }
                self.n_nodes = 0;
                self.root = root;
                self.origin.clear();
                self.origin.extend(&last.state);
            }
        }
        let mut node = None;
        for token in [self.root].iter().chain(path) {
            node = match self.child(node, *token) {
                None => Some(self.compute(node, *token)?),
                known => known,
            };
        }
        Ok(node)
    }

    /// Predicts what follows `token` after `parent`.
    fn compute(&mut self, parent: Option<usize>, token: Token) -> Result<usize, TargetError> {
        let start = Instant::now();
        if self.nodes.len() == self.n_nodes {
            self.nodes.push(Node::default());
        }
        let (known, rest) = self.nodes.split_at_mut(self.n_nodes);
        let state = parent.map_or(&self.origin, |parent| &known[parent].state);
        let mut step = self.net.step(&[(state, token)]).map_err(|error| TargetError::Engine(error.to_string()))?;
        let node = &mut rest[0];
        (node.parent, node.token) = (parent, token.0);
        node.state.clear();
        node.state.extend(step.state(0));
        node.top.clear();
        node.top.extend(step.top(0, N_PREDICTED));
        self.n_nodes += 1;
        self.step_ms = mean_with(self.step_ms, ms_since(start));
        Ok(self.n_nodes - 1)
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

impl DraftModel for HiddenDraftModel {
    fn price_ms(&self, text: &[Token], path: &[Token]) -> f64 {
        self.n_missing(text, path).map_or(f64::INFINITY, |n| n as f64 * self.step_ms)
    }

    /// Nothing of the past is computed: the target's state stands for it.
    fn catch_up_ms(&self, text: &[Token]) -> f64 {
        if self.n_missing(text, &[]).is_some() { 0.0 } else { f64::INFINITY }
    }

    fn most_confidence(&self) -> f32 {
        MOST_CONFIDENCE
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        match self.node(text, path) {
            Ok(Some(node)) => &self.nodes[node].top,
            Ok(None) => &[],
            Err(error) => {
                self.fail(error);
                &[]
            }
        }
    }
}

/// The time of a step with weights that are in no cache, in milliseconds: the least of a few.
fn measure(net: &mut HiddenNet) -> Result<f64, HiddenError> {
    let state = vec![0.0; net.n_embd()];
    let rows = [(&state[..], net.tokens()[0])];
    let mut memory = vec![0_u8; COLD_BYTES];
    // The first step builds the graph.
    net.step(&rows)?;
    let mut least = f64::INFINITY;
    for round in 1..=N_MEASURED {
        memory.fill(round as u8);
        std::hint::black_box(&memory);
        let start = Instant::now();
        std::hint::black_box(net.step(&rows)?.top(0, N_PREDICTED).last());
        least = least.min(ms_since(start));
    }
    Ok(least)
}

/// A running mean after one more time. Only predictions correct a price, so an outlier must not end them.
fn mean_with(mean_ms: f64, ms: f64) -> f64 {
    mean_ms + RATE * (ms.min(MOST_JUMP * mean_ms) - mean_ms)
}

fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests;
