//! Tensor descriptions, and the ggml types that a file may contain.

/// How the elements of a tensor are stored: rows are split into blocks of `n_block` elements, `block_bytes` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// the code in the file, ggml's `enum ggml_type`
    pub code: u32,
    /// ggml's name
    pub name: &'static str,
    /// elements per block
    pub n_block: u64,
    /// bytes per block
    pub block_bytes: u64,
}

impl TensorType {
    /// The type with this code; `None` for unknown and withdrawn codes.
    pub fn from_code(code: u32) -> Option<Self> {
        TYPES.iter().copied().find(|t| t.code == code)
    }

    /// The type with this name; `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().copied().find(|t| t.name == name)
    }

    /// The bytes of `n` elements; `None` if they are not whole blocks, or do not fit into 64 bits.
    pub fn size_bytes(&self, n: u64) -> Option<u64> {
        if n.is_multiple_of(self.n_block) { (n / self.n_block).checked_mul(self.block_bytes) } else { None }
    }
}

/// One tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// 1 to 63 printable bytes, unique in the file
    pub name: String,
    /// elements along each dimension, the contiguous one first; 1 to 4 of them, each at least 1
    pub dims: Vec<u64>,
    /// how the elements are stored
    pub tensor_type: TensorType,
    /// bytes from the start of the data section
    pub offset: u64,
    /// bytes without padding
    pub size_bytes: u64,
}

impl Tensor {
    /// The number of elements.
    pub fn n_elements(&self) -> u64 {
        self.dims.iter().fold(1, |product: u64, n| product.saturating_mul(*n))
    }
}

/// All tensors of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TypeTotals {
    /// ggml's name of the type
    pub name: &'static str,
    /// how many tensors
    pub count: u64,
    /// their bytes, without padding
    pub bytes: u64,
}

const fn t(code: u32, name: &'static str, n_block: u64, block_bytes: u64) -> TensorType {
    TensorType { code, name, n_block, block_bytes }
}

/// ggml.h and ggml-common.h of llama-cpp-sys-2 0.1.161. Codes 4, 5, 31-33 and 36-38 were withdrawn.
const TYPES: &[TensorType] = &[
    t(0, "f32", 1, 4),
    t(1, "f16", 1, 2),
    t(2, "q4_0", 32, 18),
    t(3, "q4_1", 32, 20),
    t(6, "q5_0", 32, 22),
    t(7, "q5_1", 32, 24),
    t(8, "q8_0", 32, 34),
    t(9, "q8_1", 32, 36),
    t(10, "q2_K", 256, 84),
    t(11, "q3_K", 256, 110),
    t(12, "q4_K", 256, 144),
    t(13, "q5_K", 256, 176),
    t(14, "q6_K", 256, 210),
    t(15, "q8_K", 256, 292),
    t(16, "iq2_xxs", 256, 66),
    t(17, "iq2_xs", 256, 74),
    t(18, "iq3_xxs", 256, 98),
    t(19, "iq1_s", 256, 50),
    t(20, "iq4_nl", 32, 18),
    t(21, "iq3_s", 256, 110),
    t(22, "iq2_s", 256, 82),
    t(23, "iq4_xs", 256, 136),
    t(24, "i8", 1, 1),
    t(25, "i16", 1, 2),
    t(26, "i32", 1, 4),
    t(27, "i64", 1, 8),
    t(28, "f64", 1, 8),
    t(29, "iq1_m", 256, 56),
    t(30, "bf16", 1, 2),
    t(34, "tq1_0", 256, 54),
    t(35, "tq2_0", 256, 66),
    t(39, "mxfp4", 32, 17),
    t(40, "nvfp4", 64, 36),
    t(41, "q1_0", 128, 18),
    t(42, "q2_0", 64, 18),
];
