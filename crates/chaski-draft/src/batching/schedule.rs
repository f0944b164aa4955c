//! Chooses how many rows each text gets in the next batch, for the most tokens per millisecond.
//!
//! A row is worth the tokens it is expected to bring. A root is worth 1, and a drafted token the probability that it is
//! accepted. A prompt token is worth 1 too: every step spent before a prompt is read is a token its text does not emit.
//! Every text gets one row, so none starves.
//!
//! More rows are added block by block while they pay. A *block* gives neighbouring lanes the same number of extra rows,
//! because llama.cpp decodes such rows as one part of a batch ([`parts`]). Uneven rows and gaps cost a part of their
//! own. A plan without extra rows is plain decoding.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::cost::CostCurve;
use crate::loss_budget::LossBudget;

/// Most rows in a step beyond one per lane.
const MAX_MORE: usize = 256;

/// A step should take no longer than this, so that an interrupt is answered in time.
const LONGEST_MS: f64 = 2000.0;

/// A step may have this many extra rows even if it then takes longer than [`LONGEST_MS`].
const LEAST_MORE: usize = 16;

/// Drafted rows must promise at least this much over the plan without them; anything less is within the noise.
const LEAST_GAIN: f64 = 1.02;

/// Reading prompts may lower a step's rate to this share of the best plan. Texts then end sooner, so an interrupt loses
/// less work.
const LEAST_READING: f64 = 0.9;

/// The most likely draft to expect. If even this one would not pay, nothing is drafted.
const SUREST: f64 = 0.98;

/// Extra rows a block with drafts may give each lane; the other choice is as many as all its lanes can use.
const DRAFT_ROWS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

/// The longest chain worth drafting for one text.
pub const MAX_CHAIN: usize = DRAFT_ROWS[DRAFT_ROWS.len() - 1];

/// What a text could use in the next batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Tokens not decoded yet: 1 for a root alone, 0 for a lane that is free or waiting.
    pub n_pending: usize,
    /// Acceptance probabilities of the tokens drafted after a root, in falling order.
    pub p: Vec<f32>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRecord<'a> {
    /// Rows per lane.
    pub rows: &'a [usize],
    /// Drafted rows per lane.
    pub drafted: &'a [usize],
    /// Rows with logits.
    pub n_logits: usize,
    /// Mean number of cached positions per text.
    pub n_past: usize,
    /// Tokens emitted.
    pub n_emitted: usize,
    /// Milliseconds spent on drafting, planning and learning; 0 if nothing was drafted.
    pub draft_ms: f64,
    /// Milliseconds spent in the target.
    pub decode_ms: f64,
}

/// Decides how many rows each lane gets in a step.
#[derive(Clone, Debug)]
pub struct BatchSchedule {
    curve: CostCurve,
    max_more: usize,
    /// Counts tokens divided by the square root of the number of lanes: the bad luck of many texts evens out.
    loss_budget: LossBudget,
}

/// The extra rows a lane could use.
#[derive(Clone, Debug)]
struct Offer {
    /// How many extra rows.
    n_more: usize,
    is_draft: bool,
    /// Expected tokens, by number of extra rows.
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

/// A block: `n_rows` extra rows for each lane of `target`.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    target: Range<usize>,
    n_rows: usize,
    value: f64,
    ms: f64,
    has_drafts: bool,
}

impl BatchSchedule {
    /// A schedule with this cost curve.
    #[must_use]
    pub fn new(curve: CostCurve) -> BatchSchedule {
        BatchSchedule { curve, max_more: MAX_MORE, loss_budget: LossBudget::default() }
    }

    /// The same schedule with at most `max_more` rows in a step beyond one per lane.
    #[must_use]
    pub fn with_max_more(self, max_more: usize) -> BatchSchedule {
        BatchSchedule { max_more, ..self }
    }

    /// The curve, as refined by the steps so far.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        &self.curve
    }

    /// Most rows in a batch of `n_lanes` texts.
    #[must_use]
    pub fn max_rows(&self, n_lanes: usize) -> usize {
        n_lanes + self.max_more
    }

    /// Whether near-certain drafts would pay beside `n_roots` roots on top of `n_past` positions.
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

    /// The number of rows for each lane. `n_past` is the mean number of cached positions.
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
            // Beside other blocks, this one may split the batch into more parts than `best_block` assumed.
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

    /// Learns from a step. Only a step that is one part, with logits for every row, refines the curve.
    pub fn record(&mut self, step: &StepRecord<'_>) {
        self.settle(step);
        let n_rows: usize = step.rows.iter().sum();
        if n_rows == step.n_logits && parts(step.rows).len() == 1 {
            self.curve.observe(n_rows, step.n_past, step.decode_ms);
        }
    }

    /// Charges the loss budget for the time of drafts and credits the tokens they brought, also in steps that read
    /// prompts.
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
            // The time of a prompt varies too much to subtract it from the step, so use the curve for both sides.
            false => times.of_batch(step.rows) - times.of_batch(&plain),
        };
        let n_plain = n_roots as f64 * (1.0 + (step.draft_ms + verify_ms) / times.of(n_roots));
        let scale = (step.rows.len() as f64).sqrt();
        self.loss_budget.record(step.n_emitted as f64 / scale, n_plain / scale);
    }
}

/// The block with the most tokens per millisecond, counted together with the plan so far. A block with drafts must also
/// improve on that plan.
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
            // A block that covers a whole part makes that part longer; any other block adds a part.
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

/// The parts, by number of rows, in which llama.cpp decodes a batch with these rows per lane. Each part takes the same
/// number of rows from every lane of the first run of neighbours: the fewest that any of them has left.
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

/// Milliseconds by number of rows.
struct Times(Vec<f64>);

impl Times {
    /// Interpolates linearly between known widths and extrapolates in proportion beyond the last. With nothing known,
    /// assumes that a step costs as much as ten extra rows.
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
            // More rows never take less time than fewer. A curve that says so was measured on a busy machine.
            times.push(f64::max(ms, times[n_rows - 1]));
        }
        Times(times)
    }

    fn of(&self, n_rows: usize) -> f64 {
        self.0[n_rows]
    }

    /// The time of a batch with these rows per lane.
    fn of_batch(&self, rows: &[usize]) -> f64 {
        parts(rows).into_iter().map(|n_rows| self.of(n_rows)).sum()
    }
}

#[cfg(test)]
mod tests;
