//! The Rust side of `shim/hook.cpp`: installs the kernels, and implements the functions ggml calls through the hook.

use std::sync::OnceLock;

use llama_cpp_sys_2::ggml_backend_buffer_type_t;

use crate::attention::{self, Softmax};
use crate::audit;
use crate::isa::Isa;
use crate::pack::pack;
use crate::pages;
use crate::product::{Product, Team};
use crate::tensor::Tensor;
use crate::weights::WeightType;

/// Set once, before the first model is loaded: packed weights fit only one instruction set.
static ISA: OnceLock<Isa> = OnceLock::new();

/// The result of [`install`].
static INSTALLED: OnceLock<Result<Isa, Misfit>> = OnceLock::new();

unsafe extern "C" {
    /// Puts the buffer type in front of ggml's own. Returns 0 if the structures do not match the headers.
    fn chaski_kernels_register(attention: i32) -> i32;
    fn chaski_kernels_unregister();
    /// Only static memory.
    safe fn chaski_kernels_buffer_type() -> ggml_backend_buffer_type_t;
    /// The self-tests return 0 if ggml computes a wrong result with the hook.
    fn chaski_kernels_test_product(ty: i32, threads: i32) -> i32;
    fn chaski_kernels_test_experts(threads: i32) -> i32;
    fn chaski_kernels_test_attention(threads: i32) -> i32;
}

/// Why weights stay with ggml's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// There is no kernel for the type.
    Type,
    /// The columns are not a whole number of blocks.
    Columns,
    /// The rows are not a whole number of tiles.
    Rows,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Type => "no kernel for this type",
            Self::Columns => "columns are not a multiple of the block length",
            Self::Rows => "rows are not a multiple of the tile height",
        })
    }
}

/// Whether the kernels of `isa` take weights of ggml's type `code` with `rows` rows of `columns`.
///
/// # Errors
///
/// Why they do not.
pub fn takes(isa: Isa, code: i32, columns: usize, rows: usize) -> Result<WeightType, Refusal> {
    let ty = WeightType::from_ggml(code).ok_or(Refusal::Type)?;
    if columns == 0 || !columns.is_multiple_of(ty.block_columns()) {
        return Err(Refusal::Columns);
    }
    if rows == 0 || !rows.is_multiple_of(isa.tile_rows()) {
        return Err(Refusal::Rows);
    }
    Ok(ty)
}

/// Why the kernels could not be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The structures of this llama.cpp differ from its headers.
    Structures,
    /// A product with this weight type was wrong.
    Product(WeightType),
    /// A product in a mixture of experts was wrong.
    Experts,
    /// Attention was wrong.
    Attention,
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Structures => f.write_str("they do not fit this version of llama.cpp"),
            Self::Product(ty) => write!(f, "their self-test failed for {} weights", ty.name()),
            Self::Experts => f.write_str("their self-test failed for a mixture of experts"),
            Self::Attention => f.write_str("their self-test failed for attention"),
        }
    }
}

/// Runs the self-test. Returns the first wrong operation, if any.
///
/// # Safety
///
/// The hook must be registered, and no model loaded.
pub(crate) unsafe fn misfit(threads: i32) -> Option<Misfit> {
    unsafe {
        let product = WeightType::ALL.into_iter().find(|ty| chaski_kernels_test_product(*ty as i32, threads) == 0);
        match product {
            Some(ty) => Some(Misfit::Product(ty)),
            None if chaski_kernels_test_experts(threads) == 0 => Some(Misfit::Experts),
            None => (chaski_kernels_test_attention(threads) == 0).then_some(Misfit::Attention),
        }
    }
}

/// Tests the kernels, then uses them in front of ggml's for every model loaded from now on. Call it before the first
/// model is loaded; further calls return the first result.
///
/// # Errors
///
/// If a test fails. ggml's own kernels are used then.
///
/// # Panics
///
/// If the CPU lacks `isa`.
pub fn install(isa: Isa) -> Result<Isa, Misfit> {
    assert!(isa.is_supported(), "this CPU has no {isa}");
    *INSTALLED.get_or_init(|| {
        let isa = *ISA.get_or_init(|| isa);
        // SAFETY: registering changes ggml's list of buffer types, which nothing reads before a model is loaded. The
        // tests compute graphs of their own.
        unsafe {
            if chaski_kernels_register(1) == 0 {
                return Err(Misfit::Structures);
            }
            // Test on one thread. OpenMP keeps a team for each thread that ever started one. With more team threads
            // than CPUs, all teams wait by sleeping instead of spinning, which makes a small model a quarter slower.
            let misfit = misfit(1);
            // Discard what the audit recorded about the tests' graphs.
            let _ = audit::take();
            misfit.map_or(Ok(isa), |misfit| {
                chaski_kernels_unregister();
                Err(misfit)
            })
        }
    })
}

