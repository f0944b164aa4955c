//! Writes GGUF files, of the layout that [`reader`](super::reader) describes.

use std::io::{self, Write};

use super::tensor::TensorType;
use super::value::{Value, ValueType};

/// Where tensors begin in files of [`Writer::new`], in bytes: the format's default.
const ALIGNMENT: u64 = 32;

/// A GGUF file to write: keys and tensors in the order in which they were added. Tensors are borrowed, so that a file
/// larger than the memory can be written from mapped ones.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    version: u32,
    alignment: u64,
    n_pairs: u64,
    /// All pairs, encoded.
    pairs: Vec<u8>,
    tensors: Vec<NewTensor<'a>>,
    /// The first thing that cannot be written.
    mistake: Option<String>,
}

#[derive(Clone, Debug)]
struct NewTensor<'a> {
    name: String,
    dims: Vec<u64>,
    tensor_type: TensorType,
    data: &'a [u8],
}

impl Default for Writer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Writer<'a> {
    /// An empty file of version 3, with tensors at multiples of 32 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with(3, ALIGNMENT)
    }

    /// An empty file of another version, or with another alignment in bytes. An alignment other than 32 must also be
    /// stated at the key `general.alignment`.
    #[must_use]
    pub fn with(version: u32, alignment: u64) -> Self {
        Self { version, alignment, n_pairs: 0, pairs: Vec::new(), tensors: Vec::new(), mistake: None }
    }

    /// Adds a key with a value of any type.
    pub fn pair(&mut self, key: &str, value: &Value<'_>) -> &mut Self {
        if let Value::Array(array) = value {
            return self.array(key, array.element_type(), array.iter());
        }
        self.key(key, value.value_type());
        encode(value, &mut self.pairs);
        self
    }

    /// Adds a key with an array. All `elements` have the type `element`, which is not an array.
    pub fn array<'v>(
        &mut self,
        key: &str,
        element: ValueType,
        elements: impl IntoIterator<Item = Value<'v>>,
    ) -> &mut Self {
        self.key(key, ValueType::Array);
        self.pairs.extend((element as u32).to_le_bytes());
        let (count_at, mut n) = (self.pairs.len(), 0_u64);
        self.pairs.extend(n.to_le_bytes());
        for value in elements {
            let found = value.value_type();
            if found != element || found == ValueType::Array {
                let (expected, found) = (element.name(), found.name());
                self.refuse(|| format!("{key}: expected elements of type {expected}, found {found}"));
            }
            encode(&value, &mut self.pairs);
            n += 1;
        }
        self.pairs[count_at..][..8].copy_from_slice(&n.to_le_bytes());
        self
    }

    fn key(&mut self, key: &str, value_type: ValueType) {
        self.n_pairs += 1;
        encode(&Value::Str(key.as_bytes()), &mut self.pairs);
        self.pairs.extend((value_type as u32).to_le_bytes());
    }

    /// Adds a tensor. `dims` has the contiguous dimension first, and `data` the encoded elements.
    pub fn tensor(&mut self, name: &str, dims: &[u64], tensor_type: TensorType, data: &'a [u8]) -> &mut Self {
        let is_whole = dims.first().is_some_and(|row| row.is_multiple_of(tensor_type.n_block));
        let n_elements = dims.iter().try_fold(1_u64, |product, n| product.checked_mul(*n)).filter(|_| is_whole);
        if n_elements.and_then(|n| tensor_type.size_bytes(n)) != Some(data.len() as u64) {
            let (kind, n) = (tensor_type.name, data.len());
            self.refuse(|| format!("{name}: {n} bytes are not a tensor of {dims:?} elements of type {kind}"));
        }
        self.tensors.push(NewTensor { name: name.to_owned(), dims: dims.to_vec(), tensor_type, data });
        self
    }

    fn refuse(&mut self, mistake: impl FnOnce() -> String) {
        self.mistake.get_or_insert_with(mistake);
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If writing fails; [`io::ErrorKind::InvalidInput`] if an array has elements of different types, or the bytes of a
    /// tensor do not fit its dimensions. Nothing is written then.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(mistake) = &self.mistake {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, mistake.clone()));
        }
        let mut header = b"GGUF".to_vec();
        header.extend(self.version.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend(self.n_pairs.to_le_bytes());
        header.extend(&self.pairs);
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            encode(&Value::Str(tensor.name.as_bytes()), &mut header);
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|n| header.extend(n.to_le_bytes()));
            header.extend(tensor.tensor_type.code.to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += self.padded(tensor.data.len());
        }
        if !self.tensors.is_empty() {
            header.resize(self.padded(header.len()) as usize, 0);
        }
        out.write_all(&header)?;
        for tensor in &self.tensors {
            out.write_all(tensor.data)?;
            out.write_all(&vec![0; self.padded(tensor.data.len()) as usize - tensor.data.len()])?;
        }
        Ok(())
    }

    fn padded(&self, n_bytes: usize) -> u64 {
        (n_bytes as u64).next_multiple_of(self.alignment)
    }
}

/// Appends a value that is no array.
fn encode(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(v)),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
        Value::Str(v) => {
            out.extend((v.len() as u64).to_le_bytes());
            out.extend(v);
        }
        // `pair` writes arrays as such, and `array` refuses arrays within them.
        Value::Array(_) => {}
    }
}
