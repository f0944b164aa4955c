//! Renders chat templates: from messages to the text that the model was trained to see.
//!
//! A template is Jinja as Hugging Face's `apply_chat_template` runs it: `trim_blocks` and `lstrip_blocks` on, Python's
//! string and dict methods, `tojson` like Python's `json.dumps`, `raise_exception`, `strftime_now`, loop controls and
//! `{% generation %}` blocks. The golden tests compare the output with that of transformers byte for byte.
//!
//! The text of a message is never parsed for special tokens: see [`SpecialGuard`].
//!
//! This module does no IO: the caller passes the time. It does not tokenize. A rendering that runs too many
//! instructions is an error.

mod clock;
mod guard;
pub mod named;
mod python;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

use crate::chat::thinking::{CLOSE, OPEN, opens_thinking};

pub use self::clock::LocalTime;
use self::guard::{MarkStyle, without_marks};
pub use self::guard::{Segment, SpecialGuard};
pub use minijinja::Value as TemplateValue;

/// The name under which the template is registered. Without a file extension nothing is HTML-escaped.
const NAME: &str = "chat_template";

/// Maximum template instructions per rendering. A message takes a few dozen; this many take a second.
const MAX_INSTRUCTIONS: u64 = 10_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The speaker: `system`, `user`, `assistant`, or another role that the template knows. Only ASCII letters, digits,
    /// `_` and `-`, since templates print it between their special tokens.
    pub role: String,
    /// Any text.
    pub content: String,
    /// Other fields that a template may read: `reasoning_content`, `tool_calls`, `tool_call_id`, `name`. As in the
    /// content, no text in them is parsed for special tokens.
    #[serde(flatten)]
    pub extra: BTreeMap<String, TemplateValue>,
}

impl Message {
    /// A message with this role and content.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: BTreeMap::new() }
    }

    /// Sets the content to none, as in a message that only calls a tool.
    #[must_use]
    pub fn without_content(mut self) -> Self {
        self.extra.insert("content".to_owned(), Value::from(()));
        self
    }

    /// Whether the content is none.
    #[must_use]
    pub fn has_no_content(&self) -> bool {
        self.extra.get("content").is_some_and(Value::is_none)
    }

    /// Replaces a content of none by an empty text.
    #[must_use]
    pub fn with_empty_content(mut self) -> Self {
        if self.has_no_content() {
            self.extra.remove("content");
        }
        self
    }

    /// A copy with all texts mapped.
    fn with_texts(&self, content: impl Fn(&str) -> String, other: &dyn Fn(&str) -> String) -> Self {
        let extra = self.extra.iter().map(|(name, value)| (name.clone(), map_texts(value, other)));
        Self { role: self.role.clone(), content: content(&self.content), extra: extra.collect() }
    }
}

/// The texts of the special tokens that a template may name; empty if the vocabulary lacks the token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTexts {
    /// `bos_token`
    pub bos: String,
    /// `eos_token`
    pub eos: String,
    /// `unk_token`
    pub unk: String,
    /// `pad_token`
    pub pad: String,
}

/// Inputs of a rendering besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Whether to end with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the last message, the assistant's, is the start of the answer. Its content then ends the prompt,
    /// unchanged.
    pub continues_last: bool,
    /// The time that `strftime_now` prints.
    pub now: LocalTime,
    /// Further template variables such as `enable_thinking` or `tools`. They are trusted: special tokens in them are
    /// parsed. `messages` and `add_generation_prompt` cannot be replaced from here.
    pub extra: BTreeMap<String, TemplateValue>,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt, to be tokenized segment by segment; empty if the template printed nothing.
    pub segments: Vec<Segment>,
    /// Whether [`merge_system`] was applied, because the template has no place for system messages.
    pub merged_system: bool,
}

impl Rendered {
    /// The prompt as one text.
    pub fn text(&self) -> String {
        self.segments.iter().map(|segment| segment.text.as_str()).collect()
    }
}

