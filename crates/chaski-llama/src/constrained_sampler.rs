//! Structured output: a sampler that obeys a [`Structure`], and a filter that limits drafts to it.

use std::rc::Rc;

use crate::accept::Sampler;
use crate::draft::DraftFilter;
use crate::model::Model;
use crate::sampler::{Chain, Sampling};
use crate::structure::forced::{Forced, Tokenize};
use crate::structure::{Constraint, Structure, StructureError, Structures};
use crate::target::TargetError;
use crate::token::Token;

/// Candidates tried when the sampled token is not allowed, before all allowed tokens are computed.
const N_TRIED: usize = 64;

/// A constrained sampler and the filter for its drafts.
pub type Pair = (Box<dyn Sampler>, Box<dyn DraftFilter>);

/// Creates structures for the vocabulary of a model.
pub struct Constrainer {
    model: Rc<Model>,
    /// Created on first use, which takes some tenths of a second.
    structures: Option<Structures>,
    tokenize: Tokenize,
}

impl Constrainer {
    /// Creates none yet: the first constraint does.
    #[must_use]
    pub fn new(model: Rc<Model>) -> Constrainer {
        let tokenizer = model.clone();
        Constrainer { model, structures: None, tokenize: Rc::new(move |bytes| tokenizer.tokenize_bytes(bytes)) }
    }

    /// A sampler for a text that continues `prompt` and must match `constraint`, and the filter for its drafts.
    ///
    /// # Errors
    /// If the constraint is invalid.
    pub fn sampler_and_filter(
        &mut self,
        constraint: &Constraint,
        sampling: &Sampling,
        prompt: &[Token],
    ) -> Result<Pair, StructureError> {
        let model = &self.model;
        let structures = self.structures.get_or_insert_with(|| {
            let all = (0..i32::try_from(model.n_vocab()).unwrap_or(i32::MAX)).map(Token);
            // Put the model's own end token first: drafts end with it.
            let usual = model.end_of_text();
            let others = model.end_tokens().filter(|&end| Some(end) != usual);
            let ends: Vec<Token> = usual.into_iter().chain(others).collect();
            Structures::new(&all.map(|token| model.bytes(token)).collect::<Vec<_>>(), &ends)
        });
        let structure = structures.structure(constraint)?;
        let forced = Forced::new(structure.fresh(), prompt.len(), self.tokenize.clone());
        let constrained = ConstrainedSampler { structure, chain: Chain::new(sampling, model, prompt) };
        Ok((Box::new(constrained), Box::new(forced)))
    }
}

/// Samples freely, and again among the allowed tokens if the token is not allowed. So the draws depend only on the text
/// and the seed.
struct ConstrainedSampler {
    structure: Structure,
    chain: Chain,
}

impl ConstrainedSampler {
    /// Sets the candidates to the allowed ones of the most likely tokens; if there are none, to all allowed tokens.
    fn restrict(&mut self, logits: &[f32]) -> Result<(), TargetError> {
        self.chain.fill_likeliest(logits, N_TRIED);
        let (structure, candidates) = (&mut self.structure, &mut self.chain.candidates);
        candidates.data.retain(|candidate| structure.allows(Token(candidate.id().0)));
        if candidates.data.is_empty() || self.chain.has_biases {
            let allowed =
                structure.allowed().map_err(|error| TargetError::Engine(format!("the constraint failed: {error}")))?;
            self.chain.fill_some(logits, allowed.into_iter());
        }
        Ok(())
    }
}

impl Sampler for ConstrainedSampler {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.chain.fill(logits)?;
        let mut token = self.chain.choose()?;
        if !self.structure.allows(Token(token.0)) {
            self.restrict(logits)?;
            if self.chain.candidates.data.is_empty() {
                return Err(TargetError::Engine(
                    "the model has no token that continues the text as the constraint requires".to_owned(),
                ));
            }
            token = self.chain.choose()?;
        }
        let accepted = self.structure.accept(Token(token.0));
        accepted.map_err(|error| TargetError::Engine(format!("the constraint rejected an allowed token: {error}")))?;
        self.chain.accept(token);
        Ok(Token(token.0))
    }
}
