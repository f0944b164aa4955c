//! Forms that answers are held to: JSON schemas, grammars, regular expressions.
//!
//! llguidance does the work: an Earley parser over derivatives of regular expressions, with a trie of the vocabulary. It
//! tells whether a token may come in microseconds, and which bytes must come, which is what drafts are made of
//! ([`forced`]). GBNF, the language of llama.cpp's grammars, is translated for it ([`gbnf`]).
//!
//! Nothing here knows of llama.cpp: a vocabulary is what its tokens spell.

pub mod forced;
pub mod gbnf;

mod speller;
mod thinking;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::chat::thinking::Opening;
use crate::structure::speller::Speller;
use crate::structure::thinking::{Before, Role};
use crate::token::Token;

/// Longest schema, grammar or expression; what it may expand to is bounded by llguidance.
pub const MAX_BYTES: usize = 64 << 10;

/// Forms that are kept compiled: the lines of a batch often share one.
const N_KEPT: usize = 16;

/// A form that an answer is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// A JSON value of this schema, which is JSON itself.
    JsonSchema(String),
    /// A text of this grammar, in llama.cpp's GBNF; its first rule is `root`.
    Grammar(String),
    /// A text that this regular expression matches from beginning to end.
    Regex(String),
    /// The same after the model's thinking.
    AfterThinking {
        /// Whether the prompt has opened the block; else the model may open it.
        is_open: bool,
        /// What comes after it.
        form: Box<Constraint>,
    },
}

/// What is wrong with a constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used: {reason}")]
pub struct StructureError {
    what: &'static str,
    reason: String,
}

impl Constraint {
    /// Finds out whether it can be used, with no model at hand.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), StructureError> {
        let bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).chain([Vec::new()]).collect();
        Structures::new(&bytes, &[Token(256)]).structure(self).map(drop)
    }

    /// The same where an answer begins so. A prompt that opens the block has to see it closed, also where `is_unwanted`.
    #[must_use]
    pub fn after(self, opening: Opening, is_unwanted: bool) -> Constraint {
        match opening {
            Opening::Open => Constraint::AfterThinking { is_open: true, form: Box::new(self) },
            Opening::Possible if !is_unwanted => Constraint::AfterThinking { is_open: false, form: Box::new(self) },
            Opening::Possible | Opening::Never => self,
        }
    }

    /// What messages call it.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Constraint::JsonObject | Constraint::JsonSchema(_) => "the JSON schema",
            Constraint::Grammar(_) => "the grammar",
            Constraint::Regex(_) => "the regular expression",
            Constraint::AfterThinking { form, .. } => form.what(),
        }
    }

    fn error(&self, reason: String) -> StructureError {
        StructureError { what: self.what(), reason }
    }

    /// The same for llguidance.
    fn grammar(&self) -> Result<TopLevelGrammar, String> {
        let source = match self {
            Constraint::AfterThinking { form, .. } => return form.grammar(),
            Constraint::JsonObject => r#"{"type":"object"}"#,
            Constraint::JsonSchema(source) | Constraint::Grammar(source) | Constraint::Regex(source) => source,
        };
        if source.len() > MAX_BYTES {
            return Err(format!("it has {} bytes, more than {MAX_BYTES}", source.len()));
        }
        match self {
            Constraint::JsonObject | Constraint::JsonSchema(_) => json_grammar(source),
            Constraint::Grammar(_) => {
                Ok(TopLevelGrammar::from_lark(gbnf::to_lark(source).map_err(|error| error.to_string())?))
            }
            Constraint::Regex(_) | Constraint::AfterThinking { .. } => Ok(TopLevelGrammar::from_regex(whole(source))),
        }
    }
}

