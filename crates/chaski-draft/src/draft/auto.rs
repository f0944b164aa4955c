//! The default drafter (`--drafter auto`): several sources, a mixer, and best-first search.

use std::sync::Arc;

use crate::draft::asking::{Asking, Place, Policy};
use crate::draft::base::{Base, BaseSource};
use crate::draft::calibration::Calibrator;
use crate::draft::cursor::Cursor;
use crate::draft::draft_model::{DraftModel, DraftModelSource};
use crate::draft::logits::Logits;
use crate::draft::mixer::Mixer;
use crate::draft::search::Search;
use crate::draft::top::TopK;
use crate::draft::trigram::Trigram;
use crate::draft::{Candidate, Draft, DraftFilter, Drafter, Source, TAIL_LEN, Tail, Verified, root_of};
use crate::target::TreeLimits;
use crate::token::Token;

mod experience;
pub use experience::Experience;

/// How many of the likeliest tokens are learned from each verified row.
const N_HARVESTED: usize = 8;

/// What a drafter knows about one text, for drafters that switch between texts.
#[derive(Default)]
pub struct Timeline {
    sources: Vec<Box<dyn Source>>,
    /// See [`Auto::estimates`].
    estimates: Vec<f32>,
    /// See [`Auto::set_filter`].
    filter: Option<Box<dyn DraftFilter>>,
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
        self.filter = None;
        self.sources.iter_mut().for_each(|source| source.begin());
    }

    /// Restricts the drafts of this text to `filter`, until a new text begins.
    pub fn set_filter(&mut self, filter: Box<dyn DraftFilter>) {
        self.filter = Some(filter);
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
    filter: Option<Box<dyn DraftFilter>>,
    search: Search,
    top_k: TopK,
    /// Per source, its proposals; kept between calls to reuse the memory.
    proposals: Vec<Vec<Candidate>>,
    asking: Asking,
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
    /// [`Experience::shipped`]. If it is about a draft model as well, the drafter gets the source for one.
    #[must_use]
    pub fn new(mut sources: Vec<Box<dyn Source>>, learned: Option<&Experience>) -> Auto {
        let knows_model = learned.is_some_and(|learned| learned.mixer.has_draft_model());
        if knows_model {
            sources.push(Box::new(DraftModelSource));
        }
        let learned = learned.filter(|learned| learned.mixer.fits(&sources)).cloned();
        if knows_model && learned.is_none() {
            sources.pop();
        }
        let Experience { mixer, calibrator, gains } = learned.unwrap_or_else(|| Experience::shipped(&sources));
        Auto {
            mixer: Mixer::new(mixer),
            calibrator,
            asking: Asking::new(gains),
            estimates: Vec::new(),
            filter: None,
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

    /// The same drafter with other sources of the same kinds. `sources` are those of [`Auto::sources`]; a source for a draft
    /// model, if it has one, stays. So does its experience.
    #[must_use]
    pub fn with_sources(self, mut sources: Vec<Box<dyn Source>>) -> Auto {
        if self.mixer.state().has_draft_model() {
            sources.push(Box::new(DraftModelSource));
        }
        Auto { sources, ..self }
    }

    /// The same drafter with a source for a draft model; see [`Assisted`](crate::draft::draft_model::Assisted). By
    /// itself the source proposes nothing, and the drafts are the same as without it.
    #[must_use]
    pub fn with_draft_model_source(mut self) -> Auto {
        self.add_draft_model_source();
        self
    }

    pub(super) fn add_draft_model_source(&mut self) {
        if !self.mixer.state().has_draft_model() {
            self.sources.push(Box::new(DraftModelSource));
            self.proposals.push(Vec::new());
            self.mixer.add_draft_model();
        }
    }

    pub(super) fn forget_gains(&mut self) {
        self.asking.forget();
    }

    /// How often a draft model was asked.
    #[must_use]
    pub fn n_predictions(&self) -> u64 {
        self.asking.n_predictions()
    }

    /// The same drafter with another search. Only [`Search::BestFirst`] asks a draft model.
    #[must_use]
    pub fn with_search(self, search: Search) -> Auto {
        Auto { search, ..self }
    }

    /// The same drafter with another policy for where a draft model is asked; for comparisons.
    #[must_use]
    pub fn with_policy(mut self, policy: Box<dyn Policy>) -> Auto {
        self.asking.set_policy(policy);
        self
    }

    /// Switches to the text of `timeline`, which receives the state of the current text.
    pub fn exchange(&mut self, timeline: &mut Timeline) {
        std::mem::swap(&mut self.sources, &mut timeline.sources);
        std::mem::swap(&mut self.estimates, &mut timeline.estimates);
        std::mem::swap(&mut self.filter, &mut timeline.filter);
    }

    /// Restricts the drafts of the current text to `filter`.
    pub fn set_filter(&mut self, filter: Box<dyn DraftFilter>) {
        self.filter = Some(filter);
    }

    /// What the drafter has learned so far.
    #[must_use]
    pub fn experience(&self) -> Experience {
        Experience {
            mixer: self.mixer.state().clone(),
            calibrator: self.calibrator.clone(),
            gains: self.asking.gains().clone(),
        }
    }

    /// [`Drafter::draft`], asking `model` where that pays.
    pub(super) fn draft_with(
        &mut self,
        context: &[Token],
        limits: TreeLimits,
        model: Option<&mut dyn DraftModel>,
    ) -> Draft {
        let root = root_of(context);
        self.asking.begin_step(limits);
        if limits.max_nodes == 1 {
            return Draft::none(root);
        }
        let mut model = model.filter(|_| self.search == Search::BestFirst);
        let mut tail = tail_of(context).to_vec();
        let n_said = tail.len();
        let mut draft = self.search.run(root, limits, |path: &[Token], p, children: &mut Vec<(Token, f32)>| {
            tail.truncate(n_said);
            tail.extend_from_slice(path);
            propose(&self.sources, Tail { tokens: &tail, n_drafted: path.len() }, &mut self.proposals);
            let mut mix = |proposals: &[Vec<Candidate>], children: &mut Vec<(Token, f32)>| {
                self.mixer.mix(proposals, children);
                if let Some(filter) = &mut self.filter {
                    filter.narrow(context, path, children);
                }
            };
            mix(&self.proposals, children);
            let Some(model) = &mut model else { return };
            let candidates = self.proposals.last_mut().expect("the draft model's");
            if self.asking.ask(*model, Place { text: context, path, p }, children, candidates) {
                mix(&self.proposals, children);
            }
        });
        self.estimates.clone_from(&draft.p);
        self.calibrator.correct_all(&mut draft);
        draft.asked = self.asking.asked();
        draft
    }

    /// [`Drafter::learn`] after [`Auto::draft_with`].
    pub(super) fn learn_with(
        &mut self,
        context: &[Token],
        from: usize,
        verified: Verified<'_>,
        model: Option<&dyn DraftModel>,
    ) {
        let model = model.filter(|_| self.asking.has_declined());
        self.calibrator.learn_all(&self.estimates, verified, &context[from..]);
        let mut free = Vec::new();
        for at in from..context.len() {
            let (text, token) = (&context[..at], context[at]);
            propose(&self.sources, Tail { tokens: tail_of(text), n_drafted: 0 }, &mut self.proposals);
            if let Some(candidates) = self.asking.candidates_after(&context[from..at]) {
                self.proposals.last_mut().expect("the draft model's").clone_from(candidates);
            } else if let Some(model) = model {
                self.mixer.mix(&self.proposals, &mut free);
                self.asking.miss(model, text, &free);
            }
            self.mixer.learn(&self.proposals, token);
            for source in &mut self.sources {
                source.learn(text, token);
            }
        }
        self.asking.learn(from - 1, &context[from..], verified);
        self.harvest(&context[..from], verified);
    }

    /// Learns the likeliest tokens of each verified row. Comes after the tokens were scored, so that no row predicts the
    /// token that was drawn from it.
    fn harvest(&mut self, text: &[Token], verified: Verified<'_>) {
        let mut tail = tail_of(text).to_vec();
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
        self.asking.begin();
        for source in &mut self.sources {
            source.begin();
            for (at, &token) in prompt.iter().enumerate() {
                source.learn(&prompt[..at], token);
            }
        }
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        self.draft_with(context, limits, None)
    }

    fn learn(&mut self, context: &[Token], from: usize, verified: Verified<'_>) {
        self.learn_with(context, from, verified, None);
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
