//! Lets a new drafter on hidden states draft the texts that it was not trained on, so that it starts out knowing when it is
//! right and when the free sources are.
//!
//! The texts are replayed: their tokens and states are in the log. The base must not know them, or it would seem to know
//! everything; so a base of the other texts takes part.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chaski_hidden::is_held_out;

use crate::cli::align::hidden::Answer;
use crate::cli::align::{AlignArgs, base};
use crate::cli::failure::Failure;
use crate::cost::CostCurve;
use crate::draft::asking::{Choice, Outcome, Policy};
use crate::draft::auto::{Auto, Experience};
use crate::draft::base::Base;
use crate::draft::calibration::Calibrator;
use crate::draft::draft_model::{Assisted, DraftModel};
use crate::draft::table::Successor;
use crate::gguf::Gguf;
use crate::llama::hidden::HiddenDraftModel;
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

/// What an `Auto` learns that drafts `held_out` with `file`, as JSON.
pub(super) fn practise(
    args: &AlignArgs,
    file: &HiddenFile,
    gguf: &Gguf,
    log: &Path,
    held_out: &[&Answer],
    n_threads: usize,
    interrupt: &AtomicBool,
) -> Result<String, Failure> {
    let go_on = || !interrupt.load(Ordering::Relaxed);
    let base = base_of_the_others(args, gguf, log, go_on)?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("cannot replay what was written: {error}"));
    let mut model = HiddenDraftModel::open(file, gguf.path(), n_threads).map_err(|error| failed(&error))?;
    let n_vocab = Vocabulary::of(gguf).map_or(0, |vocabulary| vocabulary.n_tokens as usize);
    let traces: Vec<Trace> = held_out.iter().map(|answer| trace(answer, n_vocab)).collect();
    let sources = || Auto::sources(Some(base.clone()));
    let curve = CostCurve::exact((1..=MOST_ROWS).map(|n| (n, 1.0 + ROW * (n - 1) as f64)));
    let wall = SimulatedClock::default();
    let mut auto = Auto::new(sources(), None).with_draft_model_source().with_policy(Box::new(Always));
    for rate in RATES {
        auto = auto.with_rate(rate);
        for (answer, trace) in held_out.iter().zip(&traces) {
            if !go_on() {
                return Err(Failure::interrupted());
            }
            auto = auto.with_sources(sources());
            let mut recorded = Recorded { model: &mut model, answer };
            let mut drafter = Assisted::new(&mut auto, &mut recorded);
            let schedule = Schedule::cost_aware(curve.clone());
            replay(trace, &curve, &mut drafter, schedule, &wall).map_err(|error| failed(&error))?;
        }
    }
    // How often paths are accepted depends on which drafts pay on a machine.
    let experience = Experience { calibrator: Calibrator::default(), ..auto.experience() };
    Ok(serde_json::to_string(&experience).expect("numbers and names"))
}

/// A base of the texts that are trained on.
fn base_of_the_others(
    args: &AlignArgs,
    gguf: &Gguf,
    log: &Path,
    go_on: impl Fn() -> bool,
) -> Result<Arc<dyn Base>, Failure> {
    let vocabulary = Vocabulary::of(gguf).ok_or_else(|| Failure::new("the model file contains no vocabulary"))?;
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".practice").tempfile_in(folder);
    let path = file.map_err(|error| Failure::io(folder, &error))?.into_temp_path();
    base::write(&path, args.max_size, log, vocabulary, &|at| !is_held_out(at), go_on)?;
    Ok(Arc::new(DrafterFile::open(&path, &vocabulary)?))
}

/// An answer as a recording.
fn trace(answer: &Answer, n_vocab: usize) -> Trace {
    let said = &answer.text.said;
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
struct Recorded<'a> {
    model: &'a mut HiddenDraftModel,
    answer: &'a Answer,
}

impl DraftModel for Recorded<'_> {
    fn price_ms(&self, _text: &[Token], _path: &[Token]) -> f64 {
        0.0
    }

    fn catch_up_ms(&self, _text: &[Token]) -> f64 {
        0.0
    }

    fn predict(&mut self, text: &[Token], path: &[Token]) -> &[Successor] {
        // The root was chosen from the row before it.
        let n_past = text.len() - 1;
        let (at, n_embd) = (n_past.checked_sub(self.answer.prompt.len()), self.model.n_embd());
        let state = at.and_then(|at| self.answer.text.states.get(at * n_embd..(at + 1) * n_embd));
        let states = self.model.cell();
        let mut last = states.borrow_mut();
        last.n_past = if state.is_some() { n_past } else { 0 };
        last.state.clear();
        last.state.extend(state.unwrap_or_default().iter().map(|number| number.to_f32()));
        drop(last);
        self.model.predict(text, path)
    }
}
