//! Recorded answers, and drafting them again without a model.
//!
//! A trace holds what the target said and what it held likely; any drafter can then be judged under any cost curve in
//! no time, by the very loop that runs models. What a replay cannot know is what the target would have said after
//! tokens it did not say: rows of rejected nodes are empty here.

pub mod score;
pub mod target;
pub mod trace;
pub mod train;
