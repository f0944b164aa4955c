//! Parses the header of a GGUF file from a byte slice, and trusts none of it. A count from the file allocates nothing
//! before the bytes behind it are known to exist.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Layout: magic, version u32, tensor count u64,
//! key count u64, the key-value pairs, the tensor descriptions, padding to the alignment, the data section.

use std::collections::HashSet;
use std::ops::Range;

use super::error::{Defect, excerpt};
use super::foreign;
use super::tensor::{Tensor, TensorType};
use super::value::{self, Array, Value, ValueType};

/// Keys and tensors per file; the largest published models have a few thousand tensors.
const MAX_ENTRIES: u64 = 65_536;
const MAX_ALIGNMENT: u64 = 1 << 20;
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's TENSOR_ALIGNMENT: it aborts on a mapped tensor at any other address.
const MIN_ALIGNMENT: u64 = 32;
/// ggml's GGML_MAX_NAME, with the terminating zero.
const MAX_TENSOR_NAME: usize = 64;
/// The smallest key-value pair: length, a one-byte key, the type, a one-byte value.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;
/// The smallest tensor description: length, a one-byte name, 1 dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A parsed header. It holds ranges of the parsed bytes, and must be used with the same bytes.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) pairs: Vec<Pair>,
    pub(super) tensors: Vec<Tensor>,
    /// where the data section begins, in bytes from the start of the file
    data_at: usize,
}

/// Where a key and its value are in the file.
#[derive(Debug)]
pub(super) struct Pair {
    key: Range<usize>,
    value: Range<usize>,
    value_type: ValueType,
    /// the type and count of an array's elements
    elements: Option<(ValueType, usize)>,
}

impl Pair {
    /// The key, which the parser has checked to be UTF-8.
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.key.clone()).unwrap_or_default()
    }

    pub(super) fn value<'a>(&self, bytes: &'a [u8]) -> Option<Value<'a>> {
        let mut raw = bytes.get(self.value.clone())?;
        match self.elements {
            Some((element, n)) => Some(Value::Array(Array::new(element, n, raw))),
            None => value::decode(self.value_type, &mut raw),
        }
    }
}

impl Header {
    pub(super) fn get<'a>(&self, bytes: &'a [u8], key: &str) -> Option<Value<'a>> {
        self.pairs.iter().find(|p| p.key(bytes) == key.as_bytes())?.value(bytes)
    }

    /// The elements of a tensor; `None` if it is not one of this file.
    pub(super) fn data<'a>(&self, bytes: &'a [u8], tensor: &Tensor) -> Option<&'a [u8]> {
        let start = self.data_at.checked_add(usize::try_from(tensor.offset).ok()?)?;
        bytes.get(start..)?.get(..usize::try_from(tensor.size_bytes).ok()?)
    }
}

/// Parses and checks the container: everything before the data section, and the section's size. `check.rs` checks the
/// metadata.
pub(super) fn parse(bytes: &[u8]) -> Result<Header, Defect> {
    // Recognize foreign formats even if the file is tiny.
    let magic = &bytes[..bytes.len().min(4)];
    if magic.len() == 4 && magic != b"GGUF" {
        if let Some((found, hint)) = foreign::what(bytes) {
            return Err(Defect::Foreign { found, hint });
        }
        return Err(Defect::NotGguf { found: excerpt(magic) });
    }
    if bytes.len() < 24 {
        return Err(Defect::TooSmall { has: bytes.len() as u64 });
    }
    let mut cursor = Cursor { bytes, at: 4 };
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=0xffff) => return Err(Defect::BigEndian),
        _ => return Err(Defect::Version { found: version }),
    }
    let n_tensors = cursor.u64("the tensor count")?;
    let n_pairs = cursor.u64("the key count")?;
    for (what, found, min_bytes) in [("keys", n_pairs, MIN_PAIR_BYTES), ("tensors", n_tensors, MIN_TENSOR_BYTES)] {
        let limit = MAX_ENTRIES.min(cursor.left() / min_bytes);
        if found > MAX_ENTRIES {
            return Err(Defect::Count { what, found, limit: MAX_ENTRIES });
        }
        if found > limit {
            return Err(Defect::CutShort { what, at: 24, needs: found * min_bytes, has: cursor.left() });
        }
    }

    let pairs = parse_pairs(&mut cursor, n_pairs)?;
    let mut header = Header { version, alignment: DEFAULT_ALIGNMENT, pairs, tensors: Vec::new(), data_at: 0 };
    if let Some(value) = header.get(bytes, "general.alignment") {
        let Value::U32(found) = value else {
            let found = value.value_type().name().to_owned();
            return Err(Defect::WrongType { key: "general.alignment".to_owned(), expected: "u32", found });
        };
        if !found.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&found.into()) {
            return Err(Defect::Alignment { found: found.into() });
        }
        header.alignment = found.into();
    }
    header.tensors = parse_tensors(&mut cursor, n_tensors, header.alignment)?;

    if let Some(last) = header.tensors.last() {
        let start = (cursor.at as u64).next_multiple_of(header.alignment);
        header.data_at = start as usize;
        // Offsets are running sums, so the last tensor ends last. Its padding may be missing.
        let needs = start.saturating_add(last.offset).saturating_add(last.size_bytes);
        if needs > bytes.len() as u64 {
            return Err(Defect::Incomplete { needs, has: bytes.len() as u64 });
        }
    }
    Ok(header)
}

