//! JSON pointers (RFC 6901), and the targets of `$ref`.

use std::fmt::{self, Write as _};

use serde_json::Value;

/// A path in a document: the member names and indices from its root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::structure) struct Pointer(Vec<String>);

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("#")?;
        for name in &self.0 {
            f.write_char('/')?;
            f.write_str(&name.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

impl Pointer {
    /// The path extended by one step.
    pub(in crate::structure) fn child(&self, name: &str) -> Pointer {
        Pointer(self.0.iter().cloned().chain([name.to_owned()]).collect())
    }

    /// The path extended by the steps of `other`.
    pub(super) fn joined(&self, other: &Pointer) -> Pointer {
        Pointer(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// The last step.
    pub(super) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The number of steps.
    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    /// The target of a `$ref`. It need not exist.
    ///
    /// # Errors
    /// When it is outside the document or malformed.
    pub(super) fn referred(text: &str, root: &Value) -> Result<Pointer, String> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let own = ["$id", "id"].into_iter().find_map(|name| root.get(name)?.as_str());
        let is_own = own.is_some_and(|id| id.strip_suffix('#').unwrap_or(id) == address);
        if !address.is_empty() && !is_own {
            return Err(format!("{text:?} points outside this schema; references must start with #"));
        }
        let fragment = percent_decoded(fragment).ok_or_else(|| format!("{text:?} has an invalid percent escape"))?;
        if fragment.is_empty() {
            return Ok(Pointer::default());
        }
        match fragment.strip_prefix('/') {
            Some(path) => {
                let names = path.split('/').map(unescaped).collect::<Option<Vec<String>>>();
                names.map(Pointer).ok_or_else(|| format!("{text:?} has a ~ that is neither ~0 nor ~1"))
            }
            None => anchor(root, &fragment, &Pointer::default())
                .ok_or_else(|| format!("{text:?} does not exist in this schema")),
        }
    }

    /// The value at this path, and whether an `$id` on the way, below the root, changes what references mean there.
    pub(super) fn find<'v>(&self, root: &'v Value) -> Option<(&'v Value, bool)> {
        let (mut value, mut is_rebased) = (root, false);
        for (n_steps, name) in self.0.iter().enumerate() {
            let has_id = |key: &str| value.get(key).and_then(Value::as_str).is_some_and(|id| !id.starts_with('#'));
            is_rebased |= n_steps > 0 && (has_id("$id") || has_id("id"));
            value = match value {
                Value::Object(object) => object.get(name)?,
                // No sign and no leading zeros.
                Value::Array(all) => all.get(name.parse::<usize>().ok().filter(|n| n.to_string() == *name)?)?,
                _ => return None,
            };
        }
        Some((value, is_rebased))
    }
}

/// The path of the schema with this anchor.
fn anchor(value: &Value, name: &str, path: &Pointer) -> Option<Pointer> {
    match value {
        Value::Object(object) => {
            let is = |key: &str, wanted: &str| object.get(key).and_then(Value::as_str) == Some(wanted);
            let old = format!("#{name}");
            if is("$anchor", name) || is("$dynamicAnchor", name) || is("$id", &old) || is("id", &old) {
                return Some(path.clone());
            }
            object.iter().find_map(|(key, value)| anchor(value, name, &path.child(key)))
        }
        Value::Array(all) => {
            all.iter().enumerate().find_map(|(at, value)| anchor(value, name, &path.child(&at.to_string())))
        }
        _ => None,
    }
}

/// Decodes percent escapes: `%41` is `A`.
fn percent_decoded(text: &str) -> Option<String> {
    let (mut bytes, mut decoded) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let code = bytes.next().and_then(digit)? * 16 + bytes.next().and_then(digit)?;
                u8::try_from(code).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Decodes `~1` to `/` and `~0` to `~`.
fn unescaped(name: &str) -> Option<String> {
    let (mut characters, mut out) = (name.chars(), String::new());
    while let Some(c) = characters.next() {
        out.push(match c {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}
