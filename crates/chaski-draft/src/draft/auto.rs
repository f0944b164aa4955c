//! The default drafter (`--drafter auto`): several sources, a mixer, and best-first search.

use std::sync::Arc;

use crate::draft::asking::{Asking, Gains, Place, Policy};
use crate::draft::base::{Base, BaseSource};
use crate::draft::calibration::{Calibrator, accepted};
use crate::draft::cursor::Cursor;
use crate::draft::draft_model::DraftModel;
use crate::draft::logits::Logits;
use crate::draft::mixer::Mixer;
use crate::draft::search::Search;
use crate::draft::top::TopK;
use crate::draft::trigram::Trigram;
use crate::draft::with_model::{ModelExperience, WithModel};
use crate::draft::{Candidate, Draft, DraftFilter, Drafter, Source, TAIL_LEN, Tail, Verified, root_of};
use crate::target::TreeLimits;
use crate::token::Token;
use crate::tree::{NodeId, TokenTree};

mod experience;
pub use experience::Experience;

/// How many of the likeliest tokens are learned from each verified row.
const N_HARVESTED: usize = 8;

/// What a drafter knows about one text, for drafters that switch between texts.
#[derive(Default)]
pub struct Timeline {
    sources: Vec<Box<dyn Source>>,
    /// See [`Auto::estimates`].
    estimates: Vec<Estimate>,
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

/// The probability of a drafted node before calibration.
#[derive(Clone, Copy)]
struct Estimate {
    p: f32,
    /// A draft model was asked for this node, or for one before it on its path.
    has_model: bool,
}

/// Drafts from several sources with calibrated probabilities.
pub struct Auto {
    sources: Vec<Box<dyn Source>>,
    mixer: Mixer,
    calibrator: Calibrator,
    /// Those of the newest draft.
    estimates: Vec<Estimate>,
    filter: Option<Box<dyn DraftFilter>>,
    search: Search,
    top_k: TopK,
    /// Per source, its proposals; kept between calls to reuse the memory.
    proposals: Vec<Vec<Candidate>>,
    asking: Asking,
    /// Used where a draft model was asked.
    with_model: WithModel,
    /// For estimates that have a model.
    model_calibrator: Calibrator,
    knows_model: bool,
    /// What it started from.
    start: Experience,
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
        let start = learned.unwrap_or_else(|| Experience::shipped(&sources));
        let auto = Auto {
            mixer: Mixer::new(start.mixer.clone()),
            calibrator: start.calibrator.clone(),
            estimates: Vec::new(),
            filter: None,
            search: Search::BestFirst,
            top_k: TopK::default(),
            proposals: vec![Vec::new(); sources.len()],
            asking: Asking::new(Gains::default()),
            with_model: WithModel::new(ModelExperience::default().mixer),
            model_calibrator: Calibrator::default(),
            knows_model: false,
            sources,
            start,
        };
        match auto.start.model.clone() {
            Some(model) => auto.with_model_experience(model),
            None => auto,
        }
    }

    /// The same drafter with what is known about the draft model.
    #[must_use]
    pub fn with_model_experience(self, model: ModelExperience) -> Auto {
        let start = Experience { model: Some(model.clone()), ..self.start };
        let ModelExperience { mixer, calibrator, gains } = model;
        Auto {
            with_model: WithModel::new(mixer),
            model_calibrator: calibrator,
            asking: self.asking.with_gains(gains),
            knows_model: true,
            start,
            ..self
        }
    }

    /// Whether anything is known about a draft model.
    #[must_use]
    pub fn knows_model(&self) -> bool {
        self.knows_model
    }

    /// The same drafter with a learning rate of `factor` times the default.
    #[must_use]
    pub fn with_rate(self, factor: f32) -> Auto {
        Auto { mixer: self.mixer.with_rate(factor), with_model: self.with_model.with_rate(factor), ..self }
    }

    /// The same drafter with other sources of the same kinds.
    #[must_use]
    pub fn with_sources(self, sources: Vec<Box<dyn Source>>) -> Auto {
        Auto { sources, ..self }
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

    /// What to start the next text's drafter from.
    #[must_use]
    pub fn experience_to_keep(&self) -> Experience {
        self.start.after(self.experience())
    }

    /// What the drafter has learned so far.
    #[must_use]
    pub fn experience(&self) -> Experience {
        Experience {
            mixer: self.mixer.state().clone(),
            calibrator: self.calibrator.clone(),
            model: self.knows_model.then(|| ModelExperience {
                mixer: self.with_model.state().clone(),
                calibrator: self.model_calibrator.clone(),
                gains: self.asking.gains().clone(),
            }),
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
            self.mixer.mix(&self.proposals, children);
            let mut narrow = |children: &mut Vec<(Token, f32)>| {
                if let Some(filter) = &mut self.filter {
                    filter.narrow(context, path, children);
                }
            };
            narrow(children);
            let Some(model) = &mut model else { return };
            if let Some(candidates) = self.asking.ask(*model, Place { text: context, path, p }, children) {
                self.with_model.mix(children, candidates);
                narrow(children);
            }
        });
        self.calibrate(&mut draft);
        draft.asked = self.asking.asked();
        draft
    }

    /// Notes the estimates of a draft, and corrects them.
    fn calibrate(&mut self, draft: &mut Draft) {
        let tree = &draft.tree;
        let mut are_asked = vec![false; tree.len()];
        for path in self.asking.paths() {
            let node = path.iter().try_fold(NodeId::ROOT, |node, &token| tree.child(node, token));
            are_asked[node.expect("only nodes of the tree are expanded").index()] = true;
        }
        self.estimates.clear();
        self.estimates.push(Estimate { p: 1.0, has_model: false });
        for node in tree.nodes().skip(1) {
            let parent = tree.parent(node).expect("not the root").index();
            let has_model = self.estimates[parent].has_model || are_asked[parent];
            let p = &mut draft.p[node.index()];
            self.estimates.push(Estimate { p: *p, has_model });
            let calibrator = if has_model { &self.model_calibrator } else { &self.calibrator };
            *p = calibrator.correct(*p, tree.depth(node));
        }
    }

    /// Learns which nodes of a verified draft were accepted.
    fn learn_estimates(&mut self, tree: &TokenTree, emitted: &[Token]) {
        let are_accepted = accepted(tree, emitted);
        for (node, estimate) in tree.nodes().zip(&self.estimates).skip(1) {
            let calibrator = if estimate.has_model { &mut self.model_calibrator } else { &mut self.calibrator };
            calibrator.learn(estimate.p, tree.depth(node), are_accepted[node.index()]);
        }
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
        self.learn_estimates(verified.tree, &context[from..]);
        let mut free = Vec::new();
        for at in from..context.len() {
            let (text, token) = (&context[..at], context[at]);
            propose(&self.sources, Tail { tokens: tail_of(text), n_drafted: 0 }, &mut self.proposals);
            if let Some(candidates) = self.asking.candidates_after(&context[from..at]) {
                self.mixer.mix(&self.proposals, &mut free);
                self.with_model.learn(&free, candidates, token);
                self.knows_model = true;
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
