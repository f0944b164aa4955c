//! Answers of a form: a [`Structure`] of a model's vocabulary, as what chooses tokens and as what narrows drafts.

use std::rc::Rc;

use crate::accept::Sampler;
use crate::draft::DraftFilter;
use crate::llama::model::Model;
use crate::llama::sampler::{Chain, Sampling};
use crate::structure::forced::{Forced, Tokenize};
use crate::structure::{Constraint, Structure, StructureError, Structures};
use crate::target::TargetError;
use crate::token::Token;

/// Where the token chosen freely is not allowed, so many of the likeliest are looked at before all are.
const N_TRIED: usize = 64;

/// What chooses tokens, and what narrows drafts.
pub type Pair = (Box<dyn Sampler>, Box<dyn DraftFilter>);

/// Makes forms for the vocabulary of a model.
pub struct Former {
    model: Rc<Model>,
    /// Made when a form is asked for first: it takes some tenths of a second.
    structures: Option<Structures>,
    tokenize: Tokenize,
}

impl Former {
    /// For a model.
    #[must_use]
    pub fn new(model: Rc<Model>) -> Former {
        let tokenizer = model.clone();
        Former { model, structures: None, tokenize: Rc::new(move |bytes| tokenizer.tokenize_bytes(bytes)) }
    }

    /// A sampler for a text that goes on with `prompt` and is held to `constraint`, and the same for its drafter.
    ///
    /// # Errors
    /// What is wrong with the constraint.
    pub fn held(
        &mut self,
        constraint: &Constraint,
        sampling: &Sampling,
        prompt: &[Token],
    ) -> Result<Pair, StructureError> {
        let model = &self.model;
        let structures = self.structures.get_or_insert_with(|| {
            let all = (0..i32::try_from(model.n_vocab()).unwrap_or(i32::MAX)).map(Token);
            // The one that the model itself ends with first: it is what drafts end with.
            let usual = model.end_of_text();
            let others = model.end_tokens().filter(|&end| Some(end) != usual);
            let ends: Vec<Token> = usual.into_iter().chain(others).collect();
            Structures::new(&all.map(|token| model.bytes(token)).collect::<Vec<_>>(), &ends)
        });
        let structure = structures.structure(constraint)?;
        let forced = Forced::new(structure.fresh(), prompt.len(), self.tokenize.clone());
        let held = Held { structure, chain: Chain::new(sampling, model, prompt) };
        Ok((Box::new(held), Box::new(forced)))
    }
}

/// Chooses freely, and again among what is allowed where that is not. So the draws depend on the text and the seed alone.
struct Held {
    structure: Structure,
    chain: Chain,
}

impl Held {
    /// Leaves the allowed tokens among the likeliest, or else among all.
    fn hold(&mut self, logits: &[f32]) -> Result<(), TargetError> {
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

impl Sampler for Held {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.chain.fill(logits)?;
        let mut token = self.chain.choose()?;
        if !self.structure.allows(Token(token.0)) {
            self.hold(logits)?;
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
