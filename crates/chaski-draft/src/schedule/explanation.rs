//! Explains a schedule's choice as data, for `run --explain` to put into words.

/// A choice and the widths that were weighed for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Rows to verify, root included.
    pub n_rows: usize,
    /// Why this many.
    pub reason: Reason,
    /// The widths weighed, narrow to wide; empty if none were.
    pub widths: Vec<Width>,
    /// The least gain a draft must promise.
    pub least_gain: f64,
}

/// The reason for a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This width promises the most tokens per millisecond.
    Pays,
    /// The schedule verifies everything, always.
    Everything,
    /// The drafter proposed nothing, or only one more token is wanted.
    NothingDrafted,
    /// The time of a plain step must be measured again.
    PlainStepDue,
    /// The loss budget is used up.
    BudgetUsedUp,
    /// Some width would pay, but the loss budget does not cover its risk.
    NotCovered,
    /// No width promises enough over plain decoding.
    TooLittleGain,
    /// The curve has no time for these widths.
    UnknownCost,
}

/// A width that was weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// Rows, root included.
    pub n_rows: usize,
    /// Tokens the step is expected to emit.
    pub n_expected: f64,
    /// Duration of the step, in plain steps; both include the predictions of a draft model for it.
    pub n_plain: f64,
    /// The result of weighing it.
    pub verdict: Verdict,
}

impl Width {
    /// Expected speed-up over plain decoding.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.n_expected / self.n_plain
    }
}

/// The result of weighing a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better than every narrower width: chosen unless a wider one is better still.
    Better,
    /// No better than a narrower width, or not enough better than plain decoding.
    NoBetter,
    /// Better, but the loss budget does not cover its risk.
    NotCovered,
}
