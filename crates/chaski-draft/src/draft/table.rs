//! A table with bounded memory from a context to the tokens that followed it: the storage of the tri-gram matrices.
//!
//! Rows live in sets of `ROWS_PER_SET`, as in a CPU cache. A full set drops its weakest row, so memory is bounded and
//! every operation touches one set. The result depends only on the order of the calls.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use crate::token::Token;

/// Successors per context, as in the paper (section 3.1: the matrix is pruned to the top 12).
pub const MAX_SUCCESSORS: usize = 12;

const ROWS_PER_SET: usize = 8;

/// The factor on all weights of a full set when a row is dropped.
const AGEING: f32 = 0.95;

/// A context: the last 0, 1 or 2 tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of an empty row.
    const NONE: Key = Key(0);

    /// The last `order` (0, 1 or 2) tokens of `text`; `None` if it is shorter.
    #[must_use]
    pub fn of(text: &[Token], order: usize) -> Option<Key> {
        let tail = &text[text.len().checked_sub(order)?..];
        // The order in the top bits keeps keys of different orders apart, and every key from `NONE`.
        let packed = tail.iter().fold(order as u64 + 1, |key, token| (key << 31) | token.index() as u64);
        Some(Key(packed))
    }
}

impl Key {
    /// The key as a number.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`Key::to_bits`]; `None` if no key has these bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Key> {
        let order = (0..=2).rev().find(|order| bits >> (31 * order) != 0)?;
        (bits >> (31 * order) == order as u64 + 1).then_some(Key(bits))
    }
}

/// A token and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Successor {
    /// The token.
    pub token: Token,
    /// Its meaning depends on the table's owner: a count or a probability.
    pub weight: f32,
}

/// The successors of one context.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    key: Key,
    n_successors: u8,
    successors: [Successor; MAX_SUCCESSORS],
}

impl Row {
    const EMPTY: Row = Row {
        key: Key::NONE,
        n_successors: 0,
        successors: [Successor { token: Token(0), weight: 0.0 }; MAX_SUCCESSORS],
    };

    /// The context.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// Heaviest first. On a tie, raising a weight does not overtake an equal one.
    #[must_use]
    pub fn successors(&self) -> &[Successor] {
        &self.successors[..usize::from(self.n_successors)]
    }

    /// The sum of all weights.
    #[must_use]
    pub fn total(&self) -> f32 {
        self.successors().iter().map(|successor| successor.weight).sum()
    }

    /// Multiplies every weight.
    pub fn scale(&mut self, factor: f32) {
        self.successors.iter_mut().for_each(|successor| successor.weight *= factor);
    }

    /// Adds `amount` to the weight of `token`, up to `cap`. In a full row, a new token replaces the lightest one.
    pub fn raise(&mut self, token: Token, amount: f32, cap: f32) {
        let known = self.successors().iter().position(|successor| successor.token == token);
        let mut at = known.unwrap_or_else(|| {
            if usize::from(self.n_successors) < MAX_SUCCESSORS {
                self.n_successors += 1;
            }
            let last = usize::from(self.n_successors) - 1;
            self.successors[last] = Successor { token, weight: 0.0 };
            last
        });
        let raised = (self.successors[at].weight + amount).min(cap);
        self.successors[at].weight = raised;
        while at > 0 && self.successors[at - 1].weight < raised {
            self.successors.swap(at - 1, at);
            at -= 1;
        }
    }
}

/// A set-associative table of rows.
#[derive(Clone, Debug)]
pub struct SuccessorTable {
    sets: Vec<[Row; ROWS_PER_SET]>,
}

impl SuccessorTable {
    /// A table of at most `max_bytes`, but at least one set.
    #[must_use]
    pub fn new(max_bytes: usize) -> SuccessorTable {
        let n_sets = (max_bytes / size_of::<[Row; ROWS_PER_SET]>()).max(1);
        SuccessorTable { sets: vec![[Row::EMPTY; ROWS_PER_SET]; n_sets] }
    }

