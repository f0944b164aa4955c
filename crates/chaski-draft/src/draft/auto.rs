//! The default drafter (`--drafter auto`): several sources, a mixer, and best-first search.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::draft::base::{Base, BaseSource};
use crate::draft::calibration::Calibrator;
use crate::draft::cursor::Cursor;
use crate::draft::logits::Logits;
use crate::draft::mixer::{Mixer, MixerState};
use crate::draft::search::Search;
use crate::draft::top::TopK;
use crate::draft::trigram::Trigram;
use crate::draft::{Candidate, Draft, DraftFilter, Drafter, Source, TAIL_LEN, Tail, Verified, root_of};
use crate::target::TreeLimits;
use crate::token::Token;

/// How many of the likeliest tokens are learned from each verified row.
const N_HARVESTED: usize = 8;

/// What a drafter has learned about its sources over all texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experience {
    /// How much each kind of evidence is worth.
    pub mixer: MixerState,
    /// How often nodes with a given estimate are accepted.
    pub calibrator: Calibrator,
}

impl Experience {
    /// The state before anything was learned about `sources`.
    #[must_use]
    pub fn fresh(sources: &[Box<dyn Source>]) -> Experience {
        Experience { mixer: MixerState::fresh(sources), calibrator: Calibrator::default() }
    }

    /// The state shipped with the crate for `sources`: trained by `scripts/train-drafter.sh` for the default sources
    /// with and without a base. Fresh for any other set.
    ///
    /// # Panics
    /// Never: a test parses the shipped file.
    #[must_use]
    pub fn shipped(sources: &[Box<dyn Source>]) -> Experience {
        let all: Vec<Experience> =
            serde_json::from_str(include_str!("shipped.json")).expect("what is shipped is sound");
        let fitting = all.into_iter().find(|experience| experience.mixer.fits(sources));
        fitting.unwrap_or_else(|| Experience::fresh(sources))
    }

    /// False if a number is impossible, as in a damaged file.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.mixer.is_sound() && self.calibrator.is_sound()
    }
}

/// What a drafter knows about one text, for drafters that switch between texts.
#[derive(Default)]
pub struct Timeline {
    sources: Vec<Box<dyn Source>>,
    /// See [`Auto::estimates`].
    estimates: Vec<f32>,
    /// See [`Auto::set_filter`].
    form: Option<Box<dyn DraftFilter>>,
}

impl Timeline {
    /// A new text. The sources must be of the drafter's kinds, in the same order.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Timeline {
        Timeline { sources, ..Timeline::default() }
    }

    /// Returns the sources.
    #[must_use]
    pub fn into_sources(self) -> Vec<Box<dyn Source>> {
        self.sources
    }

    /// Starts a new text.
    pub fn begin(&mut self) {
        self.form = None;
        self.sources.iter_mut().for_each(|source| source.begin());
    }

    /// Restricts the drafts of this text to `form`, until a new text begins.
    pub fn set_filter(&mut self, form: Box<dyn DraftFilter>) {
        self.form = Some(form);
    }

    /// Learns that `token` followed `text`, for tokens emitted without a draft.
    pub fn learn(&mut self, text: &[Token], token: Token) {
        self.sources.iter_mut().for_each(|source| source.learn(text, token));
    }
}

/// Drafts from several sources with calibrated probabilities.
pub struct Auto {
    sources: Vec<Box<dyn Source>>,
    mixer: Mixer,
    calibrator: Calibrator,
    /// The estimates of the newest draft before calibration.
    estimates: Vec<f32>,
    form: Option<Box<dyn DraftFilter>>,
    search: Search,
    top_k: TopK,
    /// Per source, its proposals; kept between calls to reuse the memory.
    proposals: Vec<Vec<Candidate>>,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto::new(Auto::sources(None), None)
    }
}

impl Auto {
    /// The default sources, without any knowledge, and `base` if there is one.
    #[must_use]
    pub fn sources(base: Option<Arc<dyn Base>>) -> Vec<Box<dyn Source>> {
        Auto::sources_with(base, Trigram::default())
    }

