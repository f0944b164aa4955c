//! Turns the lines of an input file into requests: formats, lines, parameters, ids, templates and shards.
//!
//! Everything here except [`source`] is pure.

pub mod format;
pub mod lines;

pub mod ids;
pub mod parameters;
pub mod request;
pub mod seed;
pub mod template;

pub mod shard;
pub mod source;
