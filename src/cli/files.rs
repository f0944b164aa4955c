//! Sizes and files on the command line.

use std::path::Path;

use parse_size::Config;

use crate::cli::failure::Failure;
use crate::cli::output::is_same_file;

/// A number of bytes, as in 500M or 4GiB; K, M, G and T are powers of 1024.
///
/// # Errors
/// What was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = Config::new().with_binary().parse_size(text);
    bytes.map_err(|_| "expected a size in bytes, as in 500M or 4G".to_owned())
}

/// Refuses to overwrite an input.
///
/// # Errors
/// If `output` is one of `inputs`.
pub fn refuse_overwrite<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<(), Failure> {
    match inputs.into_iter().find(|input| is_same_file(output, input)) {
        Some(input) => Err(Failure::usage(format!("{}: the output would overwrite an input file", input.display()))
            .with_hint("give another file with -o")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        for (text, n) in [
            ("0", 0),
            ("123", 123),
            ("2k", 2048),
            ("3m", 3 << 20),
            ("500M", 500 << 20),
            ("4GiB", 4 << 30),
            ("1TB", 1 << 40),
            ("1.5G", 3 << 29),
        ] {
            assert_eq!(parse_size(text), Ok(n), "{text}");
        }
        for wrong in ["", "G", "-1", "99999999999T", "1X", "\u{df}"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
