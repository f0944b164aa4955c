//! Parses a line of JSON or text into a request: a prompt and parameters.
//!
//! It accepts OpenAI's batch lines for `/v1/chat/completions` and `/v1/completions`, and two short forms with the same
//! parameters beside the prompt: `{"prompt": ...}` and `{"messages": ...}`. It does not render prompts.

use serde_json::{Map, Value};

use crate::chat::template::{Message, TemplateValue};
use crate::input::ids::default_id;
use crate::input::parameters::Parameters;
use crate::refuse::{
    INVALID_CUSTOM_ID, INVALID_JSON, INVALID_REQUEST, MISSING_CUSTOM_ID, Refusal, UNSUPPORTED_PARAMETER,
    UNSUPPORTED_URL, refuse,
};

/// Members that a message may have besides `role` and `content`; they are passed to the template.
const MESSAGE_FIELDS: [&str; 6] = ["name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"];

/// Longest `custom_id`, in bytes.
pub const MAX_ID_BYTES: usize = 512;

/// The endpoint of a request; it decides the form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`, and all short forms.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// A prompt before it is rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A conversation, for the model's template.
    Messages(Vec<Message>),
    /// A user's message, for the model's template.
    User(String),
    /// Raw text, used as it is; special tokens in it are parsed.
    Raw(String),
}

/// A parsed request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The line's id in the results.
    pub custom_id: String,
    /// The form of the result.
    pub endpoint: Endpoint,
    /// The prompt.
    pub prompt: Prompt,
    /// Its parameters.
    pub parameters: Parameters,
}

/// A line that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its `custom_id`, if known.
    pub custom_id: Option<String>,
    /// Why it is refused.
    pub refusal: Refusal,
}

impl Rejected {
    /// Refuses a line whose `custom_id` is not known.
    #[must_use]
    pub fn nameless(refusal: Refusal) -> Rejected {
        Rejected { custom_id: None, refusal }
    }
}

impl Ask {
    /// A request from plain text, without parameters.
    #[must_use]
    pub fn of_text(prompt: String, number: u64) -> Ask {
        Ask {
            custom_id: default_id(number),
            endpoint: Endpoint::Chat,
            prompt: Prompt::User(prompt),
            parameters: Parameters::default(),
        }
    }

    /// Parses a line of JSON.
    ///
    /// # Errors
    /// Why the line is refused.
    pub fn of_json(line: &str, number: u64) -> Result<Ask, Rejected> {
        let object = object(line).map_err(Rejected::nameless)?;
        Ask::of_object(object, number)
    }

    fn of_object(mut object: Map<String, Value>, number: u64) -> Result<Ask, Rejected> {
        let given = take_id(&mut object).map_err(Rejected::nameless)?;
        let rejected = |refusal| Rejected { custom_id: given.clone(), refusal };
        let (endpoint, prompt, parameters) = if object.contains_key("body") || object.contains_key("url") {
            let (endpoint, mut body) = envelope(object).map_err(rejected)?;
            let prompt = match endpoint {
                Endpoint::Chat => messages(body.remove("messages")),
                Endpoint::Completions => raw_prompt(body.remove("prompt")),
            };
            let prompt = prompt.map_err(rejected)?;
            if given.is_none() {
                return Err(rejected(refuse(MISSING_CUSTOM_ID, "custom_id is missing: OpenAI's format requires it")));
            }
            (endpoint, prompt, Parameters::take(&mut body, endpoint == Endpoint::Chat))
        } else {
            let prompt = match (object.remove("messages"), object.remove("prompt")) {
                (Some(messages_), None) => messages(Some(messages_)),
                (None, Some(Value::String(text))) => Ok(Prompt::User(text)),
                (None, Some(_)) => Err(refuse(INVALID_REQUEST, "prompt must be a text")),
                (Some(_), Some(_)) => Err(refuse(INVALID_REQUEST, "prompt and messages cannot be used together")),
                (None, None) => Err(refuse(INVALID_REQUEST, "the line has no body, prompt or messages")),
            };
            (Endpoint::Chat, prompt.map_err(rejected)?, Parameters::take(&mut object, true))
        };
        let parameters = parameters.map_err(rejected)?;
        Ok(Ask { custom_id: given.unwrap_or_else(|| default_id(number)), endpoint, prompt, parameters })
    }
}

/// Parses a line as a JSON object.
///
/// # Errors
/// When the line is not a JSON object.
pub(super) fn object(line: &str) -> Result<Map<String, Value>, Refusal> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(refuse(INVALID_REQUEST, "the line is not a JSON object")),
        Err(error) => {
            let text = error.to_string();
            let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
            Err(refuse(INVALID_JSON, format!("not JSON: {what} at column {}", error.column())))
        }
    }
}

