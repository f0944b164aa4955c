//! The drafter of `--drafter auto`: sources, mixer, best-first search.

use crate::draft::mixer::{Candidate, Mixer};
use crate::draft::search::best_first;
use crate::draft::suffix::Suffix;
use crate::draft::trigram::Trigram;
use crate::draft::{Draft, Drafter, Source, TAIL_LEN, root_of};
use crate::target::TreeLimits;
use crate::token::Token;

/// Several sources, one calibrated draft.
pub struct Auto {
    sources: Vec<Box<dyn Source>>,
    mixer: Mixer,
    /// Per source, what it proposes; kept between calls for its memory alone.
    proposals: Vec<Vec<Candidate>>,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto::new(vec![Box::new(Suffix::default()), Box::new(Trigram::default())])
    }
}

impl Auto {
    /// A drafter over `sources`.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Auto {
        let mixer = Mixer::new(&sources);
        let proposals = vec![Vec::new(); sources.len()];
        Auto { sources, mixer, proposals }
    }
}

fn propose(sources: &[Box<dyn Source>], tail: &[Token], proposals: &mut [Vec<Candidate>]) {
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
        let n_context = tail.len();
        best_first(root, limits, |path, children| {
            tail.truncate(n_context);
            tail.extend_from_slice(path);
            propose(&self.sources, tail_of(&tail), &mut self.proposals);
            self.mixer.mix(&self.proposals, children);
        })
    }

    fn learn(&mut self, context: &[Token], from: usize) {
        for at in from..context.len() {
            let (text, token) = (&context[..at], context[at]);
            propose(&self.sources, tail_of(text), &mut self.proposals);
            self.mixer.learn(&self.proposals, token);
            for source in &mut self.sources {
                source.learn(text, token);
            }
        }
    }
}
