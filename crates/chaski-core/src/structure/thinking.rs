//! Lets a model think before a constrained form: the text is free inside the thinking block, and the form begins after
//! it.
//!
//! This tracks bytes, not characters, because a token may be part of one. Between the block and the form a few blanks
//! are allowed, as models write them, and nothing else.

use crate::chat::thinking::{CLOSE, OPEN};

/// Maximum blanks between the block and the form. Without a limit, small models would write blanks forever.
const MAX_BLANKS: usize = 2;

/// Position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Only this many bytes of an opening tag so far.
    Opening(usize),
    /// Inside the block; the text ends with this many bytes of the closing tag.
    Inside(usize),
    /// After the block and this many blanks.
    After(usize),
    /// In the form.
    Constrained,
}

/// The role of a token in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Part of the thinking block or the blanks around it.
    Thinking,
    /// Part of the form, which decides whether to allow it.
    Constrained,
    /// Not allowed.
    Refused,
}

/// Tracks a text that may begin with thinking. Tokens can be taken back.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// The position at the start and after each token before the form.
    places: Vec<Place>,
    /// Number of tokens in the form.
    n_form: usize,
}

impl Before {
    /// At the start of a text; `is_open` says whether the prompt has opened the block.
    pub(super) fn new(is_open: bool) -> Before {
        Before { places: vec![if is_open { Place::Inside(0) } else { Place::Opening(0) }], n_form: 0 }
    }

    fn place(&self) -> Place {
        if self.n_form > 0 { Place::Constrained } else { self.places.last().copied().unwrap_or(Place::Constrained) }
    }

    /// Whether the form has begun.
    pub(super) fn is_form(&self) -> bool {
        self.place() == Place::Constrained
    }

    /// Whether the text may end here, provided that the form allows it.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.place(), Place::Constrained | Place::Opening(0) | Place::After(_))
    }

    /// The role that a token spelling `bytes` would have.
    pub(super) fn role(&self, bytes: &[u8]) -> Role {
        match next(self.place(), bytes) {
            Some(_) => Role::Thinking,
            None if matches!(self.place(), Place::Constrained | Place::Opening(0) | Place::After(_)) => {
                Role::Constrained
            }
            None => Role::Refused,
        }
    }

    /// Whether `bytes` would start an opening tag at the start of the text.
    pub(super) fn begins_tag(&self, bytes: &[u8]) -> bool {
        self.place() == Place::Opening(0) && matches!(next(Place::Opening(0), bytes), Some(Place::Opening(_)))
    }

    /// Appends a token with its role.
    pub(super) fn accept(&mut self, bytes: &[u8], role: Role) {
        match (role, next(self.place(), bytes)) {
            (Role::Thinking, Some(place)) => self.places.push(place),
            (Role::Constrained, _) => self.n_form += 1,
            _ => {}
        }
    }

    /// Takes back `n` tokens. Returns how many of them belonged to the form.
    pub(super) fn take_back(&mut self, n: usize) -> usize {
        let n_form = n.min(self.n_form);
        self.n_form -= n_form;
        let n_left = self.places.len().saturating_sub(n - n_form).max(1);
        self.places.truncate(n_left);
        n_form
    }
}

/// The position after `bytes`, if none of them belongs to the form.
fn next(place: Place, bytes: &[u8]) -> Option<Place> {
    let mut at = place;
    for (n, &byte) in bytes.iter().enumerate() {
        at = match at {
            Place::Opening(n_tag) if OPEN.as_bytes()[n_tag] == byte => match n_tag + 1 {
                n_tag if n_tag == OPEN.len() => Place::Inside(0),
                n_tag => Place::Opening(n_tag),
            },
            Place::Opening(0) if byte.is_ascii_whitespace() && n < MAX_BLANKS => Place::Opening(0),
            Place::Inside(n_tag) if CLOSE.as_bytes()[n_tag] == byte => match n_tag + 1 {
                n_tag if n_tag == CLOSE.len() => Place::After(0),
                n_tag => Place::Inside(n_tag),
            },
            // The tag contains one `<`, at its start.
            Place::Inside(_) => Place::Inside(usize::from(CLOSE.as_bytes()[0] == byte)),
            Place::After(n_blanks) if byte.is_ascii_whitespace() && n_blanks < MAX_BLANKS => Place::After(n_blanks + 1),
            Place::Opening(_) | Place::After(_) | Place::Constrained => return None,
        };
    }
    // Blanks alone open nothing; as thinking they would be free without limit.
    (at != Place::Opening(0)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(is_open: bool, tokens: &[&str]) -> Vec<Role> {
        let mut before = Before::new(is_open);
        let mut role = |token: &&str| {
            let role = before.role(token.as_bytes());
            before.accept(token.as_bytes(), role);
            role
        };
        tokens.iter().map(&mut role).collect()
    }

    #[test]
    fn a_form_begins_after_the_block() {
        use Role::{Constrained, Refused, Thinking};
        let block = ["<", "think", ">", "a </th", "ing> x</think>\n", "\n", "\n", "{", "}"];
        let expected =
            [Thinking, Thinking, Thinking, Thinking, Thinking, Thinking, Constrained, Constrained, Constrained];
        assert_eq!(roles(false, &block), expected);
        assert_eq!(roles(true, &["é", "</think>", "{"]), [Thinking, Thinking, Constrained]);
        // Text that began as a tag stays one, and the closing tag cannot begin a form.
        assert_eq!(roles(false, &["<", "{", "think>", "</think>{"]), [Thinking, Refused, Thinking, Refused]);
        assert_eq!(roles(false, &["{", "<think>"]), [Constrained, Constrained]);
        assert_eq!(roles(false, &["\n", "\n<think>"]), [Constrained, Constrained]);
        assert_eq!(roles(false, &["\n<think>", "</think>\n\n\n"]), [Thinking, Refused]);
    }

    #[test]
    fn tokens_are_taken_back() {
        let mut before = Before::new(true);
        for token in ["a", "</think>", "\n", "{", "}"] {
            before.accept(token.as_bytes(), before.role(token.as_bytes()));
        }
        assert_eq!((before.take_back(1), before.is_form()), (1, true));
        assert_eq!((before.take_back(2), before.place()), (1, Place::After(0)));
        assert_eq!((before.take_back(1), before.may_end()), (0, false));
        before.accept(b"</think>", Role::Thinking);
        before.accept(b"{", Role::Constrained);
        assert_eq!((before.take_back(9), before.place()), (1, Place::Inside(0)));
    }
}
