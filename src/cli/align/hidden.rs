//! Trains a drafter on the hidden states in the log of `chaski drafter align`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use chaski_hidden::{self as hidden, Event, Matrices, Said, Settings, Text, TrainError, Trained};

use crate::cli::align::{AlignArgs, practice};
use crate::cli::engine::model_id;
use crate::cli::failure::Failure;
use crate::cli::output::{Bars, stderr_line};
use crate::gguf::{Gguf, TensorType};
use crate::llama::hidden::{HiddenError, HiddenNet, TargetMatrices, quantize};
use crate::store::align_log;
use crate::store::hidden_file::{HiddenFile, Weights};
use crate::token::Token;

/// Most tokens that are trained on. Their states are in memory: 1.2 GB for a model of 1.5 billion weights.
const MOST_TOKENS: usize = 400_000;

/// The type of the network's weights. On Qwen2.5-Coder-1.5B it has as many right first candidates as F32 has; Q4_0 has 0.15
/// points less.
const NET_TYPE: &str = "q5_0";

/// The type of the short head.
const HEAD_TYPE: &str = "q8_0";

/// Rows that are predicted at once.
const N_AT_ONCE: usize = 32;

/// An answer of the log.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) prompt: Vec<Token>,
    pub(super) text: Text,
}

/// Checks that there can be a drafter on hidden states for this model.
pub(super) fn check(gguf: &Gguf) -> Result<(), Failure> {
    match TargetMatrices::open(gguf.path()) {
        Ok(_) => Ok(()),
        Err(error @ HiddenError::Unsupported { .. }) => Err(hidden_failure(error).with_hint("leave out --hidden")),
        Err(error) => Err(hidden_failure(error)),
    }
}

