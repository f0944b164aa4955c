//! Error codes of refused lines, for programs. A refused line becomes an error record; the other lines continue.

use crate::engine::RequestError;

/// Why a line is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A code for programs: `context_length_exceeded`, `empty_prompt`, `invalid_grammar`, ...
    pub code: String,
    /// A message for people.
    pub message: String,
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Refusal {
        refuse(error.code(), error.to_string())
    }
}

/// The bytes are not UTF-8.
pub const INVALID_UTF8: &str = "invalid_utf8";
/// The line, or the prompt made from it, is too long.
pub const LINE_TOO_LONG: &str = "line_too_long";
/// The line is not JSON, or nested too deeply.
pub const INVALID_JSON: &str = "invalid_json";
/// The line is not a valid row, or has other columns than the header.
pub const INVALID_CSV: &str = "invalid_csv";
/// The request is malformed: not an object, without a prompt, or with invalid messages.
pub const INVALID_REQUEST: &str = "invalid_request";
/// A request in OpenAI's format has no `custom_id`.
pub const MISSING_CUSTOM_ID: &str = "missing_custom_id";
/// The `custom_id` is not a string, empty, or too long.
pub const INVALID_CUSTOM_ID: &str = "invalid_custom_id";
/// An earlier line has the same `custom_id`.
pub const DUPLICATE_CUSTOM_ID: &str = "duplicate_custom_id";
/// The `url` is not supported.
pub const UNSUPPORTED_URL: &str = "unsupported_url";
/// A parameter is unknown or cannot be honoured.
pub const UNSUPPORTED_PARAMETER: &str = "unsupported_parameter";
/// A parameter has an invalid value.
pub const INVALID_VALUE: &str = "invalid_value";
/// The user's or the model's template fails on this line.
pub const TEMPLATE_ERROR: &str = "template_error";
/// The engine crashed twice on this line, the second time while it ran alone.
pub const ENGINE_CRASHED: &str = "engine_crashed";

/// Builds a refusal.
pub fn refuse(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { code: code.to_owned(), message: message.into() }
}
