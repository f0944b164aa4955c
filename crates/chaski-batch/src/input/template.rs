//! Makes prompts from lines with the user's template: `--template 'Summarize: {{text}}'`.
//!
//! The template is Jinja. Its variables are the line's fields: the columns of a table, the members of a JSON object, or
//! `text` for a whole line of text. `row` holds all fields, for names that are not identifiers: `row["first name"]`. A
//! variable that a line does not have is an error of that line.

use std::collections::BTreeMap;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;

use crate::input::ids::default_id;
use crate::input::lines::MAX_LINE_BYTES;
use crate::input::parameters::Parameters;
use crate::input::request::{Ask, Endpoint, Prompt, Rejected, object, take_id};
use crate::refuse::{INVALID_CSV, LINE_TOO_LONG, Refusal, TEMPLATE_ERROR, refuse};

const NAME: &str = "template";

/// The variable that holds all fields.
const ROW: &str = "row";

/// Most fields named in an error message.
const MAX_TOLD: usize = 20;

/// A parsed template.
#[derive(Debug)]
pub struct LineTemplate {
    environment: Environment<'static>,
}

impl LineTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn parse(source: &str) -> Result<LineTemplate, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| message_of(&error))?;
        Ok(LineTemplate { environment })
    }

    /// Makes a request from a line of text.
    ///
    /// # Errors
    /// When the template fails on the line.
    pub fn ask_text(&self, line: &str, number: u64) -> Result<Ask, Rejected> {
        self.ask(None, BTreeMap::from([("text", Value::from(line))]), number)
    }

    /// Makes a request from a line of JSON.
    ///
    /// # Errors
    /// When the line is not an object, or the template fails on it.
    pub fn ask_json(&self, line: &str, number: u64) -> Result<Ask, Rejected> {
        let mut fields: Map<String, serde_json::Value> = object(line).map_err(Rejected::nameless)?;
        let custom_id = take_id(&mut fields).map_err(Rejected::nameless)?;
        if let Some(id) = &custom_id {
            fields.insert("custom_id".to_owned(), id.as_str().into());
        }
        let fields = fields.iter().map(|(name, value)| (name.as_str(), Value::from_serialize(value))).collect();
        self.ask(custom_id, fields, number)
    }

    /// Makes a request from a row of a table.
    ///
    /// # Errors
    /// When the row has other columns than the header, or the template fails on it.
    pub fn ask_row(&self, header: &[String], line: &str, delimiter: u8, number: u64) -> Result<Ask, Rejected> {
        let fields = row(line, delimiter).map_err(Rejected::nameless)?;
        if fields.len() != header.len() {
            let message = format!("the header has {} columns, but this row has {}", header.len(), fields.len());
            return Err(Rejected::nameless(refuse(INVALID_CSV, message)));
        }
        let mut named: Map<String, serde_json::Value> =
            header.iter().zip(&fields).map(|(name, field)| (name.clone(), field.as_str().into())).collect();
        let custom_id = take_id(&mut named).map_err(Rejected::nameless)?;
        let names = header.iter().map(String::as_str);
        self.ask(custom_id, names.zip(fields.iter().map(|field| Value::from(field.as_str()))).collect(), number)
    }

    fn ask(&self, custom_id: Option<String>, mut fields: BTreeMap<&str, Value>, number: u64) -> Result<Ask, Rejected> {
        // A field named `row` takes precedence.
        let row = Value::from_iter(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        fields.entry(ROW).or_insert(row);
        let template = self.environment.get_template(NAME).expect("added by parse");
        let rendered = template.render(&fields).map_err(|error| {
            let mut message = message_of(&error);
            let unknown = |name: &String| !fields.contains_key(name.as_str());
            let mut names: Vec<String> = template.undeclared_variables(false).into_iter().filter(unknown).collect();
            names.sort_unstable();
            // Jinja reads `first-name` as a subtraction.
            let subtracts = error.kind() == ErrorKind::InvalidOperation && !names.is_empty();
            if error.kind() == ErrorKind::UndefinedError || subtracts {
                message += &missing(&names, &fields);
            }
            refuse(TEMPLATE_ERROR, message)
        });
        let rendered = rendered.and_then(|prompt| match prompt.len() {
            0..=MAX_LINE_BYTES => Ok(prompt),
            _ => Err(refuse(LINE_TOO_LONG, format!("the prompt is longer than {} KiB", MAX_LINE_BYTES >> 10))),
        });
        match rendered {
            Ok(prompt) => Ok(Ask {
                custom_id: custom_id.unwrap_or_else(|| default_id(number)),
                endpoint: Endpoint::Chat,
                prompt: Prompt::User(prompt),
                parameters: Parameters::default(),
            }),
            Err(refusal) => Err(Rejected { custom_id, refusal }),
        }
    }
}

/// The end of an error message: which fields are missing, and how to write a name that is not an identifier.
fn missing(names: &[String], fields: &BTreeMap<&str, Value>) -> String {
    let is_identifier = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let has: Vec<&str> = fields.keys().copied().filter(|name| *name != ROW).take(MAX_TOLD).collect();
    let what = match names {
        [] => format!(": the line has {}", has.join(", ")),
        names => format!(": the line has no {}", names.join(", ")),
    };
    match has.iter().find(|name| !is_identifier(name)) {
        Some(name) => format!("{what}; this name is not an identifier: write row[{name:?}]"),
        None => what,
    }
}

