//! One step of the loop as data, for `run --explain`.

use crate::schedule::Explanation;

/// One step of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Positions in the cache before the step.
    pub n_past: usize,
    /// The bytes of each emitted token.
    pub emitted: Vec<Vec<u8>>,
    /// The drafted nodes without the root, parents before children.
    pub nodes: Vec<NodeReport>,
    /// Why this many of them were verified.
    pub choice: Explanation,
}

/// One drafted node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeReport {
    /// Bytes of its token.
    pub bytes: Vec<u8>,
    /// Index of its parent in [`StepReport::nodes`]; `None` is the root.
    pub parent: Option<usize>,
    /// The drafter's estimate of the probability that it is accepted.
    pub p: f32,
    /// Whether it was verified and accepted.
    pub fate: Fate,
}

/// Outcome of a drafted node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not verified, because it would not have paid off.
    NotVerified,
    /// Verified, but the target chose another token.
    Rejected,
    /// Verified, and the target chose the same token.
    Accepted,
}
