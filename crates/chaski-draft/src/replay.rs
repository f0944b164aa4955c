//! Evaluates drafters on recorded answers, without a model.
//!
//! A trace holds the emitted tokens and the target's top logits. Any drafter can then be scored under any cost curve in
//! seconds, by the same loop that runs models. A replay cannot know the target's logits after tokens it did not emit,
//! so the rows of rejected nodes are empty. A source with a price is replayed from its recorded predictions.

pub mod policies;
pub mod predictions;
pub mod score;
pub mod target;
pub mod trace;
pub mod train;

/// A measured curve for examples, milliseconds of a step by its rows: the 1.5B on two AVX-512 cores with Chaski's kernels
/// (bench/results/2026-11-29-80b1761-replay-kernels.md).
pub const KERNELS: [(usize, f64); 10] = [
    (1, 46.1),
    (2, 51.7),
    (3, 54.3),
    (4, 57.3),
    (6, 65.6),
    (8, 71.2),
    (12, 85.0),
    (16, 102.9),
    (32, 179.2),
    (64, 363.8),
];
