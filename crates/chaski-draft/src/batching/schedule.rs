//! How many rows of the next batch each text gets: those that promise the most tokens per millisecond.
//!
//! A row is worth the tokens it is expected to bring: a root 1, a drafted token the probability that it is accepted, a
//! token of a prompt 1 as well, since every step that passes before a prompt is read is a token its text does not emit.
//! Every text gets one row, so that none starves and none stalls. What more pays is added block by block: a *block*
//! gives neighbouring lanes equally many rows more, because that is what llama.cpp decodes as one part of a batch
//! ([`parts`]); what is uneven costs a part of its own, as does a gap. An empty plan beyond the single rows is plain
//! decoding.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cost::CostCurve;
use crate::loss_budget::LossBudget;

/// Rows beyond the single ones, at most; a batch is as long as this and one row for each lane.
const MAX_MORE: usize = 256;

/// A step should take no longer than this, or an interrupt is answered late.
const LONGEST_MS: f64 = 2000.0;

/// But so many rows more it may have on any machine.
const LEAST_MORE: usize = 16;

/// Drafted rows must promise this much more than is had without them: below it the promise is within the noise.
const LEAST_GAIN: f64 = 1.02;

/// Reading prompts may slow a step's tokens down by this factor, at worst: texts end sooner, so that less of them is
/// lost with an interrupt.
const LEAST_READING: f64 = 0.9;

/// The surest draft there is: what would not pay at this probability need not be drafted.
const SUREST: f64 = 0.98;

/// Rows a block may give to a text that drafts; prompts take as many as there are.
const DRAFT_ROWS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// The longest chain worth drafting for one text.
pub const MAX_CHAIN: usize = DRAFT_ROWS[DRAFT_ROWS.len() - 1];

/// What a text could use in the next batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Its tokens that were not decoded yet: a root alone is one, and 0 is a lane where nobody works, or waits.
    pub n_pending: usize,
    /// After a root: the probabilities that drafted tokens are accepted, each no greater than the one before.
    pub p: Vec<f32>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord<'a> {
    /// Rows of each lane.
    pub rows: &'a [usize],
    /// How many of these were drafted.
    pub drafted: &'a [usize],
    /// Rows that gave logits.
    pub n_logits: usize,
    /// Positions that a text has, on average.
    pub n_past: usize,
    /// Tokens it brought.
    pub n_emitted: usize,
    /// Time spent on drafts, on planning with them and on learning from them, in milliseconds; 0 where there were none.
    pub draft_ms: f64,
    /// Time spent in the target.
    pub decode_ms: f64,
}

/// Decides the rows of each step.
#[derive(Clone, Debug)]
pub struct BatchSchedule {
    curve: CostCurve,
    max_more: usize,
    /// In tokens, over the root of the number of lanes: what is lent is for bad luck, and that of many texts evens out.
    loss_budget: LossBudget,
}

/// What a lane could use beyond its single row.
#[derive(Clone, Debug)]
struct Offer {
    /// Rows.
    n_more: usize,
    is_draft: bool,
    /// Of a draft, or as much of a prompt: tokens that so many rows are expected to bring.
    worth: [f64; MAX_CHAIN + 1],
}

impl Offer {
    fn of(wish: &Wish) -> Offer {
        let mut worth = [0.0; MAX_CHAIN + 1];
        for n_rows in 1..=MAX_CHAIN {
            let p = wish.p.get(n_rows - 1).copied().unwrap_or_default();
            worth[n_rows] = worth[n_rows - 1] + if wish.p.is_empty() { 1.0 } else { f64::from(p) };
        }
        let is_draft = !wish.p.is_empty();
        let n_more = if is_draft { wish.p.len().min(MAX_CHAIN) } else { wish.n_pending.saturating_sub(1) };
        Offer { n_more, is_draft, worth }
    }
}

/// A block of rows: `n_rows` more for each of these lanes.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    target: Range<usize>,
    n_rows: usize,
    value: f64,
    ms: f64,
    has_drafts: bool,
}

impl BatchSchedule {
    /// A schedule that knows what rows cost.
    #[must_use]
    pub fn new(curve: CostCurve) -> BatchSchedule {
        BatchSchedule { curve, max_more: MAX_MORE, loss_budget: LossBudget::default() }
    }

    /// The same with this bound on the rows of a step beyond one for each text.
    #[must_use]
    pub fn with_max_more(self, max_more: usize) -> BatchSchedule {
        BatchSchedule { max_more, ..self }
    }

