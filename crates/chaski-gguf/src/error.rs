//! Defects of model files. Text from the file is quoted with `{:?}`, which escapes control characters, so a terminal
//! never sees them raw.

use std::io;
use std::path::PathBuf;

/// Why a model file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be opened, inspected or mapped.
    #[error("{}: cannot read the model file: {source}", path.display())]
    Io {
        /// the file
        path: PathBuf,
        /// what the system said
        source: io::Error,
    },
    /// A directory, pipe or device.
    #[error("{}: expected a regular file, found {found}", path.display())]
    NotAFile {
        /// the file
        path: PathBuf,
        /// what it is instead
        found: &'static str,
    },
    /// The content is not a model that can be loaded.
    #[error("{}: {defect}", path.display())]
    Invalid {
        /// the file
        path: PathBuf,
        /// what is wrong with it
        defect: Defect,
    },
}

impl GgufError {
    /// What the user can do, for the `hint:` line; `None` if the message says it all.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Some("check the path of the model"),
            Self::Io { .. } => None,
            Self::NotAFile { .. } => Some("give the path of one .gguf file"),
            Self::Invalid { defect, .. } => defect.hint(),
        }
    }

    /// The defect in the content; `None` if the file could not be read.
    pub fn defect(&self) -> Option<&Defect> {
        match self {
            Self::Invalid { defect, .. } => Some(defect),
            _ => None,
        }
    }
}

