//! The drafter of `--drafter auto`: sources, mixer, best-first search.

use std::sync::Arc;

use crate::draft::base::{Base, BaseSource};
use crate::draft::context::Context;
use crate::draft::cursor::Cursor;
use crate::draft::logits::Logits;
use crate::draft::mixer::{Mixer, MixerState};
use crate::draft::search::Search;
use crate::draft::top::TopK;
use crate::draft::trigram::Trigram;
use crate::draft::{Candidate, Draft, Drafter, Source, TAIL_LEN, Tail, Verified, root_of};
use crate::target::TreeLimits;
use crate::token::Token;

/// Likeliest tokens harvested from each verified row.
const N_HARVESTED: usize = 8;

/// Several sources, one calibrated draft.
pub struct Auto {
    sources: Vec<Box<dyn Source>>,
    mixer: Mixer,
    search: Search,
    top_k: TopK,
    /// Per source, what it proposes; kept between calls for its memory alone.
    proposals: Vec<Vec<Candidate>>,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto::new(Auto::sources(None), &shipped())
    }
}

/// What the mixer believes before it has seen anything of this text: trained by `scripts/train-mixer.sh`.
///
/// # Panics
/// Never: a test reads it.
#[must_use]
pub fn shipped() -> MixerState {
    serde_json::from_str(include_str!("shipped.json")).expect("the shipped state is sound")
}

impl Auto {
    /// All sources, fresh ones; `base` is one of them if there is one.
    #[must_use]
    pub fn sources(base: Option<Arc<dyn Base>>) -> Vec<Box<dyn Source>> {
        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(Cursor::default()),
            Box::new(Context::default()),
            Box::new(Trigram::default()),
            Box::new(Logits::default()),
        ];
        sources.extend(base.map(|base| -> Box<dyn Source> { Box::new(BaseSource::new(base)) }));
        sources
    }

    /// A drafter over `sources` that knows what `learned` knows of them.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>, learned: &MixerState) -> Auto {
        let mixer = Mixer::new(&sources, learned);
        let proposals = vec![Vec::new(); sources.len()];
        Auto { sources, mixer, search: Search::BestFirst, top_k: TopK::default(), proposals }
    }

    /// The same with a mixer that was made for these sources.
    #[must_use]
    pub fn with_mixer(self, mixer: Mixer) -> Auto {
        Auto { mixer, ..self }
    }

    /// The same with another search.
    #[must_use]
    pub fn with_search(self, search: Search) -> Auto {
        Auto { search, ..self }
    }

    /// What the mixer has learned.
    #[must_use]
    pub fn mixer(&self) -> &Mixer {
        &self.mixer
    }

    /// The mixer alone.
    #[must_use]
    pub fn into_mixer(self) -> Mixer {
        self.mixer
    }
}

fn propose(sources: &[Box<dyn Source>], tail: Tail<'_>, proposals: &mut [Vec<Candidate>]) {
    for (source, candidates) in sources.iter().zip(proposals) {
        candidates.clear();
        source.propose(tail, candidates);
    }
}

/// The end of a text that sources look at.
fn tail_of(text: &[Token]) -> &[Token] {
    &text[text.len().saturating_sub(TAIL_LEN)..]
}

impl Drafter for Auto {
    fn begin(&mut self, prompt: &[Token]) {
        for source in &mut self.sources {
            source.begin();
            for (at, &token) in prompt.iter().enumerate() {
                source.learn(&prompt[..at], token);
            }
        }
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let root = root_of(context);
        if limits.max_nodes == 1 {
            return Draft::none(root);
        }
        let mut tail = tail_of(context).to_vec();
        let n_said = tail.len();
        self.search.run(root, limits, |path, children| {
            tail.truncate(n_said);
            tail.extend_from_slice(path);
            propose(&self.sources, Tail { tokens: &tail, n_drafted: path.len() }, &mut self.proposals);
            self.mixer.mix(&self.proposals, children);
        })
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        for at in from..context.len() {
            let (text, token) = (&context[..at], context[at]);
            propose(&self.sources, Tail { tokens: tail_of(text), n_drafted: 0 }, &mut self.proposals);
            self.mixer.learn(&self.proposals, token);
            for source in &mut self.sources {
                source.learn(text, token);
            }
        }
        // After the tokens were scored: a row must not predict the token that was taken from it.
        let mut tail = tail_of(&context[..from]).to_vec();
        let n_said = tail.len();
        for node in verified.tree.nodes() {
            let top = self.top_k.of(verified.target.logits(node), N_HARVESTED);
            if top.is_empty() {
                continue;
            }
            tail.truncate(n_said);
            tail.extend(verified.tree.path(node).into_iter().skip(1).map(|node| verified.tree.token(node)));
            for source in &mut self.sources {
                source.harvest(&tail, top);
            }
        }
    }
}
