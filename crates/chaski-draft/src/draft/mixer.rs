//! Turns the evidence of several sources into one probability per candidate, by online logistic mixing as in
//! context-mixing compressors (PAQ: Mahoney, 2005).
//!
//! A source names a *bin* with each candidate: the kind of evidence ("the only continuation of a match of 12 tokens").
//! The mixer counts how often candidates of a bin were right. A source that does not name a token is evidence too, with
//! bins of its own. The evidence is summed in the logistic domain, with two sets of weights: one shared by all
//! candidates, one for the set of sources that name the candidate.
//!
//! Bins and weights learn at every emitted token, drafted or not, the weights by gradient descent on the log-loss of
//! every candidate. So no exploration is needed, and a source that does not help gets no weight.

use serde::{Deserialize, Serialize};

use crate::draft::{Candidate, Source};
use crate::token::Token;

mod with_model;

/// Most candidates mixed at one node.
const MAX_CANDIDATES: usize = 32;

/// The lowest learning rate of a bin: the weight of a new observation after many.
const BIN_RATE: f32 = 1.0 / 1024.0;

/// A new bin: its probability, and how many observations that is worth.
const UNKNOWN: (f32, f32) = (0.05, 2.0);

/// Cap on the observations of a bin at the start of a run, so that the current text can correct it.
const MOST_TRUSTED: f32 = 200.0;

/// Learning rate of the weights.
const RATE: f32 = 0.006;

/// Index of the weights that all candidates share.
const SHARED: usize = 0;

/// Initial shared weight of a source.
const NEW_WEIGHT: f32 = 0.4;

/// Bound of the logistic domain.
pub(super) const MOST_CERTAIN: f32 = 7.0;

/// How often a kind of evidence was right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f32, f32)", into = "(f32, f32)")]
struct Bin {
    p: f32,
    n: f32,
    /// `stretch(p)`, cached: it is read at every node, but changes only when a token is learned.
    stretched: f32,
}

impl From<(f32, f32)> for Bin {
    fn from((p, n): (f32, f32)) -> Bin {
        Bin { p, n, stretched: stretch(p) }
    }
}

impl From<Bin> for (f32, f32) {
    fn from(bin: Bin) -> (f32, f32) {
        (bin.p, bin.n)
    }
}

impl Bin {
    fn learn(&mut self, is_right: bool) {
        let rate = (1.0 / (self.n + 1.5)).max(BIN_RATE);
        self.p += rate * (f32::from(u8::from(is_right)) - self.p);
        self.n = (self.n + 1.0).min(1.0 / BIN_RATE);
        self.stretched = stretch(self.p);
    }
}

/// How reliable one source is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reliability {
    name: String,
    /// For tokens the source names, by bin.
    named: Vec<Bin>,
    /// For tokens it does not name, by the bin of its best candidate. The last bin is for when it names nothing.
    unnamed: Vec<Bin>,
}

/// Everything the mixer has learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixerState {
    sources: Vec<Reliability>,
    /// Weights per set of sources that name a candidate (source i is bit i): one per source, then the bias. The empty
    /// set cannot occur, so index 0 holds the weights shared by all candidates. The set's own weights are added to
    /// these.
    weights: Vec<Vec<f32>>,
}

/// The evidence of all sources for one token.
struct Mixed {
    token: Token,
    /// Per source, an index into its bins: first `named`, then `unnamed`.
    bins: Vec<usize>,
    named_by: usize,
    inputs: Vec<f32>,
    p: f32,
}

/// Mixes evidence into probabilities.
pub struct Mixer {
    state: MixerState,
    /// Kept between calls to reuse the memory; only the first `n_mixed` are valid.
    mixed: Vec<Mixed>,
    n_mixed: usize,
    rate: f32,
}

pub(super) fn stretch(p: f32) -> f32 {
    (p / (1.0 - p)).ln().clamp(-MOST_CERTAIN, MOST_CERTAIN)
}

