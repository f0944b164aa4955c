//! The fields of a ggml tensor that the kernels use.

/// A tensor, filled in by `shim/hook.cpp`. The layout is shared with its `chaski_tensor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Tensor {
    pub data: *mut u8,
    /// Elements per dimension, the fastest first.
    pub ne: [i64; 4],
    /// Bytes between neighbours in each dimension; in the first dimension of quantized types, between blocks.
    pub nb: [i64; 4],
    /// ggml's type code.
    pub ty: i32,
}

impl Tensor {
    /// The address of index `i` in the third and `j` in the fourth dimension.
    pub(crate) fn head(&self, i: i64, j: i64) -> *mut u8 {
        self.data.wrapping_offset((i * self.nb[2] + j * self.nb[3]) as isize)
    }
}
