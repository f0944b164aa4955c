//! Writes a file. The complete file appears at its path, or none at all.

use std::hash::Hasher as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use twox_hash::XxHash3_64;

use crate::gguf::{TensorType, Value, Writer};
use crate::hidden_file::{ARCHITECTURE, HiddenFile, HiddenFileError, VERSION};
use crate::output_file;

/// Names of metadata keys.
pub(super) mod keys {
    pub(in crate::hidden_file) const ARCHITECTURE: &str = "general.architecture";
    pub(in crate::hidden_file) const VERSION: &str = "chaski-hidden.version";
    pub(in crate::hidden_file) const CHECKSUM: &str = "chaski-hidden.checksum";
    pub(in crate::hidden_file) const MODEL: &str = "chaski-hidden.model";
    pub(in crate::hidden_file) const N_TRAINED: &str = "chaski-hidden.trained_tokens";
    pub(in crate::hidden_file) const TOP1: &str = "chaski-hidden.held_out_top1";
    pub(in crate::hidden_file) const SCALE: &str = "chaski-hidden.scale";
    pub(in crate::hidden_file) const EXPERIENCE: &str = "chaski-hidden.experience";
}

/// A tensor as the file has it.
struct Encoded<'a> {
    name: &'static str,
    dims: Vec<u64>,
    tensor_type: TensorType,
    data: &'a [u8],
}

/// The numbers that are not weights, encoded.
struct Numbers {
    mean: Vec<u8>,
    std: Vec<u8>,
    bias: Vec<u8>,
    tokens: Vec<u8>,
}

impl Numbers {
    fn of(file: &HiddenFile) -> Numbers {
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Numbers {
            mean: bytes(&file.mean),
            std: bytes(&file.std),
            bias: bytes(&file.first_bias),
            tokens: file.tokens.iter().flat_map(|token| token.0.to_le_bytes()).collect(),
        }
    }
}

impl HiddenFile {
    /// Writes the content to `path`, replacing an older file. Returns the size in bytes.
    ///
    /// # Errors
    /// [`HiddenFileError::Unwritable`] if the parts do not fit together, else if the disk is full or the file cannot be
    /// renamed. An older file stays as it is then.
    pub fn write(&self, path: &Path) -> Result<u64, HiddenFileError> {
        let named = HiddenFileError::io(path);
        self.check().map_err(|what| HiddenFileError::Unwritable { path: path.to_owned(), what })?;
        let mut out = BufWriter::new(output_file::create(path).map_err(&named)?);
        let numbers = Numbers::of(self);
        self.encode(&numbers).write(&mut out).and_then(|()| out.flush()).map_err(&named)?;
        let file = out.into_inner().map_err(|error| named(error.into_error()))?;
        let n_bytes = file.as_file().metadata().map_err(&named)?.len();
        output_file::finish(file, path).map_err(&named)?;
        Ok(n_bytes)
    }

    /// Writes content of any kind, for tests of the reader.
    #[cfg(test)]
    pub(super) fn encode_unchecked(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        self.encode(&Numbers::of(self)).write(out)
    }

    fn encode<'a>(&'a self, numbers: &'a Numbers) -> Writer<'a> {
        let model = self.model.to_string();
        let mut writer = Writer::new();
        writer
            .pair(keys::ARCHITECTURE, &Value::Str(ARCHITECTURE.as_bytes()))
            .pair(keys::VERSION, &Value::U32(VERSION))
            .pair(keys::CHECKSUM, &Value::U64(self.checksum_of(numbers)))
            .pair(keys::MODEL, &Value::Str(model.as_bytes()))
            .pair(keys::N_TRAINED, &Value::U64(self.n_trained_tokens))
            .pair(keys::TOP1, &Value::F32(self.held_out_top1))
            .pair(keys::SCALE, &Value::F32(self.scale));
        if let Some(experience) = &self.experience {
            writer.pair(keys::EXPERIENCE, &Value::Str(experience.as_bytes()));
        }
        for tensor in self.tensors(numbers) {
            writer.tensor(tensor.name, &tensor.dims, tensor.tensor_type, tensor.data);
        }
        writer
    }

    /// All tensors in the order of the file.
    fn tensors<'a>(&'a self, numbers: &'a Numbers) -> [Encoded<'a>; 8] {
        let known = |name| TensorType::from_name(name).expect("a type of ggml");
        let plain = |name, kind, data: &'a [u8]| Encoded {
            name,
            dims: vec![(data.len() / 4) as u64],
            tensor_type: known(kind),
            data,
        };
        let matrix = |name, weights: &'a super::Weights| Encoded {
            name,
            dims: vec![weights.n_columns as u64, weights.n_rows as u64],
            tensor_type: weights.tensor_type,
            data: &weights.data,
        };
        [
            plain("input.mean", "f32", &numbers.mean),
            plain("input.std", "f32", &numbers.std),
            matrix("first.weight", &self.first),
            plain("first.bias", "f32", &numbers.bias),
            matrix("second.weight", &self.second),
            matrix("head.down.weight", &self.down),
            matrix("head.up.weight", &self.up),
            plain("head.tokens", "i32", &numbers.tokens),
        ]
    }

    /// XXH3-64 (seed 0) over the data of all tensors in the order of the file, then the metadata: the model, the
    /// experience if there is any, the number of trained tokens, the share of right tokens, and the scale. Numbers are
    /// little-endian; a text has its length in bytes before it, as a `u64`.
    pub(super) fn checksum(&self) -> u64 {
        self.checksum_of(&Numbers::of(self))
    }

    fn checksum_of(&self, numbers: &Numbers) -> u64 {
        let mut hasher = XxHash3_64::with_seed(0);
        self.tensors(numbers).iter().for_each(|tensor| hasher.write(tensor.data));
        let mut text = |text: &str| {
            hasher.write(&(text.len() as u64).to_le_bytes());
            hasher.write(text.as_bytes());
        };
        text(&self.model.to_string());
        if let Some(experience) = &self.experience {
            text(experience);
        }
        hasher.write(&self.n_trained_tokens.to_le_bytes());
        hasher.write(&self.held_out_top1.to_le_bytes());
        hasher.write(&self.scale.to_le_bytes());
        hasher.finish()
    }
}
