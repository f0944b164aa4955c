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