/// Why a template could not be parsed or rendered. Lines are counted from 1; 0 if unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template is not valid Jinja, or uses a feature that we do not support.
    #[error("the model's chat template cannot be parsed: line {line}: {message}")]
    Parse {
        /// Line of the template.
        line: usize,
        /// What the Jinja engine says.
        message: String,
    },
    /// The template called `raise_exception`.
    #[error("the model's chat template refuses this conversation: {message} (template line {line})")]
    Refused {
        /// Line of the template.
        line: usize,
        /// The template author's words.
        message: String,
    },
    /// The template opens the answer with thinking, so an answer cannot be continued.
    #[error(
        "the model's chat template opens the answer with thinking, so the assistant's last message cannot be continued"
    )]
    OpensThinking,
    /// The template failed while rendering.
    #[error("the model's chat template failed: line {line}: {message}")]
    Render {
        /// Line of the template.
        line: usize,
        /// What the Jinja engine says.
        message: String,
    },
    /// A role with characters that could be mistaken for part of the template.
    #[error("message {number} has the role {role:?}; a role can contain ASCII letters, digits, '_' and '-'")]
    Role {
        /// The message, counted from 1.
        number: usize,
        /// Its role.
        role: String,
    },
}

impl TemplateError {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Parse { .. } | Self::Render { .. } => {
                "replace the template with --chat-template, or send the prompt without one with --raw"
            }
            Self::Refused { .. } => {
                "check the order and the roles of the messages; or send the prompt without a template with --raw"
            }
            Self::OpensThinking => "turn thinking off: {\"chat_template_kwargs\": {\"enable_thinking\": false}}",
            Self::Role { .. } => "the usual roles are system, user and assistant",
        }
    }
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    specials: SpecialTexts,
    /// Whether the template wants `content` as a list of typed parts, not as a string.
    wants_parts: bool,
    /// Whether the template renders a conversation without the text of its system message.
    drops_system: bool,
    knows_thinking: bool,
}

impl ChatTemplate {
    /// Parses a template and probes what it does with the text of user and system messages.
    pub fn parse(source: &str, specials: SpecialTexts) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        python::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        let parsed = environment.add_template_owned(NAME, python::normalized_source(source));
        parsed
            .map_err(|error| TemplateError::Parse { line: error.line().unwrap_or(0), message: message_of(&error) })?;
        let mut template =
            Self { environment, specials, wants_parts: false, drops_system: false, knows_thinking: false };
        template.knows_thinking = source.contains(OPEN) || source.contains(CLOSE);
        template.probe();
        Ok(template)
    }

    /// Whether the template names the tags of a thinking model.
    #[must_use]
    pub fn knows_thinking(&self) -> bool {
        self.knows_thinking
    }

    /// Renders the messages.
    ///
    /// If the template refuses or drops system messages, the messages are rendered with [`merge_system`], and the
    /// result says so. If that is refused too, the error is the one for the original messages.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        guard: &SpecialGuard,
    ) -> Result<Rendered, TemplateError> {
        check_roles(messages)?;
        let has_system = messages.iter().any(|message| message.role == "system");
        let plain = |segments| Rendered { segments, merged_system: false };
        let merged = |segments| Rendered { segments, merged_system: true };
        if has_system && self.drops_system {
            return self.render_guarded(&merge_system(messages), options, guard).map(merged);
        }
        match self.render_guarded(messages, options, guard) {
            Err(refusal @ TemplateError::Refused { .. }) if has_system => {
                self.render_guarded(&merge_system(messages), options, guard).map(merged).map_err(|_| refusal)
            }
            rendered => rendered.map(plain),
        }
    }

    /// Renders, and keeps special texts inside message contents from being parsed.
    ///
    /// Most conversations are rendered once. If a content holds a special text, it is rendered again with marks. Marks
    /// can disturb a template that splits, trims or compares contents, so this tries the mark styles until the text
    /// without marks is unchanged.
    fn render_guarded(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        guard: &SpecialGuard,
    ) -> Result<Vec<Segment>, TemplateError> {
        let marked = |style: MarkStyle| -> Vec<Message> {
            let mark = |text: &str| guard.mark(text, style);
            messages.iter().map(|message| message.with_texts(mark, &|text| guard.mark_inside(text, style))).collect()
        };
        let unmarked = marked(MarkStyle::None);
        let text = without_marks(&self.expand(&unmarked, options)?);
        if marked(MarkStyle::Around) == unmarked {
            return Ok(guard.segments(&text));
        }
        for style in [MarkStyle::Around, MarkStyle::Before, MarkStyle::After] {
            if let Ok(candidate) = self.expand(&marked(style), options)
                && without_marks(&candidate) == text
            {
                return Ok(guard.segments(&candidate));
            }
        }
        // Every style changes this template's output. Prefer safety: the text may differ a little, but nothing is
        // parsed.
        self.expand(&marked(MarkStyle::Around), options).map(|text| guard.segments(&text))
    }

    /// Runs the template once.
    fn expand(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TemplateError> {
        match messages.split_last() {
            Some((last, before)) if options.continues_last => {
                let mut text = self.expand_all(before, options)?;
                if opens_thinking(&text) {
                    return Err(TemplateError::OpensThinking);
                }
                text.push_str(&last.content);
                Ok(text)
            }
            _ => self.expand_all(messages, options),
        }
    }

    fn expand_all(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TemplateError> {
        let content = |text: &str| match self.wants_parts {
            true => Value::from(vec![context! { type => "text", text => text }]),
            false => Value::from(text),
        };
        let message = |m: &Message| {
            let said = context! { role => m.role, content => content(&m.content) };
            // In `context!`, the first value for a name wins.
            if m.extra.is_empty() {
                said
            } else {
                context! { ..Value::from_serialize(&m.extra), ..said }
            }
        };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        let now = options.now;
        let defaults = context! {
            bos_token => self.specials.bos,
            eos_token => self.specials.eos,
            unk_token => self.specials.unk,
            pad_token => self.specials.pad,
            tools => (),
            documents => (),
            strftime_now => Value::from_function(move |format: String| now.strftime(&format)),
        };
        let fixed = context! { messages, add_generation_prompt => options.add_generation_prompt };
        // The first value for a name wins.
        let variables = context! { ..fixed, ..Value::from_serialize(&options.extra), ..defaults };
        let template = self.environment.get_template(NAME).expect("added by parse");
        template.render(variables).map_err(|error| render_error(&error))
    }

    /// Finds out how the template treats contents, by rendering messages with known texts. A template that fails on
    /// these is treated as an ordinary one; a real conversation will show the error.
    fn probe(&mut self) {
        let shows = |template: &Self, messages: &[Message], needle: &str| {
            let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            template.expand(messages, &options).ok().map(|text| text.contains(needle))
        };
        let user = Message::new("user", "userneedle");
        if shows(self, std::slice::from_ref(&user), &user.content) != Some(true) {
            self.wants_parts = true;
            self.wants_parts = shows(self, std::slice::from_ref(&user), &user.content) == Some(true);
        }
        let system = Message::new("system", "systemneedle");
        let both = [system, user];
        self.drops_system =
            shows(self, &both, &both[0].content) == Some(false) && shows(self, &both, &both[1].content) == Some(true);
    }
}

/// Maps all texts in a value, including keys.
fn map_texts(value: &Value, map: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => value.as_str().map_or_else(|| value.clone(), |text| Value::from(map(text))),
        ValueKind::Seq => {
            value.try_iter().map_or_else(|_| value.clone(), |items| items.map(|item| map_texts(&item, map)).collect())
        }
        ValueKind::Map => {
            let Ok(keys) = value.try_iter() else { return value.clone() };
            let entry = |key: Value| {
                (map_texts(&key, map), value.get_item(&key).map_or(Value::UNDEFINED, |item| map_texts(&item, map)))
            };
            keys.map(entry).collect()
        }
        _ => value.clone(),
    }
}

