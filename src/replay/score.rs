//! Judging a drafter on recorded answers.
