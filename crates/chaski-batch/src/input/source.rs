//! An input file: surveyed once, to identify the job, and then read line by line into requests.

use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use crate::encoding::Utf8;
use crate::input::format::{Format, Layout};
use crate::input::ids::Ids;
use crate::input::lines::{Line, Lines};
use crate::input::request::{Ask, Rejected};
use crate::input::template::{LineTemplate, row};
use crate::refuse::{DUPLICATE_CUSTOM_ID, Refusal, refuse};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 << 10;
/// Bytes read to detect a file's format.
const START_BYTES: u64 = 4 << 10;
/// Most appended bytes in which lines are counted.
const MAX_APPENDED_BYTES: u64 = 64 << 20;

/// The contents of an input file in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Its format.
    pub format: Format,
    /// Lines that are not blank, without a table's header.
    pub n_lines: u64,
    /// Blank lines, which are skipped.
    pub n_blank: u64,
    /// XXH3-64 hash of all its bytes.
    pub hash: u64,
    /// Its length in bytes.
    pub n_bytes: u64,
}

impl Survey {
    /// Surveys a file. `format`: `None` detects it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path, format: Option<Format>) -> io::Result<Survey> {
        let mut start = Vec::new();
        Utf8::new(File::open(path)?).take(START_BYTES).read_to_end(&mut start)?;
        let format = format.unwrap_or_else(|| Format::of(path, &start));
        let mut lines = Lines::new(Hashing::open(path, u64::MAX)?, format);
        if matches!(format, Format::Table(_)) {
            lines.header()?;
        }
        while lines.next_line()?.is_some() {}
        let (n_lines, n_blank) = (lines.n_lines(), lines.n_blank());
        let hashing = lines.into_inner().into_inner().into_inner();
        Ok(Survey { format, n_lines, n_blank, hash: hashing.hasher.finish(), n_bytes: hashing.n_bytes })
    }

    /// Checks that a JSON file has one object per line, and is not one array or one object over several lines.
    ///
    /// # Errors
    /// When the file has another layout, or cannot be read.
    pub fn check_lines(&self, path: &Path) -> Result<(), SourceError> {
        if self.format != Format::Jsonl {
            return Ok(());
        }
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let mut start = Vec::new();
        File::open(path).map_err(io)?.take(START_BYTES).read_to_end(&mut start).map_err(io)?;
        match Layout::of(&start) {
            Layout::Array => Err(SourceError::Array(path.to_owned())),
            Layout::Spread => Err(SourceError::Spread(path.to_owned())),
            Layout::Lines => Ok(()),
        }
    }

    /// The number of lines appended to a file since the survey, within the first 64 MiB of them.
    #[must_use]
    pub fn n_appended(&self, path: &Path) -> u64 {
        let count = || -> io::Result<u64> {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(self.n_bytes))?;
            let mut lines = Lines::new(BufReader::new(file.take(MAX_APPENDED_BYTES)), self.format);
            while lines.next_line()?.is_some() {}
            Ok(lines.n_lines())
        };
        count().unwrap_or(0)
    }

    /// Identifies the input's contents, as text.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{} lines, {} bytes, {:016x}", self.n_lines, self.n_bytes, self.hash)
    }
}

/// A line of the input, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Position among all lines of the input.
    pub index: u64,
    /// Line number as an editor shows it.
    pub number: u64,
    /// Bytes of its text; 0 if the line could not be read.
    pub n_bytes: usize,
    /// The request, or why the line is refused.
    pub ask: Result<Ask, Rejected>,
}

/// Why an input cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The file has changed since the survey.
    #[error("{0}: the input file changed while the job ran")]
    Changed(PathBuf),
    /// The file is one JSON array.
    #[error("{0}: the file is a JSON array; expected one JSON object per line")]
    Array(PathBuf),
    /// The first JSON object spans several lines.
    #[error("{0}: the first JSON object spans several lines; expected one object per line")]
    Spread(PathBuf),
    /// A table is given without a template.
    #[error("{0}: a table needs a template, which makes a prompt of each row")]
    NoTemplate(PathBuf),
    /// The template is not valid.
    #[error("{message}")]
    Template {
        /// The cause.
        message: String,
    },
    /// The header of a table cannot be parsed.
    #[error("{path}: cannot read the column names in the first line: {message}")]
    Header {
        /// The file.
        path: PathBuf,
        /// The cause.
        message: String,
    },
}