    /// The curve, as refined by the steps so far.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        &self.curve
    }

    /// The most rows of a batch for `n_lanes` texts.
    #[must_use]
    pub fn max_rows(&self, n_lanes: usize) -> usize {
        n_lanes + self.max_more
    }

    /// Whether the surest drafts could pay beside `n_roots` roots on top of `n_past` positions.
    #[must_use]
    pub fn can_draft(&self, n_roots: usize, n_past: usize) -> bool {
        if n_roots == 0 || self.loss_budget.is_shut() || self.curve.plain_ms(n_past).is_none() {
            return false;
        }
        let times = self.times(n_roots, n_past);
        let pays = |n_more: usize, ms: f64| {
            let n_tokens = n_roots as f64 + SUREST * n_more as f64;
            n_tokens / ms > LEAST_GAIN * n_roots as f64 / times.of(n_roots)
        };
        DRAFT_ROWS.iter().any(|&n_rows| {
            let one = || pays(n_rows, times.of(n_roots) + times.of(n_rows));
            let all = || pays(n_roots * n_rows, times.of(n_roots * (1 + n_rows)));
            n_rows <= self.max_more && one() || n_roots * n_rows <= self.max_more && all()
        })
    }

    /// Rows for each lane, on top of `n_past` positions on average.
    #[must_use]
    pub fn plan(&self, wishes: &[Wish], n_past: usize) -> Vec<usize> {
        let times = self.times(wishes.len(), n_past);
        let mut offers: Vec<Offer> = wishes.iter().map(Offer::of).collect();
        let mut rows: Vec<usize> = wishes.iter().map(|wish| wish.n_pending.min(1)).collect();
        let mut value: f64 = rows.iter().sum::<usize>() as f64;
        let mut ms = times.of_batch(&rows);
        let fits = |n_more: &usize| ms + times.of(*n_more) <= LONGEST_MS;
        let n_short = (LEAST_MORE..=self.max_more).rev().find(fits);
        let mut n_left = n_short.unwrap_or(LEAST_MORE.min(self.max_more));
        let mut best_rate = value / ms;
        while let Some(block) = best_block(&offers, &rows, &times, n_left, (value, ms)) {
            let mut with_block = rows.clone();
            block.target.clone().for_each(|lane_id| with_block[lane_id] += block.n_rows);
            // Beside other blocks it may split the batch into more parts than was thought when it was found.
            let ms_with_block = times.of_batch(&with_block);
            let rate = (value + block.value) / ms_with_block;
            if rate < LEAST_READING * best_rate || block.has_drafts && rate < LEAST_GAIN * value / ms {
                break;
            }
            best_rate = best_rate.max(rate);
            offers[block.target.clone()].iter_mut().for_each(|offer| offer.n_more = 0);
            n_left -= block.n_rows * block.target.len();
            (rows, value, ms) = (with_block, value + block.value, ms_with_block);
        }
        rows
    }

    fn times(&self, n_lanes: usize, n_past: usize) -> Times {
        Times::new(&self.curve.at(n_past), self.max_rows(n_lanes))
    }

    /// Takes in what a step took.
    pub fn record(&mut self, step: &StepRecord<'_>) {
        self.settle(step);
        let n_rows: usize = step.rows.iter().sum();
        if n_rows == step.n_logits && parts(step.rows).len() == 1 {
            self.curve.observe(n_rows, step.n_past, step.decode_ms);
        }
    }

    /// Charges the loss budget with what drafts took, also in steps that read prompts, and credits it with what they brought.
    fn settle(&mut self, step: &StepRecord<'_>) {
        let n_roots = step.n_logits - step.drafted.iter().sum::<usize>();
        if n_roots == 0 {
            return;
        }
        let times = self.times(step.rows.len(), step.n_past);
        let plain: Vec<usize> =
            step.rows.iter().zip(step.drafted).map(|(n_rows, n_drafted)| n_rows - n_drafted).collect();
        let n_plain_rows: usize = plain.iter().sum();
        let verify_ms = match step.drafted.iter().all(|&n| n == 0) {
            true => 0.0,
            false if n_plain_rows == n_roots => step.decode_ms - times.of_batch(&plain),
            // What a prompt takes is known too roughly to be told from what its neighbours' drafts took.
            false => times.of_batch(step.rows) - times.of_batch(&plain),
        };
        let n_plain = n_roots as f64 * (1.0 + (step.draft_ms + verify_ms) / times.of(n_roots));
        let scale = (step.rows.len() as f64).sqrt();
        self.loss_budget.record(step.n_emitted as f64 / scale, n_plain / scale);
    }
}

