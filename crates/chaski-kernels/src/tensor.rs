//! What the kernels see of a ggml tensor.

/// A tensor, as `shim/hook.cpp` copies it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Tensor {
    pub data: *mut u8,
    /// Elements of each dimension, the fastest first.
    pub ne: [i64; 4],
    /// Bytes from one element of a dimension to the next; in the first dimension of quantized types, from block to block.
    pub nb: [i64; 4],
    /// ggml's code of the type.
    pub ty: i32,
}

impl Tensor {
    /// Where index `i` of the third and `j` of the fourth dimension begin.
    pub(crate) fn head(&self, i: i64, j: i64) -> *mut u8 {
        self.data.wrapping_offset((i * self.nb[2] + j * self.nb[3]) as isize)
    }
}
