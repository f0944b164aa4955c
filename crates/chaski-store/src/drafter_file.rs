//! Drafter files: a base tri-gram matrix on disk, mapped into memory and only read.
//!
//! A file holds rows. The *context* of a row is the last two tokens of a text (tri-grams), the last one (bi-grams) or
//! none (uni-grams). The row stores how often the context was seen, and its most likely successors with their shares.
//!
//! ```text
//! header   one block: identity, counts, checksums         header.rs
//! blocks   4096 bytes each: rows in order of their keys   block.rs, keys.rs
//! index    first key, shape and checksum of each block    index.rs
//! ```
//!
//! Opening checks the header and the index (1/170 of the file). A block is checked when it is first used. So opening
//! takes the same short time for any size, and a damaged block costs only its own rows.
//!
//! Nothing in the file is trusted: every length, offset and token id is checked where it is used. A file of any content
//! gives errors, unknown rows or wrong shares, but no panic and no invalid memory access. Checksums find accidents, not
//! forgeries; a forged file can make drafts worse, but cannot change the text.

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
