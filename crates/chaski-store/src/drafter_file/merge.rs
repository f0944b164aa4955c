//! Merges drafter files by adding their counts.

use std::iter::Peekable;

use crate::draft::table::Successor;
use crate::drafter_file::error::DrafterFileError;
use crate::drafter_file::keys::KeySpace;
use crate::drafter_file::reader::{DrafterFile, Rows};
use crate::drafter_file::row::BaseRow;

/// The rows of all files in key order. Rows of the same context become one: each file's counts are multiplied by its
/// weight and added. All files must have the same vocabulary.
///
/// A successor that a file dropped (beyond the twelve of its row) counts as never seen there, but remains in the total.
pub fn merge<'f>(
    files: &[(&'f DrafterFile, f32)],
) -> impl Iterator<Item = Result<BaseRow, DrafterFileError>> + use<'f> {
    let mut inputs: Vec<_> = files.iter().map(|&(file, weight)| (file.rows().peekable(), weight)).collect();
    let keys = files.first().map_or(KeySpace::new(0), |(file, _)| file.keys());
    std::iter::from_fn(move || next_row(&mut inputs, keys).transpose())
}

fn next_row(inputs: &mut [(Peekable<Rows<'_>>, f32)], keys: KeySpace) -> Result<Option<BaseRow>, DrafterFileError> {
    let mut first = None;
    for (rows, _) in &mut *inputs {
        // Take an error out here, so that it ends the merge.
        if let Some(Err(error)) = rows.next_if(Result::is_err) {
            return Err(error);
        }
        let context = rows.peek().and_then(|row| row.as_ref().ok()).map(|row| row.context);
        let keyed = context.map(|context| (keys.key(context.tokens()), context));
        first = [first, keyed].into_iter().flatten().min();
    }
    let Some((_, context)) = first else { return Ok(None) };
    let mut merged = BaseRow { context, total: 0.0, successors: Vec::new() };
    for (rows, weight) in inputs {
        let same = rows.next_if(|row| row.as_ref().is_ok_and(|row| row.context == context));
        let Some(row) = same.transpose()? else { continue };
        merged.total += row.total * *weight;
        let weighted = row.successors.into_iter().map(|one| Successor { weight: one.weight * *weight, ..one });
        merged.successors.extend(weighted);
    }
    merged.successors.sort_by_key(|successor| successor.token);
    merged.successors.dedup_by(|later, earlier| {
        let is_same = later.token == earlier.token;
        if is_same {
            earlier.weight += later.weight;
        }
        is_same
    });
    Ok(Some(merged))
}
