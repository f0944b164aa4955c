//! ADED as published (arXiv 2407.12021), the baseline: a tri-gram matrix, Monte-Carlo tree search with PUCT, and as
//! many nodes as fit.
//!
//! After each step every tri-gram of the last 16 tokens gains 0.04, up to 3. A draft has up to 64 nodes. Beside the
//! search ([`crate::draft::mcts`]) one thing differs on purpose: the matrix is built from the prompt, not from a
//! corpus.

use crate::draft::mcts::mcts;
use crate::draft::table::{Key, Row, SuccessorTable};
use crate::draft::{Draft, Drafter, Verified, root_of};
use crate::target::TreeLimits;
use crate::token::Token;

const MAX_BYTES: usize = 16 << 20;
const GAIN: f32 = 0.04;
const GREATEST_P: f32 = 3.0;
const N_RECENT: usize = 16;

/// The drafter of the ADED paper.
#[derive(Clone, Debug)]
pub struct Aded {
    matrix: SuccessorTable,
}

impl Default for Aded {
    fn default() -> Aded {
        Aded { matrix: SuccessorTable::new(MAX_BYTES) }
    }
}

impl Drafter for Aded {
    fn begin(&mut self, prompt: &[Token]) {
        *self = Aded::default();
        for end in 3..=prompt.len() {
            let [bigram @ .., token] = &prompt[end - 3..end] else { unreachable!("three tokens") };
            let row = self.matrix.row_mut(Key::of(bigram, 2).expect("two tokens"));
            row.raise(*token, 1.0, f32::INFINITY);
        }
        // Turn counts into probabilities.
        self.matrix.rows_mut().for_each(|row| row.scale(1.0 / row.total()));
    }

    fn draft(&mut self, context: &[Token], limits: TreeLimits) -> Draft {
        let mut tail = context[context.len().saturating_sub(2)..].to_vec();
        let n_said = tail.len();
        mcts(root_of(context), limits, |path, _, children| {
            tail.truncate(n_said);
            tail.extend_from_slice(path);
            let row = Key::of(&tail, 2).and_then(|key| self.matrix.row(key));
            children.clear();
            children.extend(row.map_or(&[][..], Row::successors).iter().map(|next| (next.token, next.weight)));
        })
    }

    fn learn(&mut self, context: &[Token], _from: usize, _verified: Verified<'_>) {
        for trigram in context[context.len().saturating_sub(N_RECENT)..].windows(3) {
            let row = self.matrix.row_mut(Key::of(&trigram[..2], 2).expect("two tokens"));
            row.raise(trigram[2], GAIN, GREATEST_P);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Scripted;
    use crate::tree::TokenTree;
    use proptest::prelude::*;

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn a_text_seen_once_is_drafted_as_a_chain() {
        let mut aded = Aded::default();
        let text = tokens(&[1, 2, 3, 4, 5, 6, 7, 1, 2]);
        aded.begin(&text);
        let draft = aded.draft(&text, TreeLimits::TREE);
        let drafted: Vec<i32> = draft.tree.nodes().map(|node| draft.tree.token(node).0).collect();
        assert_eq!(drafted, [2, 3, 4, 5, 6, 7], "depth 4 and the extension");
    }

    #[test]
    fn adaptation_is_bounded() {
        let mut aded = Aded::default();
        let text = tokens(&[1, 2, 3]);
        aded.begin(&text);
        let (tree, target) = (TokenTree::new(Token(0)), Scripted::new(2, 1, 0));
        let verified = Verified { tree: &tree, target: &target };
        for _ in 0..200 {
            aded.learn(&text, 3, verified);
        }
        let row = aded.matrix.row(Key::of(&text[..2], 2).unwrap()).unwrap();
        assert_eq!(row.total(), GREATEST_P);
    }

    proptest! {
        #[test]
        fn drafts_are_sound_trees(ids in prop::collection::vec(0i32..9, 1..150), max_nodes in 1usize..65, max_leaves in 1usize..33, max_depth in 0usize..9) {
            let mut aded = Aded::default();
            let text = tokens(&ids);
            aded.begin(&text);
            let (tree, target) = (TokenTree::new(Token(0)), Scripted::new(2, 1, 0));
            aded.learn(&text, 0, Verified { tree: &tree, target: &target });
            let draft = aded.draft(&text, TreeLimits { max_nodes, max_leaves, max_depth, ..TreeLimits::TREE });
            prop_assert!(draft.tree.nodes().all(|node| draft.tree.depth(node) <= max_depth));
            draft.tree.check().unwrap();
            prop_assert!(draft.tree.len() <= max_nodes && draft.tree.n_leaves() <= max_leaves);
            prop_assert_eq!(draft.p.len(), draft.tree.len());
            prop_assert!(draft.p.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
}
