//! Trains a drafter on the hidden states in the log of `chaski drafter align`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use chaski_hidden::{self as hidden, Event, Matrices, Net, Progress, Said, Settings, Text, TrainError, Trained};

use crate::available::available;
use crate::cli::align::{AlignArgs, practice};
use crate::cli::engine::model_id;
use crate::cli::failure::{ExitCode, Failure};
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

/// The type of the short head has blocks of so many columns.
const WIDTH_MULTIPLE: usize = 32;

/// For the estimate of memory: tokens that occur in the texts, and units of the hidden layer.
const N_ROWS: u64 = 30_000;
const N_HIDDEN: u64 = 1024;

/// Rows that are predicted at once.
const N_AT_ONCE: usize = 32;

/// An answer of the log. Its text is apart, since the training takes all texts as one list.
pub(super) struct Answer {
    /// The number of the prompt.
    pub(super) id: u64,
    pub(super) prompt: Vec<Token>,
}

/// What training and practice work on.
pub(super) struct Work<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) log: &'a Path,
    pub(super) seed: u32,
    pub(super) n_threads: usize,
    pub(super) interrupt: &'a AtomicBool,
}

impl Work<'_> {
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if !self.interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        let log = self.log.display();
        Err(Failure::interrupted().with_hint(format!(
            "the tokens are still in {log}; run the same command again to train from the beginning"
        )))
    }
}

/// Checks that there can be a drafter on hidden states for this model.
pub(super) fn check(args: &AlignArgs, gguf: &Gguf) -> Result<(), Failure> {
    let refuse = |what: &str| {
        let failure = Failure::new(format!("{}: {what}", gguf.path().display()));
        Err(failure.about("hidden").with_hint("leave out --hidden"))
    };
    let architecture = gguf.architecture().unwrap_or_default();
    match TargetMatrices::open(gguf.path()) {
        Ok(matrices) if !matrices.n_embd().is_multiple_of(WIDTH_MULTIPLE) => {
            return refuse(&format!(
                "states of {} numbers cannot be trained on: expected a multiple of {WIDTH_MULTIPLE}",
                matrices.n_embd()
            ));
        }
        Ok(_) => {}
        Err(error @ HiddenError::Unsupported { .. }) => {
            return Err(hidden_failure(error).with_hint("leave out --hidden"));
        }
        Err(error) => return Err(hidden_failure(error)),
    }
    if gguf.is_recurrent() {
        // With states on, llama.cpp decodes the texts of such a model one after the other.
        return refuse("a drafter on hidden states is for models that have attention in all layers");
    }
    if gguf.get_u32(&format!("{architecture}.embedding_length_out")).is_some() {
        return refuse("its output has another width than its hidden states");
    }
    if args.engine.lora.is_some() {
        return Err(Failure::usage("--hidden and --lora cannot be used together")
            .about("hidden")
            .with_hint("train for the model without the adapter, or merge the adapter into the model"));
    }
    if args.tokens > MOST_TOKENS as u64 {
        stderr_line(&format!("notice: only the first {MOST_TOKENS} tokens will be trained on"));
    }
    Ok(())
}

/// Writes the drafter that `args.hidden` names. Stops as interrupted when the interrupt is set.
pub(super) fn build(work: &Work<'_>, args: &AlignArgs, path: &Path) -> Result<(), Failure> {
    let (answers, texts) = answers(work)?;
    check_memory(&texts)?;
    let trained = train(work, &texts)?;
    let n_tokens = texts.iter().map(|text| text.said.len()).sum();
    let mut file = file_of(&trained, work.gguf, n_tokens)?;
    let held_out = held_out(&answers, &texts);
    let verdicts = verdicts(work, &file, &held_out)?;
    file.held_out_top1 = share(&verdicts);
    file.experience = Some(practice::practise(work, args, &file, &held_out)?);
    let n_bytes = file.write(path)?;
    stderr_line(&format!(
        "{}: trained on {n_tokens} tokens, {:.1} MB; the next token is right for {:.1}% of {} tokens of other texts",
        path.display(),
        n_bytes as f64 / 1e6,
        100.0 * file.held_out_top1,
        verdicts.len(),
    ));
    Ok(())
}

/// The texts that nothing is trained on, with their prompts.
pub(super) fn held_out<'a>(answers: &'a [Answer], texts: &'a [Text]) -> Vec<(&'a Answer, &'a Text)> {
    let all = answers.iter().zip(texts).enumerate();
    all.filter(|(at, _)| hidden::is_held_out(*at)).map(|(_, both)| both).collect()
}

fn train(work: &Work<'_>, texts: &[Text]) -> Result<Trained, Failure> {
    let matrices = Rows(TargetMatrices::open(work.gguf.path()).map_err(hidden_failure)?);
    let settings = Settings { n_threads: work.n_threads, seed: work.seed.into(), ..Settings::default() };
    with_bars(work, "write more text with a larger --tokens", |progress| {
        hidden::train(texts, &matrices, &settings, progress)
    })
}