    /// The default sources with a tri-gram source that already knows something.
    #[must_use]
    pub fn sources_with(base: Option<Arc<dyn Base>>, trigram: Trigram) -> Vec<Box<dyn Source>> {
        let mut sources: Vec<Box<dyn Source>> =
            vec![Box::new(Cursor::default()), Box::new(trigram), Box::new(Logits::default())];
        sources.extend(base.map(|base| -> Box<dyn Source> { Box::new(BaseSource::new(base)) }));
        sources
    }

    /// A drafter over `sources` that starts from `learned`. If that is `None` or about other sources, it starts from
    /// [`Experience::shipped`].
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>, learned: Option<&Experience>) -> Auto {
        let learned = learned.filter(|learned| learned.mixer.fits(&sources)).cloned();
        let Experience { mixer, calibrator } = learned.unwrap_or_else(|| Experience::shipped(&sources));
        Auto {
            mixer: Mixer::new(mixer),
            calibrator,
            estimates: Vec::new(),
            form: None,
            search: Search::BestFirst,
            top_k: TopK::default(),
            proposals: vec![Vec::new(); sources.len()],
            sources,
        }
    }

    /// The same drafter with a learning rate of `factor` times the default.
    #[must_use]
    pub fn with_rate(self, factor: f32) -> Auto {
        Auto { mixer: self.mixer.with_rate(factor), ..self }
    }

    /// The same drafter with other sources of the same kinds. Its experience stays.
    #[must_use]
    pub fn with_sources(self, sources: Vec<Box<dyn Source>>) -> Auto {
        Auto { sources, ..self }
    }

    /// The same drafter with another search.
    #[must_use]
    pub fn with_search(self, search: Search) -> Auto {
        Auto { search, ..self }
    }

    /// Switches to the text of `timeline`, which receives the state of the current text.
    pub fn exchange(&mut self, timeline: &mut Timeline) {
        std::mem::swap(&mut self.sources, &mut timeline.sources);
        std::mem::swap(&mut self.estimates, &mut timeline.estimates);
        std::mem::swap(&mut self.form, &mut timeline.form);
    }

    /// Restricts the drafts of the current text to `form`.
    pub fn set_filter(&mut self, form: Box<dyn DraftFilter>) {
        self.form = Some(form);
    }

    /// What the drafter has learned so far.
    #[must_use]
    pub fn experience(&self) -> Experience {
        Experience { mixer: self.mixer.state().clone(), calibrator: self.calibrator.clone() }
    }
}

fn propose(sources: &[Box<dyn Source>], tail: Tail<'_>, proposals: &mut [Vec<Candidate>]) {
    for (source, candidates) in sources.iter().zip(proposals) {
        candidates.clear();
        source.propose(tail, candidates);
    }
}

/// The end of a text: the tokens that sources see.
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
        let mut draft = self.search.run(root, limits, |path, children| {
            tail.truncate(n_said);
            tail.extend_from_slice(path);
            propose(&self.sources, Tail { tokens: &tail, n_drafted: path.len() }, &mut self.proposals);
            self.mixer.mix(&self.proposals, children);
            if let Some(form) = &mut self.form {
                form.narrow(context, path, children);
            }
        });
        self.estimates.clone_from(&draft.p);
        self.calibrator.correct_all(&mut draft);
        draft
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.calibrator.learn_all(&self.estimates, verified, &context[from..]);
        for at in from..context.len() {
            let (text, token) = (&context[..at], context[at]);
            propose(&self.sources, Tail { tokens: tail_of(text), n_drafted: 0 }, &mut self.proposals);
            self.mixer.learn(&self.proposals, token);
            for source in &mut self.sources {
                source.learn(text, token);
            }
        }
        // Harvest after the tokens were scored, so that no row predicts the token that was drawn from it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::table::Successor;

    struct Nothing;

    impl Base for Nothing {
        fn row(&self, _context: &[Token], _row: &mut Vec<Successor>) -> Option<f32> {
            None
        }
    }

    #[test]
    fn something_is_shipped_with_a_base_and_without() {
        for sources in [Auto::sources(None), Auto::sources(Some(Arc::new(Nothing)))] {
            let shipped = Experience::shipped(&sources);
            assert!(shipped.is_sound() && shipped.mixer.fits(&sources));
            assert_ne!(shipped, Experience::fresh(&sources));
        }
    }
}
