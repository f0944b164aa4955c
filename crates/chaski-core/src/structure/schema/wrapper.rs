//! Removes what APIs wrap around a schema: OpenAI's `{"name", "strict", "schema"}`, or a whole `response_format`.

use serde_json::Value;

use super::{Pointer, SchemaError, wrong};

/// Members of OpenAI's wrapper.
const MEMBERS: [&str; 4] = ["name", "description", "strict", "schema"];

/// The schema inside a value, and its path there. A bare schema is at the root.
///
/// # Errors
/// When the wrapper has an unknown member.
pub(in crate::structure) fn unwrapped(value: &Value) -> Result<(&Value, Pointer), SchemaError> {
    let (mut value, mut path) = (value, Pointer::default());
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    match kind(value).as_deref() {
        Some("json_schema") if value.get("json_schema").is_some_and(Value::is_object) => {
            only(value, &["type", "json_schema"], &path)?;
            (value, path) = (&value["json_schema"], path.child("json_schema"));
        }
        Some("json_schema" | "json_object") if is_schema(value.get("schema")) => {
            only(value, &["type", "name", "description", "strict", "schema"], &path)?;
            return Ok((&value["schema"], path.child("schema")));
        }
        _ => {}
    }
    // "schema" is not a keyword of JSON Schema. An object that has it beside a name, or has only wrapper members, is a
    // wrapper.
    let is_wrapper = is_schema(value.get("schema"))
        && (value.get("name").is_some()
            || value.as_object().is_some_and(|all| all.keys().all(|name| MEMBERS.contains(&name.as_str()))));
    if is_wrapper {
        only(value, &MEMBERS, &path)?;
        return Ok((&value["schema"], path.child("schema")));
    }
    Ok((value, path))
}

fn is_schema(value: Option<&Value>) -> bool {
    value.is_some_and(|value| value.is_object() || value.is_boolean())
}

fn only(value: &Value, members: &[&str], path: &Pointer) -> Result<(), SchemaError> {
    match value.as_object().and_then(|all| all.keys().find(|name| !members.contains(&name.as_str()))) {
        Some(name) => wrong(
            &path.child(name),
            format!("unknown member {name:?} beside {:?}", members.last().copied().unwrap_or_default()),
        ),
        None => Ok(()),
    }
}
