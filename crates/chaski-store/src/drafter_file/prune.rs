//! Makes a smaller file from a larger one by dropping the rarest tri-grams first.
//!
//! The value of a tri-gram is its count, share times total. The first pass sums up, by value, the bits that successors
//! take. The second pass keeps the successors above the value at which the file reaches the requested size. Many
//! tri-grams have the same value (seen once); at the border, a hash of the tri-gram selects as many as fit, spread over
//! the whole file.

use std::path::Path;

use twox_hash::XxHash3_64;

use crate::draft::table::Successor;
use crate::drafter_file::block::{BLOCK_BITS, token_bits};
use crate::drafter_file::error::DrafterFileError;
use crate::drafter_file::header::{N_ORDERS, file_bytes};
use crate::drafter_file::reader::DrafterFile;
use crate::drafter_file::row::Context;
use crate::drafter_file::writer::DrafterWriter;

/// Distinct values per doubling, as for the codes of shares.
const STEPS: f32 = 16.0;

/// Number of value levels, from 2^-8 to 2^32.
const N_LEVELS: usize = 40 * STEPS as usize;

/// The size is only an estimate (keys that are farther apart take more bits), so each attempt aims a little lower.
const MAX_ATTEMPTS: usize = 64;
const NEXT_ATTEMPT: f64 = 0.97;

/// Writes the most valuable part of `file` that fits into `max_bytes` to `path`, and returns its size. `go_on` is
/// called at each row; false cancels.
///
/// # Errors
/// When the file is damaged, cannot be made that small, or `go_on` cancelled.
pub fn prune(
    file: &DrafterFile,
    path: &Path,
    max_bytes: u64,
    mut go_on: impl FnMut() -> bool,
) -> Result<u64, DrafterFileError> {
    let levels = Levels::of(file, &mut go_on)?;
    let n_blocks = (max_bytes.saturating_sub(file_bytes(0))) / (file_bytes(1) - file_bytes(0));
    let mut budget_bits = n_blocks as f64 * BLOCK_BITS;
    for _ in 0..MAX_ATTEMPTS {
        let border = levels.border(budget_bits);
        let mut writer = DrafterWriter::create(path, file.vocabulary())?;
        for row in file.rows() {
            let mut row = row?;
            if !go_on() {
                return Err(DrafterFileError::Interrupted);
            }
            row.successors.retain(|successor| border.keeps(&row.context, successor));
            writer.push(&mut row)?;
            if writer.file_bytes() > max_bytes {
                break;
            }
        }
        if writer.file_bytes() <= max_bytes {
            return writer.finish();
        }
        budget_bits *= NEXT_ATTEMPT;
    }
    let what = format!("it cannot be made as small as {max_bytes} bytes");
    Err(DrafterFileError::Unwritable { path: path.to_owned(), what })
}

/// Bits by value level.
struct Levels(Vec<f64>);

/// What to keep: everything above a level, and this share of the successors at it.
struct Border {
    level: usize,
    share: f64,
}

fn level_of(successor: &Successor) -> usize {
    // Casts from floats saturate.
    (((successor.weight.log2() + 8.0) * STEPS).round() as usize).min(N_LEVELS - 1)
}

impl Levels {
    fn of(file: &DrafterFile, go_on: &mut impl FnMut() -> bool) -> Result<Levels, DrafterFileError> {
        let totals = file.totals();
        let (n_rows, n_successors) = (totals.n_rows.iter().sum::<u64>(), totals.n_successors.iter().sum::<u64>());
        let successor_bits = f64::from(token_bits(file.vocabulary().n_tokens) + 8);
        // Everything except successors, divided by the rows.
        let all_bits = file.n_blocks() as f64 * BLOCK_BITS;
        let row_bits = (all_bits - n_successors as f64 * successor_bits) / n_rows.max(1) as f64;
        let mut levels = vec![0.0; N_LEVELS];
        for row in file.rows() {
            let row = row?;
            if !go_on() {
                return Err(DrafterFileError::Interrupted);
            }
            for (rank, successor) in row.successors.iter().enumerate() {
                // A row is kept as long as its first successor.
                levels[level_of(successor)] += successor_bits + if rank == 0 { row_bits } else { 0.0 };
            }
        }
        Ok(Levels(levels))
    }

    fn border(&self, budget_bits: f64) -> Border {
        let mut left = budget_bits;
        for (level, &bits) in self.0.iter().enumerate().rev() {
            if bits > left {
                return Border { level, share: left / bits };
            }
            left -= bits;
        }
        Border { level: 0, share: 1.0 }
    }
}

impl Border {
    fn keeps(&self, context: &Context, successor: &Successor) -> bool {
        match level_of(successor).cmp(&self.level) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => uniform(context, successor) < self.share,
            std::cmp::Ordering::Greater => true,
        }
    }
}

/// A pseudo-random number in 0 .. 1 that depends only on the tri-gram.
fn uniform(context: &Context, successor: &Successor) -> f64 {
    let mut bytes = [0xff; 4 * N_ORDERS];
    for (place, token) in bytes.chunks_exact_mut(4).zip(context.tokens().iter().chain([&successor.token])) {
        place.copy_from_slice(&token.0.to_le_bytes());
    }
    (XxHash3_64::oneshot(&bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Token;

    #[test]
    fn lots_are_spread_evenly() {
        let context = Context::new(&[Token(1), Token(2)]).unwrap();
        let lots = (0..1000).map(|id| uniform(&context, &Successor { token: Token(id), weight: 1.0 }));
        let n_low = lots.filter(|&uniform| uniform < 0.25).count();
        assert!((200..300).contains(&n_low), "{n_low}");
    }
}