/// Reads an input as requests.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    survey: Survey,
    lines: Option<Lines<BufReader<Utf8<Hashing>>>>,
    header: Vec<String>,
    template: Option<LineTemplate>,
    ids: Ids,
}

impl Source {
    /// Opens a surveyed file. A table needs a template.
    ///
    /// # Errors
    /// When the file cannot be read, or a table's header is not valid.
    pub fn open(path: &Path, survey: Survey, template: Option<LineTemplate>) -> Result<Source, SourceError> {
        let io = |error| SourceError::Io { path: path.to_owned(), error };
        let mut lines = Lines::new(Hashing::open(path, survey.n_bytes).map_err(io)?, survey.format);
        let mut header = Vec::new();
        if let Format::Table(delimiter) = survey.format
            && let Some(line) = lines.header().map_err(io)?
        {
            let fields = line.text.and_then(|text| row(&text, delimiter));
            header = fields
                .and_then(check_header)
                .map_err(|refusal| SourceError::Header { path: path.to_owned(), message: refusal.message })?;
        }
        Ok(Source { path: path.to_owned(), survey, lines: Some(lines), header, template, ids: Ids::default() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines of the whole file.
    #[must_use]
    pub fn n_lines(&self) -> u64 {
        self.survey.n_lines
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or differs from the survey at the end.
    pub fn next_item(&mut self) -> Result<Option<Item>, SourceError> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        let line = lines.next_line().map_err(|error| SourceError::Io { path: self.path.clone(), error })?;
        match line {
            // Stop after the surveyed lines: the file may grow while it is read.
            Some(line) if line.index < self.survey.n_lines => Ok(Some(self.item(line))),
            _ => {
                let hashing = self.lines.take().map(|lines| lines.into_inner().into_inner().into_inner());
                match hashing.is_some_and(|hashing| hashing.hasher.finish() == self.survey.hash) {
                    true => Ok(None),
                    false => Err(SourceError::Changed(self.path.clone())),
                }
            }
        }
    }

    fn item(&mut self, line: Line) -> Item {
        let Line { index, number, text } = line;
        let n_bytes = text.as_ref().map_or(0, String::len);
        let ask = text.map_err(Rejected::nameless).and_then(|text| self.ask(text, number));
        let ask = ask.and_then(|ask| match self.can_repeat() && !self.ids.insert(&ask.custom_id) {
            true => {
                let refusal = refuse(DUPLICATE_CUSTOM_ID, "an earlier line has the same custom_id");
                Err(Rejected { custom_id: Some(ask.custom_id), refusal })
            }
            false => Ok(ask),
        });
        Item { index, number, n_bytes, ask }
    }

    fn ask(&self, text: String, number: u64) -> Result<Ask, Rejected> {
        match (self.survey.format, &self.template) {
            (Format::Jsonl, None) => Ask::of_json(&text, number),
            (Format::Jsonl, Some(template)) => template.ask_json(&text, number),
            (Format::Text, Some(template)) => template.ask_text(&text, number),
            (Format::Table(delimiter), Some(template)) => template.ask_row(&self.header, &text, delimiter, number),
            (Format::Text | Format::Table(_), None) => Ok(Ask::of_text(text, number)),
        }
    }

    /// Whether `custom_id`s come from the file and may repeat. Ids derived from line numbers are unique and need no
    /// memory.
    fn can_repeat(&self) -> bool {
        match self.survey.format {
            Format::Jsonl => true,
            Format::Text => false,
            Format::Table(_) => self.header.iter().any(|name| name == "custom_id"),
        }
    }
}

/// Trims the column names, and refuses a name that occurs twice.
fn check_header(names: Vec<String>) -> Result<Vec<String>, Refusal> {
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    let twice = names.iter().enumerate().find(|(place, name)| names[..*place].contains(name));
    match twice {
        Some((_, name)) => Err(refuse("", format!("the name {name:?} occurs twice"))),
        None => Ok(names),
    }
}

/// A file reader that hashes what it reads.
struct Hashing {
    file: Take<File>,
    hasher: XxHash3_64,
    n_bytes: u64,
}

impl Hashing {
    /// Opens a file and reads at most `n_bytes`: lines appended later do not belong to the job.
    fn open(path: &Path, n_bytes: u64) -> io::Result<BufReader<Utf8<Hashing>>> {
        let hashing = Hashing { file: File::open(path)?.take(n_bytes), hasher: XxHash3_64::new(), n_bytes: 0 };
        Ok(BufReader::with_capacity(BUFFER_BYTES, Utf8::new(hashing)))
    }
}

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashing").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.write(&buffer[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(name: &str, bytes: &[u8], template: Option<&str>) -> Vec<Item> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let survey = Survey::of(&path, None).unwrap();
        let template = template.map(|source| LineTemplate::parse(source).unwrap());
        let mut source = Source::open(&path, survey.clone(), template).unwrap();
        let items: Vec<Item> = std::iter::from_fn(|| source.next_item().unwrap()).collect();
        assert_eq!(items.len() as u64, survey.n_lines);
        items
    }

    /// Number, id and error code of each line.
    fn told(items: &[Item]) -> Vec<(u64, Option<&str>, Option<&str>)> {
        let one = |item| {
            let Item { number, ask, .. }: &Item = item;
            match ask {
                Ok(ask) => (*number, Some(ask.custom_id.as_str()), None),
                Err(rejected) => (*number, rejected.custom_id.as_deref(), Some(rejected.refusal.code.as_str())),
            }
        };
        items.iter().map(one).collect()
    }

    #[test]
    fn malformed_lines_are_refused_one_by_one() {
        let lines = concat!(
            "\u{feff}{\"custom_id\": \"a\", \"prompt\": \"1\"}\r\n",
            "\r\n",
            "[]\n",
            "{\"custom_id\": \"a\", \"prompt\": \"2\"}\n",
            "{\"prompt\": \"3\"}\n",
            "{\"custom_id\": \"line-5\", \"prompt\": \"4\"}\n",
        );
        let expected = [
            (1, Some("a"), None),
            (3, None, Some("invalid_request")),
            (4, Some("a"), Some("duplicate_custom_id")),
            (5, Some("line-5"), None),
            (6, Some("line-5"), Some("duplicate_custom_id")),
        ];
        assert_eq!(told(&items("a.jsonl", lines.as_bytes(), None)), expected);
    }

    #[test]
    fn a_table_has_a_header_and_rows() {
        let table = "custom_id,text\na,\"x\ny\"\nb\na,z\n\"";
        let items = items("a.csv", table.as_bytes(), Some("Say {{text}}"));
        let expected = [
            (2, Some("a"), None),
            (4, None, Some("invalid_csv")),
            (5, Some("a"), Some("duplicate_custom_id")),
            (6, None, Some("invalid_csv")),
        ];
        assert_eq!(told(&items), expected);
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "a\nb\n").unwrap();
        let survey = Survey::of(&path, None).unwrap();
        for changed in ["a\nc\n", "a\n", "c\nb\na\n", ""] {
            std::fs::write(&path, changed).unwrap();
            let mut source = Source::open(&path, survey.clone(), None).unwrap();
            let error = loop {
                match source.next_item() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{changed:?} passes for what it was"),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.contains("a.txt: the input file changed while the job ran"), "{error}");
        }
    }

    #[test]
    fn issue_13_12_lines_that_are_added_are_counted_and_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for (before, added, n) in [("a\nb\n", "c\n\nd\n", 2), ("a\nb", "c\n", 1), ("a\nb\n", "", 0)] {
            std::fs::write(&path, before).unwrap();
            let survey = Survey::of(&path, None).unwrap();
            std::fs::write(&path, format!("{before}{added}")).unwrap();
            let mut source = Source::open(&path, survey.clone(), None).unwrap();
            let items: Vec<Item> = std::iter::from_fn(|| source.next_item().unwrap()).collect();
            assert_eq!((items.len(), survey.n_appended(&path)), (2, n), "{added:?}");
        }
    }

    #[test]
    fn a_header_with_a_name_twice_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "a,b,a\n1,2,3\n").unwrap();
        let survey = Survey::of(&path, None).unwrap();
        let error = Source::open(&path, survey, None).unwrap_err().to_string();
        assert!(error.contains("the name \"a\" occurs twice"), "{error}");
    }
}
