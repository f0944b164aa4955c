//! Forms that answers are held to: JSON schemas, grammars, regular expressions.
//!
//! llguidance does the work: an Earley parser over derivatives of regular expressions, with a trie of the vocabulary. It
//! tells whether a token may come in microseconds, and which bytes must come, which is what drafts are made of
//! ([`forced`]). GBNF, the language of llama.cpp's grammars, is translated for it ([`gbnf`]); a schema is read before it
//! (`schema`), and what grammars cannot say of names is seen to beside it (`names`).
//!
//! Nothing here knows of llama.cpp: a vocabulary is what its tokens spell.

pub mod forced;
pub mod gbnf;

mod longest_tokens;
mod names;
mod schema;
mod thinking;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::chat::thinking::Opening;
use crate::structure::longest_tokens::LongestTokens;
use crate::structure::names::Names;
use crate::structure::schema::{Plain, Pointer, explained, plain, unwrapped};
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

    /// What it is written as.
    fn source(&self) -> &str {
        match self {
            Constraint::AfterThinking { form, .. } => form.source(),
            Constraint::JsonObject => r#"{"type":"object"}"#,
            Constraint::JsonSchema(source) | Constraint::Grammar(source) | Constraint::Regex(source) => source,
        }
    }

    /// The same for llguidance.
    fn grammar(&self) -> Result<Grammar, String> {
        let source = self.source();
        if source.len() > MAX_BYTES {
            return Err(too_long(source.len()));
        }
        let text = |grammar| Grammar { grammar, schema: None };
        match self {
            Constraint::JsonObject | Constraint::JsonSchema(_) => json_form(source),
            Constraint::Grammar(_) => {
                Ok(text(TopLevelGrammar::from_lark(gbnf::to_lark(source).map_err(|error| error.to_string())?)))
            }
            Constraint::Regex(_) => Ok(text(TopLevelGrammar::from_regex(whole(source)))),
            Constraint::AfterThinking { form, .. } => form.grammar(),
        }
    }
}

/// What is said of a form of so many bytes.
#[must_use]
pub fn too_long(n_bytes: usize) -> String {
    format!("it has {n_bytes} bytes; the limit is {MAX_BYTES}")
}

/// A constraint for llguidance.
struct Grammar {
    grammar: TopLevelGrammar,
    schema: Option<Schema>,
}

/// A schema as it was read, and how JSON is laid out.
struct Schema {
    plain: Plain,
    /// Where it stands in what the user wrote.
    start: Pointer,
    layout: Value,
}

