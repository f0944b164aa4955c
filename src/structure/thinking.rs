//! Thinking before a form: while a model thinks, its text is free; the form begins after the block.
//!
//! It follows bytes, not characters: a token may be a part of one. Between the block and the form there is room for a few
//! blanks, as models write them, and for nothing else.

use crate::chat::thinking::{CLOSE, OPEN};

/// Blanks between the block and the form. Were there no limit, small models would go on with them.
const MAX_BLANKS: usize = 2;

/// Where a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing but so many bytes of an opening tag.
    Opening(usize),
    /// In the block; so many bytes of the closing tag stand at the end.
    Inside(usize),
    /// Behind it, and behind so many blanks.
    After(usize),
    /// In the form.
    Constrained,
}

/// What a token is for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A part of the thinking, or of what belongs to it.
    Thinking,
    /// The form must say whether it may come.
    Constrained,
    /// It may not come.
    Refused,
}

/// A text that may begin with thinking. It can be taken back token by token.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// After each token that was none of the form's; the first is the beginning. Once the form has begun, it is the last.
    places: Vec<Place>,
    /// Tokens of the form.
    n_form: usize,
}

impl Before {
    /// A text whose block is open already, or may be opened.
    pub(super) fn new(is_open: bool) -> Before {
        Before { places: vec![if is_open { Place::Inside(0) } else { Place::Opening(0) }], n_form: 0 }
    }

    fn place(&self) -> Place {
        if self.n_form > 0 { Place::Constrained } else { self.places.last().copied().unwrap_or(Place::Constrained) }
    }

    /// Whether the form has begun, or nothing but the form may come.
    pub(super) fn is_form(&self) -> bool {
        self.place() == Place::Constrained
    }

    /// Whether the text may end as a form that is empty.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.place(), Place::Constrained | Place::Opening(0) | Place::After(_))
    }

    /// What a token that spells `bytes` would be.
    pub(super) fn role(&self, bytes: &[u8]) -> Role {
        match next(self.place(), bytes) {
            Some(_) => Role::Thinking,
            None if matches!(self.place(), Place::Constrained | Place::Opening(0) | Place::After(_)) => {
                Role::Constrained
            }
            None => Role::Refused,
        }
    }

    /// Whether `bytes` are the beginning of an opening tag at the beginning of the text.
    pub(super) fn begins_tag(&self, bytes: &[u8]) -> bool {
        self.place() == Place::Opening(0) && matches!(next(Place::Opening(0), bytes), Some(Place::Opening(_)))
    }

    /// Takes in a token that has this role.
    pub(super) fn accept(&mut self, bytes: &[u8], role: Role) {
        match (role, next(self.place(), bytes)) {
            (Role::Thinking, Some(place)) => self.places.push(place),
            (Role::Constrained, _) => self.n_form += 1,
            _ => {}
        }
    }

    /// Takes back `n` tokens. Returns how many of them were the form's.
    pub(super) fn take_back(&mut self, n: usize) -> usize {
        let n_form = n.min(self.n_form);
        self.n_form -= n_form;
        let n_left = self.places.len().saturating_sub(n - n_form).max(1);
        self.places.truncate(n_left);
        n_form
    }
}

/// Where a text is after `bytes`, if these are none of the form.
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
            // The tag has one `<`, at its beginning.
            Place::Inside(_) => Place::Inside(usize::from(CLOSE.as_bytes()[0] == byte)),
            Place::After(n_blanks) if byte.is_ascii_whitespace() && n_blanks < MAX_BLANKS => Place::After(n_blanks + 1),
            Place::Opening(_) | Place::After(_) | Place::Constrained => return None,
        };
    }
    // Blanks alone open nothing: they would be free without end.
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
        // What has begun as a tag is one; what closes the block begins no form.
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
