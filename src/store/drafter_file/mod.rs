//! Drafter files: a base tri-gram matrix on disk, mapped into memory and only read.
//!
//! A file holds rows. A row's *context* is the last two tokens of a text (tri-grams), its last one (bi-grams) or none
//! (uni-grams); the row says how often the context was seen, and its likeliest successors with their shares of that.
//!
//! ```text
//! header   one block: identity, counts, checksums         header.rs
//! blocks   4096 bytes each: rows in order of their keys   block.rs, keys.rs
//! index    first key, shape and checksum of each block    index.rs
//! ```
//!
//! Opening checks the header and the index (a 170th of the file). A block is checked when it is first touched. So opening
//! takes the same short time whatever the size, and a damaged block costs its own rows only.
//!
//! Nothing read is trusted: every length, offset and token id is checked where it is used, so that a file of any content
//! gives errors, unknown rows or wrong shares, but no panic and no wrong memory. Checksums find accidents, not
//! forgeries; a forged file can make drafts worse, never a text.

mod block;
mod codes;
mod error;
mod header;
mod index;
mod keys;
mod merge;
mod prune;
mod reader;
mod row;
mod writer;

pub use error::DrafterFileError;
pub use header::{N_ORDERS, Totals, VERSION};
pub use keys::KeySpace;
pub use merge::merge;
pub use prune::prune;
pub use reader::{DrafterFile, Rows};
pub use row::{BaseRow, Context};
pub use writer::DrafterWriter;

#[cfg(test)]
mod tests;
