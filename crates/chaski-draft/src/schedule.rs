//! Chooses how much of a draft to verify.
//!
//! The schedule picks the n drafted nodes that maximize `(1 + sum p) / (ms(1 + n) + t_draft)`: expected tokens per
//! millisecond. n = 0, plain decoding, is among the choices. The loss budget (`loss_budget.rs`) bounds the loss if the
//! estimates are wrong.
//!
//! Gain and loss are measured in plain steps. If plain steps look slower than they are, every draft looks good. So the
//! first step of an answer is plain, more plain steps follow at intervals, and the reference is the faster of two
//! times: the curve's and the mean of this answer's own plain steps.

use std::collections::BTreeMap;

use crate::cost::CostCurve;
use crate::draft::Draft;
use crate::draft::draft_model::Asked;
use crate::loss_budget::LossBudget;
use crate::target::TreeLimits;
use crate::tree::{MAX_NODES, NodeId};

mod explanation;
pub use explanation::{Explanation, Reason, Verdict, Width};

/// Default for the widest tree of the cost-aware schedule: no measured CPU curve pays for more rows.
const MAX_ROWS: usize = 32;

/// The rows of a tree may take 1/64 of the available memory.
const MEMORY_SHARE: u64 = 64;

/// A draft must promise at least this much over plain decoding; anything less is within the noise.
const LEAST_GAIN: f64 = 1.02;

/// Draft nodes down to 1/4 of the cost of the cheapest row: such a node may still fill up a step of the staircase.
const HARDLY: f64 = 4.0;

/// A plain step comes after 8 drafted steps for each plain step of this answer so far, and after 48 at the latest.
const N_DRAFTED_PER_PLAIN: u32 = 8;

/// The reference time of a plain step is at most this factor below the curve's, because a fast step may be an outlier.
const GREATEST_DISAGREEMENT: f64 = 1.6;

/// The weight of the newest sample in the running means of drafting times and plain steps.
const NEWEST_SHARE: f64 = 0.1;

/// What one row of a verify needs in memory, beside the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMemory {
    /// Size of the vocabulary: one logit each, computed once and copied out once.
    pub n_vocab: usize,
    /// Attention heads: one score each per position.
    pub n_heads: usize,
    /// Positions of the context.
    pub n_ctx: usize,
}

impl RowMemory {
    /// The widest tree whose rows fit a small share of `n_available` bytes; at least 1 (plain decoding).
    #[must_use]
    pub fn max_rows(&self, n_available: u64) -> usize {
        let n_floats = self.n_vocab.saturating_mul(2).saturating_add(self.n_heads.saturating_mul(self.n_ctx));
        let per_row = (n_floats.saturating_mul(size_of::<f32>()).max(1)) as u64;
        usize::try_from(n_available / MEMORY_SHARE / per_row).unwrap_or(MAX_ROWS).clamp(1, MAX_ROWS)
    }
}

/// Decides at each step how much of a draft is verified.
#[derive(Clone, Debug)]
pub struct Schedule {
    curve: CostCurve,
    policy: Policy,
    /// Whether a draft that is partly rejected costs its accepted tokens again.
    redoes: bool,
}

#[derive(Clone, Debug)]
enum Policy {
    /// Verify all of every draft, as ADED does.
    Everything,
    /// Verify what pays by the cost curve.
    CostAware(Ledger),
}

/// What the cost-aware schedule knows about the current answer.
#[derive(Clone, Debug)]
struct Ledger {
    max_rows: usize,
    /// Running mean of the drafting time of steps in which no draft model was asked, in milliseconds.
    draft_ms: f64,
    loss_budget: LossBudget,
    /// Running mean of this answer's plain steps in milliseconds; 0 before the first.
    plain_ms: f64,
    n_plain: u32,
    /// Drafted steps since the last plain one.
    n_since_plain: u32,
    /// Running means over this answer's steps: the time in plain steps, and the tokens emitted.
    n_plain_per_step: f64,
    n_emitted_per_step: f64,
    /// Running mean of the rows of this answer's drafted steps.
    n_rows_drafted: f64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        let loss_budget = LossBudget::default();
        Ledger {
            max_rows: MAX_ROWS,
            draft_ms: 0.0,
            loss_budget,
            plain_ms: 0.0,
            n_plain: 0,
            n_since_plain: 0,
            n_plain_per_step: 1.0,
            n_emitted_per_step: 1.0,
            n_rows_drafted: 2.0,
        }
    }
}

