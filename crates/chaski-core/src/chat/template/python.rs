//! Emulates Python for templates: methods, JSON as `json.dumps` writes it, and quirks of Jinja2's parser. Only what
//! chat templates use.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value, escape_formatter};

/// Adds Python's methods, filters and tests to an environment.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            Layout::repr().write(&mut text, value, 0)?;
            Ok(out.write_str(&text)?)
        }
        ValueKind::None => Ok(out.write_str("None")?),
        _ => escape_formatter(out, state, value),
    });
    // minijinja also counts none and undefined as iterable.
    environment.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Iterable)
    });
    // Jinja2 asks for `len()` and `[]`, which strings and dicts have too.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
}

/// Rewrites the source as Jinja2 reads it. Newlines become `\n`. The `{% generation %}` tags, with which Hugging Face
/// marks training text, become a condition that is always true: no effect, but the whitespace control stays.
pub(super) fn normalized_source(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let name_at = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let name = tag[name_at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or("");
        let instead = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let behind = &tag[name_at + name.len()..];
        if behind.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
            out.push_str(&tag[..name_at]);
            out.push_str(instead);
            rest = behind;
        }
    }
    out.push_str(rest);
    out
}

/// How to write nested values: like `json.dumps` or like `repr`.
struct Layout {
    notation: Notation,
    /// One level of indentation; `None` writes everything on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    Json { ensure_ascii: bool },
    Repr,
}

/// The filter `tojson` with Hugging Face's arguments: `json.dumps(value, ensure_ascii=False, ...)`.
fn to_json(value: &Value, ensure_ascii: Option<bool>, arguments: Kwargs) -> Result<String, Error> {
    let indent = match arguments.get::<Option<Value>>("indent")? {
        Some(value) if value.kind() == ValueKind::String => Some(value.to_string()),
        Some(value) if value.is_integer() => Some(" ".repeat(value.as_usize().unwrap_or(0))),
        _ => None,
    };
    let [item_separator, key_separator] = match arguments.get::<Option<Vec<String>>>("separators")? {
        Some(given) => given.try_into().map_err(|_| invalid("separators are two strings".to_owned()))?,
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let ensure_ascii = arguments.get::<Option<bool>>("ensure_ascii")?.or(ensure_ascii).unwrap_or(false);
    let layout = Layout {
        notation: Notation::Json { ensure_ascii },
        indent,
        item_separator,
        key_separator,
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    let mut out = String::new();
    layout.write(&mut out, value, 0)?;
    Ok(out)
}

impl Layout {
    /// The layout of a printed list or dict.
    fn repr() -> Self {
        let (item_separator, key_separator) = (", ".to_owned(), ": ".to_owned());
        Self { notation: Notation::Repr, indent: None, item_separator, key_separator, sort_keys: false }
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        let is_repr = self.notation == Notation::Repr;
        match value.kind() {
            ValueKind::Undefined if is_repr => out.push_str("Undefined"),
            ValueKind::None => out.push_str(if is_repr { "None" } else { "null" }),
            ValueKind::Bool => out.push_str(match (is_repr, value.is_true()) {
                (true, true) => "True",
                (true, false) => "False",
                (false, true) => "true",
                (false, false) => "false",
            }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float_repr(f64::try_from(value.clone())?)),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(out, ['[', ']'], &items, depth, |out, item| self.write(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(out, ['{', '}'], &keys, depth, |out, key| {
                    let is_text = key.kind() == ValueKind::String;
                    // JSON keys are always strings.
                    let quote = if is_text || is_repr { "" } else { "\"" };
                    out.push_str(quote);
                    self.write(out, key, depth + 1)?;
                    out.push_str(quote);
                    out.push_str(&self.key_separator);
                    self.write(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("{kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn write_items(
        &self,
        out: &mut String,
        brackets: [char; 2],
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(brackets[0]);
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                out.push_str(&self.item_separator);
            }
            new_line(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            new_line(out, depth);
        }
        out.push(brackets[1]);
        Ok(())
    }

    fn write_string(&self, out: &mut String, text: &str) {
        let (quote, ensure_ascii) = match self.notation {
            Notation::Json { ensure_ascii } => ('"', ensure_ascii),
            Notation::Repr => (if text.contains('\'') && !text.contains('"') { '"' } else { '\'' }, false),
        };
        let is_json = self.notation != Notation::Repr;
        out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' if is_json => out.push_str("\\b"),
                '\u{c}' if is_json => out.push_str("\\f"),
                c if c == quote => out.extend(['\\', c]),
                c if !is_json && c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c < ' ' || ensure_ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push(quote);
    }
}

/// Formats a float like Python's `repr`: Rust's shortest digits, but `1e+16` and `1e-05`.
fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let digits = digits.strip_suffix(".0").unwrap_or(digits);
            let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
            format!("{digits}e{sign}{size:0>2}")
        }
        None => text,
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
