//! One step: a batch of pairs, forwards and backwards.

use half::slice::HalfFloatSliceExt;
use ndarray::Axis;

use crate::adam::{Moments, Step};
use crate::loss::{Goals, gradient};
use crate::matrix::{ADD, REPLACE, matrix, matrix_mut, multiply};
use crate::net::{Layers, Net};
use crate::pairs::{Pair, Pairs};
use crate::parallel::{each, part_len};
use crate::random::Random;
use crate::settings::Settings;
use crate::tokens::TokenRows;

/// Pairs in a batch.
pub(crate) const BATCH: usize = 256;

/// Rows of the head in every batch, beside those of the batch's own goals.
const N_FREQUENT: usize = 2048;

/// Share of rows that are fed with the network's own prediction of their state.
const SELF_FED: f64 = 0.33;

/// Weight of the squared distance to the true state.
const STATE_LOSS: f32 = 0.02;

/// What the steps read: the pairs, and the rows of the target's matrices for their tokens.
pub(crate) struct Data<'a> {
    pub(crate) pairs: &'a Pairs<'a>,
    pub(crate) embeddings: &'a TokenRows,
    /// Numbered by frequency.
    pub(crate) head: &'a TokenRows,
    /// How many rows `head` has.
    pub(crate) n_known: usize,
}

/// Buffers and moments for the steps of a training.
pub(crate) struct Trainer<'a> {
    data: Data<'a>,
    settings: &'a Settings,
    n_frequent: usize,
    first: Moments,
    first_bias: Moments,
    second: Moments,
    x: Vec<f32>,
    fed: Vec<f32>,
    layers: Layers,
    fed_layers: Layers,
    /// The head's rows for a batch, times the network's scale: the frequent ones, then the others of its goals.
    rows: Vec<f32>,
    others: Vec<u32>,
    goals: Goals,
    logits: Vec<f32>,
    gradient: Vec<f32>,
    bias_gradient: Vec<f32>,
}