    fn set_of(&self, key: Key) -> usize {
        let mut hasher = FxHasher::default();
        hasher.write_u64(key.0);
        // The high half of hash times number of sets: all sets equally likely, without a division.
        ((u128::from(hasher.finish()) * self.sets.len() as u128) >> 64) as usize
    }

    /// The row of a context.
    #[must_use]
    pub fn row(&self, key: Key) -> Option<&Row> {
        self.sets[self.set_of(key)].iter().find(|row| row.key == key)
    }

    /// All rows in use.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sets.iter().flatten().filter(|row| row.key != Key::NONE)
    }

    /// All rows in use, mutable.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.sets.iter_mut().flatten().filter(|row| row.key != Key::NONE)
    }

    /// The row of a context, created if needed. In a full set it replaces the row with the least weight.
    pub fn row_mut(&mut self, key: Key) -> &mut Row {
        let set = self.set_of(key);
        let set = &mut self.sets[set];
        let known = set.iter().position(|row| row.key == key);
        let at = known.unwrap_or_else(|| {
            // An empty row has weight 0, and the first of equals is taken.
            let weakest = (0..ROWS_PER_SET).min_by(|&a, &b| set[a].total().total_cmp(&set[b].total()));
            let weakest = weakest.expect("a set has rows");
            if set[weakest].key != Key::NONE {
                // Let the others fade too, or a set full of old rows would never learn anything new.
                set.iter_mut().for_each(|row| row.scale(AGEING));
            }
            set[weakest] = Row { key, ..Row::EMPTY };
            weakest
        });
        &mut set[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(a: i32, b: i32) -> Key {
        Key::of(&[Token(a), Token(b)], 2).unwrap()
    }

    #[test]
    fn keys_of_different_orders_differ() {
        let text = [Token(0), Token(0)];
        let keys = [0, 1, 2].map(|order| Key::of(&text, order).unwrap());
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2] && !keys.contains(&Key::NONE));
        assert_eq!(Key::of(&text[..1], 2), None);
        for key in keys {
            assert_eq!(Key::from_bits(key.to_bits()), Some(key));
        }
        assert!([0, 9, 1 << 40, 1 << 62].into_iter().all(|bits| Key::from_bits(bits).is_none()));
    }

    #[test]
    fn successors_stay_sorted_and_bounded() {
        let mut table = SuccessorTable::new(0);
        for token in 0..20 {
            table.row_mut(key(1, 2)).raise(Token(token), 1.0 + token as f32, 9.0);
        }
        let row = table.row(key(1, 2)).unwrap();
        assert_eq!(row.successors().len(), MAX_SUCCESSORS);
        assert!(row.successors().is_sorted_by(|a, b| a.weight >= b.weight));
        assert!(row.successors().iter().all(|successor| successor.weight <= 9.0));
    }

    #[test]
    fn a_full_set_forgets_its_weakest_row() {
        let mut table = SuccessorTable::new(0);
        for a in 0..8 {
            table.row_mut(key(a, 0)).raise(Token(1), if a == 5 { 0.5 } else { 1.0 }, 9.0);
        }
        table.row_mut(key(8, 0)).raise(Token(1), 1.0, 9.0);
        assert!(table.row(key(5, 0)).is_none() && table.row(key(8, 0)).is_some() && table.row(key(4, 0)).is_some());
    }

    #[test]
    fn new_contexts_replace_old_ones() {
        let mut table = SuccessorTable::new(0);
        for a in 0..8 {
            (0..5).for_each(|_| table.row_mut(key(a, 0)).raise(Token(1), 1.0, 9.0));
        }
        // Each is seen twice, some contexts apart.
        for a in (0..40).flat_map(|a| [a, (a + 37) % 40]) {
            table.row_mut(key(100 + a, 0)).raise(Token(1), 1.0, 9.0);
        }
        let n_old = (0..8).filter(|&a| table.row(key(a, 0)).is_some()).count();
        assert!(n_old < 4, "{n_old} rows of an old text are left");
    }

    #[test]
    fn memory_is_bounded() {
        let table = SuccessorTable::new(1 << 20);
        let bytes = size_of_val(table.sets.as_slice());
        assert!(bytes <= 1 << 20 && bytes > 1 << 19, "{bytes}");
    }
}
