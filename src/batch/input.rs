//! From a file to requests: what a line is, what it asks, and who it is.
//!
//! Everything here but [`source`] is pure. Nothing knows what becomes of a request.

pub mod format;
pub mod lines;

pub mod ids;
pub mod parameters;
pub mod request;
pub mod template;

pub mod shard;
pub mod source;