/// Removes the `custom_id` from the object and returns it, if there is one.
///
/// # Errors
/// When it is not a string of 1 to [`MAX_ID_BYTES`] bytes.
pub(super) fn take_id(object: &mut Map<String, Value>) -> Result<Option<String>, Refusal> {
    match object.remove("custom_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(id)) if (1..=MAX_ID_BYTES).contains(&id.len()) => Ok(Some(id)),
        Some(_) => Err(refuse(INVALID_CUSTOM_ID, format!("custom_id must be a text of 1 to {MAX_ID_BYTES} bytes"))),
    }
}

/// Splits OpenAI's envelope into endpoint and body.
fn envelope(mut object: Map<String, Value>) -> Result<(Endpoint, Map<String, Value>), Refusal> {
    if let Some(method) = object.remove("method")
        && method.as_str() != Some("POST")
    {
        return Err(refuse(INVALID_REQUEST, "method must be POST"));
    }
    let endpoint = match object.remove("url") {
        Some(Value::String(url)) if url == "/v1/chat/completions" => Endpoint::Chat,
        Some(Value::String(url)) if url == "/v1/completions" => Endpoint::Completions,
        _ => return Err(refuse(UNSUPPORTED_URL, "url must be /v1/chat/completions or /v1/completions")),
    };
    let Some(Value::Object(body)) = object.remove("body") else {
        return Err(refuse(INVALID_REQUEST, "body must be an object"));
    };
    match object.keys().next() {
        None => Ok((endpoint, body)),
        Some(name) => Err(refuse(UNSUPPORTED_PARAMETER, format!("unknown member {name:?} beside body"))),
    }
}

fn messages(value: Option<Value>) -> Result<Prompt, Refusal> {
    let Some(Value::Array(all)) = value else {
        return Err(refuse(INVALID_REQUEST, "messages must be a list"));
    };
    if all.is_empty() {
        return Err(refuse(INVALID_REQUEST, "messages must not be empty"));
    }
    let message = |(place, value)| {
        message(value).map_err(|what| refuse(INVALID_REQUEST, format!("message {}: {what}", place + 1)))
    };
    all.into_iter().enumerate().map(message).collect::<Result<Vec<Message>, Refusal>>().map(Prompt::Messages)
}

fn message(value: Value) -> Result<Message, String> {
    let Value::Object(mut object) = value else { return Err("not an object".to_owned()) };
    let Some(Value::String(role)) = object.remove("role") else { return Err("role must be a text".to_owned()) };
    // Some templates distinguish a tool call without content from an empty answer, so null stays null.
    let calls = object.get("tool_calls").is_some_and(|calls| !calls.is_null());
    let content = match object.remove("content") {
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => Some(parts.iter().map(part).collect::<Result<String, String>>()?),
        None if calls => None,
        Some(Value::Null) if calls || role == "assistant" => None,
        _ => return Err("content must be a text, or a list of parts of the type text".to_owned()),
    };
    // OpenAI's own answers have an empty `annotations` list.
    object.retain(|name, value| {
        !(value.is_null() || name == "annotations" && value.as_array().is_some_and(Vec::is_empty))
    });
    if let Some(name) = object.keys().find(|name| !MESSAGE_FIELDS.contains(&name.as_str())) {
        return Err(format!("{name:?} is not supported"));
    }
    parse_arguments(&mut object);
    let fields = object.iter().map(|(name, value)| (name.clone(), TemplateValue::from_serialize(value)));
    let message = Message { extra: fields.collect(), ..Message::new(role, content.as_deref().unwrap_or_default()) };
    Ok(if content.is_none() { message.without_content() } else { message })
}

/// Parses the arguments of tool calls. OpenAI writes them as JSON in a string, but templates expect an object, as in
/// transformers.
fn parse_arguments(message: &mut Map<String, Value>) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for arguments in calls.into_iter().flatten().filter_map(|call| call.pointer_mut("/function/arguments")) {
        let parsed = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
        if let Some(parsed) = parsed {
            *arguments = Value::Object(parsed);
        }
    }
}

fn part(part: &Value) -> Result<&str, String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        _ => Err("only parts of the type text are supported".to_owned()),
    }
}

fn raw_prompt(value: Option<Value>) -> Result<Prompt, Refusal> {
    let wrong = || refuse(INVALID_REQUEST, "prompt must be a text");
    match value {
        Some(Value::String(text)) => Ok(Prompt::Raw(text)),
        // OpenAI's clients write one prompt as a list of one.
        Some(Value::Array(texts)) => match <[Value; 1]>::try_from(texts) {
            Ok([Value::String(text)]) => Ok(Prompt::Raw(text)),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests;
