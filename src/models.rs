//! Finds the models on this machine: where programs keep GGUF files, what each file is, and which file a name means.
//!
//! - [`locations`]: the folders of programs that download models
//! - [`search`]: the files in them, with shards joined
//! - [`describe`]: a file's properties, or its defect
//! - [`draft_models`]: which model could draft for which
//! - [`names`]: from a name to a file
//! - [`shape`]: the numbers that determine memory use
//!
//! This module only reads: it downloads, moves and changes nothing. The environment is passed in.

pub mod describe;
pub mod draft_models;
pub mod locations;
pub mod names;
mod ollama;
pub mod search;
pub mod shape;
