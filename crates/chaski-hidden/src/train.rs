//! The training: splits the texts, starts from a linear map, learns batch by batch and keeps the best network.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use chaski_draft::token::Token;

use crate::accuracy::{Accuracy, Heads, measure};
use crate::adam::Step;
use crate::batch::{BATCH, Data, Trainer};
use crate::error::TrainError;
use crate::net::{Layers, Net};
use crate::pairs::{Pairs, is_held_out};
use crate::random::Random;
use crate::ridge;
use crate::settings::{Event, Settings, TOKENS_MULTIPLE};
use crate::short_head::ShortHead;
use crate::text::{Matrices, Text, check};
use crate::tokens::{TokenRows, by_frequency};

/// Steps until the learning rate is reached.
const WARM_UP: usize = 40;

const WEIGHT_DECAY: f32 = 0.02;

/// The training ends after so many epochs in a row that are no better than the best.
const PATIENCE: usize = 2;

/// States that the short head is made for.
const N_STATES: usize = 30_000;

/// A trained network, the tokens it can propose, and its heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The best network.
    pub net: Net,
    /// The tokens of the cut head, most frequent first. A multiple of 32.
    pub tokens: Vec<Token>,
    /// The cut head in two factors.
    pub head: ShortHead,
    /// The accuracy on the held-out texts with the cut head.
    pub held_out: Accuracy,
    /// The accuracy on the held-out texts if the short head finds [`N_SCORED`](crate::N_SCORED) tokens and the cut head
    /// scores them.
    pub held_out_short: Accuracy,
}

/// A network that was trained further.
#[derive(Clone, Debug, PartialEq)]
pub struct Refined {
    /// The best network; the given one if no other was better.
    pub net: Net,
    /// The accuracy of the given network on the held-out texts.
    pub before: Accuracy,
    /// The accuracy of the best one there.
    pub after: Accuracy,
}

/// Called at each batch and each epoch. At epochs it gets the best network so far. `Break` ends the training.
pub type Progress<'a> = dyn FnMut(&Event, Option<&Net>) -> ControlFlow<()> + 'a;

/// Trains a network on the target's texts, from the best linear map on.
///
/// Each 12th text (from the 6th on) is held out: the network with the best first candidates there is kept, and the
/// training ends after two epochs without a better one.
///
/// # Errors
/// If the texts or settings are not usable, the loss diverges, or `progress` ends the training.
pub fn train(
    texts: &[Text],
    matrices: &dyn Matrices,
    settings: &Settings,
    progress: &mut Progress<'_>,
) -> Result<Trained, TrainError> {
    let known = |texts: &[Text]| {
        let known = frequent(texts);
        let n_tokens = settings.n_tokens.min(known.len()) / TOKENS_MULTIPLE * TOKENS_MULTIPLE;
        if n_tokens == 0 {
            return Err(TrainError::TooFewTokens { n_tokens: known.len(), min_tokens: TOKENS_MULTIPLE });
        }
        Ok((known, n_tokens))
    };
    let material = Material::new(texts, matrices, settings, known, progress)?;
    let net = ridge::start(&material.learned, &material.embeddings, matrices.n_embd(), settings)?;
    let (net, _, held_out) = material.fit(net, settings, false, progress)?;
    let Material { learned, embeddings, known, cut, .. } = &material;
    let states = predicted_states(&net, learned, embeddings, settings.n_threads);
    let head = ShortHead::new(cut, &states, net.n_embd, settings.rank, settings.n_threads)?;
    let held_out_short = material.evaluate(&net, Some(&head), settings.n_threads);
    Ok(Trained { net, tokens: known[..material.n_tokens].to_vec(), head, held_out, held_out_short })
}

/// Trains `net` further on other texts of the same target. It goes on proposing the same `tokens`, so its heads stay as they
/// are. Texts are held out as by [`train`].
///
/// # Errors
/// As [`train`], and if the network does not fit the target and the settings.
pub fn refine(
    texts: &[Text],
    matrices: &dyn Matrices,
    settings: &Settings,
    (net, tokens): (Net, &[Token]),
    progress: &mut Progress<'_>,
) -> Result<Refined, TrainError> {
    net.check(matrices.n_embd(), settings.n_hidden)?;
    let known = |texts: &[Text]| {
        let listed: BTreeSet<Token> = tokens.iter().copied().collect();
        let others = frequent(texts).into_iter().filter(|token| !listed.contains(token));
        Ok((tokens.iter().copied().chain(others).collect(), tokens.len()))
    };
    let material = Material::new(texts, matrices, settings, known, progress)?;
    let (net, before, after) = material.fit(net, settings, true, progress)?;
    Ok(Refined { net, before, after })
}

/// The tokens of the texts that are learned from, most frequent first.
fn frequent(texts: &[Text]) -> Vec<Token> {
    by_frequency(texts.iter().enumerate().filter(|(text, _)| !is_held_out(*text)).map(|(_, text)| text))
}

/// What a training reads: the texts, split, and the rows of the target's matrices for their tokens.
struct Material<'a> {
    learned: Pairs<'a>,
    held_out: Pairs<'a>,
    /// The tokens of `head`.
    known: Vec<Token>,
    /// How many of them the network can propose.
    n_tokens: usize,
    head: TokenRows,
    embeddings: TokenRows,
    /// The rows of the tokens that the network can propose.
    cut: Vec<f32>,
}

