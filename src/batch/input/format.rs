//! What a file's lines are.

use std::path::Path;

/// The form of a file's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// A prompt a line.
    Text,
    /// A table with a header: fields apart by this byte, quoted where they hold it, a quote or a line break.
    Table(u8),
}

impl Format {
    /// Comma-separated values.
    pub const CSV: Format = Format::Table(b',');
    /// Tab-separated values.
    pub const TSV: Format = Format::Table(b'\t');

    /// By the file's extension, or else by its first bytes: what begins like an object is JSON.
    #[must_use]
    pub fn of(path: &Path, start: &[u8]) -> Format {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            "csv" => Format::CSV,
            "tsv" => Format::TSV,
            "txt" => Format::Text,
            _ => {
                let is_object = without_mark(start).trim_ascii_start().starts_with(b"{");
                let is_json = is_object || Layout::of(start) == Layout::Array;
                if is_json { Format::Jsonl } else { Format::Text }
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Text => "text",
            Format::CSV => "csv",
            Format::Table(_) => "tsv",
        }
    }
}

/// How a file of JSON is laid out, as far as its beginning tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// An object a line.
    Lines,
    /// One array.
    Array,
    /// An object over several lines.
    Spread,
}

impl Layout {
    /// Of a file that begins like this.
    #[must_use]
    pub fn of(start: &[u8]) -> Layout {
        let start = without_mark(start).trim_ascii_start();
        let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        match start.strip_prefix(b"[").map(<[u8]>::trim_ascii_start) {
            Some([b'{' | b'"' | b'[', ..]) => Layout::Array,
            // Nothing but brackets in the line.
            Some([b']', ..]) if line.len() < start.trim_ascii_end().len() => Layout::Lines,
            Some([b']', ..]) => Layout::Array,
            _ if line == b"{" && start.len() > line.len() => Layout::Spread,
            _ => Layout::Lines,
        }
    }
}

fn without_mark(start: &[u8]) -> &[u8] {
    start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issue_13_12_an_array_is_no_file_of_lines() {
        for array in ["[{\"prompt\": 1}]", "[\n  {\"prompt\"", "\u{feff} [ \"a\", \"b\"]", "[[1]]", "[]", "[ ]\n"] {
            assert_eq!(Layout::of(array.as_bytes()), Layout::Array, "{array:?}");
        }
        assert_eq!(Layout::of(b"{\n  \"prompt\": 1\n}\n"), Layout::Spread);
        for lines in ["{}\n{}\n", "{\"a\": [", "", "[]\n{}\n", "[INST] a", "{"] {
            assert_eq!(Layout::of(lines.as_bytes()), Layout::Lines, "{lines:?}");
        }
        let of = |start: &str| Format::of(Path::new("prompts"), start.as_bytes()).name();
        assert_eq!([of("[{\"a\""), of("[INST] a"), of("[1] a")], ["jsonl", "text", "text"]);
    }

    #[test]
    fn the_extension_says_it_or_else_the_beginning() {
        let of = |path: &str, start: &str| Format::of(Path::new(path), start.as_bytes()).name();
        assert_eq!(of("a.jsonl", "text"), "jsonl");
        assert_eq!(of("a.CSV", "{"), "csv");
        assert_eq!(of("a.tsv", ""), "tsv");
        assert_eq!(of("a.txt", "{"), "text");
        assert_eq!(of("prompts", " {\"prompt\": 1}"), "jsonl");
        assert_eq!(of("prompts", "\u{feff}{"), "jsonl");
        assert_eq!(of("prompts.md", "Hello"), "text");
    }
}
