//! Many texts in one context: results do not depend on the lane, its neighbours, the prompt chunks or copied prefixes.

use std::ops::ControlFlow;

use chaski::batching::chains::Drafting;
use chaski::batching::schedule::BatchSchedule;
use chaski::batching::target::{BatchTarget as _, Run};
use chaski::batching::{Batcher, EmittedToken, Text};
use chaski::cost::CostCurve;
use chaski::draft::auto::Auto;
use chaski::llama::model::Model;
use chaski::llama::parallel::Parallel;
use chaski::llama::sampler::sampler;
use chaski::llama::session::{Session, SessionConfig};
use chaski::sampling::Sampling;
use chaski::token::Token;

use super::support::loop_parts::{Dice, Still};
use super::support::real::{self, Comparison, Difference, Plain, config};
use super::{exact_model, forget, last_row, prompt, seeded};

/// Decodes random chunks of random texts in several lanes, and compares the logits after each chunk with those of the
/// text alone.
#[test]
fn a_row_does_not_depend_on_its_lane_or_its_neighbours() {
    let Some(path) = exact_model("lanes") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut alone = Session::new(&model, &config()).unwrap();
    for (case, n_lanes) in [1, 3, 16].into_iter().enumerate() {
        let mut dice = Dice(1 + case as u64);
        let config = SessionConfig { n_ctx: 256, ..config() };
        let mut lanes = Parallel::new(&model, &config, n_lanes, 512).unwrap();
        let texts: Vec<Vec<Token>> = (0..n_lanes).map(|_| prompt(&model, &mut dice, 60)).collect();
        for step in 0..4 {
            let mut runs = Vec::new();
            for (lane_id, text) in texts.iter().enumerate() {
                let n_past = lanes.n_past(lane_id);
                let n = 1 + dice.roll(13);
                if dice.roll(4) > 0 && n_past + n <= text.len() {
                    runs.push(Run { lane_id, tokens: text[n_past..n_past + n].to_vec(), n_logits: 1 });
                }
            }
            if runs.is_empty() {
                continue;
            }
            lanes.decode(&runs).unwrap();
            let mut row = 0;
            for run in &runs {
                row += run.tokens.len();
                let bits: Vec<u32> = lanes.logits(row - 1).iter().map(|logit| logit.to_bits()).collect();
                let text = &texts[run.lane_id][..lanes.n_past(run.lane_id)];
                assert!(
                    last_row(&mut alone, text, &[256]) == bits,
                    "{n_lanes} lanes, step {step}, lane {}",
                    run.lane_id
                );
            }
        }
    }
}

/// Copies a prefix of one lane to another and continues it there, several times in a row.
#[test]
fn what_is_taken_over_is_what_would_have_been_read() {
    let Some(path) = exact_model("copies") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut alone = Session::new(&model, &config()).unwrap();
    let config = SessionConfig { n_ctx: 512, ..config() };
    let mut lanes = Parallel::new(&model, &config, 4, 512).unwrap();
    let mut dice = Dice(3);
    let text = prompt(&model, &mut dice, 200);
    lanes.decode(&[Run { lane_id: 1, tokens: text.clone(), n_logits: 0 }]).unwrap();
    let mut held = [Vec::new(), text, Vec::new(), Vec::new()];
    for (from, to) in [(1, 3), (3, 0), (0, 2), (2, 1), (1, 0), (3, 2), (2, 3)] {
        let n = 1 + dice.roll(held[from].len());
        lanes.copy(from, to, n);
        assert_eq!(lanes.n_past(to), n);
        let rest = prompt(&model, &mut dice, 20);
        held[to] = [&held[from][..n], &rest].concat();
        lanes.decode(&[Run { lane_id: to, tokens: rest.clone(), n_logits: 1 }]).unwrap();
        let bits: Vec<u32> = lanes.logits(rest.len() - 1).iter().map(|logit| logit.to_bits()).collect();
        forget(&mut alone);
        assert!(last_row(&mut alone, &held[to], &[64]) == bits, "{n} tokens of lane {from} in lane {to}");
    }
}

/// A text of a batch and its plain answer.
pub(super) struct Line {
    pub(super) prompt: Vec<Token>,
    pub(super) sampling: Sampling,
    pub(super) n_tokens: usize,
    pub(super) plain: Plain,
}

