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
                let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
                if start.trim_ascii_start().starts_with(b"{") { Format::Jsonl } else { Format::Text }
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

#[cfg(test)]
mod tests {
    use super::*;

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
