//! From evidence to probability.
//!
//! A source says how it came to a candidate by naming a *bin* ("the only continuation of a match of 12 tokens"). The
//! mixer keeps, per bin, how often such candidates turned out right, and answers with that share: calibrated by
//! construction, on this text, whatever the source believes. It learns from every emitted token, drafted or not.
//!
//! Sources that name the same token are not added up: the most convinced one counts. A logistic mix of all evidence is
//! the intended successor of [`Mixer::mix`].

use crate::draft::Source;
use crate::token::Token;

/// Weight of a bin's prior, in observations.
const PRIOR_WEIGHT: f32 = 8.0;

/// Observations after which a bin's past counts half: texts change.
const HALF_LIFE: f32 = 128.0;

/// A token that may come next, and why a source thinks so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// Which kind of evidence speaks for it: less than the source's [`Source::n_bins`].
    pub bin: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bin {
    n_right: f32,
    n_seen: f32,
}

/// One reliability table per source.
#[derive(Clone, Debug)]
pub struct Mixer {
    tables: Vec<Vec<Bin>>,
}

impl Mixer {
    /// A mixer that believes the sources' priors.
    #[must_use]
    pub fn new(sources: &[Box<dyn Source>]) -> Mixer {
        let table = |source: &dyn Source| {
            let bin = |bin| Bin { n_right: source.prior(bin) * PRIOR_WEIGHT, n_seen: PRIOR_WEIGHT };
            (0..source.n_bins()).map(bin).collect()
        };
        Mixer { tables: sources.iter().map(|source| table(source.as_ref())).collect() }
    }

    /// The probability of each token that any source names; `proposals[i]` are those of source i. The probabilities
    /// add up to at most 1; tokens come in the order they were first named.
    pub fn mix(&self, proposals: &[Vec<Candidate>], mixed: &mut Vec<(Token, f32)>) {
        mixed.clear();
        for (table, candidates) in self.tables.iter().zip(proposals) {
            for candidate in candidates {
                let bin = table[candidate.bin];
                let p = bin.n_right / bin.n_seen;
                match mixed.iter_mut().find(|(token, _)| *token == candidate.token) {
                    Some((_, known)) => *known = known.max(p),
                    None => mixed.push((candidate.token, p)),
                }
            }
        }
        let sum: f32 = mixed.iter().map(|(_, p)| p).sum();
        if sum > 1.0 {
            mixed.iter_mut().for_each(|(_, p)| *p /= sum);
        }
    }

    /// Takes in that `token` followed where the sources proposed `proposals`.
    pub fn learn(&mut self, proposals: &[Vec<Candidate>], token: Token) {
        for (table, candidates) in self.tables.iter_mut().zip(proposals) {
            for candidate in candidates {
                let bin = &mut table[candidate.bin];
                bin.n_right += f32::from(u8::from(candidate.token == token));
                bin.n_seen += 1.0;
                if bin.n_seen > HALF_LIFE {
                    bin.n_right /= 2.0;
                    bin.n_seen /= 2.0;
                }
            }
        }
    }
}
