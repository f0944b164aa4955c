//! Prompts that were read once, kept on disk: KV states by the tokens they hold.

use std::path::PathBuf;

/// Where states are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptCacheConfig {
    /// A private folder.
    pub folder: PathBuf,
    /// Most bytes in it.
    pub max_bytes: u64,
}
