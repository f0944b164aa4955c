//! One row of a matrix outside a file.

use crate::draft::table::Successor;
use crate::token::Token;

/// What a row's successors followed: no token, one, or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Context {
    n_tokens: u8,
    tokens: [Token; 2],
}

impl Context {
    /// No token.
    pub const EMPTY: Context = Context { n_tokens: 0, tokens: [Token(0); 2] };

    /// These tokens; `None` if they are more than two.
    #[must_use]
    pub fn new(tokens: &[Token]) -> Option<Context> {
        let mut context = Context { n_tokens: u8::try_from(tokens.len()).ok()?, ..Context::EMPTY };
        context.tokens.get_mut(..tokens.len())?.copy_from_slice(tokens);
        Some(context)
    }

    /// The tokens.
    #[must_use]
    pub fn tokens(&self) -> &[Token] {
        &self.tokens[..usize::from(self.n_tokens)]
    }
}

/// A row with counts.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseRow {
    /// What was followed.
    pub context: Context,
    /// How often, in all.
    pub total: f32,
    /// By what; weights are counts, which add up to `total` at most.
    pub successors: Vec<Successor>,
}

impl BaseRow {
    /// Sorts by count, the greatest first, equals by token, and keeps `n` of those with a count of `min_count` or more.
    pub fn keep_top(&mut self, n: usize, min_count: f32) {
        self.successors.retain(|successor| successor.weight >= min_count);
        let order = |a: &Successor, b: &Successor| b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token));
        if self.successors.len() > n && n > 0 {
            self.successors.select_nth_unstable_by(n - 1, order);
        }
        self.successors.truncate(n);
        self.successors.sort_unstable_by(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_two_tokens_at_most() {
        for n in 0..=2 {
            let tokens = [Token(7), Token(8)];
            assert_eq!(Context::new(&tokens[..n]).unwrap().tokens(), &tokens[..n]);
        }
        assert_eq!(Context::new(&[Token(0); 3]), None);
    }

    #[test]
    fn the_top_is_kept() {
        let weights = [1.0, 5.0, 2.0, 5.0, 3.0];
        let successors = (0..).zip(weights).map(|(id, weight)| Successor { token: Token(id), weight }).collect();
        let mut row = BaseRow { context: Context::EMPTY, total: 16.0, successors };
        row.keep_top(3, 3.0);
        assert_eq!(row.successors.iter().map(|s| s.token.0).collect::<Vec<_>>(), [1, 3, 4]);
        row.keep_top(3, 5.0);
        assert_eq!(row.successors.len(), 2);
        row.keep_top(0, 0.0);
        assert!(row.successors.is_empty());
    }
}
