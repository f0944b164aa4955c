//! Reads the header of GGUF model files and decides, before llama.cpp sees a file, whether it can be loaded: llama.cpp
//! aborts the process on several defects (`check` lists them).
//!
//! [`Gguf::open`] checks the container (lengths, types, offsets). [`Gguf::check`] checks the metadata and that all
//! shards exist. Weights are not read, and llama.cpp's tensor lists are not known here: a file that passes can still
//! lack a tensor, which llama.cpp reports without aborting.
//!
//! [`Writer`] writes such files.

mod architectures;
mod check;
mod error;
mod foreign;
mod identity;
mod quantization;
mod reader;
mod tensor;
mod value;
mod vocabularies;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use memmap2::Mmap;

pub use architectures::{can_checkpoint, gives_states, n_snapshots};
pub use check::ModelFiles;
pub use error::{Defect, GgufError};
pub use identity::{ModelId, written_ns};
pub use tensor::{Tensor, TensorType, TypeTotals};
pub use value::{Array, Value, ValueType};
pub use vocabularies::DifferentToken;
pub use writer::Writer;

/// A GGUF file with a well-formed header.
///
/// The file stays mapped: if another process truncates it, the next access raises SIGBUS. Drop this after the model is
/// loaded.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    header: reader::Header,
    checked: OnceLock<ModelFiles>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Maps a file and parses its header.
    ///
    /// # Errors
    /// The file cannot be read, is not a regular one, or its container is malformed.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        // Check before opening: opening a pipe would wait for a writer.
        let found = std::fs::metadata(path).map_err(io)?.file_type();
        if !found.is_file() {
            let found = if found.is_dir() { "a directory" } else { "a pipe or device" };
            return Err(GgufError::NotAFile { path: path.to_owned(), found });
        }
        let file = File::open(path).map_err(io)?;
        let map = map(&file).map_err(io)?;
        Self::parse(Bytes::Mapped(map), path)
    }

    /// Parses a file that is already in memory. `path` names it in messages and locates its shards.
    ///
    /// # Errors
    /// The container is malformed.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self, GgufError> {
        Self::parse(Bytes::Owned(bytes), path)
    }

    fn parse(bytes: Bytes, path: &Path) -> Result<Self, GgufError> {
        match reader::parse(bytes.as_slice()) {
            Ok(header) => Ok(Self { path: path.to_owned(), bytes, header, checked: OnceLock::new() }),
            Err(defect) => Err(GgufError::Invalid { path: path.to_owned(), defect }),
        }
    }

    /// Checks everything in metadata and shards on which llama.cpp aborts, or which it does not check. Opens the other
    /// shards of a model in several files.
    ///
    /// # Errors
    /// The first defect found, in this file or another shard.
    pub fn check(&self) -> Result<ModelFiles, GgufError> {
        // Cached: several callers check, and a large vocabulary takes tens of milliseconds.
        if let Some(files) = self.checked.get() {
            return Ok(files.clone());
        }
        let files = check::check(self)?;
        Ok(self.checked.get_or_init(|| files).clone())
    }

    /// The path this file was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.as_slice().len() as u64
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The alignment of tensors within the data section, in bytes.
    pub fn alignment(&self) -> u64 {
        self.header.alignment
    }

    /// The tensors in the order of the file, of this shard only.
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// The tensor of this shard with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors().iter().find(|tensor| tensor.name == name)
    }

    /// The encoded elements of one of [`tensors`](Self::tensors): `size_bytes` bytes. `None` for a tensor of another file
    /// that does not fit into this one.
    pub fn data(&self, tensor: &Tensor) -> Option<&[u8]> {
        self.header.data(self.bytes.as_slice(), tensor)
    }

    /// The bytes of all tensors of this shard, without padding.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors().iter().map(|t| t.size_bytes).sum()
    }

    /// The number of elements in all tensors of this shard.
    pub fn n_elements(&self) -> u64 {
        self.tensors().iter().fold(0, |sum: u64, t| sum.saturating_add(t.n_elements()))
    }

    /// The tensors of this shard by type, in the order in which the types occur.
    pub fn tensors_by_type(&self) -> Vec<TypeTotals> {
        let mut totals: Vec<TypeTotals> = Vec::new();
        for tensor in self.tensors() {
            let name = tensor.tensor_type.name;
            let at = totals.iter().position(|of_type| of_type.name == name).unwrap_or_else(|| {
                totals.push(TypeTotals { name, count: 0, bytes: 0 });
                totals.len() - 1
            });
            totals[at].count += 1;
            totals[at].bytes += tensor.size_bytes;
        }
        totals
    }

    /// All keys with their values, in the order of the file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let bytes = self.bytes.as_slice();
        self.header.pairs.iter().filter_map(move |pair| {
            let key = std::str::from_utf8(pair.key(bytes)).ok()?;
            Some((key, pair.value(bytes)?))
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.header.get(self.bytes.as_slice(), key)
    }

    /// The value of a key, if it is a string and UTF-8.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The value of a key, if it is an integer of any type within 0..2^32.
    pub fn get_u32(&self, key: &str) -> Option<u32> {
        self.get(key)?.as_u32()
    }

    /// The value of a key, if it is an integer of any type and not negative.
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// The value of a key, if it is a float of any type.
    pub fn get_f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// The value of a key, if it is a boolean.
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// The value of a key, if it is an array.
    pub fn get_array(&self, key: &str) -> Option<Array<'_>> {
        self.get(key)?.as_array()
    }

    /// The name of the architecture, such as `llama`.
    pub fn architecture(&self) -> Option<&str> {
        self.get_str("general.architecture")
    }

    /// The model's name from its publisher: untrusted text, sanitize it before printing.
    pub fn name(&self) -> Option<&str> {
        self.get_str("general.name")
    }

    /// The value of `{architecture}.{suffix}`.
    pub fn arch_get(&self, suffix: &str) -> Option<Value<'_>> {
        self.get(&format!("{}.{suffix}", self.architecture()?))
    }

    /// The integer at `{architecture}.{suffix}`.
    pub fn arch_u32(&self, suffix: &str) -> Option<u32> {
        self.arch_get(suffix)?.as_u32()
    }

    /// The integers at `{architecture}.{suffix}`, one per block; a single integer is repeated. Empty if the key is
    /// missing, or if `block_count` is not within 1..=512.
    pub fn per_layer_u32(&self, suffix: &str) -> Vec<u32> {
        let n_blocks = self.block_count().filter(|n| (1..=check::MAX_BLOCKS).contains(n)).unwrap_or(0) as usize;
        match self.arch_get(suffix) {
            Some(Value::Array(array)) => array.iter().take(n_blocks).filter_map(|v| v.as_u32()).collect(),
            Some(value) => value.as_u32().map_or(Vec::new(), |v| vec![v; n_blocks]),
            None => Vec::new(),
        }
    }

    /// The context length the model was trained with, in tokens.
    pub fn context_length(&self) -> Option<u32> {
        self.arch_u32("context_length")
    }

    /// The number of blocks (layers).
    pub fn block_count(&self) -> Option<u32> {
        self.arch_u32("block_count")
    }

    /// The width of the residual stream.
    pub fn embedding_length(&self) -> Option<u32> {
        self.arch_u32("embedding_length")
    }

    /// Attention heads per block; the maximum if blocks differ.
    pub fn head_count(&self) -> Option<u32> {
        self.per_layer_u32("attention.head_count").into_iter().max()
    }

    /// Key-value heads per block, the maximum if blocks differ; defaults to the number of heads.
    pub fn head_count_kv(&self) -> Option<u32> {
        self.per_layer_u32("attention.head_count_kv").into_iter().max().or_else(|| self.head_count())
    }

    /// The number of tokens in the vocabulary.
    pub fn n_vocab(&self) -> Option<usize> {
        Some(self.get_array("tokenizer.ggml.tokens")?.len())
    }

    /// The quantization by llama.cpp's name (`Q4_K_M`): as stated in the file, else the type with the most bytes.
    pub fn quantization(&self) -> String {
        quantization::name(self)
    }

    /// The chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.get_str("tokenizer.chat_template")
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: another process can change it while it is mapped")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is private to `Gguf`, read-only, and handed out as `&[u8]` and values decoded from it, so that
    // this process never writes to it. Another process may. Parsing reads each length once, checks it, and keeps only
    // ranges; later accesses are bounds-checked against the length of the map, and strings are validated as UTF-8 each
    // time they are returned, so changed bytes give other values, not invalid memory. A `&str` that is alive while
    // another process overwrites the file in place is the residual risk, as it is for every reader of mapped files; a
    // truncated file raises SIGBUS, which ends the process and corrupts nothing.
    unsafe { Mmap::map(file) }
}
