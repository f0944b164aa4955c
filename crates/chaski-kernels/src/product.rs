//! Computes ggml's `MUL_MAT` and `MUL_MAT_ID` on all threads of a graph, with strides and a work buffer.

use std::ffi::c_void;
use std::ops::Range;

use crate::activation::Activation;
use crate::gemm::{self, ROW_BLOCK, Tiles};
use crate::isa::Isa;
use crate::tensor::Tensor;
use crate::weights::WeightType;

/// One product: `out = w · x`. With `ids`, each row uses the weights of its expert.
///
/// Row `(i, j)` of the activations has index `i` in their second and `j` in their third dimension.
pub(crate) struct Product<'a> {
    pub w: &'a Tensor,
    pub x: &'a Tensor,
    pub ids: Option<&'a Tensor>,
    pub out: &'a Tensor,
}

/// The threads that compute a graph, and the index of the current one.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Team {
    pub index: usize,
    pub size: usize,
    /// ggml's thread pool.
    pub pool: *mut c_void,
}

unsafe extern "C" {
    fn ggml_barrier(pool: *mut c_void);
    fn ggml_threadpool_chunk_set(pool: *mut c_void, value: i32);
    fn ggml_threadpool_chunk_add(pool: *mut c_void, value: i32) -> i32;
}

impl Team {
    /// Waits for all threads of the team.
    unsafe fn wait(&self) {
        unsafe { ggml_barrier(self.pool) }
    }

    /// This thread's share of `n` pieces of work.
    pub(crate) fn share(&self, n: usize) -> Range<usize> {
        n * self.index / self.size..n * (self.index + 1) / self.size
    }

    /// Calls `work` with each number below `n` once, on whichever thread is free. Before, all threads must have called
    /// `start_counting` and then `wait`.
    unsafe fn divide(&self, n: usize, mut work: impl FnMut(usize)) {
        let mut next = self.index;
        while next < n {
            work(next);
            next = unsafe { ggml_threadpool_chunk_add(self.pool, 1) } as usize;
        }
    }

    unsafe fn start_counting(&self) {
        if self.index == 0 {
            unsafe { ggml_threadpool_chunk_set(self.pool, self.size as i32) }
        }
    }
}

/// Rows that use the same weights, as positions in [`Rows`].
struct Panel {
    weights: *const u8,
    rows: Range<usize>,
}

/// The rows of a product in the order they are computed, grouped into panels.
struct Rows<'a> {
    panels: &'a [Panel],
    /// The row at each position; `None` if positions are row numbers.
    order: Option<&'a [u32]>,
}

impl Rows<'_> {
    fn row(&self, position: usize) -> usize {
        self.order.map_or(position, |order| order[position] as usize)
    }

    fn panel(&self, position: usize) -> &Panel {
        &self.panels[self.panels.partition_point(|p| p.rows.end <= position)]
    }
}

/// Most bytes of weights in one piece of work, so that they stay in the L2 cache while blocks of rows pass.
const CHUNK_BYTES: usize = 192 << 10;

