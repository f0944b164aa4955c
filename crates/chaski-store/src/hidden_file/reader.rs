//! Reads and checks a file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::gguf::{Defect, Gguf, GgufError, ModelId, Tensor};
use crate::hidden_file::writer::keys;
use crate::hidden_file::{ARCHITECTURE, HiddenFile, HiddenFileError, VERSION, Weights};
use crate::token::Token;

/// Larger files are refused before they are read. A network for states of 16384 numbers has 0.6 GB.
const MAX_BYTES: u64 = 1 << 30;

/// How a GGUF file begins.
const MAGIC: &[u8] = b"GGUF";

impl HiddenFile {
    /// Opens a file that was trained for `model`.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or belongs to another model.
    pub fn open(path: &Path, model: &ModelId) -> Result<HiddenFile, HiddenFileError> {
        let file = HiddenFile::open_any(path)?;
        if file.model == *model {
            return Ok(file);
        }
        // The name in the file may hold anything.
        let text = |model: &ModelId| model.to_string().escape_debug().to_string();
        let (expected, found) = (text(model), text(&file.model));
        Err(HiddenFileError::ForeignModel { path: path.to_owned(), expected, found })
    }

    /// Opens a file for any model, for tools.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn open_any(path: &Path) -> Result<HiddenFile, HiddenFileError> {
        let named = HiddenFileError::io(path);
        // Check before opening: opening a pipe would wait for a writer.
        let found = std::fs::metadata(path).map_err(&named)?;
        if !found.is_file() {
            return Err(HiddenFileError::NotAFile { path: path.to_owned() });
        }
        if found.len() > MAX_BYTES {
            return Err(HiddenFileError::NotAHiddenFile { path: path.to_owned() });
        }
        let mut file = File::open(path).map_err(&named)?;
        let mut bytes = Vec::new();
        file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut bytes).map_err(&named)?;
        if !MAGIC.starts_with(&bytes) {
            return Err(HiddenFileError::NotAHiddenFile { path: path.to_owned() });
        }
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(&named)?;
        let gguf = Gguf::from_bytes(bytes, path).map_err(|error| of_container(error, path))?;
        read(&gguf, path)
    }
}

fn of_container(error: GgufError, path: &Path) -> HiddenFileError {
    let path = path.to_owned();
    match error {
        GgufError::Invalid { defect: Defect::NotGguf { .. } | Defect::Foreign { .. }, .. } => {
            HiddenFileError::NotAHiddenFile { path }
        }
        GgufError::Invalid { defect: Defect::Incomplete { needs, has }, .. } => {
            HiddenFileError::CutShort { path, expected: needs, found: has }
        }
        GgufError::Invalid { defect, .. } => HiddenFileError::damaged(&path, defect.to_string()),
        GgufError::Io { source, .. } => HiddenFileError::Io { path, source },
        other => HiddenFileError::damaged(&path, other.to_string()),
    }
}

fn read(gguf: &Gguf, path: &Path) -> Result<HiddenFile, HiddenFileError> {
    if gguf.get_str(keys::ARCHITECTURE) != Some(ARCHITECTURE) {
        return Err(HiddenFileError::NotAHiddenFile { path: path.to_owned() });
    }
    match gguf.get_u32(keys::VERSION) {
        Some(VERSION) => {}
        None | Some(0) => return Err(HiddenFileError::damaged(path, "it has no format version")),
        Some(found) => return Err(HiddenFileError::Newer { path: path.to_owned(), found }),
    }
    let file = content(gguf).and_then(|file| file.check().map(|()| file));
    let file = file.map_err(|what| HiddenFileError::damaged(path, what))?;
    if gguf.get_u64(keys::CHECKSUM) != Some(file.checksum()) {
        return Err(HiddenFileError::damaged(path, "its checksum is wrong"));
    }
    Ok(file)
}

/// The content; `check` has to follow.
fn content(gguf: &Gguf) -> Result<HiddenFile, String> {
    let missing = |key: &str| format!("{key} is missing or has the wrong type");
    let float = |key| gguf.get_f64(key).map(|x| x as f32).ok_or_else(|| missing(key));
    let text = |key| gguf.get_str(key).map(str::to_owned).ok_or_else(|| missing(key));
    let experience = gguf.get(keys::EXPERIENCE).map(|_| text(keys::EXPERIENCE)).transpose()?;
    Ok(HiddenFile {
        model: ModelId::from(text(keys::MODEL)?),
        n_trained_tokens: gguf.get_u64(keys::N_TRAINED).ok_or_else(|| missing(keys::N_TRAINED))?,
        held_out_top1: float(keys::TOP1)?,
        experience,
        scale: float(keys::SCALE)?,
        mean: floats(gguf, "input.mean")?,
        std: floats(gguf, "input.std")?,
        first: weights(gguf, "first.weight")?,
        first_bias: floats(gguf, "first.bias")?,
        second: weights(gguf, "second.weight")?,
        down: weights(gguf, "head.down.weight")?,
        up: weights(gguf, "head.up.weight")?,
        tokens: numbers(gguf, "head.tokens", "i32")?.map(i32::from_le_bytes).map(Token).collect(),
    })
}

/// A tensor, and its data.
fn tensor<'a>(gguf: &'a Gguf, name: &str) -> Result<(&'a Tensor, &'a [u8]), String> {
    let found = gguf.tensor(name).and_then(|tensor| Some((tensor, gguf.data(tensor)?)));
    found.ok_or_else(|| format!("{name} is missing"))
}

fn weights(gguf: &Gguf, name: &str) -> Result<Weights, String> {
    let (tensor, data) = tensor(gguf, name)?;
    let width = |n: u64| usize::try_from(n).map_err(|_| format!("{name}: a dimension of {n} elements"));
    let [n_columns, n_rows] = tensor.dims[..] else {
        return Err(format!("{name}: expected 2 dimensions, found {}", tensor.dims.len()));
    };
    Ok(Weights {
        tensor_type: tensor.tensor_type,
        n_columns: width(n_columns)?,
        n_rows: width(n_rows)?,
        data: data.to_vec(),
    })
}

fn floats(gguf: &Gguf, name: &str) -> Result<Vec<f32>, String> {
    Ok(numbers(gguf, name, "f32")?.map(f32::from_le_bytes).collect())
}

/// The elements of a row of 4-byte numbers.
fn numbers<'a>(gguf: &'a Gguf, name: &str, kind: &str) -> Result<impl Iterator<Item = [u8; 4]> + use<'a>, String> {
    let (tensor, data) = tensor(gguf, name)?;
    if tensor.dims.len() != 1 || tensor.tensor_type.name != kind {
        return Err(format!(
            "{name}: expected a row of {kind}, found {:?} of {}",
            tensor.dims, tensor.tensor_type.name
        ));
    }
    Ok(data.as_chunks::<4>().0.iter().copied())
}