/// A defect in the content of a file: what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Defect {
    // The container.
    #[error("expected a GGUF header of at least 24 bytes, but the file has {has}")]
    TooSmall { has: u64 },
    #[error("expected a GGUF file, but its first four bytes are {found:?}")]
    NotGguf { found: String },
    #[error("expected a GGUF file, found {found}")]
    Foreign { found: String, hint: &'static str },
    #[error("expected little-endian GGUF, found a big-endian file")]
    BigEndian,
    #[error("expected GGUF version 2 or 3, found {found}")]
    Version { found: u32 },
    #[error("expected at most {limit} {what}, found a count of {found}")]
    Count { what: &'static str, found: u64, limit: u64 },
    #[error("the header is cut off: {what} at byte {at} needs {needs} bytes, but the file has {has} left")]
    CutShort { what: &'static str, at: u64, needs: u64, has: u64 },
    #[error("expected a printable metadata key, found {key:?}")]
    UnprintableKey { key: String },
    #[error("metadata key {key:?} occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata key {key:?}: expected a value type 0-12, found {found}")]
    ValueType { key: String, found: u32 },
    #[error("metadata key {key:?}: arrays of arrays are not supported")]
    NestedArray { key: String },
    #[error("general.alignment: expected a power of two from 32 to 1048576, found {found}")]
    Alignment { found: u64 },

    // Tensors.
    #[error("tensor {index}: expected a printable name of 1 to 63 bytes, found {name:?}")]
    TensorName { index: usize, name: String },
    #[error("tensor {name:?} occurs twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?}: expected 1 to 4 dimensions, found {found}")]
    DimensionCount { name: String, found: u32 },
    #[error("tensor {name:?}: expected at least one element in dimension {dim}, found 0")]
    ZeroDimension { name: String, dim: usize },
    #[error("tensor {name:?}: the product of its dimensions {dims:?} does not fit in 63 bits")]
    TensorTooLarge { name: String, dims: Vec<u64> },
    #[error("tensor {name:?}: unknown ggml type {found}")]
    TensorType { name: String, found: u32 },
    #[error("tensor {name:?}: expected rows of a multiple of {n_block} elements ({kind}), found {found}")]
    BlockSize { name: String, kind: &'static str, n_block: u64, found: u64 },
    #[error("tensor {name:?}: expected offset {expected}, found {found}")]
    TensorOffset { name: String, expected: u64, found: u64 },
    #[error("the tensors need {needs} bytes, but the file has {has}: incomplete download")]
    Incomplete { needs: u64, has: u64 },
    #[error("the file contains no tensors")]
    NoTensors,

    // Metadata.
    #[error("metadata key {key:?} is missing")]
    MissingKey { key: String },
    #[error("metadata key {key:?}: expected {expected}, found {found}")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("metadata key {key:?}: expected {expected}, found {found}")]
    OutOfRange { key: String, expected: String, found: u64 },
    #[error("unknown architecture {found:?}")]
    Architecture { found: String },
    #[error("expected a model that generates text, found architecture {found:?}")]
    NotGenerative { found: String },
    #[error("expected a language model, found a vision or audio projector")]
    Projector,
    #[error("metadata key {key:?}: expected a small positive number, found {found}")]
    Epsilon { key: String, found: String },
    #[error("unknown rope scaling type {found:?}")]
    RopeScaling { found: String },
    #[error("metadata key {key:?}: expected {expected} elements, one per block, found {found}")]
    PerLayerLength { key: String, expected: u64, found: u64 },
    #[error("the model uses {used} experts per token, but has {total}")]
    ExpertsUsed { used: u64, total: u64 },
    #[error("expert groups do not fit: {groups} groups, {used} of them used, for {total} experts")]
    ExpertGroups { groups: u64, used: u64, total: u64 },

    // The tokenizer.
    #[error("no tokenizer: expected one of {expected}, found {found:?}")]
    NoTokenizer { expected: &'static str, found: String },
    #[error("unknown tokenizer {found:?}, expected one of {expected}")]
    Tokenizer { expected: &'static str, found: String },
    #[error("expected 1 to {limit} tokens in the vocabulary, found {found}")]
    VocabularySize { limit: u64, found: u64 },
    #[error("token {token:?} occurs twice in the vocabulary (second at id {id})")]
    DuplicateToken { token: String, id: usize },
    #[error("the vocabulary has no token for the byte 0x{byte:02X}")]
    MissingByte { byte: u8 },
    #[error("metadata key {key:?}: expected one element for each of {expected} tokens, found {found}")]
    PerTokenLength { key: &'static str, expected: u64, found: u64 },
    #[error("{which} token: expected an id below {n_vocab}, found {found}")]
    SpecialToken { which: &'static str, n_vocab: u64, found: u64 },
    #[error("the tokenizer adds a {which} token, but the file does not define one")]
    NoSpecialToken { which: &'static str },
    #[error("tokenizer.chat_template: expected at most {limit} bytes, found {found}")]
    TemplateTooLong { limit: u64, found: u64 },
    #[error("tokenizer.chat_template: expected UTF-8")]
    TemplateEncoding,

    // Shards.
    #[error("expected the first shard of {count}, found shard {found}")]
    NotFirstShard { found: u64, count: u64 },
    #[error("a model in {count} shards: expected a file name ending in {expected:?}")]
    ShardName { count: u64, expected: String },
    #[error("shard {index} of {count} is missing: {file:?}")]
    MissingShard { index: u64, count: u64, file: String },
    #[error("expected shard {expected} of {expected_count}, but the file says {found}")]
    ShardNumber { expected: u64, expected_count: u64, found: String },
    #[error("expected {expected} tensors in all shards, found {found}")]
    ShardTensors { expected: u64, found: u64 },
}

impl Defect {
    /// What the user can do; `None` if the message says it all.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TooSmall { .. } | Self::CutShort { .. } | Self::Incomplete { .. } => {
                Some("the download is incomplete or damaged: download it again")
            }
            Self::Foreign { hint, .. } => Some(hint),
            Self::NotGguf { .. } => Some(
                "chaski runs GGUF files; convert safetensors and PyTorch models with llama.cpp's \
                      convert_hf_to_gguf.py",
            ),
            Self::Version { found: 0 | 1 } => Some("the file is too old: look for a newer conversion of the model"),
            Self::BigEndian | Self::MissingByte { .. } | Self::Tokenizer { .. } | Self::NoTokenizer { .. } => {
                Some("look for another conversion of the model")
            }
            Self::Version { .. }
            | Self::TensorType { .. }
            | Self::ValueType { .. }
            | Self::Architecture { .. }
            | Self::RopeScaling { .. } => Some("the model may need a newer version of chaski"),
            Self::Projector => Some("this is the mmproj part of a multimodal model: give the language model's file"),
            Self::NotFirstShard { .. } => Some("give the file that ends in -00001-of-...; chaski finds the others"),
            Self::ShardName { .. } => Some("keep the shards' original file names"),
            Self::MissingShard { .. } => Some("download all shards into one folder"),
            Self::ShardNumber { .. } | Self::ShardTensors { .. } => {
                Some("the shards are from different models: download all of them again")
            }
            Self::NoTensors => Some("the file contains only a vocabulary: download the model itself"),
            Self::DuplicateKey { .. }
            | Self::DuplicateTensor { .. }
            | Self::TensorOffset { .. }
            | Self::Count { .. }
            | Self::UnprintableKey { .. }
            | Self::TensorName { .. } => Some("the file is damaged: download it again"),
            _ => None,
        }
    }
}

/// At most 64 characters of untrusted text, for messages.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]);
    let mut short: String = text.chars().take(64).collect();
    if short.len() < bytes.len() && text.chars().nth(64).is_some() {
        short.push('…');
    }
    short
}