impl<'a> Trainer<'a> {
    pub(crate) fn new(data: Data<'a>, net: &Net, settings: &'a Settings) -> Trainer<'a> {
        let n_frequent = N_FREQUENT.min(data.n_known);
        let mut rows = data.head.first(n_frequent);
        rows.iter_mut().for_each(|number| *number *= net.scale);
        Trainer {
            data,
            settings,
            n_frequent,
            first: Moments::new(net.first.len()),
            first_bias: Moments::new(net.first_bias.len()),
            second: Moments::new(net.second.len()),
            x: Vec::new(),
            fed: Vec::new(),
            layers: Layers::default(),
            fed_layers: Layers::default(),
            rows,
            others: Vec::new(),
            goals: Goals::default(),
            logits: Vec::new(),
            gradient: vec![0.0; net.first.len().max(net.second.len())],
            bias_gradient: vec![0.0; net.n_outputs()],
        }
    }

    /// Learns one batch and returns its mean loss. `number` is the step's, from 1 on; `feeds_itself`: whether some rows
    /// get the network's own prediction of their state.
    pub(crate) fn step(&mut self, net: &mut Net, batch: &[Pair], number: usize, step: Step, feeds_itself: bool) -> f64 {
        let loss = self.forward(net, batch, number, feeds_itself);
        self.backward(net, batch);
        self.learn(net, step);
        loss
    }

    /// A generator for one purpose of one row of one step.
    fn random(&self, number: usize, row: usize, purpose: u64) -> Random {
        Random::new(self.settings.seed, ((number * BATCH + row) as u64) << 2 | purpose)
    }

    /// Leaves the gradient of the logits in `self.logits`.
    fn forward(&mut self, net: &Net, batch: &[Pair], number: usize, feeds_itself: bool) -> f64 {
        let n_threads = self.settings.n_threads;
        let mut x = std::mem::take(&mut self.x);
        self.data.pairs.write_inputs(batch, self.data.embeddings, net, &mut x, n_threads);
        if feeds_itself {
            self.feed_itself(net, batch, number, &mut x);
        }
        let dropout = self.settings.dropout;
        let mut layers = std::mem::take(&mut self.layers);
        let drop_out = |row: usize, purpose: u64, numbers: &mut [f32]| {
            if dropout > 0.0 {
                self.random(number, row, purpose).drop_out(numbers, dropout);
            }
        };
        let (n_inputs, len) = (net.n_inputs(), part_len(batch.len(), n_threads, 1));
        each(x.chunks_mut(len * n_inputs).enumerate().collect(), |(part, x)| {
            x.chunks_exact_mut(n_inputs).enumerate().for_each(|(i, row)| drop_out(part * len + i, 1, row));
        });
        layers.run(net, &x, |row, active| drop_out(row, 2, active), n_threads);
        (self.x, self.layers) = (x, layers);

        self.gather_goals(net, batch);
        let n_columns = self.rows.len() / net.n_embd;
        self.logits.resize(batch.len() * n_columns, 0.0);
        let outputs = matrix(&self.layers.outputs, net.n_outputs());
        let states = outputs.split_at(Axis(1), net.n_embd).0;
        let rows = matrix(&self.rows, net.n_embd).reversed_axes();
        multiply(matrix_mut(&mut self.logits, n_columns), REPLACE, states, rows, 1.0, n_threads);
        gradient(self.settings.loss, &mut self.logits, n_columns, &self.goals, n_threads)
    }

    /// Replaces the states of some rows by the network's own prediction from the row before.
    fn feed_itself(&mut self, net: &Net, batch: &[Pair], number: usize, x: &mut [f32]) {
        let is_chosen = |row: usize| self.random(number, row, 0).share() < SELF_FED;
        let chosen: Vec<(usize, Pair)> = (0..batch.len())
            .filter(|row| is_chosen(*row))
            .filter_map(|row| Some((row, batch[row].previous()?)))
            .collect();
        let previous: Vec<Pair> = chosen.iter().map(|(_, pair)| *pair).collect();
        let n_threads = self.settings.n_threads;
        self.data.pairs.write_inputs(&previous, self.data.embeddings, net, &mut self.fed, n_threads);
        self.fed_layers.run(net, &self.fed, |_, _| (), n_threads);
        for (i, (row, _)) in chosen.iter().enumerate() {
            let place = &mut x[row * net.n_inputs()..][..net.n_embd];
            for (number, predicted) in place.iter_mut().zip(self.fed_layers.state(net, i)) {
                *number = predicted * net.scale;
            }
            net.standardize(place);
        }
    }

    /// Sets `rows`, `others` and `goals` for a batch.
    fn gather_goals(&mut self, net: &Net, batch: &[Pair]) {
        let (pairs, head) = (self.data.pairs, self.data.head);
        let number = |token| head.number(token).expect("the head has all tokens of the texts to learn from");
        let all = batch.iter().flat_map(|pair| pairs.goal_top(*pair)).map(|top| number(top.token));
        self.others.clear();
        self.others.extend(all.filter(|number| *number as usize >= self.n_frequent));
        self.others.sort_unstable();
        self.others.dedup();

        let (n_frequent, others) = (self.n_frequent, &self.others);
        let column = |number: u32| match others.binary_search(&number) {
            Ok(at) => (n_frequent + at) as u32,
            Err(_) => number,
        };
        self.goals.clear();
        for pair in batch {
            self.goals.push(pairs.goal_top(*pair).iter().map(|top| (column(number(top.token)), top.weight)));
        }

        let n_embd = net.n_embd;
        self.rows.resize((n_frequent + others.len()) * n_embd, 0.0);
        let len = part_len(others.len(), self.settings.n_threads, 1);
        let rows = self.rows[n_frequent * n_embd..].chunks_mut(len * n_embd);
        each(others.chunks(len).zip(rows).collect(), |(others, rows)| {
            for (number, row) in others.iter().zip(rows.chunks_exact_mut(n_embd)) {
                head.copy(*number, row);
                row.iter_mut().for_each(|weight| *weight *= net.scale);
            }
        });
    }

    /// Replaces the outputs of the first matrix by the gradient of the mean loss with respect to them.
    fn backward(&mut self, net: &Net, batch: &[Pair]) {
        let (n_embd, n_outputs, n_hidden) = (net.n_embd, net.n_outputs(), net.n_hidden);
        let n_threads = self.settings.n_threads;
        let share = 1.0 / batch.len() as f32;
        let (pairs, outputs) = (self.data.pairs, &mut self.layers.outputs);
        let len = part_len(batch.len(), n_threads, 1);
        each(batch.chunks(len).zip(outputs.chunks_mut(len * n_outputs)).collect(), |(batch, outputs)| {
            let mut goal = vec![0.0; n_embd];
            for (pair, row) in batch.iter().zip(outputs.chunks_exact_mut(n_outputs)) {
                pairs.goal_state(*pair).convert_to_f32_slice(&mut goal);
                for (number, goal) in row.iter_mut().zip(&goal) {
                    *number = STATE_LOSS * share * (*number - goal / net.scale);
                }
            }
        });
        let n_columns = self.rows.len() / n_embd;
        let (mut states, hidden) = matrix_mut(outputs, n_outputs).split_at(Axis(1), n_embd);
        let (logits, rows) = (matrix(&self.logits, n_columns), matrix(&self.rows, n_embd));
        multiply(states.view_mut(), ADD, logits, rows, share, n_threads);
        multiply(hidden, REPLACE, states.view(), matrix(&net.second, n_hidden), 1.0, n_threads);

        let kept = 1.0 / (1.0 - self.settings.dropout);
        let parts = outputs.chunks_mut(len * n_outputs).zip(self.layers.active.chunks(len * n_hidden)).collect();
        each(parts, |(outputs, active): (&mut [f32], &[f32])| {
            for (row, active) in outputs.chunks_exact_mut(n_outputs).zip(active.chunks_exact(n_hidden)) {
                for (number, active) in row[n_embd..].iter_mut().zip(active) {
                    *number *= if *active > 0.0 { kept } else { 0.0 };
                }
            }
        });
    }

    fn learn(&mut self, net: &mut Net, step: Step) {
        let (n_inputs, n_outputs) = (net.n_inputs(), net.n_outputs());
        let n_threads = self.settings.n_threads;
        let outputs = matrix(&self.layers.outputs, n_outputs).reversed_axes();
        let states = outputs.split_at(Axis(0), net.n_embd).0;
        let active = matrix(&self.layers.active, net.n_hidden);
        let n_second = net.second.len();
        let room = &mut self.gradient[..n_second];
        step.learn_product(&mut net.second, &mut self.second, (states, active), room, n_threads);

        self.bias_gradient.fill(0.0);
        for row in self.layers.outputs.chunks_exact(n_outputs) {
            self.bias_gradient.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
        }
        step.without_decay().learn(&mut net.first_bias, &mut self.first_bias, &self.bias_gradient);

        let factors = (outputs, matrix(&self.x, n_inputs));
        let room = &mut self.gradient[..net.first.len()];
        step.learn_product(&mut net.first, &mut self.first, factors, room, n_threads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Matrices;
    use crate::tokens::by_frequency;
    use crate::world::{N_EMBD, World};

    /// One of the network's lists of parameters.
    type List = fn(&mut Net) -> &mut Vec<f32>;

    /// The objective of a step, from the public form of the network. Without dropout.
    fn objective(net: &Net, batch: &[Pair], data: &Data<'_>, rows: &[f32]) -> f64 {
        let mut input = vec![0.0; 2 * N_EMBD];
        let mut goal = vec![0.0; N_EMBD];
        let total = batch.iter().map(|pair| {
            data.pairs.write_input(*pair, data.embeddings, &mut input);
            let state = net.next_state(&input[..N_EMBD], &input[N_EMBD..]);
            data.pairs.goal_state(*pair).convert_to_f32_slice(&mut goal);
            let distance = state.iter().zip(&goal).map(|(a, b)| f64::from((a - b) / net.scale).powi(2)).sum::<f64>();
            let logits: Vec<f64> = rows
                .chunks_exact(N_EMBD)
                .map(|row| row.iter().zip(&state).map(|(a, b)| f64::from(a * b)).sum())
                .collect();
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            let top = data.pairs.goal_top(*pair);
            let mass: f64 = top.iter().map(|top| f64::from(top.weight)).sum();
            let log_p = |token| logits[data.head.number(token).unwrap() as usize] - sum.ln();
            let entropy: f64 = top.iter().map(|top| -f64::from(top.weight) / mass * log_p(top.token)).sum();
            entropy + 0.5 * f64::from(STATE_LOSS) * distance
        });
        total.sum::<f64>() / batch.len() as f64
    }

    #[test]
    fn the_gradient_of_the_network_equals_finite_differences() {
        let world = World::new(5);
        let texts = world.texts(8, 12, 3);
        let pairs = Pairs::new(&texts, N_EMBD, |_| true);
        let known = by_frequency(texts.iter());
        let read = |token, row: &mut [f32]| world.embedding(token, row);
        let embeddings = TokenRows::gather(&known, N_EMBD, "embedding", read).unwrap();
        let head = TokenRows::gather(&known, N_EMBD, "head", |token, row| world.head(token, row)).unwrap();
        let settings = Settings { n_hidden: 20, dropout: 0.0, ..Settings::default() };
        let mut net = crate::ridge::start(&pairs, &embeddings, N_EMBD, &settings).unwrap();
        let mut random = Random::new(4, 4);
        net.second.iter_mut().for_each(|weight| *weight = random.normal() * 0.2);

        let batch: Vec<Pair> = pairs.sample(16);
        let data = || Data { pairs: &pairs, embeddings: &embeddings, head: &head, n_known: known.len() };
        let mut trainer = Trainer::new(data(), &net, &settings);
        // A rate of 0 leaves the network as it is, and the gradient in the means.
        trainer.step(&mut net, &batch, 1, Step::new(1, 0.0, 0.0), false);
        let rows = head.first(known.len());
        let lists: [(List, Vec<f32>); 3] = [
            (|net| &mut net.first, trainer.first.first_gradient()),
            (|net| &mut net.first_bias, trainer.first_bias.first_gradient()),
            (|net| &mut net.second, trainer.second.first_gradient()),
        ];
        for (list, gradient) in lists {
            let size = gradient.iter().map(|g| g.abs()).fold(0.0, f32::max);
            for i in (0..gradient.len()).step_by(gradient.len() / 20) {
                let at = |delta: f32| {
                    let mut moved = net.clone();
                    list(&mut moved)[i] += delta;
                    objective(&moved, &batch, &data(), &rows)
                };
                let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
                let error = (f64::from(gradient[i]) - expected).abs();
                assert!(error < 0.02 * f64::from(size), "{i}: {} {expected}, greatest {size}", gradient[i]);
            }
        }
    }
}
