//! A packed matrix, multiplied on the calling thread, for tests and benchmarks. llama.cpp's products go through
//! [`crate::product`].

use crate::activation::Activation;
use crate::gemm::{self, ROW_BLOCK, Tiles};
use crate::isa::Isa;
use crate::pack::pack;
use crate::weights::WeightType;

/// A weight matrix packed for one instruction set.
#[derive(Debug)]
pub struct Matrix {
    ty: WeightType,
    isa: Isa,
    columns: usize,
    tiles: Vec<u8>,
}

impl Matrix {
    /// Packs `blocks`: rows of `columns` weights as in a GGUF file.
    ///
    /// # Panics
    ///
    /// If the CPU lacks the instruction set, or the rows are not a whole number of tiles.
    pub fn new(ty: WeightType, isa: Isa, columns: usize, blocks: &[u8]) -> Self {
        let mut tiles = vec![0; blocks.len()];
        pack(ty, isa, columns, blocks, &mut tiles);
        Self { ty, isa, columns, tiles }
    }

    /// The number of weight rows.
    pub fn rows(&self) -> usize {
        self.tiles.len() / self.ty.row_bytes(self.columns)
    }

    /// The size of the packed weights in bytes.
    pub fn bytes(&self) -> usize {
        self.tiles.len()
    }

    #[cfg(test)]
    pub(crate) fn tiles(&self) -> &[u8] {
        &self.tiles
    }

    /// Quantizes rows of `columns` floats for [`Self::multiply`]. Empty for float weights.
    ///
    /// # Panics
    ///
    /// If `x` is not a whole number of rows.
    pub fn quantize(&self, x: &[f32]) -> Vec<Activation> {
        assert_eq!(x.len() % self.columns, 0);
        if self.ty.is_float() {
            return Vec::new();
        }
        let kernel = gemm::kernel(self.isa, self.ty);
        let (n, blocks) = (x.len() / self.columns, self.columns / 32);
        let mut acts = vec![Activation::default(); n * blocks];
        for (i, x) in x.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: `new` checked the instruction set.
            acts[i % blocks * n + i / blocks] = unsafe { (kernel.quantize)(x) };
        }
        acts
    }

    /// Multiplies the rows `x` into `out[row * rows() + weight_row]`. `acts` is the result of [`Self::quantize`] for
    /// `x`.
    ///
    /// # Panics
    ///
    /// If the lengths do not match.
    pub fn multiply(&self, x: &[f32], acts: &[Activation], out: &mut [f32]) {
        let n = x.len() / self.columns;
        assert!(x.len() == n * self.columns && out.len() == n * self.rows());
        assert!(self.ty.is_float() || acts.len() == x.len() / 32);
        let kernel = gemm::kernel(self.isa, self.ty);
        let rows = self.rows();
        for from in (0..n).step_by(ROW_BLOCK) {
            let to = n.min(from + ROW_BLOCK);
            let floats: Vec<_> = (from..to).map(|m| x[m * self.columns..].as_ptr()).collect();
            let out: Vec<_> = (from..to).map(|m| out[m * rows..].as_mut_ptr()).collect();
            let tiles = Tiles {
                weights: self.tiles.as_ptr(),
                n_tiles: rows / self.isa.tile_rows(),
                columns: self.columns,
                acts: acts.as_ptr().wrapping_add(from),
                acts_stride: n,
                floats: &floats,
                out: &out,
            };
            // SAFETY: `new` checked the instruction set, and the lengths were checked above.
            unsafe { (kernel.run)(&tiles) };
        }
    }
}
