//! Detects the format of an input file from its name and its first bytes.

use std::path::Path;

/// The format of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Jsonl,
    /// One prompt per line.
    Text,
    /// A table with a header. The byte separates fields; a field is quoted if it contains that byte, a quote or a line
    /// break.
    Table(u8),
}

impl Format {
    /// Comma-separated values.
    pub const CSV: Format = Format::Table(b',');
    /// Tab-separated values.
    pub const TSV: Format = Format::Table(b'\t');
    /// Semicolon-separated values, as spreadsheets write them where the comma is the decimal separator.
    pub const SSV: Format = Format::Table(b';');

    /// Detects the format by the file's extension, or else by its first bytes: text that begins with an object or an
    /// array is JSON. The delimiter of a table is detected from its first rows.
    #[must_use]
    pub fn of(path: &Path, start: &[u8]) -> Format {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            "csv" => Format::Table(delimiter(start, b',')),
            "tsv" => Format::Table(delimiter(start, b'\t')),
            "txt" => Format::Text,
            _ => {
                let is_object = without_mark(start).trim_ascii_start().starts_with(b"{");
                let is_json = is_object || Layout::of(start) == Layout::Array;
                if is_json { Format::Jsonl } else { Format::Text }
            }
        }
    }

    /// The format's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Text => "text",
            Format::CSV => "csv",
            Format::SSV => "ssv",
            Format::Table(_) => "tsv",
        }
    }
}

/// Detects the delimiter of a table: the one that gives the most fields in the header and the same number in the first
/// row. `usual` wins a tie.
fn delimiter(start: &[u8], usual: u8) -> u8 {
    let start = without_mark(start);
    // Drop the last line, which may be cut off.
    let whole = start.iter().rposition(|&byte| byte == b'\n').map_or(start, |end| &start[..=end]);
    let n_fields = |delimiter: u8| {
        let mut reader = csv::ReaderBuilder::new();
        let reader = reader.has_headers(false).flexible(true).delimiter(delimiter).from_reader(whole);
        let mut rows = reader.into_byte_records().map_while(Result::ok);
        let n = rows.next()?.len();
        rows.next().is_none_or(|row| row.len() == n).then_some(n)
    };
    let others = [b',', b';', b'\t'].into_iter().filter_map(|delimiter| Some((n_fields(delimiter)?, delimiter)));
    let n_usual = n_fields(usual).unwrap_or(1);
    let most = others.max_by_key(|&(n, _)| n);
    most.filter(|&(n, _)| n > n_usual).map_or(usual, |(_, delimiter)| delimiter)
}

/// The layout of a JSON file, as far as its beginning shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One object per line.
    Lines,
    /// One array.
    Array,
    /// One object over several lines.
    Spread,
}

impl Layout {
    /// The layout of a file that begins with these bytes.
    #[must_use]
    pub fn of(start: &[u8]) -> Layout {
        let start = without_mark(start).trim_ascii_start();
        let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        match start.strip_prefix(b"[").map(<[u8]>::trim_ascii_start) {
            Some([b'{' | b'"' | b'[', ..]) => Layout::Array,
            // `[]` followed by more lines is a malformed line; alone, it is an empty array.
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
    fn issue_13_9_what_fields_are_apart_by_is_told_from_the_first_rows() {
        let of = |path: &str, start: &str| Format::of(Path::new(path), start.as_bytes()).name();
        assert_eq!(of("a.csv", "name;price\nA;1,5\nB;2,5\n"), "ssv");
        assert_eq!(of("a.csv", "\u{feff}first name;age;city"), "ssv");
        assert_eq!(of("a.csv", "name\tage\nA\t3\n"), "tsv");
        assert_eq!(of("a.tsv", "name,age\nA,3\n"), "csv");
        assert_eq!(of("a.csv", "name,\"a;b;c\"\nA,3\n"), "csv");
        assert_eq!(of("a.csv", "name,text\nA,\"x; y; z\"\n"), "csv");
        assert_eq!(of("a.csv", "id,text;note;more\n1,a\n"), "csv");
        assert_eq!(of("a.csv", "text\nHello; you, there\n"), "csv");
        assert_eq!(of("a.tsv", "text\nHello; you, there\n"), "tsv");
        assert_eq!(of("a.csv", "name;text\nA;torn row, a"), "ssv");
    }

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
