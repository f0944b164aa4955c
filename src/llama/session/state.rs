//! What a context holds, as bytes and back.

use super::Session;
use crate::llama::sequence;
use crate::target::TargetError;
use crate::token::Token;

/// Every committed token is in this sequence.
const TRUNK: i32 = 0;

impl Session<'_> {
    /// The tokens in the cache.
    #[must_use]
    pub fn committed(&self) -> &[Token] {
        &self.committed
    }

    /// How much of `prefix` need not be decoded again.
    #[must_use]
    pub fn n_reusable(&self, prefix: &[Token]) -> usize {
        let n = self.committed.iter().zip(prefix).take_while(|(a, b)| a == b).count();
        let is_whole = n == self.committed.len();
        if is_whole || self.can_roll_back && n >= self.n_fixed { n } else { 0 }
    }

    /// Whether a prefix of a restored state can be used alone. Recurrent models go forward only; where layers see a window,
    /// llama.cpp leaves what lies before the last one out of a state.
    #[must_use]
    pub fn can_truncate(&self) -> bool {
        self.can_roll_back && !self.has_window
    }

    /// How long [`Session::state`] is.
    #[must_use]
    pub fn n_state_bytes(&self) -> usize {
        sequence::n_bytes(&self.context, TRUNK)
    }

    /// The state of all committed tokens: what [`Session::restore`] takes.
    ///
    /// # Errors
    /// When llama.cpp does not write what it said it would.
    pub fn state(&mut self) -> Result<Vec<u8>, TargetError> {
        self.drop_pending();
        sequence::read(&self.context, TRUNK)
    }

    /// Makes the timeline `tokens` by their state. Where that fails, it is empty.
    ///
    /// llama.cpp believes what a state says of its positions: `state` must be what [`Session::state`] gave for the same
    /// model, settings and version of llama.cpp, unchanged. `store::prompt_cache` sees to that.
    ///
    /// # Errors
    /// When llama.cpp refuses it: it does not fit, or is another model's.
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
