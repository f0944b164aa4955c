//! Answers of a form: llama.cpp's grammars, made from JSON schemas.

use llama_cpp_2::json_schema_to_grammar;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;

use crate::accept::Sampler;
use crate::batch::engine::Constraint;
use crate::llama::logs;
use crate::llama::model::Model;
use crate::llama::sampler::{Chain, Sampling};
use crate::target::TargetError;
use crate::token::Token;

/// Longest schema; what it may expand to is bounded by llama.cpp.
const MAX_SCHEMA_BYTES: usize = 64 << 10;

/// Where the token chosen freely is not allowed, the likeliest so many are looked at before all are: asking the grammar
/// about a whole vocabulary takes longer than decoding does.
const N_TRIED: usize = 256;

/// A sampler for one text that is held to `constraint`.
///
/// # Errors
/// What is wrong with the schema, in words.
pub fn constrained(
    constraint: &Constraint,
    sampling: &Sampling,
    model: &Model,
    prompt: &[Token],
) -> Result<Box<dyn Sampler>, String> {
    let schema = match constraint {
        Constraint::JsonObject => r#"{"type":"object"}"#,
        Constraint::JsonSchema(schema) => schema,
    };
    if schema.len() > MAX_SCHEMA_BYTES {
        return Err(format!("the schema has {} bytes, more than {MAX_SCHEMA_BYTES}", schema.len()));
    }
    // Its reader bounds the depth, which llama.cpp's converter follows by recursion.
    let value: serde_json::Value =
        serde_json::from_str(schema).map_err(|error| format!("the schema is not JSON: {error}"))?;
    if !(value.is_object() || value.is_boolean()) {
        return Err("the schema is not a JSON object".to_owned());
    }
    // An error logged before is not about this schema.
    let _ = logs::take_error();
    let unusable = |error: String| {
        let reason = logs::take_error().unwrap_or(error);
        format!("llama.cpp cannot make a grammar of this schema: {reason}")
    };
    let grammar = json_schema_to_grammar(schema).map_err(|error| unusable(error.to_string()))?;
    let grammar = LlamaSampler::grammar(&model.inner, &grammar, "root").map_err(|error| unusable(error.to_string()))?;
    Ok(Box::new(Constrained { grammar, chain: Chain::new(sampling, model, prompt) }))
}

/// Chooses freely, and again among what is allowed where that is not. So the draws depend on the text and the seed alone.
struct Constrained {
    grammar: LlamaSampler,
    chain: Chain,
}

impl Constrained {
    /// Leaves only the candidates that are allowed. Tells whether there are any.
    fn hold(&mut self) -> bool {
        let candidates = &mut self.chain.candidates;
        self.grammar.apply(candidates);
        candidates.data.retain(|candidate| candidate.logit() != f32::NEG_INFINITY);
        !candidates.data.is_empty()
    }

    fn allows(&mut self, token: LlamaToken) -> bool {
        let candidates = &mut self.chain.candidates;
        candidates.data.clear();
        candidates.data.push(LlamaTokenData::new(token, 0.0, 0.0));
        (candidates.selected, candidates.sorted) = (None, false);
        self.hold()
    }

    /// Leaves the allowed tokens among the likeliest, or else among all.
    fn hold_logits(&mut self, logits: &[f32]) -> bool {
        self.chain.fill_likeliest(logits, N_TRIED);
        self.hold() || {
            self.chain.fill_all(logits);
            self.hold()
        }
    }
}

impl Sampler for Constrained {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        self.chain.fill(logits)?;
        let mut token = self.chain.choose()?;
        if !self.allows(token) {
            if !self.hold_logits(logits) {
                return Err(TargetError::Engine("no token of the vocabulary goes on as the schema says".to_owned()));
            }
            token = self.chain.choose()?;
        }
        let accepted = self.grammar.try_accept(token);
        accepted.map_err(|error| TargetError::Engine(format!("the grammar refused an allowed token: {error}")))?;
        self.chain.accept(token);
        Ok(Token(token.0))
    }
}
