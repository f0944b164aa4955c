//! Builds a base file from the log of `chaski drafter align`.
//!
//! Each position counts as 1, spread over the model's top tokens there. So a share in a row is the mean of the
//! probabilities that the model gave.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::cli::align::AlignArgs;
use crate::cli::drafter::report;
use crate::cli::failure::Failure;
use crate::store::align_log::{self, Piece};
use crate::store::counter::TrigramCounter;
use crate::store::drafter_file::DrafterWriter;
use crate::store::vocabulary::Vocabulary;

/// Memory for counting, in bytes.
const BUFFER_BYTES: usize = 256 << 20;

/// Writes the base file. Stops as interrupted when `go_on` returns false; it is called once per row.
pub(super) fn build(
    args: &AlignArgs,
    log: &Path,
    vocabulary: Vocabulary,
    go_on: impl FnMut() -> bool,
) -> Result<(), Failure> {
    write(&args.output, args.max_size, log, vocabulary, &BTreeSet::new(), go_on)?;
    report(&args.output)
}

/// Writes a base of all texts but those whose prompts have the numbers `left_out`.
pub(super) fn write(
    path: &Path,
    max_size: u64,
    log: &Path,
    vocabulary: Vocabulary,
    left_out: &BTreeSet<u64>,
    mut go_on: impl FnMut() -> bool,
) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let in_folder = |error: io::Error| Failure::io(folder, &error);
    let mut writer = DrafterWriter::create(path, vocabulary)?;
    let mut counter = TrigramCounter::new(vocabulary.n_tokens, folder, BUFFER_BYTES);
    align_log::read(log, |piece| if left_out.contains(&piece.text) { Ok(()) } else { count(&mut counter, piece) })?;
    for row in counter.finish().map_err(in_folder)? {
        let mut row = row.map_err(in_folder)?;
        if !go_on() {
            return Err(Failure::interrupted());
        }
        writer.push(&mut row)?;
    }
    writer.finish_within(max_size, go_on)?;
    Ok(())
}

/// Counts every position of a piece with weight 1.
fn count(counter: &mut TrigramCounter, piece: &Piece) -> io::Result<()> {
    let mut text = piece.before.clone();
    for said in &piece.said {
        let context = &text[text.len().saturating_sub(2)..];
        let mut left = 1.0;
        for likely in said.top.iter().filter(|likely| likely.weight > 0.0) {
            counter.add(context, likely.token, likely.weight)?;
            left -= likely.weight;
        }
        if left > 0.0 {
            counter.add_rest(context, left)?;
        }
        text.push(said.token);
    }
    Ok(())
}
