//! Constrains answers to a JSON schema, a grammar or a regular expression.
//!
//! llguidance does the work: an Earley parser over derivatives of regular expressions, with a trie of the vocabulary.
//! Within microseconds it decides whether a token may come next, and which bytes must come next; drafts are built from
//! the latter ([`forced`]). GBNF, llama.cpp's grammar language, is translated for it ([`gbnf`]). Schemas are checked
//! and normalized first (`schema`), and duplicate member names, which grammars cannot forbid, are rejected separately
//! (`names`).
//!
//! Nothing here knows llama.cpp: a vocabulary is a list of the bytes that its tokens spell.

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

/// Largest schema, grammar or expression in bytes. llguidance bounds what it expands to.
pub const MAX_BYTES: usize = 64 << 10;

/// Number of compiled constraints to cache; the lines of a batch often share one.
const N_KEPT: usize = 16;

/// A form that the answer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that matches this schema, given as JSON.
    JsonSchema(String),
    /// A text that matches this grammar, in llama.cpp's GBNF; its first rule is `root`.
    Grammar(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// Free thinking, followed by a text of the inner constraint.
    AfterThinking {
        /// Whether the prompt has already opened the thinking block; if not, the model may open it.
        is_open: bool,
        /// The constraint after the block.
        constraint: Box<Constraint>,
    },
}

/// Why a constraint cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used: {reason}")]
pub struct StructureError {
    what: &'static str,
    reason: String,
}

impl Constraint {
    /// Checks the constraint without a model.
    ///
    /// # Errors
    /// When the constraint cannot be used.
    pub fn check(&self) -> Result<(), StructureError> {
        let bytes: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).chain([Vec::new()]).collect();
        Structures::new(&bytes, &[Token(256)]).structure(self).map(drop)
    }

    /// Adapts the constraint to how the answer begins. If the prompt opens the thinking block, the block must be closed
    /// first, even if `is_unwanted`.
    #[must_use]
    pub fn after(self, opening: Opening, is_unwanted: bool) -> Constraint {
        match opening {
            Opening::Open => Constraint::AfterThinking { is_open: true, constraint: Box::new(self) },
            Opening::Possible if !is_unwanted => {
                Constraint::AfterThinking { is_open: false, constraint: Box::new(self) }
            }
            Opening::Possible | Opening::Never => self,
        }
    }

    /// The constraint's name in messages.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Constraint::JsonObject | Constraint::JsonSchema(_) => "the JSON schema",
            Constraint::Grammar(_) => "the grammar",
            Constraint::Regex(_) => "the regular expression",
            Constraint::AfterThinking { constraint, .. } => constraint.what(),
        }
    }

    fn error(&self, reason: String) -> StructureError {
        StructureError { what: self.what(), reason }
    }

    /// The source text of the constraint.
    fn source(&self) -> &str {
        match self {
            Constraint::AfterThinking { constraint, .. } => constraint.source(),
            Constraint::JsonObject => r#"{"type":"object"}"#,
            Constraint::JsonSchema(source) | Constraint::Grammar(source) | Constraint::Regex(source) => source,
        }
    }

    /// Translates the constraint for llguidance.
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
            Constraint::AfterThinking { constraint, .. } => constraint.grammar(),
        }
    }
}

/// The message for a source of `n_bytes`, which is too long.
#[must_use]
pub fn too_long(n_bytes: usize) -> String {
    format!("it has {n_bytes} bytes; the limit is {MAX_BYTES}")
}

/// A constraint translated for llguidance.
struct Grammar {
    grammar: TopLevelGrammar,
    schema: Option<Schema>,
}

/// A normalized schema and the layout of the JSON.
struct Schema {
    plain: Plain,
    /// Path of the schema in the user's document.
    start: Pointer,
    layout: Value,
}

/// Translates a schema. JSON is laid out on one line, as Python does, unless the schema sets `x-guidance`: with free
/// whitespace nothing is forced, and small models can write blanks forever.
fn json_form(source: &str) -> Result<Grammar, String> {
    // serde_json bounds the nesting depth; the recursion below relies on it.
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
    /// Translates `schema`, which is this schema or a part of it, for llguidance.
    fn grammar(&self, mut schema: Value) -> TopLevelGrammar {
        if let Value::Object(object) = &mut schema {
            object.insert("x-guidance".to_owned(), self.layout.clone());
        }
        TopLevelGrammar::from_json_schema(schema)
    }
}

/// Strips `^` and `$`. The expression has to match the whole text anyway, and llguidance does not support anchors.
fn whole(expression: &str) -> &str {
    let start = expression.strip_prefix('^').unwrap_or(expression);
    match start.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => start,
    }
}

/// Compiles constraints for one vocabulary.
pub struct Structures {
    factory: ParserFactory,
    vocabulary: Rc<Vocabulary>,
    kept: Vec<(Constraint, Structure)>,
}

