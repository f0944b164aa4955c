//! One row of a matrix outside a file, and the order that rows stand in.

use crate::draft::table::Successor;
use crate::token::Token;

/// What a row's successors followed: no token, one, or two. Contexts are ordered as rows stand in a file: by the number
/// of tokens, then by the tokens.
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

    /// A number that orders contexts as they are ordered; `None` if a token is not one of `n_vocab` (at most 2^21).
    pub(super) fn key(tokens: &[Token], n_vocab: u64) -> Option<u64> {
        let id = |token: Token| u64::try_from(token.0).ok().filter(|&id| id < n_vocab);
        match *tokens {
            [] => Some(0),
            [last] => Some(1 + id(last)?),
            [before, last] => Some(1 + n_vocab + id(before)? * n_vocab + id(last)?),
            _ => None,
        }
    }

    /// The context of a key; `None` if it is that of none.
    pub(super) fn of_key(key: u64, n_vocab: u64) -> Option<Context> {
        let token = |id: u64| i32::try_from(id).ok().map(Token);
        let Some(one) = key.checked_sub(1) else { return Some(Context::EMPTY) };
        let Some(two) = one.checked_sub(n_vocab) else { return Context::new(&[token(one)?]) };
        let (before, last) = (two.checked_div(n_vocab)?, two % n_vocab);
        if before < n_vocab { Context::new(&[token(before)?, token(last)?]) } else { None }
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
    fn keys_order_contexts_and_lead_back_to_them() {
        let n_vocab = 3;
        let ids: Vec<Token> = (0..3).map(Token).collect();
        let ones = ids.iter().map(|&a| vec![a]);
        let twos = ids.iter().flat_map(|&a| ids.iter().map(move |&b| vec![a, b]));
        let all: Vec<Vec<Token>> = [vec![]].into_iter().chain(ones).chain(twos).collect();
        for (key, tokens) in (0..).zip(&all) {
            assert_eq!(Context::key(tokens, n_vocab), Some(key), "{tokens:?}");
            assert_eq!(Context::of_key(key, n_vocab), Context::new(tokens));
        }
        assert!(all.is_sorted_by_key(|tokens| Context::new(tokens).unwrap()));
        assert_eq!(Context::of_key(all.len() as u64, n_vocab), None);
        assert_eq!(Context::key(&[Token(3)], n_vocab), None);
        assert_eq!(Context::key(&[Token(-1), Token(0)], n_vocab), None);
        assert_eq!(Context::key(&[Token(0); 3], n_vocab), None);
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
