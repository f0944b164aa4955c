//! A row of the matrix, independent of files.

use crate::draft::table::Successor;
use crate::token::Token;

/// The tokens before a row's successors: none, one or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Context {
    n_tokens: u8,
    tokens: [Token; 2],
}

impl Context {
    /// The context without tokens.
    pub const EMPTY: Context = Context { n_tokens: 0, tokens: [Token(0); 2] };

    /// A context of these tokens; `None` for more than two.
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

/// A row of counts.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseRow {
    /// The context.
    pub context: Context,
    /// How often the context was seen.
    pub total: f32,
    /// The successors. Their weights are counts, which add up to at most `total`.
    pub successors: Vec<Successor>,
}

impl BaseRow {
    /// Sorts by descending count, ties by token, and keeps the first `n` with a count of at least `min_count`.
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
