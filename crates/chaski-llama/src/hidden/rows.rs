//! Rows of numbers in ggml's types: decoded one at a time, and quantized for a file.

use std::ffi::CStr;

use llama_cpp_sys_2 as sys;

use crate::gguf::TensorType;
use crate::hidden::error::HiddenError;
use crate::store::hidden_file::{WEIGHT_TYPES, Weights};

/// ggml's function that decodes `k` elements.
type ToFloat = unsafe extern "C" fn(x: *const std::ffi::c_void, y: *mut f32, k: i64);

/// Decodes rows of one type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoder {
    tensor_type: TensorType,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    Ggml(ToFloat),
}

impl Decoder {
    /// `None` if this type cannot be decoded.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's types")]
    pub(super) fn new(tensor_type: TensorType) -> Option<Decoder> {
        if tensor_type.name == "f32" {
            return Some(Decoder { tensor_type, kind: Kind::F32 });
        }
        if tensor_type.code >= sys::GGML_TYPE_COUNT {
            return None;
        }
        // SAFETY: the code is below ggml's number of types, so the pointer is to an entry of its static table, whose
        // name is NULL or a static string.
        let traits = unsafe { &*sys::ggml_get_type_traits(tensor_type.code as sys::ggml_type) };
        let name = traits.type_name;
        // SAFETY: see above.
        let is_named = !name.is_null() && unsafe { CStr::from_ptr(name) }.to_bytes() == tensor_type.name.as_bytes();
        let is_same = is_named
            && u64::try_from(traits.blck_size) == Ok(tensor_type.n_block)
            && traits.type_size as u64 == tensor_type.block_bytes;
        let to_float = traits.to_float.filter(|_| is_same)?;
        Some(Decoder { tensor_type, kind: Kind::Ggml(to_float) })
    }

    /// Fills `row` with the elements in `bytes`.
    ///
    /// # Panics
    /// If the bytes are not as many as the row has, are at an odd address, or the row is no whole number of blocks.
    #[expect(unsafe_code, reason = "ggml decodes its types")]
    pub(super) fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        let expected = self.tensor_type.size_bytes(row.len() as u64);
        assert_eq!(expected, Some(bytes.len() as u64), "bytes of a row of {} elements", row.len());
        let is_aligned = !self.tensor_type.block_bytes.is_multiple_of(2) || bytes.as_ptr().addr().is_multiple_of(2);
        assert!(is_aligned, "blocks with scales of two bytes at an odd address");
        match self.kind {
            Kind::F32 => {
                let numbers = bytes.as_chunks::<4>().0;
                row.iter_mut().zip(numbers).for_each(|(x, bytes)| *x = f32::from_le_bytes(*bytes));
            }
            // SAFETY: ggml reads whole blocks of this type, which `bytes` was just checked to hold, and writes as many
            // elements as the row has. Blocks hold bytes and, where their size is even, numbers of two bytes; the
            // address was just checked. Any bytes are valid blocks; some decode to NaN.
            Kind::Ggml(to_float) => unsafe { to_float(bytes.as_ptr().cast(), row.as_mut_ptr(), row.len() as i64) },
        }
    }
}

/// The numbers of a matrix, row by row.
///
/// # Errors
/// If its type cannot be decoded, or its data does not fill its shape.
pub fn dequantize(weights: &Weights) -> Result<Vec<f32>, HiddenError> {
    let Weights { tensor_type, n_columns, n_rows, data } = weights;
    let refuse = |what: &str| HiddenError::Quantize(format!("{what} {} of {}", data.len(), tensor_type.name));
    let decoder = Decoder::new(*tensor_type).ok_or_else(|| refuse("cannot decode bytes:"))?;
    if *n_columns == 0 || tensor_type.size_bytes((n_columns * n_rows) as u64) != Some(data.len() as u64) {
        return Err(refuse("an unexpected number of bytes:"));
    }
    let mut numbers = vec![0.0; n_columns * n_rows];
    let row_bytes = data.len() / n_rows.max(&1);
    for (row, bytes) in numbers.chunks_exact_mut(*n_columns).zip(data.chunks_exact(row_bytes.max(1))) {
        decoder.decode(bytes, row);
    }
    Ok(numbers)
}