/// JSON on one line, as Python writes it, unless the schema has an `x-guidance` of its own: where whitespace is free
/// nothing is forced, and small models go on with it for ever.
fn json_form(source: &str) -> Result<Grammar, String> {
    // Its reader bounds the depth, which is followed by recursion.
    let given: Value = serde_json::from_str(source).map_err(|error| format!("not valid JSON: {error}"))?;
    let (schema, start) = unwrapped(&given).map_err(|error| error.to_string())?;
    if !schema.is_object() && !schema.is_boolean() {
        return Err("not a JSON object".to_owned());
    }
    let layout = schema.get("x-guidance").cloned();
    let layout = layout
        .unwrap_or_else(|| json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " }));
    let plain = plain(schema, &start).map_err(|error| error.to_string())?;
    let schema = Schema { plain, start, layout };
    Ok(Grammar { grammar: schema.grammar(schema.plain.schema.clone()), schema: Some(schema) })
}

impl Schema {
    /// `schema`, which is this one or a part of it, for llguidance.
    fn grammar(&self, mut schema: Value) -> TopLevelGrammar {
        if let Value::Object(object) = &mut schema {
            object.insert("x-guidance".to_owned(), self.layout.clone());
        }
        TopLevelGrammar::from_json_schema(schema)
    }
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
    /// See [`LongestTokens`]; made when it is needed first.
    longest_tokens: OnceCell<LongestTokens>,
    /// See [`Vocabulary::letters`].
    letters: OnceCell<Vec<Token>>,
}

impl Vocabulary {
    fn has_text(&self, id: usize) -> bool {
        self.pieces.get(id).is_some_and(|piece| !piece.is_empty())
    }

    fn longest_tokens(&self) -> &LongestTokens {
        self.longest_tokens.get_or_init(|| LongestTokens::new(&self.pieces))
    }

    /// Tokens of one character or one byte: in them everything can be said. The end of a name comes first.
    fn letters(&self) -> &[Token] {
        self.letters.get_or_init(|| {
            let is_letter = |piece: &[u8]| {
                piece.len() == 1 || std::str::from_utf8(piece).is_ok_and(|text| text.chars().count() == 1)
            };
            let tokens = (0..).map(Token).zip(&self.pieces).filter(|(_, piece)| is_letter(piece));
            let mut letters: Vec<Token> = tokens.map(|(token, _)| token).collect();
            letters.sort_by_key(|token| self.pieces[token.index()] != b"\"");
            letters
        })
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
        let vocabulary =
            Vocabulary { pieces, ends: ends.to_vec(), longest_tokens: OnceCell::new(), letters: OnceCell::new() };
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
        let Grammar { grammar, schema } = constraint.grammar().map_err(|reason| constraint.error(reason))?;
        let matcher = self.matcher(grammar).map_err(|reason| {
            constraint.error(match &schema {
                Some(schema) => {
                    explained(&schema.plain, &schema.start, &reason, |part| self.matcher(schema.grammar(part)).err())
                }
                None => reason,
            })
        })?;
        let names = schema.map(|schema| Following {
            names: Names::default(),
            before: Vec::new(),
            may_run_out: schema.plain.has_name_patterns,
        });
        let thinking = match constraint {
            Constraint::AfterThinking { is_open, .. } => Some(Before::new(*is_open)),
            _ => None,
        };
        let structure = Structure { matcher, names, vocabulary: self.vocabulary.clone(), thinking };
        if self.kept.len() == N_KEPT {
            self.kept.remove(0);
        }
        self.kept.push((constraint.clone(), structure.fresh()));
        Ok(structure)
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // The first mask compiles what is compiled late, and finds forms that nothing has.
        let first = matcher.compute_mask();
        match matcher.get_error().or(first.err().map(|error| error.to_string())) {
            None => Ok(matcher),
            Some(reason) => {
                // What is wrong with an expression stands behind a drawing of where.
                let cause = reason.lines().find_map(|line| line.strip_prefix("error: "));
                Err(cause.or(reason.lines().next()).unwrap_or("unknown").to_owned())
            }
        }
    }
}

/// A text that is held to a form, as far as it is there.
pub struct Structure {
    matcher: Matcher,
    /// Where the form is JSON.
    names: Option<Following>,
    vocabulary: Rc<Vocabulary>,
    /// What may come before the form.
    thinking: Option<Before>,
}

/// Names of members, as far as the text is there.
#[derive(Clone)]
struct Following {
    names: Names,
    /// What they were before each token.
    before: Vec<Names>,
    /// Whether there may be no name left that is not there.
    may_run_out: bool,
}

/// Masks that are asked for to find out whether there is a name left.
const MAX_TRIED: usize = 300;

impl Structure {
    /// The same again, going its own way.
    #[must_use]
    pub fn fresh(&self) -> Structure {
        Structure {
            matcher: self.matcher.deep_clone(),
            names: self.names.clone(),
            vocabulary: self.vocabulary.clone(),
            thinking: self.thinking.clone(),
        }
    }

    fn is_end(&self, token: Token) -> bool {
        self.vocabulary.ends.contains(&token)
    }

    /// Whether the text is whole as it is.
    fn is_whole(&mut self) -> bool {
        self.thinking.as_ref().is_none_or(Before::may_end) && self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the text is whole and nothing may follow.
    fn is_over(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// What a token is for a text that may begin with thinking.
    fn role(&mut self, token: Token) -> Role {
        let Some(before) = &self.thinking else { return Role::Constrained };
        let piece = self.vocabulary.pieces.get(token.index()).map_or(&[][..], Vec::as_slice);
        let (role, begins_tag) = (before.role(piece), before.begins_tag(piece));
        // A form may begin as a tag does.
        if begins_tag && self.constraint_allows(token) { Role::Constrained } else { role }
    }

    fn constraint_allows(&mut self, token: Token) -> bool {
        !self.is_over() && self.matcher.validate_tokens(&[token.0.unsigned_abs()]).is_ok_and(|n| n == 1)
    }

    /// The bytes that must come next.
    fn forced_bytes(&mut self) -> Vec<u8> {
        let is_form = self.thinking.as_ref().is_none_or(Before::is_form);
        if is_form { self.matcher.compute_ff_bytes() } else { Vec::new() }
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
            Role::Constrained => {}
        }
        has_text && self.constraint_allows(token) && self.repeats_nothing(token)
    }

    /// Whether no name comes again with this token, which the grammar allows, nor must come again after it.
    fn repeats_nothing(&mut self, token: Token) -> bool {
        let Some(following) = &self.names else { return true };
        let mut names = following.names.clone();
        if !names.follow(&self.vocabulary.pieces[token.index()]) {
            return false;
        }
        if !following.may_run_out || !names.may_repeat() {
            return true;
        }
        let mut n_left = MAX_TRIED;
        self.after(token, |structure| structure.has_way_out(&names, &mut n_left)).unwrap_or(true)
    }

    /// Whether a name can be ended from here that is not there yet. If it takes too long to tell, it can.
    fn has_way_out(&mut self, names: &Names, n_left: &mut usize) -> bool {
        if !names.may_repeat() || *n_left == 0 {
            return true;
        }
        *n_left -= 1;
        let Ok(mask) = self.matcher.compute_mask() else { return true };
        let vocabulary = self.vocabulary.clone();
        vocabulary.letters().iter().filter(|letter| mask.is_allowed(letter.0.unsigned_abs())).any(|&letter| {
            let mut names = names.clone();
            names.follow(&vocabulary.pieces[letter.index()])
                && self.after(letter, |structure| structure.has_way_out(&names, n_left)).unwrap_or(true)
        })
    }

    /// What is so after a token, which is taken back. `None` where the grammar does not go on with it.
    fn after<T>(&mut self, token: Token, what: impl FnOnce(&mut Structure) -> T) -> Option<T> {
        self.matcher.consume_token(token.0.unsigned_abs()).ok()?;
        let so = what(self);
        self.matcher.rollback(1).ok()?;
        Some(so)
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
            allowed.retain(|&token| self.repeats_nothing(token));
            if self.thinking.is_some() {
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
            Role::Constrained => of_form.binary_search(&token).is_ok(),
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
        if let Some(thinking) = &mut self.thinking {
            thinking.accept(self.vocabulary.pieces.get(token.index()).map_or(&[][..], Vec::as_slice), role);
            match role {
                Role::Thinking => return Ok(()),
                Role::Refused => return Err("the form has not begun yet".to_owned()),
                Role::Constrained => {}
            }
        }
        self.matcher.consume_token(token.0.unsigned_abs()).map_err(|error| error.to_string())?;
        if let Some(following) = &mut self.names {
            following.before.push(following.names.clone());
            if !following.names.follow(&self.vocabulary.pieces[token.index()]) {
                return Err("a name comes twice in an object".to_owned());
            }
        }
        Ok(())
    }

    /// Takes back the last `n` tokens.
    ///
    /// # Errors
    /// When there are not as many.
    fn take_back(&mut self, n: usize) -> Result<(), String> {
        let n_form = self.thinking.as_mut().map_or(n, |thinking| thinking.take_back(n));
        self.matcher.rollback(n_form).map_err(|error| error.to_string())?;
        if let Some(following) = &mut self.names {
            let n_before = following.before.len().checked_sub(n_form).ok_or("there are not as many tokens")?;
            if let Some(names) = following.before.drain(n_before..).next() {
                following.names = names;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
