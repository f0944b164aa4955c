//! Random matrices in Q4_K, for models that are measured and not read.

use super::gguf_writer::{GgufWriter, TensorSpec};
use super::tiny::Rng;

const Q4_K: u32 = 12;

/// Adds a matrix `NAME.weight`, its weights uniform around zero, with the variance that keeps the size of what it is multiplied with. The
/// first dimension is a multiple of 256.
pub fn matrix(w: &mut GgufWriter, rng: &mut Rng, name: &str, dims: &[usize]) {
    // Codes are 0 to 15: mean 7.5, deviation 4.6. Every scale and every minimum of a block is 32, in `d` and `dmin`.
    let d = 1.0 / (dims[0] as f32).sqrt() / 4.6 / 32.0;
    let mut block = [0; 144];
    block[..2].copy_from_slice(&half(d).to_le_bytes());
    block[2..4].copy_from_slice(&half(7.5 * d).to_le_bytes());
    block[4..12].fill(0xa0);
    let n_blocks = dims.iter().product::<usize>() / 256;
    let mut data = Vec::with_capacity(n_blocks * block.len());
    for _ in 0..n_blocks {
        block[16..].as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| *bytes = rng.next().to_le_bytes());
        data.extend(block);
    }
    w.tensors.push(TensorSpec {
        name: format!("{name}.weight").into_bytes(),
        dims: dims.iter().map(|n| *n as u64).collect(),
        type_code: Q4_K,
        data,
        offset: None,
    });
}

/// A half-precision float, for numbers from 2^-14 to 2^16; what does not fit is cut off.
fn half(x: f32) -> u16 {
    ((x.to_bits() - (112 << 23)) >> 13) as u16
}
