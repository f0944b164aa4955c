//! Lists the keywords of all drafts of JSON Schema, and how each is handled.

use serde_json::{Map, Value};

use super::numbers::{bound, count, literal, multiple};
use super::{Pointer, SchemaError, shortened, wrong};

/// How to handle a keyword.
pub(super) enum Keyword {
    /// Ignore it: it constrains nothing.
    Nothing,
    /// JSON Schema has no such keyword.
    Unknown,
    /// It cannot be enforced.
    Unsupported,
    /// Its value is a reference.
    Ref,
    /// Its value is a schema.
    Schema,
    /// Its value is a schema or a list of them.
    Items,
    /// Its value is a list of schemas.
    List,
    /// Its value is an object of schemas.
    Map,
    /// Its value is checked by a function.
    Plain(Check),
}

/// Checks a keyword's value and returns the value for llguidance. The map is the schema that contains the keyword.
pub(super) type Check = fn(&Value, &Map<String, Value>, &Pointer) -> Result<Value, SchemaError>;

/// Annotations, including those of OpenAPI and of editors, and anchors, which only matter to references.
const ANNOTATIONS: [&str; 27] = [
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$vocabulary",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "discriminator",
    "externalDocs",
    "xml",
    "enumNames",
    "markdownDescription",
    "propertyOrdering",
];

const SUPPORTED: [&str; 27] = [
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "const",
    "enum",
    "type",
    "items",
    "additionalItems",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

const UNSUPPORTED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "nullable",
    "divisibleBy",
    "disallow",
    "extends",
];

const TYPES: [&str; 7] = ["null", "boolean", "number", "integer", "string", "array", "object"];

/// String formats that can be enforced.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// String formats that any text has; they only describe its purpose.
const FREE_FORMATS: [&str; 12] = [
    "password",
    "binary",
    "byte",
    "path",
    "file-path",
    "directory-path",
    "textarea",
    "markdown",
    "html",
    "text",
    "string",
    "multiline",
];

/// How to handle a keyword with this value.
pub(super) fn keyword(name: &str, value: &Value) -> Keyword {
    match name {
        "$ref" => Keyword::Ref,
        "additionalProperties" | "additionalItems" => Keyword::Schema,
        "items" => Keyword::Items,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Keyword::List,
        "properties" | "patternProperties" => Keyword::Map,
        "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minLength" | "maxLength" => {
            Keyword::Plain(count)
        }
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => Keyword::Plain(bound),
        "multipleOf" => Keyword::Plain(multiple),
        "pattern" | "format" => Keyword::Plain(text),
        "required" => Keyword::Plain(names),
        "const" => Keyword::Plain(|value, _, path| literal(value, path).map(|()| value.clone())),
        "enum" => Keyword::Plain(choices),
        "type" => Keyword::Plain(|value, _, _| Ok(value.clone())),
        _ if ANNOTATIONS.contains(&name) || name.starts_with("x-") => Keyword::Nothing,
        _ if UNSUPPORTED.contains(&name) && asks_for_nothing(name, value) => Keyword::Nothing,
        _ if UNSUPPORTED.contains(&name) => Keyword::Unsupported,
        _ => Keyword::Unknown,
    }
}

/// Whether an unsupported keyword has a value that constrains nothing.
fn asks_for_nothing(name: &str, value: &Value) -> bool {
    let is_empty = value.as_object().is_some_and(Map::is_empty);
    match name {
        "uniqueItems" | "nullable" => value == false,
        "not" => value == false,
        "unevaluatedItems" | "unevaluatedProperties" => value == true || is_empty,
        "dependencies" | "dependentRequired" | "dependentSchemas" => is_empty,
        // All names are strings.
        "propertyNames" => {
            let is_type = |(name, value): (&String, &Value)| name == "type" && value == "string";
            value == true || value.as_object().is_some_and(|all| all.iter().all(is_type))
        }
        _ => false,
    }
}

/// The message for an unknown keyword.
pub(super) fn unknown(name: &str) -> String {
    let known = SUPPORTED.iter().chain(&UNSUPPORTED).chain(&ANNOTATIONS);
    let what = format!("{name:?} is not a keyword of JSON Schema");
    match nearest(name, known) {
        Some(known) => format!("{what}; did you mean {known:?}?"),
        None => what,
    }
}

/// The closest known word, if it is close enough to be meant.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k &'static str>) -> Option<&'k str> {
    let plain = |word: &str| word.to_lowercase().replace(['_', '-'], "");
    let distance = |known: &str| strsim::damerau_levenshtein(&plain(word), &plain(known));
    let near = known.map(|known| (distance(known), *known)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, known)| *distance <= 2.min(known.len() / 3)).map(|(_, known)| known)
}

fn text(value: &Value, _: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    match value.is_string() {
        true => Ok(value.clone()),
        false => wrong(path, format!("expected a text, found {}", shortened(value))),
    }
}

fn names(value: &Value, _: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    match value.as_array().filter(|names| names.iter().all(Value::is_string)) {
        Some(_) => Ok(value.clone()),
        None => wrong(path, format!("expected a list of names, found {}", shortened(value))),
    }
}

fn choices(value: &Value, _: &Map<String, Value>, path: &Pointer) -> Result<Value, SchemaError> {
    let Some(all) = value.as_array().filter(|all| !all.is_empty()) else {
        return wrong(path, format!("expected a list of values, found {}", shortened(value)));
    };
    let mut all = all.iter().enumerate();
    all.try_for_each(|(at, value)| literal(value, &path.child(&at.to_string())))?;
    Ok(value.clone())
}

/// The types that a schema names; all types if it names none.
pub(super) fn types(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => TYPES.to_vec(),
    }
}

/// Checks that `type` names existing types.
pub(super) fn check_type(schema: &Map<String, Value>, path: &Pointer) -> Result<(), SchemaError> {
    let Some(value) = schema.get("type") else { return Ok(()) };
    let path = path.child("type");
    let names = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(names) if !names.is_empty() => names.as_slice(),
        _ => return wrong(&path, format!("expected a type or a list of types, found {}", shortened(value))),
    };
    let Some(other) = names.iter().find(|name| !name.as_str().is_some_and(|name| TYPES.contains(&name))) else {
        return Ok(());
    };
    let near = other.as_str().and_then(|name| nearest(name, TYPES.iter()));
    let hint = match near {
        Some(near) => format!("; did you mean {near:?}?"),
        None => format!("; the types are {}", TYPES.join(", ")),
    };
    wrong(&path, format!("{} is not a type{hint}", shortened(other)))
}

/// Checks that a string format can be enforced, and drops formats that any text has.
pub(super) fn check_format(
    schema: &Map<String, Value>,
    path: &Pointer,
    read: &mut Map<String, Value>,
) -> Result<(), SchemaError> {
    let Some(format) = schema.get("format").and_then(Value::as_str) else { return Ok(()) };
    // For other types, a format such as int64 or double constrains nothing.
    let is_free = !types(schema).contains(&"string") || FREE_FORMATS.contains(&format);
    if is_free {
        read.remove("format");
        return Ok(());
    }
    match FORMATS.contains(&format) {
        true => Ok(()),
        false => {
            let path = path.child("format");
            wrong(
                &path,
                format!("the format {format:?} is not supported; use one of {}, or a pattern", FORMATS.join(", ")),
            )
        }
    }
}
