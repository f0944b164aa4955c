//! Lets a new drafter on hidden states draft the texts that it was not trained on, so that it starts out knowing when it is
//! right and when the free sources are.
//!
//! The texts are replayed: their tokens and states are in the log. The base must not know them, or it would seem to know
//! everything; so a base of the other texts takes part.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use chaski_hidden::Text;
use half::f16;

use crate::cli::align::hidden::{Answer, Work};
use crate::cli::align::{AlignArgs, base};
use crate::cli::failure::Failure;
use crate::cost::CostCurve;
use crate::draft::asking::{Choice, Outcome, Policy};
use crate::draft::auto::Auto;
use crate::draft::base::Base;
use crate::draft::calibration::Calibrator;
use crate::draft::draft_model::{Assisted, DraftModel};
use crate::draft::table::Successor;
use crate::draft::with_model::ModelExperience;
use crate::llama::engine::draft_model::EngineDraftModel as _;
use crate::llama::hidden::{HiddenDraftModel, LastState};
use crate::replay::score::replay;
use crate::replay::target::SimulatedClock;
use crate::replay::trace::Trace;
use crate::schedule::Schedule;
use crate::store::drafter_file::DrafterFile;
use crate::store::hidden_file::HiddenFile;
use crate::store::vocabulary::Vocabulary;
use crate::token::Token;

/// Learning rate of each pass over the texts, as a factor on the default.
const RATES: [f32; 2] = [2.0, 0.5];

/// Time of each further row, in units of the first: drafts pay often, so most of what can be learned is seen.
const ROW: f64 = 0.05;

/// Widest tree of the replays.
const MOST_ROWS: usize = 16;

/// What drafters learn about `file` that draft `held_out` with it, as JSON.
pub(super) fn practise(
    work: &Work<'_>,
    args: &AlignArgs,
    file: &HiddenFile,
    held_out: &[(&Answer, &Text)],
) -> Result<String, Failure> {
    let mut model = HiddenDraftModel::open(file, work.gguf.path(), work.n_threads).map_err(|error| failed(&error))?;
    let n_vocab = Vocabulary::of(work.gguf).map_or(0, |vocabulary| vocabulary.n_tokens as usize);
    let traces: Vec<Trace> = held_out.iter().map(|(answer, text)| trace(answer, text, n_vocab)).collect();
    let base = base_of_the_others(work, args, held_out)?;
    let mut known = ModelExperience::default();
    for rate in RATES {
        for ((answer, text), trace) in held_out.iter().zip(&traces) {
            work.go_on()?;
            // Each text meets a fresh drafter that only knows the file.
            let auto = Auto::new(Auto::sources(Some(Arc::clone(&base))), None).with_policy(Box::new(Always));
            let mut auto = auto.with_model_experience(known.clone()).with_rate(rate);
            let mut logged = Logged { model: &mut model, n_prompt: answer.prompt.len(), text };
            draft_again(trace, &mut Assisted::new(&mut auto, &mut logged))?;
            known = auto.experience().model.unwrap_or(known);
        }
    }
    if let Some(error) = model.take_failure() {
        return Err(failed(&error));
    }
    // How often paths are accepted depends on which drafts pay on a machine.
    known.calibrator = Calibrator::default();
    Ok(serde_json::to_string(&known).expect("numbers and names"))
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot replay what was written: {error}"))
}

/// Replays a text on a curve on which drafts often pay.
fn draft_again(trace: &Trace, drafter: &mut Assisted<'_>) -> Result<(), Failure> {
    let curve = CostCurve::exact((1..=MOST_ROWS).map(|n| (n, 1.0 + ROW * (n - 1) as f64)));
    let schedule = Schedule::cost_aware(curve.clone());
    replay(trace, &curve, drafter, schedule, &SimulatedClock::default()).map_err(|error| failed(&error))?;
    Ok(())
}

/// A base of all texts but these.
fn base_of_the_others(
    work: &Work<'_>,
    args: &AlignArgs,
    held_out: &[(&Answer, &Text)],
) -> Result<Arc<dyn Base>, Failure> {
    let vocabulary = Vocabulary::of(work.gguf).ok_or_else(|| Failure::new("the model file contains no vocabulary"))?;
    let output = &args.output;
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".chaski-practice-").tempfile_in(folder);
    let path = file.map_err(|error| Failure::io(folder, &error))?.into_temp_path();
    let left_out: BTreeSet<u64> = held_out.iter().map(|(answer, _)| answer.id).collect();
    base::write(&path, args.max_size, work.log, vocabulary, &left_out, || work.go_on().is_ok())?;
    Ok(Arc::new(DrafterFile::open(&path, &vocabulary)?))
}

/// An answer as a recording.
fn trace(answer: &Answer, text: &Text, n_vocab: usize) -> Trace {
    let said = &text.said;
    Trace {
        id: "practice".to_owned(),
        model: String::new(),
        n_vocab,
        temperature: 0.0,
        prompt: answer.prompt.iter().map(|token| token.0).collect(),
        tokens: said.iter().map(|said| said.token.0).collect(),
        top: said.iter().map(|said| said.top.iter().map(|top| (top.token.0, top.weight)).collect()).collect(),
    }
}

/// Asks at every node that may be verified.
struct Always;

impl Policy for Always {
    fn asks(&mut self, choice: &Choice) -> bool {
        choice.p >= 0.1
    }

    fn learn(&mut self, _outcome: &Outcome<'_>) {}
}

/// A drafter on hidden states that reads them from a log.
struct Logged<'a> {
    model: &'a mut HiddenDraftModel,
    n_prompt: usize,
    text: &'a Text,
}

impl Logged<'_> {
    /// The state of the row that the last token of `text` was chosen from. The prompt has none.
    fn state(&self, text: &[Token]) -> Option<&[f16]> {
        let (at, n_embd) = (text.len().checked_sub(self.n_prompt + 1)?, self.model.n_embd());
        self.text.states.get(at * n_embd..(at + 1) * n_embd)
    }
}

impl DraftModel for Logged<'_> {
    fn price_ms(&self, text: &[Token], _path: &[Token]) -> f64 {
        self.state(text).map_or(f64::INFINITY, |_| 0.0)
    }

    fn catch_up_ms(&self, _text: &[Token]) -> f64 {
        0.0
    }

    fn most_confidence(&self) -> f32 {
        self.model.most_confidence()
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        let state = self.state(text).map(|state| state.iter().map(|number| number.to_f32()).collect());
        *self.model.cell().borrow_mut() =
            state.map_or_else(LastState::default, |state| LastState { n_past: text.len() - 1, state });
        self.model.predict(text, path)
    }
}
