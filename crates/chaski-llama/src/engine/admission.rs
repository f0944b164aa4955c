//! Checks a request before it is decoded.

use crate::chat::overflow::Budget;
use crate::model::Model;
use crate::target::TargetError;
use crate::text::TextAssembler;
use crate::token::Token;
use chaski_core::engine::{Request, RequestError};

/// A request that can be decoded.
pub(super) struct Admitted {
    /// The prompt's tokens; at least one.
    pub(super) prompt: Vec<Token>,
    /// Messages left out of the prompt to make room for the answer.
    pub(super) n_left_out: usize,
    /// Cuts the answer at the request's stop strings.
    pub(super) assembler: TextAssembler,
}

/// Tokenizes the prompt, or the first shorter one that leaves room for the answer in `n_ctx` positions, and checks the
/// request's parameters.
pub(super) fn admit(model: &Model, request: &Request, n_ctx: usize) -> Result<Admitted, RequestError> {
    let budget = Budget::new(n_ctx, request.max_tokens);
    let mut prompt = model.tokenize(&request.prompt);
    let mut n_left_out = 0;
    for shorter in &request.shorter {
        if prompt.len() <= budget.n_prompt() {
            break;
        }
        (n_left_out, prompt) = (shorter.n_left_out, model.tokenize(&shorter.prompt));
    }
    let n_prompt = prompt.len();
    if n_prompt == 0 {
        return Err(RequestError::EmptyPrompt);
    }
    if n_prompt >= n_ctx {
        return Err(RequestError::PromptTooLong { n_prompt, n_ctx, n_ctx_train: model.n_ctx_train() });
    }
    let n_vocab = model.n_vocab();
    if let Some(token) = request.sampling.unknown_token(n_vocab) {
        return Err(TargetError::UnknownToken { token, n_vocab }.into());
    }
    let assembler = TextAssembler::new(request.stop.clone())?;
    Ok(Admitted { prompt, n_left_out, assembler })
}
