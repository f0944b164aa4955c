//! What can be wrong with a line, as codes for programs. The line becomes an error record; the others go on.

use crate::batch::engine::Refusal;

/// The bytes are not UTF-8.
pub const INVALID_UTF8: &str = "invalid_utf8";
/// The line is longer than a line may be.
pub const LINE_TOO_LONG: &str = "line_too_long";
/// The line is not JSON, or nested too deeply.
pub const INVALID_JSON: &str = "invalid_json";
/// The line is not a row of the table that its header announces.
pub const INVALID_CSV: &str = "invalid_csv";
/// The line is no request: not an object, or without a prompt.
pub const INVALID_REQUEST: &str = "invalid_request";
/// A request in OpenAI's form has no `custom_id`.
pub const MISSING_CUSTOM_ID: &str = "missing_custom_id";
/// The `custom_id` is no text, empty, or too long.
pub const INVALID_CUSTOM_ID: &str = "invalid_custom_id";
/// An earlier line has the same `custom_id`.
pub const DUPLICATE_CUSTOM_ID: &str = "duplicate_custom_id";
/// The `url` is none that is answered.
pub const UNSUPPORTED_URL: &str = "unsupported_url";
/// A parameter that cannot be honoured.
pub const UNSUPPORTED_PARAMETER: &str = "unsupported_parameter";
/// A parameter has a value that it cannot have.
pub const INVALID_VALUE: &str = "invalid_value";
/// The template, the user's or the model's, fails on this line.
pub const TEMPLATE_ERROR: &str = "template_error";
/// The line took the process down twice, the second time alone.
pub const ENGINE_CRASHED: &str = "engine_crashed";

/// A refusal of this code.
pub fn refuse(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { code: code.to_owned(), message: message.into() }
}
