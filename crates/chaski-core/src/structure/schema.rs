//! Checks JSON schemas: every keyword is enforced, is an annotation, or is an error with its path.
//!
//! llguidance ignores unknown keywords, stores numbers as floats, and resolves references by their text. So a schema is
//! normalized here first, and llguidance receives only what it enforces exactly: supported keywords, and references to
//! definitions with plain names. Paths in messages are JSON pointers into the schema: `#/properties/age`.

mod explain;
mod keywords;
mod numbers;
mod pointer;
mod wrapper;

use std::collections::HashMap;

use serde_json::{Map, Value};

pub(super) use self::explain::explained;
use self::keywords::{Keyword, check_format, check_type, keyword, unknown};
pub(super) use self::pointer::Pointer;
pub(super) use self::wrapper::unwrapped;

/// A mistake in a schema, with its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub(super) struct SchemaError {
    path: Pointer,
    message: String,
}

fn wrong<T>(path: &Pointer, message: impl Into<String>) -> Result<T, SchemaError> {
    Err(SchemaError { path: path.clone(), message: message.into() })
}

/// A normalized schema for llguidance.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    /// The schema with supported keywords only. References are `#/$defs/` followed by a name from [`Plain::origins`].
    pub(super) schema: Value,
    /// The path of each definition in the user's document, by name.
    pub(super) origins: HashMap<String, Pointer>,
    /// Whether the schema has `patternProperties`, which may allow only a few names.
    pub(super) has_name_patterns: bool,
}

/// Normalizes a schema that is at `start` in the user's document.
///
/// # Errors
/// At the first unknown or unsupported keyword, or value that cannot be enforced.
pub(super) fn plain(root: &Value, start: &Pointer) -> Result<Plain, SchemaError> {
    let mut reader = Reader { root, start, names: HashMap::new(), waiting: Vec::new(), has_name_patterns: false };
    let mut schema = reader.schema(root, start, false)?;
    let mut definitions = Map::new();
    while let Some(target) = reader.waiting.pop() {
        let name = reader.names[&target].clone();
        // The target existed when the reference was read.
        let Some((value, is_rebased)) = target.find(root) else { return wrong(&target, "there is no such schema") };
        let definition = reader.schema(value, &start.joined(&target), is_rebased)?;
        definitions.insert(name, definition);
    }
    if let (Value::Object(schema), false) = (&mut schema, definitions.is_empty()) {
        schema.insert("$defs".to_owned(), Value::Object(definitions));
    }
    let origins = reader.names.into_iter().map(|(target, name)| (name, start.joined(&target))).collect();
    Ok(Plain { schema, origins, has_name_patterns: reader.has_name_patterns })
}

struct Reader<'a> {
    root: &'a Value,
    start: &'a Pointer,
    /// Referenced definitions, with their names for llguidance.
    names: HashMap<Pointer, String>,
    /// Definitions that are not normalized yet.
    waiting: Vec<Pointer>,
    has_name_patterns: bool,
}

impl Reader<'_> {
    /// Normalizes one schema. `is_rebased`: an `$id` inside the document changes what references mean here.
    fn schema(&mut self, value: &Value, path: &Pointer, is_rebased: bool) -> Result<Value, SchemaError> {
        let Value::Object(object) = value else {
            return match value {
                Value::Bool(_) => Ok(value.clone()),
                other => {
                    wrong(path, format!("expected a schema (an object, true or false), found {}", shortened(other)))
                }
            };
        };
        let has_id = |name: &str| object.get(name).and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'));
        let is_rebased = is_rebased || path != self.start && (has_id("$id") || has_id("id"));
        let mut read = Map::new();
        for (name, value) in object {
            let at = path.child(name);
            let value = match keyword(name, value) {
                Keyword::Nothing => continue,
                Keyword::Unknown => return wrong(&at, unknown(name)),
                Keyword::Unsupported => return wrong(&at, format!("{name:?} is not supported")),
                Keyword::Ref => self.reference(value, &at, is_rebased)?,
                Keyword::Schema => self.schema(value, &at, is_rebased)?,
                Keyword::Items if value.is_array() => self.list(value, &at, is_rebased)?,
                Keyword::Items => self.schema(value, &at, is_rebased)?,
                Keyword::List => self.list(value, &at, is_rebased)?,
                Keyword::Map => {
                    self.has_name_patterns |= name == "patternProperties";
                    self.map(value, &at, is_rebased)?
                }
                Keyword::Plain(check) => check(value, object, &at)?,
            };
            read.insert(name.clone(), value);
        }
        check_type(object, path)?;
        check_format(object, path, &mut read)?;
        Ok(Value::Object(read))
    }

    fn list(&mut self, value: &Value, path: &Pointer, is_rebased: bool) -> Result<Value, SchemaError> {
        match value.as_array().filter(|all| !all.is_empty()) {
            Some(all) => {
                let all = all.iter().enumerate();
                all.map(|(at, value)| self.schema(value, &path.child(&at.to_string()), is_rebased)).collect()
            }
            None => wrong(path, format!("expected a list of schemas, found {}", shortened(value))),
        }
    }

    fn map(&mut self, value: &Value, path: &Pointer, is_rebased: bool) -> Result<Value, SchemaError> {
        let Some(object) = value.as_object() else {
            return wrong(path, format!("expected an object of schemas, found {}", shortened(value)));
        };
        let schema =
            |(name, value): (&String, &Value)| Ok((name.clone(), self.schema(value, &path.child(name), is_rebased)?));
        object.iter().map(schema).collect::<Result<Map<_, _>, _>>().map(Value::Object)
    }

    /// Replaces a reference by one to the target's name for llguidance.
    fn reference(&mut self, value: &Value, path: &Pointer, is_rebased: bool) -> Result<Value, SchemaError> {
        let Some(text) = value.as_str() else {
            return wrong(path, format!("expected a text, found {}", shortened(value)));
        };
        if is_rebased {
            return wrong(path, "references inside a schema that has its own $id are not supported");
        }
        let target = Pointer::referred(text, self.root).or_else(|message| wrong(path, message))?;
        if target.find(self.root).is_none() {
            return wrong(path, format!("{text:?} does not exist in this schema"));
        }
        let name = match self.names.get(&target) {
            Some(name) => name.clone(),
            None => {
                let name = format!("d{}", self.names.len());
                self.names.insert(target.clone(), name.clone());
                self.waiting.push(target);
                name
            }
        };
        Ok(format!("#/$defs/{name}").into())
    }
}

/// A value, shortened for a message.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
