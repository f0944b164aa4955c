//! Metadata values, borrowed from the bytes of the file. Arrays are decoded lazily, so a vocabulary of 150,000 tokens
//! is never copied.

/// The type of a metadata value; the discriminants are those of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ValueType {
    /// 8-bit unsigned integer
    U8 = 0,
    /// 8-bit signed integer
    I8 = 1,
    /// 16-bit unsigned integer
    U16 = 2,
    /// 16-bit signed integer
    I16 = 3,
    /// 32-bit unsigned integer
    U32 = 4,
    /// 32-bit signed integer
    I32 = 5,
    /// 32-bit float
    F32 = 6,
    /// one byte, true unless 0
    Bool = 7,
    /// a 64-bit length, then that many bytes
    Str = 8,
    /// an element type, a 64-bit count, then the elements
    Array = 9,
    /// 64-bit unsigned integer
    U64 = 10,
    /// 64-bit signed integer
    I64 = 11,
    /// 64-bit float
    F64 = 12,
}

impl ValueType {
    /// The type with this code in the file, if it exists.
    pub fn from_code(code: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, Str, Array, U64, I64, F64].into_iter().find(|t| *t as u32 == code)
    }

    /// Bytes of one value; `None` if that depends on the value (strings, arrays).
    pub fn size_bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Str | Self::Array => None,
        }
    }

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::Str => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

/// One metadata value. Strings are bytes: tokens need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are those of ValueType")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::Str(_) => ValueType::Str,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value as an integer of any type, if it is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as an integer of any type, if it is within 0..2^32.
    pub fn as_u32(&self) -> Option<u32> {
        self.as_u64()?.try_into().ok()
    }

    /// The value as a float of either type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The bytes of a string.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match *self {
            Self::Str(v) => Some(v),
            _ => None,
        }
    }

    /// A string, if it is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// An array of values of one type, not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    n: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// `bytes` holds `n` encoded elements, as the reader has checked.
    pub(super) fn new(element: ValueType, n: usize, bytes: &'a [u8]) -> Self {
        Self { element, n, bytes }
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether the array is empty.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, mut rest) = (self.element, self.bytes);
        (0..self.n).map_while(move |_| decode(element, &mut rest))
    }

    /// The bytes of each string; empty if this is not an array of strings.
    pub fn strings(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = if self.element == ValueType::Str { self.bytes } else { &[] };
        (0..self.n).map_while(move |_| decode_str(&mut rest))
    }
}

/// Decodes one value from the front of `rest`; `None` if it is cut short, with `rest` in an unspecified state. Arrays
/// are not decoded here, because they do not nest.
pub(super) fn decode<'a>(value_type: ValueType, rest: &mut &'a [u8]) -> Option<Value<'a>> {
    Some(match value_type {
        ValueType::U8 => Value::U8(u8::from_le_bytes(take(rest)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(take(rest)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(take(rest)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(take(rest)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(take(rest)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(take(rest)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(take(rest)?)),
        ValueType::Bool => Value::Bool(u8::from_le_bytes(take(rest)?) != 0),
        ValueType::U64 => Value::U64(u64::from_le_bytes(take(rest)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(take(rest)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(take(rest)?)),
        ValueType::Str => Value::Str(decode_str(rest)?),
        ValueType::Array => return None,
    })
}

fn decode_str<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
    let (text, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(text)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}
