//! Writes GGUF files for tests, valid or not. It shares no code with the reader, so that a mistake in one shows. Fields
//! that a valid file derives, such as counts and offsets, can be overridden.

/// A metadata value to write.
#[derive(Clone, Debug)]
pub enum Meta {
    /// type 0
    U8(u8),
    /// type 1
    I8(i8),
    /// type 2
    U16(u16),
    /// type 3
    I16(i16),
    /// type 4
    U32(u32),
    /// type 5
    I32(i32),
    /// type 6
    F32(f32),
    /// type 7
    Bool(bool),
    /// type 8; bytes, for it need not be UTF-8
    Str(Vec<u8>),
    /// type 9: the code of the elements' type, then the elements
    Array(u32, Vec<Meta>),
    /// type 10
    U64(u64),
    /// type 11
    I64(i64),
    /// type 12
    F64(f64),
    /// any type code with any encoded bytes
    Raw(u32, Vec<u8>),
}

impl Meta {
    /// A string.
    pub fn str(text: &str) -> Self {
        Self::Str(text.as_bytes().to_vec())
    }

    /// An array of strings.
    pub fn strs<S: AsRef<str>>(texts: &[S]) -> Self {
        Self::Array(8, texts.iter().map(|text| Self::str(text.as_ref())).collect())
    }

    /// An array of f32.
    pub fn f32s(values: &[f32]) -> Self {
        Self::Array(6, values.iter().map(|v| Self::F32(*v)).collect())
    }

    /// An array of i32.
    pub fn i32s(values: &[i32]) -> Self {
        Self::Array(5, values.iter().map(|v| Self::I32(*v)).collect())
    }

    /// An array of u32.
    pub fn u32s(values: &[u32]) -> Self {
        Self::Array(4, values.iter().map(|v| Self::U32(*v)).collect())
    }

    fn code(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
            Self::Raw(code, _) => *code,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.extend(v.to_le_bytes()),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Str(v) => write_str(v, out),
            Self::Array(code, values) => {
                out.extend(code.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write(out));
            }
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

/// A tensor to write.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// its name, of any length
    pub name: Vec<u8>,
    /// the contiguous dimension first
    pub dims: Vec<u64>,
    /// ggml's type code; 0 is f32
    pub type_code: u32,
    /// the encoded elements, of any length
    pub data: Vec<u8>,
    /// the offset to state instead of the true one
    pub offset: Option<u64>,
}

/// The content of a file. Build it up, change what a test wants changed, and [`finish`](Self::finish).
#[derive(Clone, Debug)]
pub struct GgufWriter {
    /// the first four bytes
    pub magic: [u8; 4],
    /// 3 unless changed
    pub version: u32,
    /// where tensors are padded to; stating it in `general.alignment` is up to the caller
    pub alignment: usize,
    /// keys and values in order
    pub meta: Vec<(Vec<u8>, Meta)>,
    /// tensors in order
    pub tensors: Vec<TensorSpec>,
    /// the number of keys to state instead of the true one
    pub n_meta: Option<u64>,
    /// the number of tensors to state instead of the true one
    pub n_tensors: Option<u64>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            meta: Vec::new(),
            tensors: Vec::new(),
            n_meta: None,
            n_tensors: None,
        }
    }
}

impl GgufWriter {
    /// Adds a key.
    pub fn meta(&mut self, key: &str, value: Meta) -> &mut Self {
        self.meta.push((key.as_bytes().to_vec(), value));
        self
    }

    /// Replaces the value of a key, or adds it.
    pub fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        match self.meta.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.meta.push((key.as_bytes().to_vec(), value)),
        }
        self
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.meta.retain(|(k, _)| k != key.as_bytes());
        self
    }

    /// Adds an F32 tensor; `data` has as many elements as the product of `dims`, the contiguous dimension first.
    pub fn tensor_f32(&mut self, name: &str, dims: &[usize], data: &[f32]) -> &mut Self {
        assert_eq!(data.len(), dims.iter().product::<usize>(), "{name}: elements do not fill {dims:?}");
        self.tensors.push(TensorSpec {
            name: name.as_bytes().to_vec(),
            dims: dims.iter().map(|n| *n as u64).collect(),
            type_code: 0,
            data: data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            offset: None,
        });
        self
    }

    /// The file's bytes.
    pub fn finish(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.magic);
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_meta.unwrap_or(self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            write_str(key, &mut out);
            out.extend(value.code().to_le_bytes());
            value.write(&mut out);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            write_str(&tensor.name, &mut out);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.type_code.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
            pad(&mut data, self.alignment);
        }
        if !self.tensors.is_empty() {
            pad(&mut out, self.alignment);
        }
        out.extend(data);
        out
    }
}

fn write_str(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment.max(1)), 0);
}
