//! The files that `bench` writes besides stdout. They never overwrite an input.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::bench::table::{Row, json_line};
use crate::cli::failure::Failure;
use crate::cli::output::is_same_file;

/// The raw output file, if one was asked for.
#[derive(Debug)]
pub(super) struct RawOutput(Option<(File, PathBuf)>);

impl RawOutput {
    pub(super) fn create(path: Option<&Path>, inputs: &[&Path]) -> Result<RawOutput, Failure> {
        let Some(path) = path else { return Ok(RawOutput(None)) };
        Ok(RawOutput(Some((create(path, "--raw-output", inputs)?, path.to_owned()))))
    }

    /// Writes a record immediately, so that it survives a later failure.
    pub(super) fn write(&mut self, setup: &Row, record: impl Serialize) -> Result<(), Failure> {
        let Some((file, path)) = &mut self.0 else { return Ok(()) };
        file.write_all(json_line(setup, record).as_bytes()).map_err(|error| Failure::io(path, &error))
    }
}

/// Creates a file, unless it would overwrite an input.
pub(super) fn create(path: &Path, flag: &str, inputs: &[&Path]) -> Result<File, Failure> {
    if inputs.iter().any(|input| is_same_file(path, input)) {
        let failure = Failure::usage(format!("{}: {flag} would overwrite an input file", path.display()));
        return Err(failure.with_hint(format!("give another file with {flag}")));
    }
    File::create(path).map_err(|error| Failure::io(path, &error))
}