/// Trains with a progress bar. `more` is the hint where there is too little text.
pub(super) fn with_bars<T>(
    work: &Work<'_>,
    more: &str,
    train: impl FnOnce(&mut Progress<'_>) -> Result<T, TrainError>,
) -> Result<T, Failure> {
    let mut bars = Bars::default();
    let trained = train(&mut |event, _| {
        show(&mut bars, event);
        if work.go_on().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    bars.clear();
    trained.map_err(|error| {
        let failure = Failure::new(format!("cannot train on {}: {error}", work.log.display()));
        match error {
            TrainError::Interrupted => work.go_on().err().unwrap_or(failure),
            TrainError::TooFew { .. } | TrainError::TooFewTokens { .. } => failure.with_hint(more),
            _ => failure,
        }
    })
}

/// Refuses to train where the system would end the process.
pub(super) fn check_memory(texts: &[Text]) -> Result<(), Failure> {
    let Some(available) = available() else { return Ok(()) };
    // Beside the states, which are in memory already: rows of both matrices for the tokens that occur, the normal
    // equations in f64, and weights with their gradients and moments.
    let n_numbers = |text: &Text| text.states.len() / text.said.len().max(1);
    let width = texts.iter().map(n_numbers).max().unwrap_or(0) as u64;
    let needed = 4 * width * 2 * N_ROWS + 3 * 8 * (2 * width) * (2 * width) + 5 * 4 * (2 * width) * (width + N_HIDDEN);
    if needed <= available {
        return Ok(());
    }
    Err(Failure::new(format!(
        "training needs about {} MB more memory, and {} MB are available",
        needed / 1_000_000,
        available / 1_000_000
    ))
    .with_code(ExitCode::NotEnoughMemory)
    .with_hint("close other programs and run the same command again"))
}

/// The answers of a log with their texts, by the number of their prompt.
pub(super) fn answers(work: &Work<'_>) -> Result<(Vec<Answer>, Vec<Text>), Failure> {
    let mut answers = BTreeMap::<u64, (Vec<Token>, Text)>::new();
    let mut n_tokens = 0;
    let key = align_log::read(work.log, |piece| {
        if n_tokens >= MOST_TOKENS {
            return Ok(());
        }
        n_tokens += piece.said.len();
        let new = || (piece.before.clone(), Text::default());
        let (_, text) = answers.entry(piece.text).or_insert_with(new);
        for said in &piece.said {
            text.states.extend_from_slice(&said.state);
            text.said.push(Said { token: said.token, top: said.top.clone() });
        }
        Ok(())
    })?;
    let model = model_id(work.gguf.path());
    if key.model != model {
        let log = work.log.display();
        return Err(Failure::new(format!("{log}: written by another model: {}, expected {model}", key.model)));
    }
    Ok(answers.into_iter().map(|(id, (prompt, text))| (Answer { id, prompt }, text)).unzip())
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
pub(super) struct Rows(pub(super) TargetMatrices);

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

/// The rows of a matrix in one of ggml's types.
fn weights(name: &str, n_columns: usize, rows: &[f32]) -> Result<Weights, Failure> {
    let tensor_type = TensorType::from_name(name).expect("a type of ggml");
    let data = quantize(rows, n_columns, tensor_type).map_err(hidden_failure)?;
    Ok(Weights { tensor_type, n_columns, n_rows: rows.len() / n_columns, data })
}

/// The same file with the weights of another network. The head and what practice taught stay.
pub(super) fn with_net(file: &HiddenFile, net: &Net) -> Result<HiddenFile, Failure> {
    Ok(HiddenFile {
        first: weights(NET_TYPE, 2 * net.n_embd, &net.first)?,
        first_bias: net.first_bias.clone(),
        second: weights(NET_TYPE, net.n_hidden, &net.second)?,
        ..file.clone()
    })
}

/// For each row of these texts, whether the first candidate is the target's, computed as drafts are.
pub(super) fn verdicts(
    work: &Work<'_>,
    file: &HiddenFile,
    held_out: &[(&Answer, &Text)],
) -> Result<Vec<bool>, Failure> {
    let target = TargetMatrices::open(work.gguf.path()).map_err(hidden_failure)?;
    let mut net = HiddenNet::new(file, target, work.n_threads).map_err(hidden_failure)?;
    let mut verdicts = Vec::new();
    for (_, text) in held_out {
        work.go_on()?;
        let states: Vec<f32> = text.states.iter().map(|number| number.to_f32()).collect();
        let rows: Vec<(&[f32], Token)> =
            states.chunks_exact(net.n_embd()).zip(&text.said).map(|(state, said)| (state, said.token)).collect();
        // The last row has no next one.
        let goals: Vec<&Said> = text.said.iter().skip(1).collect();
        for (rows, goals) in rows.chunks(N_AT_ONCE).zip(goals.chunks(N_AT_ONCE)) {
            let mut step = net.step(&rows[..goals.len()]).map_err(hidden_failure)?;
            for (row, goal) in goals.iter().enumerate() {
                let found = step.top(row, 1).next().map(|top| top.token);
                verdicts.push(found.is_some() && found == goal.top.first().map(|top| top.token));
            }
        }
    }
    Ok(verdicts)
}

/// The share of rows that are right.
pub(super) fn share(verdicts: &[bool]) -> f32 {
    verdicts.iter().filter(|is_right| **is_right).count() as f32 / verdicts.len().max(1) as f32
}

pub(super) fn hidden_failure(error: HiddenError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