fn parse_pairs(cursor: &mut Cursor<'_>, n_pairs: u64) -> Result<Vec<Pair>, Defect> {
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..n_pairs {
        let key = cursor.string("a metadata key")?;
        let name = &cursor.bytes[key.clone()];
        if !is_printable(name) {
            return Err(Defect::UnprintableKey { key: excerpt(name) });
        }
        if !seen.insert(name) {
            return Err(Defect::DuplicateKey { key: excerpt(name) });
        }
        let value_type = cursor.value_type(name)?;
        let mut elements = None;
        let start = match value_type {
            ValueType::Array => {
                let element = cursor.value_type(name)?;
                let n = cursor.u64("an array's length")?;
                let start = cursor.at;
                cursor.skip_elements(name, element, n)?;
                // The cast is safe: every element took at least one byte of the slice.
                elements = Some((element, n as usize));
                start
            }
            scalar => {
                let start = cursor.at;
                cursor.skip_elements(name, scalar, 1)?;
                start
            }
        };
        pairs.push(Pair { key, value: start..cursor.at, value_type, elements });
    }
    Ok(pairs)
}

fn parse_tensors(cursor: &mut Cursor<'_>, n_tensors: u64, alignment: u64) -> Result<Vec<Tensor>, Defect> {
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut seen = HashSet::new();
    let mut expected_offset = 0_u64;
    for index in 0..n_tensors as usize {
        let range = cursor.string("a tensor name")?;
        let raw = &cursor.bytes[range];
        let name = match std::str::from_utf8(raw) {
            Ok(name) if raw.len() < MAX_TENSOR_NAME && is_printable(raw) => name.to_owned(),
            _ => {
                return Err(Defect::TensorName { index, name: excerpt(raw) });
            }
        };
        if !seen.insert(raw) {
            return Err(Defect::DuplicateTensor { name });
        }
        let n_dims = cursor.u32("a dimension count")?;
        if !(1..=4).contains(&n_dims) {
            return Err(Defect::DimensionCount { name, found: n_dims });
        }
        let mut dims = Vec::with_capacity(4);
        for dim in 0..n_dims as usize {
            match cursor.u64("a dimension")? {
                0 => return Err(Defect::ZeroDimension { name, dim }),
                n => dims.push(n),
            }
        }
        let code = cursor.u32("a tensor type")?;
        let offset = cursor.u64("a tensor offset")?;
        let Some(tensor_type) = TensorType::from_code(code) else {
            return Err(Defect::TensorType { name, found: code });
        };
        let row = dims[0];
        if !row.is_multiple_of(tensor_type.n_block) {
            return Err(Defect::BlockSize { name, kind: tensor_type.name, n_block: tensor_type.n_block, found: row });
        }
        // ggml counts elements and bytes in signed 64 bits; keep to its limit.
        let n_elements = dims.iter().try_fold(1_u64, |product, n| product.checked_mul(*n));
        let size_bytes = n_elements
            .filter(|n| i64::try_from(*n).is_ok())
            .and_then(|n| (n / tensor_type.n_block).checked_mul(tensor_type.block_bytes))
            .filter(|n| i64::try_from(*n).is_ok());
        let end = size_bytes
            .and_then(|n| n.checked_next_multiple_of(alignment))
            .and_then(|n| n.checked_add(expected_offset))
            .filter(|n| i64::try_from(*n).is_ok());
        let (Some(size_bytes), Some(end)) = (size_bytes, end) else {
            return Err(Defect::TensorTooLarge { name, dims });
        };
        if offset != expected_offset {
            return Err(Defect::TensorOffset { name, expected: expected_offset, found: offset });
        }
        expected_offset = end;
        tensors.push(Tensor { name, dims, tensor_type, offset, size_bytes });
    }
    Ok(tensors)
}

/// Whether a name is non-empty UTF-8 without control characters: llama.cpp would cut it at a zero byte.
fn is_printable(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|text| !text.is_empty() && !text.contains(char::is_control))
}

/// A position in the file. Every read is checked against the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    /// at most `bytes.len()`
    at: usize,
}

impl Cursor<'_> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn skip(&mut self, what: &'static str, n_bytes: u64) -> Result<Range<usize>, Defect> {
        if n_bytes > self.left() {
            return Err(Defect::CutShort { what, at: self.at as u64, needs: n_bytes, has: self.left() });
        }
        let start = self.at;
        self.at += n_bytes as usize;
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Defect> {
        let range = self.skip(what, N as u64)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.bytes[range]);
        Ok(array)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Defect> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Defect> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self, what: &'static str) -> Result<Range<usize>, Defect> {
        let n_bytes = self.u64(what)?;
        self.skip(what, n_bytes)
    }

    fn value_type(&mut self, key: &[u8]) -> Result<ValueType, Defect> {
        let found = self.u32("a value type")?;
        ValueType::from_code(found).ok_or_else(|| Defect::ValueType { key: excerpt(key), found })
    }

    fn skip_elements(&mut self, key: &[u8], element: ValueType, n: u64) -> Result<(), Defect> {
        if element == ValueType::Array {
            return Err(Defect::NestedArray { key: excerpt(key) });
        }
        let what = "a metadata value";
        // A string takes at least the bytes of its length, so an absurd count fails before the walk.
        let at_least = n.saturating_mul(element.size_bytes().unwrap_or(8) as u64);
        if at_least > self.left() {
            return Err(Defect::CutShort { what, at: self.at as u64, needs: at_least, has: self.left() });
        }
        if element == ValueType::Str {
            for _ in 0..n {
                self.string("a string")?;
            }
        } else {
            self.skip(what, at_least)?;
        }
        Ok(())
    }
}
