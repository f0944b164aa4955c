//! Reports which operations of ggml's graphs were not exact. While a graph is planned, `shim/audit.cpp` checks each
//! operation and records here those whose rows depend on more than their own input.

use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Why an operation is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i32)]
pub enum Reason {
    /// `shim/audit.cpp` does not list the operation.
    Unknown = 0,
    /// ggml's flash attention.
    Flash = 1,
    /// ggml's softmax over the cells of the cache.
    Softmax = 2,
    /// ggml's sum over attention's values.
    Values = 3,
    /// ggml has another kernel for this type from eight rows on.
    Wide = 4,
    /// ggml repacked the weights for groups of rows.
    Repacked = 5,
    /// A product of two activations, or one ggml computes differently for several rows.
    Product = 6,
    /// A sum over the positions of a batch.
    Positions = 7,
    /// Values in the cache too large for exact sums.
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
    /// ggml's name of the operation.
    pub op: &'static str,
    /// ggml's name for the type of its first tensor.
    pub tensor_type: &'static str,
    /// Why it is not exact.
    pub reason: Reason,
}

impl std::fmt::Display for Inexact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.op, self.tensor_type, self.reason)
    }
}

/// Bound on the record. There are fewer combinations of operation and type.
const MAX_NOTED: usize = 64;

/// Whether operations are recorded.
static IS_ON: AtomicBool = AtomicBool::new(true);

static NOTED: Mutex<Vec<Inexact>> = Mutex::new(Vec::new());

/// Set by the kernels, on any thread.
static IS_LARGE: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn chaski_kernels_exact_at_any_cost(on: i32);
    fn chaski_kernels_inexact_left(ty: i32, rows: i64) -> i32;
}

/// The operations that were not exact, sorted by name, in all graphs that ggml's CPU back end computed in this process
/// since the last [`reset_audit`]. Does not see graphs of other back ends, nor any before [`install`](crate::install).
#[must_use]
pub fn audit() -> Vec<Inexact> {
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if IS_LARGE.load(Ordering::Relaxed) {
        noted.push(Inexact { op: "MUL_MAT", tensor_type: "cache", reason: Reason::Large });
    }
    noted.sort_unstable();
    noted
}

/// Clears the record.
pub fn reset_audit() {
    let _ = take();
}

/// Runs `work` without recording its operations, nor those that other threads start meanwhile.
pub fn without_audit<T>(work: impl FnOnce() -> T) -> T {
    struct TurnOn;

    impl Drop for TurnOn {
        fn drop(&mut self) {
            IS_ON.store(true, Ordering::Relaxed);
        }
    }

    IS_ON.store(false, Ordering::Relaxed);
    // On a panic too.
    let _turn_on = TurnOn;
    work()
}

/// Returns the record and clears it.
pub(crate) fn take() -> Vec<Inexact> {
    let noted = audit();
    NOTED.lock().unwrap_or_else(PoisonError::into_inner).clear();
    IS_LARGE.store(false, Ordering::Relaxed);
    noted
}

/// Whether to make products of types without a kernel here (IQ2_XS, IQ3_S, ...) exact, by computing each number as one
/// dot product. Prompts are then read more slowly with such types; other types are not affected. Applies to graphs
/// computed from now on.
pub fn exact_at_any_cost(on: bool) {
    // SAFETY: only stores a flag.
    unsafe { chaski_kernels_exact_at_any_cost(i32::from(on)) }
}

/// Why ggml's products of weights of type `code` with `rows` rows, which [`takes`](crate::takes) refuses, are not
/// exact; `None` if they are.
#[must_use]
pub fn inexact_left(code: i32, rows: usize) -> Option<Reason> {
    // SAFETY: only reads its arguments and a flag.
    let reason = unsafe { chaski_kernels_inexact_left(code, rows as i64) };
    Reason::ALL.into_iter().find(|r| *r as i32 == reason)
}

/// Records that values are too large for exact sums.
pub(crate) fn note_large() {
    IS_LARGE.fetch_or(IS_ON.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Called by the hook for each operation that is not exact, while a graph is planned.
#[unsafe(no_mangle)]
extern "C" fn chaski_kernels_note(op: *const c_char, ty: *const c_char, reason: i32) {
    if !IS_ON.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: ggml's names of operations and types are static strings.
    let (op, ty): (&'static CStr, &'static CStr) = unsafe { (CStr::from_ptr(op), CStr::from_ptr(ty)) };
    let reason = Reason::ALL.into_iter().find(|r| *r as i32 == reason).unwrap_or(Reason::Unknown);
    let inexact = Inexact { op: op.to_str().unwrap_or("?"), tensor_type: ty.to_str().unwrap_or("?"), reason };
    let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !noted.contains(&inexact) && noted.len() < MAX_NOTED {
        noted.push(inexact);
    }
}