pub(super) fn squash(x: f32) -> f32 {
    1.0 / (1.0 + (-x.clamp(-MOST_CERTAIN, MOST_CERTAIN)).exp())
}

impl Mixer {
    /// A mixer that starts from `state`.
    #[must_use]
    pub fn new(mut state: MixerState) -> Mixer {
        for source in &mut state.sources {
            let bins = source.named.iter_mut().chain(&mut source.unnamed);
            bins.for_each(|bin| bin.n = bin.n.min(MOST_TRUSTED));
        }
        Mixer { state, mixed: Vec::new(), n_mixed: 0, rate: RATE }
    }

    /// The same mixer with a learning rate of `factor` times the default.
    #[must_use]
    pub fn with_rate(self, factor: f32) -> Mixer {
        Mixer { rate: RATE * factor, ..self }
    }

    /// What the mixer has learned.
    #[must_use]
    pub fn state(&self) -> &MixerState {
        &self.state
    }

    /// Sets `mixed` to the probability of each token that any source names, in the order first named. `proposals[i]`
    /// are those of source i. The probabilities add up to at most 1.
    pub fn mix(&mut self, proposals: &[Vec<Candidate>], mixed: &mut Vec<(Token, f32)>) {
        self.gather(proposals);
        let all = &self.mixed[..self.n_mixed];
        let sum: f32 = all.iter().map(|candidate| candidate.p).sum();
        let scale = if sum > 1.0 { 1.0 / sum } else { 1.0 };
        mixed.clear();
        mixed.extend(all.iter().map(|candidate| (candidate.token, candidate.p * scale)));
    }

    /// Learns that `token` came next when the sources proposed `proposals`.
    pub fn learn(&mut self, proposals: &[Vec<Candidate>], token: Token) {
        self.gather(proposals);
        for candidate in &self.mixed[..self.n_mixed] {
            let is_right = candidate.token == token;
            let step = self.rate * (f32::from(u8::from(is_right)) - candidate.p);
            for set in [SHARED, candidate.named_by] {
                let weights = &mut self.state.weights[set];
                for (weight, input) in weights.iter_mut().zip(candidate.inputs.iter().chain(&[1.0])) {
                    *weight += step * input;
                }
            }
            for (source, &bin) in self.state.sources.iter_mut().zip(&candidate.bins) {
                source.bin_mut(bin).learn(is_right);
            }
        }
    }

    /// Fills `self.mixed` with every token that any source names, up to [`MAX_CANDIDATES`].
    fn gather(&mut self, proposals: &[Vec<Candidate>]) {
        let n_sources = self.state.sources.len();
        self.n_mixed = 0;
        for (source, candidates) in proposals.iter().enumerate() {
            for candidate in candidates {
                let Some(at) = self.slot_of(candidate.token, proposals) else { continue };
                self.mixed[at].named_by |= 1 << source;
                self.mixed[at].bins[source] = candidate.bin;
            }
        }
        for mixed in &mut self.mixed[..self.n_mixed] {
            mixed.inputs.clear();
            mixed.inputs.extend((0..n_sources).map(|i| self.state.sources[i].bin(mixed.bins[i]).stretched));
            let (shared, own) = (&self.state.weights[SHARED], &self.state.weights[mixed.named_by]);
            let weights = shared.iter().zip(own).map(|(shared, own)| shared + own);
            mixed.p =
                squash(weights.zip(mixed.inputs.iter().chain(&[1.0])).map(|(weight, input)| weight * input).sum());
        }
    }