/// Quantizes rows of `n_columns` numbers to one of [`WEIGHT_TYPES`], as in the file of a drafter.
///
/// # Errors
/// If the type is another one, the rows are not whole blocks of it, or there is NaN or infinity.
#[expect(unsafe_code, reason = "ggml quantizes to its types")]
pub fn quantize(rows: &[f32], n_columns: usize, tensor_type: TensorType) -> Result<Vec<u8>, HiddenError> {
    let refuse = |what: String| Err(HiddenError::Quantize(what));
    let kind = tensor_type.name;
    if !WEIGHT_TYPES.contains(&kind) {
        return refuse(format!("expected one of the types {}, found {kind}", WEIGHT_TYPES.join(", ")));
    }
    if n_columns == 0 || !rows.len().is_multiple_of(n_columns) {
        return refuse(format!("expected rows of {n_columns} elements, found {} elements", rows.len()));
    }
    let Some(row_bytes) = tensor_type.size_bytes(n_columns as u64) else {
        return refuse(format!("{kind} needs rows of a multiple of {}, found {n_columns}", tensor_type.n_block));
    };
    if !rows.iter().all(|x| x.is_finite()) {
        return refuse("expected numbers, found NaN or infinity".to_owned());
    }
    if kind == "f32" {
        return Ok(rows.iter().flat_map(|x| x.to_le_bytes()).collect());
    }
    let n_rows = rows.len() / n_columns;
    let mut out = vec![0; n_rows * row_bytes as usize];
    // SAFETY: the type is one of ggml's that needs no importance matrix, and the columns are whole blocks of it. ggml
    // reads `n_rows * n_columns` numbers and writes as many rows of `row_bytes`.
    let n_written = unsafe {
        sys::ggml_quantize_chunk(
            tensor_type.code as sys::ggml_type,
            rows.as_ptr(),
            out.as_mut_ptr().cast(),
            0,
            n_rows as i64,
            n_columns as i64,
            std::ptr::null(),
        )
    };
    if n_written == out.len() {
        return Ok(out);
    }
    refuse(format!("ggml wrote {n_written} bytes of {kind}, expected {}", out.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_exactly_as_their_type_allows() {
        let rows: Vec<f32> = (0..4 * 256).map(|n| ((n * 37 % 101) as f32 - 50.0) / 50.0).collect();
        for (kind, tolerance) in
            [("f32", 0.0), ("f16", 5e-4), ("q8_0", 5e-3), ("q6_K", 0.04), ("q5_0", 0.07), ("q4_0", 0.14)]
        {
            let tensor_type = TensorType::from_name(kind).unwrap();
            let bytes = quantize(&rows, 256, tensor_type).unwrap();
            let decoder = Decoder::new(tensor_type).unwrap();
            let mut row = [0.0; 256];
            for (bytes, expected) in bytes.chunks(bytes.len() / 4).zip(rows.chunks(256)) {
                decoder.decode(bytes, &mut row);
                let greatest = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(greatest <= tolerance, "{kind}: {greatest}");
            }
        }
    }

    #[test]
    fn what_cannot_be_quantized_is_refused() {
        let kind = |name| TensorType::from_name(name).unwrap();
        let message = |rows: &[f32], n_columns, name| quantize(rows, n_columns, kind(name)).unwrap_err().to_string();
        assert!(message(&[0.0; 256], 256, "q8_K").contains("expected one of the types f32"));
        assert!(message(&[0.0; 64], 32, "q6_K").contains("a multiple of 256, found 32"));
        assert!(message(&[0.0; 65], 32, "q8_0").contains("rows of 32"));
        assert!(message(&[f32::NAN; 32], 32, "q8_0").contains("NaN"));
    }

    #[test]
    fn types_without_a_decoder_are_none() {
        for name in ["i32", "q8_1", "f64"] {
            assert!(Decoder::new(TensorType::from_name(name).unwrap()).is_none(), "{name}");
        }
        for name in ["q4_K", "q6_K", "iq4_xs", "iq2_xxs", "mxfp4", "bf16"] {
            assert!(Decoder::new(TensorType::from_name(name).unwrap()).is_some(), "{name}");
        }
    }
}
