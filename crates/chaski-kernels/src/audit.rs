//! What of the graphs that ggml computed was not exact: `shim/audit.cpp` gives each operation a verdict while its graph is planned, and
//! notes here those that depend on more than their own row.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why an operation is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Reason {
    /// It is not among those that were examined.
    Unknown = 0,
    /// Flash attention of ggml's.
    Flash = 1,
    /// A softmax of ggml's over the cells of a cache.
    Softmax = 2,
    /// Attention's values summed by ggml.
    Values = 3,
    /// A type that ggml computes with another kernel from eight rows on.
    Wide = 4,
    /// Weights that ggml rearranged for groups of rows.
    Repacked = 5,
    /// A product of two results, or one that ggml computes otherwise for several rows.
    Product = 6,
    /// A sum along the positions of a batch.
    Positions = 7,
    /// Values in the cache that are too large for exact sums.
    Large = 8,
}

impl Reason {
    const ALL: [Reason; 9] = [
        Reason::Unknown,
        Reason::Flash,
        Reason::Softmax,
        Reason::Values,
        Reason::Wide,
        Reason::Repacked,
        Reason::Product,
        Reason::Positions,
        Reason::Large,
    ];
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "not known to be exact",
            Self::Flash => "sums over the cells of the cache in an order of its own",
            Self::Softmax | Self::Values => "sums over the cells of the cache in their order",
            Self::Wide => "ggml computes eight and more rows with another kernel",
            Self::Repacked => "ggml computes groups of rows with another kernel",
            Self::Product => "ggml computes several rows with another kernel",
            Self::Positions => "sums over the positions of a batch",
            Self::Large => "values of 65536 and more",
        })
    }
}

/// An operation that was not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inexact {
    /// ggml's name of it.
    pub op: &'static str,
    /// ggml's name of the type of its first tensor.
    pub tensor_type: &'static str,
    /// Why.
    pub reason: Reason,
}

impl std::fmt::Display for Inexact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.op, self.tensor_type, self.reason)
    }
}

/// Kinds of operations times types are fewer; this bounds what is kept.
const MAX_NOTED: usize = 64;

static NOTED: Mutex<Vec<Inexact>> = Mutex::new(Vec::new());

/// Set by the kernels, on any thread.
static IS_LARGE: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn chaski_kernels_exact_at_any_cost(on: i32);
    fn chaski_kernels_inexact_left(ty: i32, rows: i64) -> i32;
}

/// What was not exact of all graphs that ggml's CPU back end computed in this process since the last [`reset_audit`], in the order of their names.
/// Graphs that other back ends computed are not seen, and before [`install`](crate::install) none are.
#[must_use]
pub fn audit() -> Vec<Inexact> {
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if IS_LARGE.load(Ordering::Relaxed) {
        noted.push(Inexact { op: "MUL_MAT", tensor_type: "cache", reason: Reason::Large });
    }
    noted.sort_unstable();
    noted
}

/// Forgets what was noted.
pub fn reset_audit() {
    let _ = take();
}

/// What was noted, which is forgotten.
pub(crate) fn take() -> Vec<Inexact> {
    let noted = audit();
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).clear();
    IS_LARGE.store(false, Ordering::Relaxed);
    noted
}

/// Whether products of types without a kernel of ours (IQ2_XS, IQ3_S, ...) are made exact, by computing each number as one dot product. That
/// makes reading a prompt slower with such types, and changes nothing for others. For graphs that are computed from now on.
pub fn exact_at_any_cost(on: bool) {
    // SAFETY: stores a flag.
    unsafe { chaski_kernels_exact_at_any_cost(i32::from(on)) }
}

/// Why weights of ggml's type `code` with so many rows, which [`takes`](crate::takes) leaves to ggml, are not exact there; none where they are.
#[must_use]
pub fn inexact_left(code: i32, rows: usize) -> Option<Reason> {
    // SAFETY: looks at numbers and at a flag.
    let reason = unsafe { chaski_kernels_inexact_left(code, rows as i64) };
    Reason::ALL.into_iter().find(|r| *r as i32 == reason)
}

/// Notes that values are too large for exact sums.
pub(crate) fn note_large() {
    IS_LARGE.store(true, Ordering::Relaxed);
}

/// Called by the hook while a graph is planned, for each operation that is not exact.
#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_note(op: *const c_char, ty: *const c_char, reason: i32) {
    // SAFETY: ggml's names of operations and types are constants.
    let (op, ty): (&'static CStr, &'static CStr) = unsafe { (CStr::from_ptr(op), CStr::from_ptr(ty)) };
    let reason = Reason::ALL.into_iter().find(|r| *r as i32 == reason).unwrap_or(Reason::Unknown);
    let inexact = Inexact { op: op.to_str().unwrap_or("?"), tensor_type: ty.to_str().unwrap_or("?"), reason };
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !noted.contains(&inexact) && noted.len() < MAX_NOTED {
        noted.push(inexact);
    }
}