impl Ledger {
    fn needs_a_plain_step(&self) -> bool {
        self.n_since_plain >= N_DRAFTED_PER_PLAIN * self.n_plain.min(6)
    }

    /// The time of a plain step that gains and losses are measured against.
    fn reference_ms(&self, of_curve_ms: f64) -> f64 {
        match self.n_plain {
            0 => of_curve_ms,
            _ => self.plain_ms.clamp(of_curve_ms / GREATEST_DISAGREEMENT, of_curve_ms),
        }
    }

    fn record(&mut self, step: &StepRecord, of_curve_ms: Option<f64>) {
        if step.asked.n == 0 {
            self.draft_ms += NEWEST_SHARE * (step.draft_ms - self.draft_ms);
        }
        if step.n_rows > 1 {
            self.n_since_plain += 1;
            self.n_rows_drafted += NEWEST_SHARE * (step.n_rows as f64 - self.n_rows_drafted);
        } else if step.n_redone == 0 {
            self.n_since_plain = 0;
            self.n_plain = self.n_plain.saturating_add(1);
            let share = (1.0 / f64::from(self.n_plain)).max(NEWEST_SHARE);
            self.plain_ms += share * (step.verify_ms - self.plain_ms);
        }
        let Some(of_curve_ms) = of_curve_ms else { return };
        let reference_ms = self.reference_ms(of_curve_ms);
        // An investment has a bound of its own. What predictions took beyond their price counts.
        let draft_ms = match step.asked.invested_ms > 0.0 {
            true => (step.draft_ms - step.asked.invested_ms).max(self.draft_ms + step.asked.ms),
            false => step.draft_ms,
        };
        let n_plain = match (step.n_rows + step.n_redone, step.asked.n) {
            (1, 0) => 1.0,
            (1, _) => 1.0 + draft_ms / reference_ms,
            // Rows that are decoded again are a loss of the draft that made them necessary.
            _ => (draft_ms + step.verify_ms) / reference_ms,
        };
        self.n_plain_per_step += NEWEST_SHARE * (n_plain - self.n_plain_per_step);
        self.n_emitted_per_step += NEWEST_SHARE * (step.n_emitted as f64 - self.n_emitted_per_step);
        self.loss_budget.record(step.n_emitted as f64, n_plain);
    }

    /// What a further row takes on average in the width of drafts lately, in milliseconds.
    fn row_ms(&self, curve: &BTreeMap<usize, f64>, of_curve_ms: f64) -> f64 {
        let n_rows = self.n_rows_drafted.ceil() as usize;
        let width = curve.range(n_rows..).next().or(curve.last_key_value());
        width.map_or(0.0, |(&n_rows, ms)| (ms - of_curve_ms).max(0.0) / (n_rows.max(2) - 1) as f64)
    }

    /// What one emitted token takes lately, in milliseconds; at most a plain step.
    fn token_ms(&self, of_curve_ms: f64) -> f64 {
        self.reference_ms(of_curve_ms) * (self.n_plain_per_step / self.n_emitted_per_step).min(1.0)
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug)]
pub struct StepRecord {
    /// Committed positions before the step.
    pub n_past: usize,
    /// Rows verified, root included.
    pub n_rows: usize,
    /// Rows that the batch had beside these: tokens lost with an earlier draft ([`Target::n_lost`]).
    ///
    /// [`Target::n_lost`]: crate::target::Target::n_lost
    pub n_redone: usize,
    /// Tokens emitted: the accepted ones and the bonus.
    pub n_emitted: usize,
    /// What the draft asked of a draft model.
    pub asked: Asked,
    /// Drafting time in milliseconds, predictions of a draft model included.
    pub draft_ms: f64,
    /// Verifying time in milliseconds.
    pub verify_ms: f64,
}

impl Schedule {
    /// A schedule that verifies what pays by `curve`. With an empty curve it verifies nothing.
    #[must_use]
    pub fn cost_aware(curve: CostCurve) -> Schedule {
        Schedule { curve, policy: Policy::CostAware(Ledger::default()), redoes: false }
    }

