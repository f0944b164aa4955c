//! Writes what a drafter on hidden states predicts along recorded answers, and the answers, for `hidden_replay` (an example too),
//! or for `chaski drafter replay --predictions PREDICTIONS --price SHARE TRACES`, which knows nothing of the drafter's practice.
//!
//! ```text
//! chaski drafter align -m MODEL -o X --hidden Y --prompts PROMPTS.jsonl --temp 0 --keep-log ...    # writes X.log
//! cargo run --release --locked --example hidden_predictions -- MODEL DRAFTER.hidden X.log PROMPTS.jsonl TRACES PREDICTIONS
//! ```
//!
//! PROMPTS.jsonl has an `id` on each line, as `bench/prompts.jsonl` has. The seed of `align` must be 0.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use chaski::align::prompts::Dice;
use chaski::llama::hidden::{HiddenNet, MAX_ROWS, MOST_CONFIDENCE, TargetMatrices};
use chaski::replay::predictions::Predictions;
use chaski::replay::trace::Trace;
use chaski::store::align_log::{self, LoggedToken};
use chaski::store::hidden_file::HiddenFile;
use chaski::token::Token;
use serde_json::Value;

/// Tokens of a prediction.
const N_TOP: usize = 8;

/// Tokens of a draft that are predicted.
const N_DEPTHS: usize = 6;

type Answer = (Vec<Token>, Vec<LoggedToken>);

/// For each emitted token and each depth, the likeliest tokens and their probabilities.
type Rows = Vec<Vec<Vec<(i32, f32)>>>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, hidden, log, prompts, traces, predictions] = arguments.as_slice() else {
        return Err("expected MODEL DRAFTER.hidden LOG PROMPTS.jsonl TRACES PREDICTIONS".into());
    };
    let file = HiddenFile::open_any(Path::new(hidden))?;
    let matrices = TargetMatrices::open(Path::new(model))?;
    let n_vocab = matrices.n_vocab();
    let mut net = HiddenNet::new(&file, matrices, 2)?;
    let ids = ids(&fs::read_to_string(prompts)?)?;
    let (mut traces, mut predictions) =
        (BufWriter::new(File::create(traces)?), BufWriter::new(File::create(predictions)?));
    for (text, (prompt, said)) in answers(Path::new(log))? {
        let id = ids.get(text as usize).ok_or("the log has more answers than there are prompts")?.clone();
        let trace = Trace {
            id: id.clone(),
            model: model.clone(),
            n_vocab,
            temperature: 0.0,
            prompt: prompt.iter().map(|token| token.0).collect(),
            tokens: said.iter().map(|said| said.token.0).collect(),
            top: said.iter().map(|said| said.top.iter().map(|top| (top.token.0, top.weight)).collect()).collect(),
        };
        let rows = predict(&mut net, &said)?;
        let (model, most_confidence) = (hidden.clone(), MOST_CONFIDENCE);
        let predicted = Predictions { id, model, n_depths: N_DEPTHS, most_confidence, rows };
        writeln!(traces, "{}", serde_json::to_string(&trace)?)?;
        writeln!(predictions, "{}", serde_json::to_string(&predicted)?)?;
    }
    traces.flush()?;
    predictions.flush()?;
    Ok(())
}

/// The ids of the prompts, in the order in which `align` asks them.
fn ids(prompts: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let lines = prompts.lines().filter(|line| !line.trim().is_empty());
    let id = |line: &str| -> Result<String, Box<dyn Error>> {
        let value: Value = serde_json::from_str(line)?;
        Ok(value["id"].as_str().ok_or("a line has no id")?.to_owned())
    };
    let mut ids = lines.map(id).collect::<Result<Vec<String>, _>>()?;
    let mut dice = Dice(0);
    (1..ids.len()).rev().for_each(|i| ids.swap(i, dice.roll(i + 1)));
    Ok(ids)
}

fn answers(log: &Path) -> Result<BTreeMap<u64, Answer>, Box<dyn Error>> {
    let mut answers: BTreeMap<u64, Answer> = BTreeMap::new();
    align_log::read(log, |piece| {
        let (_, said) = answers.entry(piece.text).or_insert_with(|| (piece.before.clone(), Vec::new()));
        said.extend(piece.said.iter().cloned());
        Ok(())
    })?;
    Ok(answers)
}

/// The predictions along an answer. Nothing is predicted before the first token: the state of
/// the prompt is not in the log.
fn predict(net: &mut HiddenNet, said: &[LoggedToken]) -> Result<Rows, Box<dyn Error>> {
    let mut rows = vec![Vec::new(); said.len()];
    let mut states: Vec<Vec<f32>> =
        said.iter().map(|said| said.state.iter().map(|number| number.to_f32()).collect()).collect();
    for depth in 0..N_DEPTHS {
        // State `i` is that before token `i + depth`, predicted from the true one before token `i`.
        let n = said.len().saturating_sub(depth + 1);
        for first in (0..n).step_by(MAX_ROWS) {
            let block = first..n.min(first + MAX_ROWS);
            let inputs: Vec<(&[f32], Token)> = block.clone().map(|i| (&states[i][..], said[i + depth].token)).collect();
            let mut step = net.step(&inputs)?;
            let mut next = Vec::new();
            for (row, i) in block.clone().enumerate() {
                let top = step.top(row, N_TOP).map(|top| (top.token.0, top.weight)).collect();
                rows[i + 1].push(top);
                next.push(step.state(row).to_vec());
            }
            states[block].clone_from_slice(&next);
        }
    }
    Ok(rows)
}
