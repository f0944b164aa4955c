//! Token ids. The core only compares them; text and vocabulary belong to the runner.

/// An id in the target's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub i32);

impl Token {
    /// The token's index in a row of logits.
    ///
    /// # Panics
    /// If the id is negative.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("token ids are not negative")
    }
}