/// Writes the drafter that `args.hidden` names. Stops as interrupted when `interrupt` is set.
pub(super) fn build(
    args: &AlignArgs,
    path: &Path,
    gguf: &Gguf,
    log: &Path,
    n_threads: usize,
    interrupt: &AtomicBool,
) -> Result<(), Failure> {
    let answers = answers(log)?;
    let texts: Vec<Text> = answers.values().map(|answer| answer.text.clone()).collect();
    let matrices = Rows(TargetMatrices::open(gguf.path()).map_err(hidden_failure)?);
    let settings = Settings { n_threads, seed: args.seed.into(), ..Settings::default() };
    let mut bars = Bars::default();
    let trained = hidden::train(&texts, &matrices, &settings, None, &mut |event, _| {
        show(&mut bars, event);
        if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bars.clear();
    let trained = trained.map_err(|error| match error {
        TrainError::Interrupted => Failure::interrupted().with_hint(format!(
            "the tokens are saved in {}; run the same command again to train from the beginning",
            log.display()
        )),
        _ => Failure::new(format!("cannot train on {}: {error}", log.display()))
            .with_hint("write more text with a larger --tokens"),
    })?;
    drop(texts);
    let n_tokens = answers.values().map(|answer| answer.text.said.len()).sum();
    let mut file = file_of(&trained, gguf, n_tokens)?;
    let held_out: Vec<&Answer> =
        answers.values().enumerate().filter(|(at, _)| hidden::is_held_out(*at)).map(|(_, answer)| answer).collect();
    let (n_right, n_rows) = first_candidates(&file, gguf, &held_out, n_threads)?;
    file.held_out_top1 = n_right as f32 / n_rows.max(1) as f32;
    file.experience = Some(practice::practise(args, &file, gguf, log, &held_out, n_threads, interrupt)?);
    let n_bytes = file.write(path)?;
    stderr_line(&format!(
        "{}: trained on {n_tokens} tokens, {:.1} MB; the next token is right for {:.1}% of {} tokens of other texts",
        path.display(),
        n_bytes as f64 / 1e6,
        100.0 * file.held_out_top1,
        n_rows
    ));
    Ok(())
}

/// The answers of a log, by the number of their prompt.
fn answers(log: &Path) -> Result<BTreeMap<u64, Answer>, Failure> {
    let mut answers = BTreeMap::<u64, Answer>::new();
    let mut n_tokens = 0;
    align_log::read(log, |piece| {
        if n_tokens >= MOST_TOKENS {
            return Ok(());
        }
        n_tokens += piece.said.len();
        let answer =
            answers.entry(piece.text).or_insert_with(|| Answer { prompt: piece.before.clone(), ..Answer::default() });
        for said in &piece.said {
            answer.text.states.extend_from_slice(&said.state);
            answer.text.said.push(Said { token: said.token, top: said.top.clone() });
        }
        Ok(())
    })?;
    if n_tokens >= MOST_TOKENS {
        stderr_line(&format!("notice: only the first {MOST_TOKENS} tokens are trained on"));
    }
    Ok(answers)
}

fn show(bars: &mut Bars, event: &Event) {
    match event {
        Event::Started { n_pairs, n_held_out } => {
            bars.suspend(|| stderr_line(&format!("training on {n_pairs} tokens; {n_held_out} are held out")));
        }
        Event::Batch { done, .. } => bars.share("training", *done),
        Event::Epoch { epoch, loss, held_out, .. } => bars.suspend(|| {
            stderr_line(&format!(
                "epoch {epoch}: loss {loss:.3}, right on held-out texts: {:.1}%",
                100.0 * held_out.top1
            ));
        }),
    }
}

/// The rows of the target's matrices, for training.
struct Rows(TargetMatrices);

impl Matrices for Rows {
    fn n_embd(&self) -> usize {
        self.0.n_embd()
    }

    fn embedding(&self, token: Token, row: &mut [f32]) {
        self.0.embedding(token, row);
    }

    fn head(&self, token: Token, row: &mut [f32]) {
        self.0.head(token, row);
    }
}

fn file_of(trained: &Trained, gguf: &Gguf, n_tokens: usize) -> Result<HiddenFile, Failure> {
    let Trained { net, tokens, head, .. } = trained;
    let weights = |name: &str, n_columns: usize, rows: &[f32]| -> Result<Weights, Failure> {
        let tensor_type = TensorType::from_name(name).expect("a type of ggml");
        let data = quantize(rows, n_columns, tensor_type).map_err(hidden_failure)?;
        Ok(Weights { tensor_type, n_columns, n_rows: rows.len() / n_columns, data })
    };
    Ok(HiddenFile {
        model: model_id(gguf.path()),
        n_trained_tokens: n_tokens as u64,
        held_out_top1: 0.0,
        experience: None,
        scale: net.scale,
        mean: net.mean.clone(),
        std: net.std.clone(),
        first: weights(NET_TYPE, 2 * net.n_embd, &net.first)?,
        first_bias: net.first_bias.clone(),
        second: weights(NET_TYPE, net.n_hidden, &net.second)?,
        down: weights(HEAD_TYPE, net.n_embd, &head.down)?,
        up: weights(HEAD_TYPE, head.rank, &head.up)?,
        tokens: tokens.clone(),
    })
}

/// For how many rows of `answers` the first candidate is the target's, computed as drafts are; and the number of rows.
fn first_candidates(
    file: &HiddenFile,
    gguf: &Gguf,
    answers: &[&Answer],
    n_threads: usize,
) -> Result<(usize, usize), Failure> {
    let target = TargetMatrices::open(gguf.path()).map_err(hidden_failure)?;
    let mut net = HiddenNet::new(file, target, n_threads).map_err(hidden_failure)?;
    let (mut n_right, mut n_rows) = (0, 0);
    for Answer { text, .. } in answers {
        let states: Vec<Vec<f32>> = text
            .states
            .chunks_exact(net.n_embd())
            .map(|state| state.iter().map(|number| number.to_f32()).collect())
            .collect();
        let rows: Vec<(&[f32], Token)> =
            states.iter().zip(&text.said).map(|(state, said)| (&state[..], said.token)).collect();
        // The last row has no next one.
        let goals: Vec<&Said> = text.said.iter().skip(1).collect();
        for (rows, goals) in rows.chunks(N_AT_ONCE).zip(goals.chunks(N_AT_ONCE)) {
            let mut step = net.step(&rows[..goals.len()]).map_err(hidden_failure)?;
            for (row, goal) in goals.iter().enumerate() {
                let found = step.top(row, 1).next().map(|top| top.token);
                n_right += usize::from(found.is_some() && found == goal.top.first().map(|top| top.token));
            }
            n_rows += goals.len();
        }
    }
    Ok((n_right, n_rows))
}

fn hidden_failure(error: HiddenError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
