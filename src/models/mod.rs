//! The models that are on this machine: where programs keep GGUF files, what each file is, and which one a name means.
//!
//! - [`locations`]: the folders of the programs that fetch models
//! - [`search`]: the files in them, shards as one
//! - [`describe`]: what a file says it is, or what is wrong with it
//! - [`names`]: from a name to a file
//! - [`shape`]: the numbers that its memory depends on
//!
//! Everything here reads; nothing is fetched, moved, or changed. It asks no environment: that is passed in.

pub mod describe;
pub mod locations;
pub mod names;
mod ollama;
pub mod search;
pub mod shape;