impl<'a> Material<'a> {
    /// Checks and splits the texts. `known` gives the tokens that are learned, and how many of them can be proposed.
    fn new(
        texts: &'a [Text],
        matrices: &dyn Matrices,
        settings: &Settings,
        known: impl FnOnce(&[Text]) -> Result<(Vec<Token>, usize), TrainError>,
        progress: &mut Progress<'_>,
    ) -> Result<Material<'a>, TrainError> {
        let n_embd = matrices.n_embd();
        settings.check()?;
        check(texts, n_embd)?;
        let learned = Pairs::new(texts, n_embd, |text| !is_held_out(text));
        let held_out = Pairs::new(texts, n_embd, is_held_out);
        let (n_pairs, n_held_out) = (learned.all.len(), held_out.all.len());
        if n_pairs < BATCH || n_held_out == 0 {
            return Err(TrainError::TooFew { n_texts: texts.len(), n_pairs, n_held_out, min_pairs: BATCH });
        }
        report(progress, &Event::Started { n_pairs, n_held_out }, None)?;
        let (known, n_tokens) = known(texts)?;
        let head = TokenRows::gather(&known, n_embd, "head", |token, row| matrices.head(token, row))?;
        let read = |token, row: &mut [f32]| matrices.embedding(token, row);
        let embeddings = TokenRows::gather(&emitted(texts), n_embd, "embedding", read)?;
        let cut = head.first(n_tokens);
        Ok(Material { learned, held_out, known, n_tokens, head, embeddings, cut })
    }

    /// The accuracy on the held-out texts.
    fn evaluate(&self, net: &Net, short: Option<&ShortHead>, n_threads: usize) -> Accuracy {
        let heads = Heads { cut: &self.cut, short };
        measure(net, &self.held_out, &self.embeddings, &self.head, &heads, n_threads)
    }

    /// Trains `net`. Returns the best network, the accuracy of the given one and that of the best.
    fn fit(
        &self,
        net: Net,
        settings: &Settings,
        feeds_itself: bool,
        progress: &mut Progress<'_>,
    ) -> Result<(Net, Accuracy, Accuracy), TrainError> {
        let Material { learned, embeddings, head, known, .. } = self;
        let data = Data { pairs: learned, embeddings, head, n_known: known.len() };
        let evaluate = &|net: &Net| self.evaluate(net, None, settings.n_threads);
        Training { data, settings, feeds_itself, evaluate }.run(net, progress)
    }
}

/// Calls the progress callback.
fn report(progress: &mut Progress<'_>, event: &Event, net: Option<&Net>) -> Result<(), TrainError> {
    match progress(event, net) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TrainError::Interrupted),
    }
}

/// The tokens that the texts have, each once.
fn emitted(texts: &[Text]) -> Vec<Token> {
    let mut tokens: Vec<Token> = texts.iter().flat_map(|text| &text.said).map(|said| said.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// States that the network predicts on the texts of the training, as rows. They are less varied than true ones, so a head
/// for them needs a lower rank.
fn predicted_states(net: &Net, pairs: &Pairs<'_>, embeddings: &TokenRows, n_threads: usize) -> Vec<f32> {
    let (mut x, mut layers, mut states) = (Vec::new(), Layers::default(), Vec::new());
    for block in pairs.sample(N_STATES).chunks(BATCH) {
        pairs.write_inputs(block, embeddings, net, &mut x, n_threads);
        layers.run(net, &x, |_, _| (), n_threads);
        for row in 0..block.len() {
            states.extend(layers.state(net, row).iter().map(|number| net.scale * number));
        }
    }
    states
}

struct Training<'a> {
    data: Data<'a>,
    settings: &'a Settings,
    /// Whether the first epoch, too, feeds the network with its own predictions.
    feeds_itself: bool,
    evaluate: &'a dyn Fn(&Net) -> Accuracy,
}

impl Training<'_> {
    /// Trains. Returns the best network, the accuracy of the given one and that of the best.
    fn run(self, mut net: Net, progress: &mut Progress<'_>) -> Result<(Net, Accuracy, Accuracy), TrainError> {
        let before = (self.evaluate)(&net);
        let mut best_accuracy = before;
        let mut best = net.clone();
        let settings = self.settings;
        let mut order: Vec<u32> = (0..self.data.pairs.all.len() as u32).collect();
        let all = &self.data.pairs.all;
        let n_batches = all.len() / BATCH;
        let n_steps = settings.n_epochs * n_batches;
        let mut trainer = Trainer::new(self.data, &net, settings);
        let mut random = Random::new(settings.seed, 1 << 63);
        let (mut number, mut n_worse) = (0, 0);
        for epoch in 0..settings.n_epochs {
            random.shuffle(&mut order);
            let mut total = 0.0;
            for batch in order.chunks_exact(BATCH) {
                let batch: Vec<_> = batch.iter().map(|i| all[*i as usize]).collect();
                let done = number as f64 / n_steps as f64;
                number += 1;
                let share = (number as f32 / WARM_UP as f32).min(1.0) * (1.0 - done) as f32;
                let step = Step::new(number, settings.rate * share, WEIGHT_DECAY);
                let loss = trainer.step(&mut net, &batch, number, step, epoch > 0 || self.feeds_itself);
                if !loss.is_finite() {
                    return Err(TrainError::Diverged { step: number, loss });
                }
                total += loss;
                report(progress, &Event::Batch { done: number as f64 / n_steps as f64, loss }, None)?;
            }
            let held_out = (self.evaluate)(&net);
            let is_best = held_out.top1 > best_accuracy.top1;
            if is_best {
                best.clone_from(&net);
                (best_accuracy, n_worse) = (held_out, 0);
            } else {
                n_worse += 1;
            }
            let event = Event::Epoch { epoch: epoch + 1, loss: total / n_batches as f64, held_out, is_best };
            report(progress, &event, Some(&best))?;
            if n_worse == PATIENCE {
                break;
            }
        }
        Ok((best, before, best_accuracy))
    }
}

#[cfg(test)]
mod tests;
