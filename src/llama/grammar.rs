//! Answers of a form: llama.cpp's grammars, made from JSON schemas.

use llama_cpp_2::json_schema_to_grammar;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::accept::{Sampler, Sampling, argmax};
use crate::batch::engine::Constraint;
use crate::draft::top::TopK;
use crate::llama::logs;
use crate::llama::model::Model;
use crate::llama::sampler::chain;
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
    Ok(Box::new(Constrained {
        grammar,
        chain: chain(sampling, model, prompt),
        candidates: LlamaTokenDataArray::new(Vec::new(), false),
        top: TopK::default(),
    }))
}

/// Chooses freely, and again among what is allowed where that is not. So the draws depend on the text and the seed alone.
struct Constrained {
    grammar: LlamaSampler,
    chain: LlamaSampler,
    /// Kept for its memory.
    candidates: LlamaTokenDataArray,
    top: TopK,
}

impl Constrained {
    fn fill(&mut self, tokens: impl Iterator<Item = (i32, f32)>) {
        let candidates = &mut self.candidates;
        candidates.data.clear();
        candidates.data.extend(tokens.map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0)));
        (candidates.selected, candidates.sorted) = (None, false);
    }

    /// What the chain chooses among the candidates.
    fn choose(&mut self) -> Result<LlamaToken, TargetError> {
        self.chain.apply(&mut self.candidates);
        let chosen = self.candidates.selected_token();
        chosen.ok_or_else(|| TargetError::Engine("the sampler chain selected no token".to_owned()))
    }

    /// Leaves only the candidates that are allowed. Tells whether there are any.
    fn hold(&mut self) -> bool {
        self.grammar.apply(&mut self.candidates);
        self.candidates.data.retain(|candidate| candidate.logit() != f32::NEG_INFINITY);
        !self.candidates.data.is_empty()
    }

    fn allows(&mut self, token: LlamaToken) -> bool {
        self.fill([(token.0, 0.0)].into_iter());
        self.hold()
    }

    /// Leaves the allowed tokens among the likeliest, or else among all.
    fn hold_logits(&mut self, logits: &[f32]) -> bool {
        let mut top = std::mem::take(&mut self.top);
        let tried = top.of(logits, N_TRIED).iter().map(|tried| (tried.token.0, logits[tried.token.index()]));
        self.fill(tried);
        self.top = top;
        if self.hold() {
            return true;
        }
        self.fill((0..).zip(logits.iter().copied()));
        self.hold()
    }
}

impl Sampler for Constrained {
    fn sample(&mut self, logits: &[f32]) -> Result<Token, TargetError> {
        // llama.cpp checks nothing: a NaN would come out as some token.
        argmax(logits).ok_or(TargetError::NotFinite)?;
        self.fill((0..).zip(logits.iter().copied()));
        let mut token = self.choose()?;
        if !self.allows(token) {
            if !self.hold_logits(logits) {
                return Err(TargetError::Engine("no token of the vocabulary goes on as the schema says".to_owned()));
            }
            token = self.choose()?;
        }
        let accepted = self.grammar.try_accept(token);
        accepted.map_err(|error| TargetError::Engine(format!("the grammar refused an allowed token: {error}")))?;
        self.chain.accept(token);
        Ok(Token(token.0))
    }
}