    /// The same schedule with trees of at most `max_rows`; see [`RowMemory::max_rows`].
    #[must_use]
    pub fn with_max_rows(mut self, max_rows: usize) -> Schedule {
        if let Policy::CostAware(ledger) = &mut self.policy {
            ledger.max_rows = max_rows.clamp(1, MAX_NODES);
        }
        self
    }

    /// A schedule that verifies all of every draft. `curve` only serves to estimate the time of plain decoding.
    #[must_use]
    pub fn everything(curve: CostCurve) -> Schedule {
        Schedule { curve, policy: Policy::Everything, redoes: false }
    }

    /// The same schedule for a target that loses the root and the accepted tokens with every rejected one
    /// ([`Target::n_lost`]): the time to decode them again counts as part of a draft's price. Such a target takes
    /// chains only.
    ///
    /// [`Target::n_lost`]: crate::target::Target::n_lost
    #[must_use]
    pub fn with_redone_tokens(self, redoes: bool) -> Schedule {
        Schedule { redoes, ..self }
    }

    /// The curve, as refined by the steps so far.
    #[must_use]
    pub fn curve(&self) -> &CostCurve {
        &self.curve
    }

    /// The limits to pass to the drafter, on top of `n_past` positions.
    #[must_use]
    pub fn limits(&self, target: TreeLimits, n_past: usize) -> TreeLimits {
        match &self.policy {
            Policy::Everything => target,
            Policy::CostAware(ledger) if ledger.needs_a_plain_step() || ledger.loss_budget.is_shut() => {
                TreeLimits::PLAIN
            }
            Policy::CostAware(ledger) => {
                let max_nodes = target.max_nodes.min(ledger.max_rows);
                let curve = self.curve.at(n_past);
                let Some(&plain_ms) = curve.get(&1) else { return TreeLimits { max_nodes, least_p: 1.0, ..target } };
                let least_p = (cheapest_row(&curve, plain_ms) / HARDLY) as f32;
                let (token_ms, row_ms) = (ledger.token_ms(plain_ms), ledger.row_ms(&curve, plain_ms));
                let spend_ms = ledger.loss_budget.for_predictions() * ledger.reference_ms(plain_ms);
                TreeLimits { max_nodes, least_p, token_ms, row_ms, spend_ms, ..target }
            }
        }
    }

    /// How many rows of `draft` to verify on top of `n_past` positions, root included. The batch has `n_redone` rows
    /// beside them, whatever is chosen.
    #[must_use]
    pub fn choose(&self, draft: &Draft, n_past: usize, n_redone: usize) -> usize {
        match &self.policy {
            Policy::Everything => draft.tree.len(),
            Policy::CostAware(ledger) => self.best_size(draft, n_past, n_redone, ledger),
        }
    }

    /// Explains what [`Schedule::choose`] returns.
    #[must_use]
    pub fn explain(&self, draft: &Draft, n_past: usize, n_redone: usize) -> Explanation {
        let mut widths = Vec::new();
        let (n_rows, reason) = match &self.policy {
            Policy::CostAware(ledger) => {
                let n_rows = self.weigh(draft, n_past, n_redone, ledger, |width| widths.push(width));
                let reason = match draft.tree.len() {
                    _ if n_rows > 1 => Reason::Pays,
                    1 if ledger.needs_a_plain_step() => Reason::PlainStepDue,
                    1 if ledger.loss_budget.is_shut() => Reason::BudgetUsedUp,
                    1 => Reason::NothingDrafted,
                    _ if widths.is_empty() => Reason::UnknownCost,
                    _ if widths.iter().any(|width| width.verdict == Verdict::NotCovered) => Reason::NotCovered,
                    _ => Reason::TooLittleGain,
                };
                (n_rows, reason)
            }
            Policy::Everything if draft.tree.len() == 1 => (1, Reason::NothingDrafted),
            Policy::Everything => (draft.tree.len(), Reason::Everything),
        };
        Explanation { n_rows, reason, widths, least_gain: LEAST_GAIN }
    }

    fn best_size(&self, draft: &Draft, n_past: usize, n_redone: usize, ledger: &Ledger) -> usize {
        self.weigh(draft, n_past, n_redone, ledger, |_| {})
    }