    /// The index of a token in `mixed`, added if it is new. `None` if there is no room.
    fn slot_of(&mut self, token: Token, proposals: &[Vec<Candidate>]) -> Option<usize> {
        let known = self.mixed[..self.n_mixed].iter().position(|mixed| mixed.token == token);
        if known.is_some() || self.n_mixed == MAX_CANDIDATES {
            return known;
        }
        let at = self.n_mixed;
        if at == self.mixed.len() {
            self.mixed.push(Mixed { token, bins: Vec::new(), named_by: 0, inputs: Vec::new(), p: 0.0 });
        }
        self.n_mixed += 1;
        let mixed = &mut self.mixed[at];
        (mixed.token, mixed.named_by) = (token, 0);
        mixed.bins.clear();
        mixed.bins.extend(self.state.sources.iter().zip(proposals).map(|(source, own)| source.unnamed_bin(own)));
        Some(at)
    }
}

impl Reliability {
    /// The bin for a token that this source does not name while it proposes `own`.
    fn unnamed_bin(&self, own: &[Candidate]) -> usize {
        let n_bins = self.named.len();
        n_bins + own.first().map_or(n_bins, |best| best.bin)
    }

    fn bin(&self, place: usize) -> Bin {
        self.named.get(place).copied().unwrap_or_else(|| self.unnamed[place - self.named.len()])
    }

    fn bin_mut(&mut self, place: usize) -> &mut Bin {
        let n_named = self.named.len();
        if place < n_named { &mut self.named[place] } else { &mut self.unnamed[place - n_named] }
    }
}

impl MixerState {
    /// The state before anything was learned about `sources`.
    #[must_use]
    pub fn fresh(sources: &[Box<dyn Source>]) -> MixerState {
        let reliability = |source: &dyn Source| Reliability {
            name: source.name().to_owned(),
            named: vec![UNKNOWN.into(); source.n_bins()],
            unnamed: vec![UNKNOWN.into(); source.n_bins() + 1],
        };
        let mut weights = vec![vec![0.0; sources.len() + 1]; 1 << sources.len()];
        weights[SHARED][..sources.len()].fill(NEW_WEIGHT);
        MixerState { sources: sources.iter().map(|source| reliability(source.as_ref())).collect(), weights }
    }

    /// Whether this state is about exactly `sources`. The worth of evidence depends on the other evidence, so a state
    /// for other sources is useless.
    #[must_use]
    pub fn fits(&self, sources: &[Box<dyn Source>]) -> bool {
        self.is_like(&MixerState::fresh(sources))
    }

    /// Whether both are about the same sources.
    pub(super) fn is_like(&self, other: &MixerState) -> bool {
        let shape = |source: &Reliability| (source.name.clone(), source.named.len(), source.unnamed.len());
        self.sources.iter().map(shape).eq(other.sources.iter().map(shape))
            && self.weights.iter().map(Vec::len).eq(other.weights.iter().map(Vec::len))
    }

    /// This state moved towards `other`, which is about the same sources, by `share`: 0 to 1.
    #[must_use]
    pub(super) fn towards(&self, other: &MixerState, share: f32) -> MixerState {
        let between = |from: f32, to: f32| from + share * (to - from);
        let bins = |from: &[Bin], to: &[Bin]| {
            let pairs = from.iter().zip(to);
            pairs.map(|(from, to)| Bin::from((between(from.p, to.p), to.n))).collect()
        };
        let sources = self.sources.iter().zip(&other.sources).map(|(from, to)| Reliability {
            name: from.name.clone(),
            named: bins(&from.named, &to.named),
            unnamed: bins(&from.unnamed, &to.unnamed),
        });
        let weights = self.weights.iter().zip(&other.weights);
        let weights = weights.map(|(from, to)| from.iter().zip(to).map(|(from, to)| between(*from, *to)).collect());
        MixerState { sources: sources.collect(), weights: weights.collect() }
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let bins = || self.sources.iter().flat_map(|source| source.named.iter().chain(&source.unnamed));
        bins().all(|bin| bin.p > 0.0 && bin.p < 1.0 && bin.n >= 0.0 && bin.n.is_finite())
            && self.weights.iter().flatten().all(|weight| weight.is_finite())
    }
}

#[cfg(test)]
mod tests;