/// Splits a row into fields.
///
/// # Errors
/// When the row is not valid.
pub fn row(line: &str, delimiter: u8) -> Result<Vec<String>, Refusal> {
    let mut reader = csv::ReaderBuilder::new();
    let mut reader =
        reader.has_headers(false).delimiter(delimiter).buffer_capacity(1 << 10).from_reader(line.as_bytes());
    match reader.records().next() {
        Some(Ok(record)) => Ok(record.iter().map(str::to_owned).collect()),
        Some(Err(error)) => Err(refuse(INVALID_CSV, error.to_string())),
        None => Err(refuse(INVALID_CSV, "an empty row")),
    }
}

fn message_of(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("--template, line {line}: {what}"),
        None => format!("--template: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refuse::{INVALID_CUSTOM_ID, INVALID_JSON, INVALID_REQUEST};

    fn template(source: &str) -> LineTemplate {
        LineTemplate::parse(source).unwrap()
    }

    fn prompt(ask: Result<Ask, Rejected>) -> (String, String) {
        let ask = ask.unwrap();
        let Prompt::User(prompt) = ask.prompt else { panic!("a user's prompt") };
        (ask.custom_id, prompt)
    }

    fn told(id: &str, prompt: &str) -> (String, String) {
        (id.to_owned(), prompt.to_owned())
    }

    #[test]
    fn fields_are_variables() {
        let summarize = template("Summarize: {{text}}");
        assert_eq!(prompt(summarize.ask_text("a {{b}} <c>", 4)), told("line-4", "Summarize: a {{b}} <c>"));
        assert_eq!(prompt(summarize.ask_json(r#"{"text": "x", "other": 1}"#, 4)), told("line-4", "Summarize: x"));
        let json = template("{{ custom_id }}: {{ tags | join(', ') }} {{ meta.n + 1 }}{% if not last %}!{% endif %}");
        let line = r#"{"custom_id": "q", "tags": ["a", "b"], "meta": {"n": 1}, "last": false}"#;
        assert_eq!(prompt(json.ask_json(line, 1)), told("q", "q: a, b 2!"));
        let header = ["custom_id".to_owned(), "text".to_owned()];
        let row = |line| prompt(summarize.ask_row(&header, line, b',', 2));
        assert_eq!(row("r1,plain"), told("r1", "Summarize: plain"));
        assert_eq!(row("r1,\"two\nlines, \"\"quoted\"\"\""), told("r1", "Summarize: two\nlines, \"quoted\""));
        let unnamed = summarize.ask_row(&["text".to_owned()], "x", b'\t', 9);
        assert_eq!(prompt(unnamed), told("line-9", "Summarize: x"));
    }

    #[test]
    fn issue_13_9_names_that_are_no_identifiers_are_members_of_row() {
        let named = template("{{ row['first name'] }} {{ row[\"größe-1\"] }} {{ row.city }} {{ city }}");
        let header = ["first name", "größe-1", "city"].map(str::to_owned);
        assert_eq!(prompt(named.ask_row(&header, "Ada;5;London", b';', 2)), told("line-2", "Ada 5 London London"));
        let json = r#"{"custom_id": "q", "first name": "Ada", "größe-1": 5, "city": "London"}"#;
        assert_eq!(prompt(named.ask_json(json, 1)), told("q", "Ada 5 London London"));
        let own = template("{{ row }}");
        assert_eq!(prompt(own.ask_json(r#"{"row": "mine"}"#, 1)), told("line-1", "mine"));
        assert_eq!(prompt(template("{{ row.text }}").ask_text("x", 1)), told("line-1", "x"));
        let message = |source: &str| template(source).ask_json(json, 1).unwrap_err().refusal.message;
        let hint = "this name is not an identifier: write row[\"first name\"]";
        assert_eq!(
            message("{{ first-name }}"),
            format!(
                "--template, line 1: tried to use - operator on unsupported types undefined and undefined: the line has no first, name; {hint}"
            )
        );
        let there = "the line has city, custom_id, first name, größe-1";
        assert_eq!(message("{{ row['firstname'] }}"), format!("--template, line 1: undefined value: {there}; {hint}"));
    }

    #[test]
    fn what_fails_is_an_error_of_its_line() {
        let summarize = template("Summarize: {{text}}");
        let code = |ask: Result<Ask, Rejected>| ask.unwrap_err().refusal.code;
        assert_eq!(code(summarize.ask_json(r#"{"txt": "x"}"#, 1)), TEMPLATE_ERROR);
        assert_eq!(code(summarize.ask_json("[]", 1)), INVALID_REQUEST);
        assert_eq!(code(summarize.ask_json("{", 1)), INVALID_JSON);
        let header = ["custom_id".to_owned(), "text".to_owned()];
        assert_eq!(code(summarize.ask_row(&header, "a", b',', 1)), INVALID_CSV);
        assert_eq!(code(summarize.ask_row(&header, ",x", b',', 1)), INVALID_CUSTOM_ID);
        let named = template("{{b}} {{a}} {{custom_id}}").ask_json(r#"{"custom_id": "q"}"#, 1).unwrap_err();
        assert_eq!(named.custom_id.as_deref(), Some("q"));
        assert_eq!(named.refusal.message, "--template, line 1: undefined value: the line has no a, b");
        let long = template("{% for i in range(90000) %}{{text}}{% endfor %}");
        assert_eq!(code(long.ask_text(&"x".repeat(100), 1)), LINE_TOO_LONG);
    }

    #[test]
    fn a_wrong_template_is_told_with_its_line() {
        let error = LineTemplate::parse("a\n{{ text").unwrap_err();
        assert!(error.starts_with("--template, line 2"), "{error}");
    }
}
