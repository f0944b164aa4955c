//! A token id. What it spells is the vocabulary's business (`llama::Model`); the core only compares ids.

/// One token of the target's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub i32);

impl Token {
    /// The token's row in a logits slice.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("token ids are not negative")
    }
}