/// JSON on one line, as Python writes it, unless the schema has an `x-guidance` of its own: where whitespace is free
/// nothing is forced, and small models go on with it for ever.
fn json_grammar(source: &str) -> Result<TopLevelGrammar, String> {
    // Its reader bounds the depth, which the compiler follows by recursion.
    let mut schema: Value = serde_json::from_str(source).map_err(|error| format!("it is not JSON: {error}"))?;
    match &mut schema {
        Value::Object(object) => {
            let layout = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
            object.entry("x-guidance").or_insert(layout);
        }
        Value::Bool(_) => {}
        _ => return Err("it is not a JSON object".to_owned()),
    }
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// Without the anchors, which are understood and which llguidance does not know.
fn whole(expression: &str) -> &str {
    let start = expression.strip_prefix('^').unwrap_or(expression);
    match start.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => start,
    }
}

/// A vocabulary for which forms are compiled.
pub struct Structures {
    factory: ParserFactory,
    vocabulary: Rc<Vocabulary>,
    kept: Vec<(Constraint, Structure)>,
}

/// What the parser has no use for.
struct Vocabulary {
    /// What each token spells; empty for those that spell nothing, and for ends.
    pieces: Vec<Vec<u8>>,
    /// The tokens that end a text.
    ends: Vec<Token>,
    /// See [`Speller`]; made when it is needed first.
    speller: OnceCell<Speller>,
}

impl Vocabulary {
    fn has_text(&self, id: usize) -> bool {
        self.pieces.get(id).is_some_and(|piece| !piece.is_empty())
    }

    fn speller(&self) -> &Speller {
        self.speller.get_or_init(|| Speller::new(&self.pieces))
    }
}

impl Structures {
    /// For a vocabulary whose tokens spell `pieces`; those of `ends` end a text. There is at least one of each.
    #[must_use]
    pub fn new(pieces: &[Vec<u8>], ends: &[Token]) -> Structures {
        let text = |at: usize| if ends.iter().any(|end| end.index() == at) { &[][..] } else { &pieces[at] };
        let pieces: Vec<Vec<u8>> = (0..pieces.len()).map(|at| text(at).to_vec()).collect();
        let end = ends.first().map_or(0, |end| end.0.unsigned_abs());
        let info = TokRxInfo::new(u32::try_from(pieces.len()).unwrap_or(u32::MAX), end);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &pieces)));
        // No slices: they speed up masks of the whole vocabulary, which are seldom asked for here.
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[]).expect("no slices, no error");
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        factory.limits_mut().precompute_large_lexemes = false;
        let vocabulary = Vocabulary { pieces, ends: ends.to_vec(), speller: OnceCell::new() };
        Structures { factory, vocabulary: Rc::new(vocabulary), kept: Vec::new() }
    }

    /// A text of this form, of which nothing is there yet.
    ///
    /// # Errors
    /// What is wrong with the constraint.
    pub fn structure(&mut self, constraint: &Constraint) -> Result<Structure, StructureError> {
        let known = self.kept.iter().find(|(known, _)| known == constraint);
        if let Some((_, structure)) = known {
            return Ok(structure.fresh());
        }
        let grammar = constraint.grammar().map_err(|reason| constraint.error(reason))?;
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // The first mask compiles what is compiled late, and finds forms that nothing has.
        let first = matcher.compute_mask();
        if let Some(reason) = matcher.get_error().or(first.err().map(|error| error.to_string())) {
            // What is wrong with an expression stands behind a drawing of where.
            let cause = reason.lines().find_map(|line| line.strip_prefix("error: "));
            return Err(constraint.error(cause.or(reason.lines().next()).unwrap_or("unknown").to_owned()));
        }
        let before = match constraint {
            Constraint::AfterThinking { is_open, .. } => Some(Before::new(*is_open)),
            _ => None,
        };
        let structure = Structure { matcher, vocabulary: self.vocabulary.clone(), before };
        if self.kept.len() == N_KEPT {
            self.kept.remove(0);
        }
        self.kept.push((constraint.clone(), structure.fresh()));
        Ok(structure)
    }
}

/// A text that is held to a form, as far as it is there.
pub struct Structure {
    matcher: Matcher,
    vocabulary: Rc<Vocabulary>,
    /// What may come before the form.
    before: Option<Before>,
}

impl Structure {
    /// The same again, going its own way.
    #[must_use]
    pub fn fresh(&self) -> Structure {
        let before = self.before.clone();
        Structure { matcher: self.matcher.deep_clone(), vocabulary: self.vocabulary.clone(), before }
    }