/// For templates without a system role: moves the text of each system message to the front of the next user message,
/// separated by an empty line. If no user message follows, it becomes one.
pub fn merge_system(messages: &[Message]) -> Vec<Message> {
    let mut merged = Vec::with_capacity(messages.len());
    let mut pending: Vec<&str> = Vec::new();
    for message in messages {
        match message.role.as_str() {
            "system" => pending.push(&message.content),
            "user" => {
                pending.push(&message.content);
                merged.push(Message { content: pending.join("\n\n"), ..message.clone() });
                pending.clear();
            }
            _ => merged.push(message.clone()),
        }
    }
    if !pending.is_empty() {
        merged.push(Message::new("user", pending.join("\n\n")));
    }
    merged
}

fn check_roles(messages: &[Message]) -> Result<(), TemplateError> {
    let is_plain = |role: &str| {
        !role.is_empty() && role.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    match messages.iter().position(|message| !is_plain(&message.role)) {
        Some(index) => Err(TemplateError::Role { number: index + 1, role: messages[index].role.clone() }),
        None => Ok(()),
    }
}

/// Marks an error that the template raised itself.
#[derive(Debug)]
struct Raised;

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("raise_exception")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

fn render_error(error: &Error) -> TemplateError {
    let line = error.line().unwrap_or(0);
    let source = std::error::Error::source(error);
    if source.is_some_and(|source| source.is::<Raised>()) {
        return TemplateError::Refused { line, message: error.detail().unwrap_or_default().to_owned() };
    }
    TemplateError::Render { line, message: message_of(error) }
}

fn message_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
