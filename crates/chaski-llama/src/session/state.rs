//! Saves and restores the content of a context as bytes.

use std::ops::ControlFlow;

use super::{Session, TRUNK};
use crate::sequence;
use crate::target::TargetError;
use crate::token::Token;

impl Session<'_> {
    /// The committed tokens.
    #[must_use]
    pub fn committed(&self) -> &[Token] {
        &self.committed
    }

    /// Number of tokens of `prefix` that need no decoding.
    #[must_use]
    pub fn n_reusable(&self, prefix: &[Token]) -> usize {
        let n = self.committed.iter().zip(prefix).take_while(|(a, b)| a == b).count();
        let is_whole = n == self.committed.len();
        if is_whole || self.can_roll_back && n >= self.n_fixed { n } else { 0 }
    }

    /// Whether a restored state can be cut to a prefix of its tokens. Recurrent models cannot roll back, and for
    /// sliding-window models llama.cpp saves only the last window.
    #[must_use]
    pub fn can_truncate(&self) -> bool {
        self.can_roll_back && !self.has_window
    }

    /// Length of [`Session::state`] in bytes, without tokens that were lost with a draft.
    #[must_use]
    pub fn n_state_bytes(&self) -> usize {
        sequence::n_bytes(&self.context, TRUNK)
    }

    /// The state of all committed tokens, for [`Session::restore`]. Decodes those that were lost with a draft.
    ///
    /// # Errors
    /// If llama.cpp writes fewer bytes than it announced, or cannot decode.
    pub fn state(&mut self) -> Result<Vec<u8>, TargetError> {
        self.drop_pending()?;
        if self.n_lost > 0 {
            let text = self.committed.clone();
            self.append(&text, false, &mut |_, _| ControlFlow::Continue(()))?;
        }
        sequence::read(&self.context, TRUNK)
    }

    /// Replaces the content by `tokens` and their `state`. After an error the context is empty.
    ///
    /// llama.cpp does not validate the positions in a state. `state` must be the unchanged result of [`Session::state`]
    /// for the same model, settings and version of llama.cpp; `store::prompt_cache` ensures that.
    ///
    /// # Errors
    /// If llama.cpp refuses the state: it does not fit, or belongs to another model.
    pub fn restore(&mut self, tokens: &[Token], state: &[u8]) -> Result<(), TargetError> {
        self.clear();
        if tokens.len() > self.n_ctx() {
            return Err(TargetError::ContextFull { needed: tokens.len(), n_ctx: self.n_ctx() });
        }
        if let Err(error) = sequence::write(&mut self.context, TRUNK, state, tokens.len()) {
            self.clear();
            return Err(error);
        }
        self.committed = tokens.to_vec();
        let is_all_there = self.context.kv_cache_seq_pos_min(TRUNK) == 0;
        self.n_fixed = if is_all_there { 0 } else { tokens.len() };
        Ok(())
    }
}