impl Product<'_> {
    fn ty(&self) -> WeightType {
        WeightType::from_ggml(self.w.ty).expect("the hook takes known types only")
    }

    fn columns(&self) -> usize {
        self.w.ne[0] as usize
    }

    fn n_experts(&self) -> usize {
        self.w.ne[2] as usize
    }

    fn n_rows(&self) -> usize {
        (self.out.ne[1] * self.out.ne[2]) as usize
    }

    /// Blocks of activations per row; 0 for float weights.
    fn blocks(&self) -> usize {
        if self.ty().is_float() { 0 } else { self.columns() / 32 }
    }

    fn place(&self, row: usize) -> (i64, i64) {
        (row as i64 % self.out.ne[1], row as i64 / self.out.ne[1])
    }

    fn input(&self, row: usize) -> *const f32 {
        let (i, j) = self.place(row);
        // If x has one row per token, all its experts read that row.
        self.x.head(j, 0).wrapping_offset((i % self.x.ne[1] * self.x.nb[1]) as isize).cast()
    }

    fn output(&self, row: usize) -> *mut f32 {
        let (i, j) = self.place(row);
        self.out.head(j, 0).wrapping_offset((i * self.out.nb[1]) as isize).cast()
    }

    unsafe fn expert(&self, ids: &Tensor, row: usize) -> usize {
        let (i, j) = self.place(row);
        let id = unsafe { ids.data.offset((i * ids.nb[0] + j * ids.nb[1]) as isize).cast::<i32>().read() };
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        assert!(id < self.n_experts(), "expert {id} of {}", self.n_experts());
        id
    }

    /// Bytes of work buffer that [`Self::run`] needs.
    pub(crate) fn work_size(&self) -> usize {
        size_of::<Activation>() * (self.blocks() * self.n_rows() + 1)
    }

    /// Computes this thread's part.
    ///
    /// # Safety
    ///
    /// All pointers must be valid for what the fields say. `work` points to `work_size()` bytes shared by all threads,
    /// and all threads of the team must call this. The CPU must have the instruction set.
    pub(crate) unsafe fn run(&self, isa: Isa, team: Team, work: *mut u8) {
        let acts = work.wrapping_add(work.align_offset(align_of::<Activation>())).cast::<Activation>();
        let mut order = None;
        let panels = match self.ids {
            None => vec![Panel { weights: self.w.data, rows: 0..self.n_rows() }],
            Some(ids) => {
                // Every thread sorts: that takes less time than waiting for one of them.
                let (starts, sorted) = unsafe { self.sort_by_expert(ids) };
                order = Some(sorted);
                let expert_bytes = self.w.ne[1] as usize * self.ty().row_bytes(self.columns());
                let panel = |e: usize| Panel {
                    weights: self.w.data.wrapping_add(e * expert_bytes),
                    rows: starts[e]..starts[e + 1],
                };
                (0..self.n_experts()).map(panel).filter(|panel| !panel.rows.is_empty()).collect()
            }
        };
        let rows = Rows { panels: &panels, order: order.as_deref() };
        unsafe {
            team.start_counting();
            self.quantize(isa, team, &rows, acts);
            team.wait();
            self.multiply(isa, team, &rows, acts);
        }
    }

    /// Quantizes this thread's share of the activations, in the layout of the panels.
    unsafe fn quantize(&self, isa: Isa, team: Team, rows: &Rows<'_>, acts: *mut Activation) {
        let (kernel, blocks) = (gemm::kernel(isa, self.ty()), self.blocks());
        let share = team.share(blocks * self.n_rows());
        let mut at = share.start;
        while at < share.end {
            let (position, first) = (at / blocks, at % blocks);
            let last = blocks.min(first + share.end - at);
            let panel = rows.panel(position);
            let x = self.input(rows.row(position));
            let out = acts.wrapping_add(panel.rows.start * blocks + position - panel.rows.start);
            for block in first..last {
                unsafe {
                    let x = &*x.add(block * 32).cast::<[f32; 32]>();
                    out.add(block * panel.rows.len()).write((kernel.quantize)(x));
                }
            }
            at += last - first;
        }
    }

    /// Multiplies tiles on free threads. Pieces do not depend on the number of rows, and no sum is split between them.
    unsafe fn multiply(&self, isa: Isa, team: Team, rows: &Rows<'_>, acts: *const Activation) {
        let (kernel, blocks) = (gemm::kernel(isa, self.ty()), self.blocks());
        let columns = self.columns();
        let tile_bytes = isa.tile_rows() * self.ty().row_bytes(columns);
        let n_tiles = self.w.ne[1] as usize / isa.tile_rows();
        // About eight pieces per thread. With many experts, whole panels are pieces enough. Few pieces are better: the
        // prefetch at the end of one is wasted.
        let pieces = (8 * team.size).div_ceil(rows.panels.len().max(1));
        let chunk = (n_tiles / pieces).min(CHUNK_BYTES / tile_bytes).max(1);
        let chunks = n_tiles.div_ceil(chunk);
        let work = |i: usize| {
            let (panel, first) = (&rows.panels[i / chunks], i % chunks * chunk);
            let n = panel.rows.len();
            // Split the rows into the fewest blocks, of nearly equal length.
            let n_blocks = n.div_ceil(ROW_BLOCK).max(1);
            for b in 0..n_blocks {
                let (from, to) = (n * b / n_blocks, n * (b + 1) / n_blocks);
                let mut floats = [std::ptr::null(); ROW_BLOCK];
                let mut out = [std::ptr::null_mut(); ROW_BLOCK];
                for m in from..to {
                    let row = rows.row(panel.rows.start + m);
                    floats[m - from] = self.input(row);
                    out[m - from] = self.output(row).wrapping_add(first * isa.tile_rows());
                }
                let tiles = Tiles {
                    weights: panel.weights.wrapping_add(first * tile_bytes),
                    n_tiles: chunk.min(n_tiles - first),
                    columns,
                    acts: acts.wrapping_add(panel.rows.start * blocks + from),
                    acts_stride: n,
                    floats: &floats[..to - from],
                    out: &out[..to - from],
                };
                // SAFETY: guaranteed by the caller of `run`.
                unsafe { (kernel.run)(&tiles) }
            }
        };
        unsafe { team.divide(chunks * rows.panels.len(), work) }
    }

    /// Sorts rows by expert (counting sort). Returns the start of each expert's rows, plus the end of the last, and the
    /// rows.
    unsafe fn sort_by_expert(&self, ids: &Tensor) -> (Vec<usize>, Vec<u32>) {
        let n_experts = self.n_experts();
        let mut starts = vec![0; n_experts + 1];
        let mut order = vec![0; self.n_rows()];
        for row in 0..order.len() {
            starts[unsafe { self.expert(ids, row) } + 1] += 1;
        }
        for e in 0..n_experts {
            starts[e + 1] += starts[e];
        }
        // Filling moves each start to the end of its expert, which is the start of the next.
        for row in 0..order.len() {
            let start = &mut starts[unsafe { self.expert(ids, row) }];
            order[*start] = row as u32;
            *start += 1;
        }
        starts.copy_within(0..n_experts, 1);
        starts[0] = 0;
        (starts, order)
    }
}
