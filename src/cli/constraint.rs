//! Constraints on an answer: a JSON schema, a grammar or a regular expression. They are checked before the model is
//! loaded.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use crate::cli::failure::Failure;
use crate::cli::input::read_file;
use crate::structure::{Constraint, MAX_BYTES, too_long};

/// Flags that constrain the answer.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Constraints on the answer")]
#[group(id = "form", multiple = false)]
pub struct ConstraintArgs {
    /// Answer in JSON that matches this schema; {} is any JSON
    ///
    /// The JSON is on one line. OpenAI's wrapper {"name", "strict", "schema"} is accepted too.
    #[arg(short, long, value_name = "SCHEMA")]
    pub json_schema: Option<String>,

    /// The same from a file
    #[arg(long, value_name = "FILE")]
    pub json_schema_file: Option<PathBuf>,

    /// Answer in text that matches this grammar (GBNF)
    ///
    /// The rule named root describes the whole answer.
    #[arg(long, value_name = "GBNF")]
    pub grammar: Option<String>,

    /// The same from a file
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub grammar_file: Option<PathBuf>,

    /// Answer in text that this regular expression matches as a whole
    #[arg(long, value_name = "RE", allow_hyphen_values = true)]
    pub regex: Option<String>,
}

impl ConstraintArgs {
    /// The constraint that the flags give, if any.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn constraint(&self) -> Result<Option<Constraint>, Failure> {
        let constraint = if let Some(schema) = &self.json_schema {
            Constraint::JsonSchema(schema.clone())
        } else if let Some(path) = &self.json_schema_file {
            Constraint::JsonSchema(read(path, "a schema")?)
        } else if let Some(grammar) = &self.grammar {
            Constraint::Grammar(grammar.clone())
        } else if let Some(path) = &self.grammar_file {
            Constraint::Grammar(read(path, "a grammar")?)
        } else if let Some(expression) = &self.regex {
            Constraint::Regex(expression.clone())
        } else {
            return Ok(None);
        };
        let file = self.json_schema_file.as_ref().or(self.grammar_file.as_ref());
        let place = file.map(|path| format!("{}: ", path.display())).unwrap_or_default();
        constraint.check().map_err(|error| Failure::usage(format!("{place}{error}")))?;
        Ok(Some(constraint))
    }
}

/// Reads the text of a constraint. A file over the limit fails with its real size.
fn read(path: &Path, what: &str) -> Result<String, Failure> {
    let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    let n_bytes = metadata.and_then(|metadata| usize::try_from(metadata.len()).ok());
    if let Some(n_bytes) = n_bytes.filter(|&n| n > MAX_BYTES) {
        let hint =
            "the limit is 64 KiB: move repeated parts into $defs (or into their own rules), or remove descriptions";
        return Err(Failure::usage(format!("{}: {}", path.display(), too_long(n_bytes))).with_hint(hint));
    }
    read_file(path, MAX_BYTES as u64, what)
}