/// The block that promises the most tokens per millisecond together with what is planned so far; one with drafts only
/// where that is more than is planned so far.
fn best_block(
    offers: &[Offer],
    rows: &[usize],
    times: &Times,
    n_left: usize,
    (value, ms): (f64, f64),
) -> Option<Block> {
    let rate = |block: &Block| (value + block.value) / (ms + block.ms);
    let pays = |block: &Block| !block.has_drafts || rate(block) >= LEAST_GAIN * value / ms;
    let is_end = |lane_id: Option<usize>| lane_id.and_then(|lane_id| rows.get(lane_id)).is_none_or(|&n| n == 0);
    let mut best: Option<Block> = None;
    for from in 0..offers.len() {
        let (mut least, mut has_drafts, mut worth) = (usize::MAX, false, [0.0; MAX_CHAIN + 1]);
        for (n_lanes, offer) in (1..).zip(&offers[from..]) {
            least = least.min(offer.n_more).min(n_left / n_lanes);
            if least == 0 {
                break;
            }
            has_drafts |= offer.is_draft;
            worth.iter_mut().zip(&offer.worth).for_each(|(sum, worth)| *sum += worth);
            let target = from..from + n_lanes;
            // Where it is all of a part, that part becomes longer; else it is one more.
            let is_whole = is_end(from.checked_sub(1)) && is_end(Some(target.end));
            let of_drafts = DRAFT_ROWS.into_iter().filter(|&n_rows| has_drafts && n_rows < least);
            for n_rows in of_drafts.chain([least]) {
                let value = if has_drafts { worth[n_rows] } else { (n_rows * n_lanes) as f64 };
                let n_more = n_rows * n_lanes;
                let ms = if is_whole { times.of(n_lanes + n_more) - times.of(n_lanes) } else { times.of(n_more) };
                let block = Block { target: target.clone(), n_rows, value, ms, has_drafts };
                if best.as_ref().is_none_or(|best| rate(&block) > rate(best)) && pays(&block) {
                    best = Some(block);
                }
            }
        }
    }
    best
}

/// The parts, by their rows, in which llama.cpp decodes a batch of these rows for each lane: again and again as many as
/// all of the first run of neighbours still have.
#[must_use]
pub fn parts(rows: &[usize]) -> Vec<usize> {
    let mut left = rows.to_vec();
    let mut parts = Vec::new();
    while let Some(from) = left.iter().position(|&n| n > 0) {
        let run = left[from..].iter().take_while(|&&n| n > 0).count();
        let run = &mut left[from..from + run];
        let least = run.iter().copied().min().unwrap_or(1);
        run.iter_mut().for_each(|n| *n -= least);
        parts.push(least * run.len());
    }
    parts
}

/// Milliseconds by rows, 0 to some number.
struct Times(Vec<f64>);

impl Times {
    /// From what is known: between two known widths on the line through them, beyond the last in proportion. Where
    /// nothing is known, a step costs as much as ten rows more.
    fn new(known: &BTreeMap<usize, f64>, max_rows: usize) -> Times {
        let mut points: Vec<(f64, f64)> = known.iter().map(|(&n_rows, &ms)| (n_rows as f64, ms)).collect();
        if points.is_empty() {
            points.extend([(1.0, 11.0), (64.0, 74.0)]);
        }
        if let Some(&(n_rows, ms)) = points.last() {
            points.push((2.0 * n_rows, 2.0 * ms));
        }
        let mut times = vec![0.0];
        let mut at = 0;
        for n_rows in 1..=max_rows {
            while at + 2 < points.len() && points[at + 1].0 < n_rows as f64 {
                at += 1;
            }
            let [(n0, ms0), (n1, ms1)] = [points[at], points[at + 1]];
            let ms = ms0 + (ms1 - ms0) * (n_rows as f64 - n0) / (n1 - n0);
            // More rows never take less than fewer: a curve that says so was measured on a busy machine.
            times.push(f64::max(ms, times[n_rows - 1]));
        }
        Times(times)
    }

    fn of(&self, n_rows: usize) -> f64 {
        self.0[n_rows]
    }

    /// Of a batch with these rows for each lane.
    fn of_batch(&self, rows: &[usize]) -> f64 {
        parts(rows).into_iter().map(|n_rows| self.of(n_rows)).sum()
    }
}

#[cfg(test)]
mod tests;
