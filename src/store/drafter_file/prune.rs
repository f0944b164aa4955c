//! A smaller file from a larger one: what was seen least often goes first.
//!
//! A tri-gram's value is its count, share times total. Two passes: the first sums up, by value, the bits that
//! successors take; the second keeps those above the value at which the file has the size asked for. Many are of the
//! same value (seen once); of those at the border a hash of the tri-gram keeps as many as fit, spread over the whole
//! file.

use std::path::Path;

use twox_hash::XxHash3_64;

use crate::draft::table::Successor;
use crate::store::drafter_file::block::{BLOCK_BITS, token_bits};
use crate::store::drafter_file::error::DrafterFileError;
use crate::store::drafter_file::header::{N_ORDERS, file_bytes};
use crate::store::drafter_file::reader::DrafterFile;
use crate::store::drafter_file::row::Context;
use crate::store::drafter_file::writer::DrafterWriter;

/// Values per doubling that are told apart, as the codes of shares do.
const STEPS: f32 = 16.0;

/// Doublings from the least to the greatest value: 2^-8 to 2^32.
const N_LEVELS: usize = 40 * STEPS as usize;

/// The size is estimated before it is known (keys that lie farther apart take more bits): each attempt is a little
/// smaller.
const MAX_ATTEMPTS: usize = 64;
const NEXT_ATTEMPT: f64 = 0.97;

/// Writes the most valuable part of `file` that has `max_bytes` at most to `path`, and returns its size. `go_on` is
/// asked at each row.
///
/// # Errors
/// When the file is damaged or none can be written that small, or `go_on` said no.
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

/// Bits by value.
struct Levels(Vec<f64>);

/// What is kept: all above a level, and this share of those at it.
struct Border {
    level: usize,
    share: f64,
}

fn level_of(successor: &Successor) -> usize {
    // A cast from a float saturates.
    (((successor.weight.log2() + 8.0) * STEPS).round() as usize).min(N_LEVELS - 1)
}

impl Levels {
    fn of(file: &DrafterFile, go_on: &mut impl FnMut() -> bool) -> Result<Levels, DrafterFileError> {
        let totals = file.totals();
        let (n_rows, n_successors) = (totals.n_rows.iter().sum::<u64>(), totals.n_successors.iter().sum::<u64>());
        let successor_bits = f64::from(token_bits(file.vocabulary().n_tokens) + 8);
        // All that is not successors, over the rows.
        let all_bits = file.n_blocks() as f64 * BLOCK_BITS;
        let row_bits = (all_bits - n_successors as f64 * successor_bits) / n_rows.max(1) as f64;
        let mut levels = vec![0.0; N_LEVELS];
        for row in file.rows() {
            let row = row?;
            if !go_on() {
                return Err(DrafterFileError::Interrupted);
            }
            for (rank, successor) in row.successors.iter().enumerate() {
                // A row stays as long as its first successor.
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
            std::cmp::Ordering::Equal => lot(context, successor) < self.share,
            std::cmp::Ordering::Greater => true,
        }
    }
}

/// A number in 0 .. 1 that depends on the tri-gram alone.
fn lot(context: &Context, successor: &Successor) -> f64 {
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
        let lots = (0..1000).map(|id| lot(&context, &Successor { token: Token(id), weight: 1.0 }));
        let n_low = lots.filter(|&lot| lot < 0.25).count();
        assert!((200..300).contains(&n_low), "{n_low}");
    }
}