    fn is_end(&self, token: Token) -> bool {
        self.vocabulary.ends.contains(&token)
    }

    /// Whether the text is whole as it is.
    fn is_whole(&mut self) -> bool {
        self.before.as_ref().is_none_or(Before::may_end) && self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the text is whole and nothing may follow.
    fn is_over(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// What a token is for a text that may begin with thinking.
    fn role(&mut self, token: Token) -> Role {
        let Some(before) = &self.before else { return Role::Form };
        let piece = self.vocabulary.pieces.get(token.index()).map_or(&[][..], Vec::as_slice);
        let (role, begins_tag) = (before.role(piece), before.begins_tag(piece));
        // A form may begin as a tag does.
        if begins_tag && self.form_allows(token) { Role::Form } else { role }
    }

    fn form_allows(&mut self, token: Token) -> bool {
        !self.is_over() && self.matcher.validate_tokens(&[token.0.unsigned_abs()]).is_ok_and(|n| n == 1)
    }

    /// The bytes that must come next.
    fn forced_bytes(&mut self) -> Vec<u8> {
        let is_form = self.before.as_ref().is_none_or(Before::is_form);
        if is_form { self.matcher.compute_ff_bytes() } else { Vec::new() }
    }

    /// Takes back the last tokens.
    ///
    /// # Errors
    /// When there are not as many.
    fn take_back(&mut self, n: usize) -> Result<(), String> {
        let n_form = self.before.as_mut().map_or(n, |before| before.take_back(n));
        self.matcher.rollback(n_form).map_err(|error| error.to_string())
    }

    /// Whether this token may come next.
    pub fn allows(&mut self, token: Token) -> bool {
        if self.is_end(token) {
            return self.is_over() || self.is_whole();
        }
        let has_text = self.vocabulary.has_text(token.index());
        match self.role(token) {
            Role::Thinking => return has_text,
            Role::Refused => return false,
            Role::Form => {}
        }
        has_text && self.form_allows(token)
    }

    /// All tokens that may come next.
    ///
    /// # Errors
    /// When the form is too intricate to tell.
    pub fn allowed(&mut self) -> Result<Vec<Token>, String> {
        let mut allowed = Vec::new();
        if !self.is_over() {
            let mask = self.matcher.compute_mask().map_err(|error| error.to_string())?;
            let has_text = |id: &u32| self.vocabulary.has_text(*id as usize);
            allowed.extend(mask.iter().filter(has_text).filter_map(|id| i32::try_from(id).ok()).map(Token));
            if self.before.is_some() {
                self.add_thinking(&mut allowed);
            }
        }
        if self.is_over() || self.is_whole() {
            allowed.extend(&self.vocabulary.ends);
        }
        Ok(allowed)
    }

    /// Adds the tokens that thinking may go on with, and takes away those with which no form begins yet.
    fn add_thinking(&mut self, allowed: &mut Vec<Token>) {
        let vocabulary = self.vocabulary.clone();
        let all = (0..i32::try_from(vocabulary.pieces.len()).unwrap_or(i32::MAX)).map(Token);
        let of_form = std::mem::take(allowed);
        allowed.extend(all.filter(|&token| match self.role(token) {
            Role::Thinking => vocabulary.has_text(token.index()),
            Role::Form => of_form.binary_search(&token).is_ok(),
            Role::Refused => false,
        }));
    }

    /// Takes in that the text goes on with this token, which is allowed.
    ///
    /// # Errors
    /// When it is not.
    pub fn accept(&mut self, token: Token) -> Result<(), String> {
        if self.is_end(token) {
            return Ok(());
        }
        let role = self.role(token);
        if let Some(before) = &mut self.before {
            before.accept(self.vocabulary.pieces.get(token.index()).map_or(&[][..], Vec::as_slice), role);
            match role {
                Role::Thinking => return Ok(()),
                Role::Refused => return Err("the form has not begun yet".to_owned()),
                Role::Form => {}
            }
        }
        self.matcher.consume_token(token.0.unsigned_abs()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