/// The parts of a vocabulary that the parser does not store.
struct Vocabulary {
    /// The bytes of each token; empty for tokens without text and for `ends`.
    pieces: Vec<Vec<u8>>,
    /// The end-of-generation tokens.
    ends: Vec<Token>,
    /// See [`LongestTokens`]; built on first use.
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

    /// Tokens of one character or one byte; they can spell any text. The quote, which ends a name, comes first.
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
    /// For a vocabulary whose tokens spell `pieces` and whose end-of-generation tokens are `ends`. Both must not be
    /// empty.
    #[must_use]
    pub fn new(pieces: &[Vec<u8>], ends: &[Token]) -> Structures {
        let text = |at: usize| if ends.iter().any(|end| end.index() == at) { &[][..] } else { &pieces[at] };
        let pieces: Vec<Vec<u8>> = (0..pieces.len()).map(|at| text(at).to_vec()).collect();
        let end = ends.first().map_or(0, |end| end.0.unsigned_abs());
        let info = TokRxInfo::new(u32::try_from(pieces.len()).unwrap_or(u32::MAX), end);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &pieces)));
        // No slices: they speed up full masks, which are rarely computed here.
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &[]).expect("no slices, no error");
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        factory.limits_mut().precompute_large_lexemes = false;
        let vocabulary =
            Vocabulary { pieces, ends: ends.to_vec(), longest_tokens: OnceCell::new(), letters: OnceCell::new() };
        Structures { factory, vocabulary: Rc::new(vocabulary), kept: Vec::new() }
    }

    /// The state at the start of a text that has to match `constraint`.
    ///
    /// # Errors
    /// When the constraint cannot be used.
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
        // Computing the first mask runs deferred compilation, and finds forms that no text can match.
        let first = matcher.compute_mask();
        match matcher.get_error().or(first.err().map(|error| error.to_string())) {
            None => Ok(matcher),
            Some(reason) => {
                // llguidance first draws where in an expression the mistake is; the cause follows after `error: `.
                let cause = reason.lines().find_map(|line| line.strip_prefix("error: "));
                Err(cause.or(reason.lines().next()).unwrap_or("unknown").to_owned())
            }
        }
    }
}

/// The state of a constrained text, up to the last accepted token.
pub struct Structure {
    matcher: Matcher,
    /// Set if the form is JSON.
    names: Option<Following>,
    vocabulary: Rc<Vocabulary>,
    /// Set if thinking may come before the form.
    thinking: Option<Before>,
}

/// Tracks the member names in the text so far.
#[derive(Clone)]
struct Following {
    names: Names,
    /// Copies of `names` from before each token, for taking tokens back.
    before: Vec<Names>,
    /// Whether the schema may allow only finitely many names, so that all may be used already.
    may_run_out: bool,
}

/// Maximum number of masks to compute in the search for an unused name.
const MAX_TRIED: usize = 300;

impl Structure {
    /// An independent copy.
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

    /// Whether the text may end here.
    fn is_whole(&mut self) -> bool {
        self.thinking.as_ref().is_none_or(Before::may_end) && self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the text is complete and nothing may follow.
    fn is_over(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }

    /// Whether a token is part of the thinking or of the form.
    fn role(&mut self, token: Token) -> Role {
        let Some(before) = &self.thinking else { return Role::Constrained };
        let piece = self.vocabulary.pieces.get(token.index()).map_or(&[][..], Vec::as_slice);
        let (role, begins_tag) = (before.role(piece), before.begins_tag(piece));
        // A form may start with the same bytes as a tag.
        if begins_tag && self.constraint_allows(token) { Role::Constrained } else { role }
    }

    fn constraint_allows(&mut self, token: Token) -> bool {
        !self.is_over() && self.matcher.validate_tokens(&[token.0.unsigned_abs()]).is_ok_and(|n| n == 1)
    }

    /// The bytes that must come next; empty if there is a choice.
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

    /// Whether no member name repeats with this token, and a new name is still possible after it. The grammar cannot
    /// check either.
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

    /// Whether a name that the object does not have yet can still be completed. Returns true when `n_left` masks were
    /// not enough to decide.
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

    /// Evaluates `what` after `token`, then takes the token back. `None` if the grammar does not allow the token.
    fn after<T>(&mut self, token: Token, what: impl FnOnce(&mut Structure) -> T) -> Option<T> {
        self.matcher.consume_token(token.0.unsigned_abs()).ok()?;
        let so = what(self);
        self.matcher.rollback(1).ok()?;
        Some(so)
    }

    /// All tokens that may come next.
    ///
    /// # Errors
    /// When llguidance hits a limit on this form.
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

    /// Adds the tokens that may continue the thinking, and removes tokens of the form if the form cannot begin yet.
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

    /// Appends an allowed token to the text.
    ///
    /// # Errors
    /// When the token is not allowed.
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
    /// When there are fewer than `n` tokens.
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