/// ggml's type of buffers whose weights the kernels multiply, for graphs that are not a model's. Give each weight whole
/// with `ggml_backend_tensor_set`, and only those that [`takes`] accepts. `None` unless [`install`] succeeded.
#[must_use]
pub fn buffer_type() -> Option<ggml_backend_buffer_type_t> {
    INSTALLED.get()?.is_ok().then(|| chaski_kernels_buffer_type())
}

fn isa() -> Isa {
    *ISA.get().expect("the hook was registered by `install`")
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_takes(code: i32, columns: i64, rows: i64) -> i32 {
    i32::from(columns > 0 && rows > 0 && takes(isa(), code, columns as usize, rows as usize).is_ok())
}

/// `size_of::<Tensor>()`, compared with the C++ side's.
#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_tensor_bytes() -> usize {
    size_of::<Tensor>()
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_product_work(w: &Tensor, x: &Tensor, ids: Option<&Tensor>, out: &Tensor) -> usize {
    Product { w, x, ids, out }.work_size()
}

// The functions below compute. The C++ side passes on ggml's arguments. `takes` and its siblings checked types and
// shapes, `install` the instruction set.

#[unsafe(no_mangle)]
unsafe extern "C" fn chaski_kernels_product(
    w: &Tensor,
    x: &Tensor,
    ids: Option<&Tensor>,
    out: &Tensor,
    team: &Team,
    work: *mut u8,
) {
    // SAFETY: see above.
    unsafe { Product { w, x, ids, out }.run(isa(), *team, work) }
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_takes_keys(k: &Tensor, q: &Tensor) -> i32 {
    i32::from(attention::takes_keys(k, q))
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_takes_values(v: &Tensor, p: &Tensor) -> i32 {
    i32::from(attention::takes_values(v, p))
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_takes_softmax(x: &Tensor, mask: Option<&Tensor>) -> i32 {
    i32::from(attention::takes_softmax(x, mask))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn chaski_kernels_keys(k: &Tensor, q: &Tensor, out: &Tensor, team: &Team) {
    // SAFETY: see above.
    unsafe { attention::run_keys(isa(), k, q, out, *team) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn chaski_kernels_softmax(
    x: &Tensor,
    mask: Option<&Tensor>,
    sinks: Option<&Tensor>,
    scale: f32,
    max_bias: f32,
    out: &Tensor,
    team: &Team,
) {
    let softmax = Softmax { x, mask, sinks, scale, max_bias, out };
    // SAFETY: see above.
    unsafe { attention::run_softmax(isa(), &softmax, *team) }
}

#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_values_work(v: &Tensor, p: &Tensor, threads: i32) -> usize {
    attention::values_work_size(v, p, threads as usize)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn chaski_kernels_values(v: &Tensor, p: &Tensor, out: &Tensor, team: &Team, work: *mut u8) {
    // SAFETY: see above.
    unsafe { attention::run_values(isa(), v, p, out, *team, work) }
}

/// Packs `rows` rows of `columns` weights, on several threads if they are large enough.
#[unsafe(no_mangle)]
unsafe extern "C" fn chaski_kernels_pack(code: i32, columns: i64, rows: i64, from: *const u8, to: *mut u8) {
    const WORTH_A_THREAD: usize = 1 << 20;
    let ty = WeightType::from_ggml(code).expect("the hook takes known types only");
    let (columns, isa) = (columns as usize, isa());
    let bytes = rows as usize * ty.row_bytes(columns);
    // SAFETY: ggml passes a whole tensor and a buffer of the same size.
    let (from, to) = unsafe { (std::slice::from_raw_parts(from, bytes), std::slice::from_raw_parts_mut(to, bytes)) };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let n = cpus.min(bytes / WORTH_A_THREAD).max(1);
    let part = (rows as usize / isa.tile_rows()).div_ceil(n) * isa.tile_rows() * ty.row_bytes(columns);
    std::thread::scope(|threads| {
        let mut parts = from.chunks(part).zip(to.chunks_mut(part));
        let own = parts.next();
        for (from, to) in parts {
            threads.spawn(move || pack(ty, isa, columns, from, to));
        }
        if let Some((from, to)) = own {
            pack(ty, isa, columns, from, to);
        }
    });
    pages::release(from);
}
