//! Why a schedule chose what it chose, as data. Words for it are the command line's business.

/// A choice and what led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Rows to verify, root included.
    pub n_rows: usize,
    /// Why so many.
    pub reason: Reason,
    /// What was weighed, narrow to wide; empty where nothing was.
    pub widths: Vec<Width>,
    /// The gain that a draft must promise.
    pub least_gain: f64,
}

/// The ground of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This width brings the most tokens by time.
    Pays,
    /// Everything is verified, always.
    Everything,
    /// The drafter had nothing to say, or no more than one token is wanted.
    NothingDrafted,
    /// The time of a plain step is to be measured again.
    PlainStepDue,
    /// What drafting lost must be earned first.
    LatchShut,
    /// A width would pay, but the loss budget does not cover its risk.
    NotCovered,
    /// No width promised enough more than plain decoding.
    TooLittleGain,
    /// The curve knows no time for it.
    UnknownCost,
}

/// A width that was weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// Rows, root included.
    pub n_rows: usize,
    /// Tokens expected of the step.
    pub n_expected: f64,
    /// What it takes, in plain steps.
    pub n_plain: f64,
    /// What came of it.
    pub verdict: Verdict,
}

impl Width {
    /// How many times as fast as plain decoding it promises to be.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.n_expected / self.n_plain
    }
}

/// What came of weighing a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better than all narrower ones: chosen, unless a wider one is better still.
    Better,
    /// No better than a narrower one, or than plain decoding by enough.
    NoBetter,
    /// Better, but the loss budget does not cover its risk.
    NotCovered,
}
