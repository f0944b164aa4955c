//! How many rows of the next batch each text gets.
//!
//! Every text gets one row at least, so that none starves: a root emits a token, a prompt is read a little further. The
//! rest goes to prompts, in the order of their slots. A prompt costs the same whenever it is read, and the sooner it is
//! read the more texts share the later steps, so as much is read in a step as may be, bounded by what a step may take.

use crate::cost::CostCurve;

/// Prompt rows of a step where nothing is known of their cost.
const N_PROMPT_ROWS: usize = 256;

/// Decides the rows of each step.
#[derive(Clone, Debug)]
pub struct CrowdSchedule {
    curve: CostCurve,
    n_prompt_rows: usize,
}

impl CrowdSchedule {
    /// A schedule that knows what rows cost.
    #[must_use]
    pub fn new(curve: CostCurve) -> CrowdSchedule {
        CrowdSchedule { curve, n_prompt_rows: N_PROMPT_ROWS }
    }

    /// The same with this bound on the prompt rows of a step.
    #[must_use]
    pub fn with_prompt_rows(self, n_prompt_rows: usize) -> CrowdSchedule {
        CrowdSchedule { n_prompt_rows, ..self }
    }

    /// The most rows of a batch for `n_slots` texts.
    #[must_use]
    pub fn max_rows(&self, n_slots: usize) -> usize {
        n_slots + self.n_prompt_rows
    }

    /// Rows for each slot, of which `pending` are the tokens not decoded yet.
    #[must_use]
    pub fn plan(&self, pending: &[usize]) -> Vec<usize> {
        let mut n_left = self.n_prompt_rows;
        let rows = pending.iter().map(|&n_pending| {
            let n_more = n_pending.saturating_sub(1).min(n_left);
            n_left -= n_more;
            n_pending.min(1) + n_more
        });
        rows.collect()
    }

    /// Takes in that a step with these rows took `ms`.
    pub fn record(&mut self, rows: &[usize], ms: f64) {
        if rows.iter().all(|&n_rows| n_rows <= 1) {
            self.curve.observe(rows.iter().sum(), 0, ms);
        }
    }
}
