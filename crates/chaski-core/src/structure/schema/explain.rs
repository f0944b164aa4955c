//! Explains llguidance's errors in the words of the schema, with the path of the cause.

use serde_json::{Value, json};

use super::keywords::{Keyword, keyword};
use super::{Plain, Pointer};

/// Maximum number of schemas to compile on their own in search of the cause.
const MAX_TRIED: usize = 500;

/// Finds why llguidance rejects a schema with `reason`. `fails` compiles another schema and returns its error.
///
/// The cause is the deepest subschema that fails on its own, preferably for the same reason.
pub(in crate::structure) fn explained(
    plain: &Plain,
    start: &Pointer,
    reason: &str,
    mut fails: impl FnMut(Value) -> Option<String>,
) -> String {
    let definitions = plain.schema.get("$defs").cloned().unwrap_or_else(|| json!({}));
    let mut parts = Vec::new();
    for (name, definition) in definitions.as_object().into_iter().flatten() {
        let origin = plain.origins.get(name).cloned().unwrap_or_default();
        collect(definition, &origin, &mut parts);
    }
    collect(&plain.schema, start, &mut parts);
    parts.sort_by_key(|(path, _)| std::cmp::Reverse(path.depth()));
    let mut causes = parts.into_iter().take(MAX_TRIED).filter_map(|(path, part)| {
        let mut alone = part.clone();
        alone.as_object_mut()?.insert("$defs".to_owned(), definitions.clone());
        Some((path, fails(alone)?))
    });
    let (path, reason) = match causes.next() {
        Some(deepest) if deepest.1 == reason || is_derived(reason) => deepest,
        Some(deepest) => causes.find(|(_, other)| other == reason).unwrap_or(deepest),
        None => (start.clone(), reason.to_owned()),
    };
    format!("{path}: {}", in_plain_words(&reason))
}

/// Whether a reason only says that a subschema is at fault.
fn is_derived(reason: &str) -> bool {
    ["required property", "required item", "is unsatisfiable", "All options"].iter().any(|part| reason.contains(part))
}

/// Collects a schema and all its subschemas that are objects.
fn collect<'v>(schema: &'v Value, path: &Pointer, parts: &mut Vec<(Pointer, &'v Value)>) {
    let Some(object) = schema.as_object() else { return };
    parts.push((path.clone(), schema));
    for (name, value) in object {
        let at = path.child(name);
        match keyword(name, value) {
            Keyword::Schema => collect(value, &at, parts),
            Keyword::Items if value.is_object() => collect(value, &at, parts),
            Keyword::Items | Keyword::List | Keyword::Map => {
                let children = value.as_array().into_iter().flatten().enumerate();
                children.for_each(|(place, child)| collect(child, &at.child(&place.to_string()), parts));
                let children = value.as_object().into_iter().flatten();
                children.for_each(|(name, child)| collect(child, &at.child(name), parts));
            }
            _ => {}
        }
    }
}

/// Rewrites llguidance's reason without its internal terms.
fn in_plain_words(reason: &str) -> String {
    let says = |part: &str| reason.contains(part);
    if says("oneOf constraints are not supported") {
        return "oneOf is supported only if no two alternatives can both match: they must have different types, or be \
                objects that require a property with different const values; otherwise use anyOf"
            .to_owned();
    }
    if says("look-around") {
        return "pattern: look-ahead and look-behind, as in (?!...), are not supported".to_owned();
    }
    if says("backreferences") {
        return "pattern: references to groups, as in \\1, are not supported".to_owned();
    }
    if says("Regex is empty") {
        return "no text can match this pattern, format and length together".to_owned();
    }
    if says("if regex is empty") {
        return "pattern, format and length together are too complex".to_owned();
    }
    if says("integer range") {
        return "these bounds for integers cannot be used together".to_owned();
    }
    if let Some(rest) = reason.strip_prefix("Unsatisfiable schema: ") {
        return format!("no value can match: {rest}");
    }
    if let Some(rest) = reason.strip_prefix("patternProperty regexes ") {
        return format!("patternProperties: a name could match more than one of {rest}");
    }
    reason.to_owned()
}