/// How to answer a batch.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) n_lanes: usize,
    /// Rows of a step beyond one per text.
    pub(super) max_more: usize,
    /// Whether drafting pays off.
    pub(super) drafts: bool,
    pub(super) config: SessionConfig,
}

/// Answers all lines in one batch, in this order. Returns the differences by line, and the number of accepted draft
/// tokens.
pub(super) fn side_by_side(
    model: &Model,
    lines: &[Line],
    order: &[usize],
    side: &Side,
) -> (Vec<(usize, Difference)>, usize) {
    // A cost curve where rows are almost free, or one where only single rows pay off.
    let curve = if side.drafts { [(1, 10.0), (64, 11.0)] } else { [(1, 10.0), (64, 640.0)] };
    let schedule = BatchSchedule::new(CostCurve::exact(curve)).with_max_more(side.max_more);
    let lanes = Parallel::new(model, &side.config, side.n_lanes, schedule.max_rows(side.n_lanes)).unwrap();
    let batcher = Batcher::new(lanes, schedule);
    let mut batcher = batcher.with_drafting(Drafting::new(Auto::default(), side.n_lanes));
    let mut comparisons: Vec<Comparison> = lines.iter().map(|_| Comparison::default()).collect();
    let (mut coming, mut n_accepted) = (order.iter().peekable(), 0);
    while coming.peek().is_some() || batcher.n_working() > 0 {
        while batcher.has_lane()
            && let Some(&id) = coming.next()
        {
            let Line { prompt, sampling, n_tokens, .. } = &lines[id];
            let sampler = sampler(sampling, model, prompt);
            let (prompt, max_tokens) = (prompt.clone(), *n_tokens);
            batcher.admit(Text { id: id as u64, prompt, max_tokens, sampler, filter: None });
        }
        let mut listener = |said: EmittedToken<'_>| {
            let id = said.id as usize;
            comparisons[id].take(&lines[id].plain, said.token, said.logits);
            if model.is_end(said.token) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let ended = batcher.step(&Still, &mut listener).unwrap();
        n_accepted += ended.iter().map(|ended| ended.n_accepted).sum::<usize>();
    }
    let finished = comparisons.into_iter().zip(lines).enumerate();
    let differing = finished.filter_map(|(id, (comparison, line))| Some((id, comparison.finish(&line.plain)?)));
    (differing.collect(), n_accepted)
}

#[test]
fn texts_side_by_side_are_each_text_alone() {
    let Some(path) = exact_model("texts side by side") else { return };
    let _turn = real::turn();
    let model = real::load(&path, None);
    let mut target = Session::new(&model, &config()).unwrap();
    let mut dice = Dice(11);
    let shared = prompt(&model, &mut dice, 70);
    let lines: Vec<Line> = (0..24)
        .map(|i| {
            let n = 2 + dice.roll(60);
            // Half of the texts say the same three times, so that drafts are accepted whatever the processor's logits.
            let (n, n_times) = if i % 4 < 2 { (n, 1) } else { (n.div_ceil(3), 3) };
            let own = prompt(&model, &mut dice, n).repeat(n_times);
            let prompt = if dice.roll(2) == 0 { own } else { [&shared[..], &own].concat() };
            let sampling = if i % 2 == 0 { Sampling::greedy() } else { seeded(i) };
            let n_tokens = 4 + dice.roll(28);
            let plain = real::plain(&model, &mut target, &prompt, n_tokens, sampler(&sampling, &model, &prompt));
            Line { prompt, sampling, n_tokens, plain }
        })
        .collect();
    let in_order: Vec<usize> = (0..lines.len()).collect();
    let backwards: Vec<usize> = in_order.iter().rev().copied().collect();
    let config = SessionConfig { n_ctx: 256, ..config() };
    let mut n_accepted_in_all = 0;
    for (n_lanes, max_more, drafts, order, n_threads_batch) in [
        (1, 256, false, &in_order, 2),
        (3, 1, false, &backwards, 1),
        (7, 40, true, &in_order, 2),
        (16, 256, true, &backwards, 1),
        (24, 7, false, &in_order, 2),
    ] {
        let side = Side { n_lanes, max_more, drafts, config: SessionConfig { n_threads_batch, ..config } };
        let (differences, n_accepted) = side_by_side(&model, &lines, order, &side);
        assert!(differences.is_empty(), "{side:?}: {differences:?}");
        n_accepted_in_all += n_accepted;
    }
    assert!(n_accepted_in_all > 20, "only {n_accepted_in_all} drafted tokens were ever accepted");
}