    /// The best number of rows. Calls `see` for every width weighed.
    fn weigh(
        &self,
        draft: &Draft,
        n_past: usize,
        n_redone: usize,
        ledger: &Ledger,
        mut see: impl FnMut(Width),
    ) -> usize {
        let curve = self.curve.at(n_past);
        let Some(&of_curve_ms) = curve.get(&1) else { return 1 };
        // A width that was not measured costs as much as the next wider one. More rows never take less time than one: a
        // curve that says so was measured on a busy machine.
        let ms_of = |n_rows: usize| curve.range(n_rows + n_redone..).next().map(|(_, ms)| ms.max(of_curve_ms));
        let plain_ms = ledger.reference_ms(of_curve_ms);
        // The rows beside the tree are decoded whatever is chosen, and so are the predictions that were made.
        let redone_ms = if n_redone == 0 { Some(0.0) } else { ms_of(1).map(|ms| ms - of_curve_ms) };
        let Some(redone_ms) = redone_ms else { return 1 };
        let spent_ms = draft.asked.ms;
        // So what these take is as good as lost already, though it is not recorded yet.
        let loss_budget = LossBudget { credit: ledger.loss_budget.credit - (redone_ms + spent_ms) / plain_ms };
        let mut best = (1, LEAST_GAIN / (plain_ms + redone_ms + spent_ms));
        let mut n_expected = 0.0;
        // The expected time to decode accepted tokens again after a rejection, and the probability of the parent.
        let (mut redo_ms, mut p_parent) = (0.0, 1.0);
        // Per depth, the probability that a node there is accepted: siblings exclude each other, so theirs add up.
        let mut reach = vec![0.0; MAX_NODES];
        for (node, p) in draft.tree.nodes().zip(&draft.p) {
            n_expected += f64::from(*p);
            reach[draft.tree.depth(node)] += f64::from(*p);
            if node == NodeId::ROOT {
                continue;
            }
            let n_rows = node.index() + 1;
            let Some(ms) = ms_of(n_rows) else {
                break;
            };
            // In the worst case all is rejected. The next step then has this one's root before its own, and the rows that
            // this one has beside the tree.
            let mut worst_ms = ms - redone_ms + ledger.draft_ms;
            if self.redoes {
                worst_ms += ms_of(2).map_or(0.0, |ms| ms - of_curve_ms);
                // If this node is the first to be rejected, the next step decodes again what this batch has before it:
                // with its own root as many rows as this batch has up to here.
                redo_ms += f64::from(p_parent - p).max(0.0) * (ms - of_curve_ms);
                p_parent = *p;
            }
            let step_ms = ms + redo_ms + ledger.draft_ms;
            let tokens_per_ms = n_expected / (step_ms + spent_ms);
            let verdict = match tokens_per_ms > best.1 {
                false => Verdict::NoBetter,
                true if loss_budget.allows(worst_ms / plain_ms, &reach) => Verdict::Better,
                true => Verdict::NotCovered,
            };
            if verdict == Verdict::Better {
                best = (n_rows, tokens_per_ms);
            }
            let n_plain = (step_ms + spent_ms) / (plain_ms + redone_ms + spent_ms);
            see(Width { n_rows, n_expected, n_plain, verdict });
        }
        best.0
    }

    /// Learns from a step. If its plain step shows that the curve was measured on a busy machine, the curve is
    /// discarded, and nothing is drafted until it is measured again.
    pub fn record(&mut self, step: &StepRecord) {
        if step.n_rows == 1 && step.n_redone == 0 {
            let mut seen = CostCurve::default();
            seen.observe(1, step.n_past, step.verify_ms);
            if self.curve.is_of_a_busy_machine(&seen) {
                self.curve = CostCurve::default();
            }
        }
        // Rows that are decoded again need no logits, so they are no sample of a row.
        if step.n_redone == 0 {
            self.curve.observe(step.n_rows, step.n_past, step.verify_ms);
        }
        if let Policy::CostAware(ledger) = &mut self.policy {
            ledger.record(step, self.curve.plain_ms(step.n_past));
        }
    }
}

/// The cost of the cheapest further row on `curve`, as a share of a plain step: 0 to 1.
fn cheapest_row(curve: &BTreeMap<usize, f64>, plain_ms: f64) -> f64 {
    let wider = curve.iter().filter(|(n_rows, _)| **n_rows > 1);
    let per_row = wider.map(|(&n_rows, ms)| (ms / plain_ms - 1.0) / (n_rows - 1) as f64);
    per_row.fold(1.0, f64::min).max(0.0)
}

#[cfg(test)]
mod tests;
