//! Whether a computation is exact: a row of logits has the same bits whatever else is in its batch, for any number of
//! threads, and wherever its text lies in the cache. Then a text is the same with and without drafts, alone and beside
//! others.
//!
//! These are the results; the crate `chaski-llama` finds them out.

use std::fmt;

/// The variable that chooses the CPU kernels.
pub const KERNELS_VARIABLE: &str = "CHASKI_KERNELS";

/// A reason why contexts are not exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inexact {
    /// ggml's kernels are in use, for this reason.
    Kernels(String),
    /// A GPU computes.
    Gpu,
    /// Flash attention is on.
    FlashAttention,
    /// The value cache is quantized, and llama.cpp supports that only with flash attention.
    QuantizedValues,
    /// The file has matrices of a type that is computed differently for several rows.
    Matrices {
        /// Number of these matrices.
        n_tensors: usize,
        /// Their type.
        tensor_type: String,
        /// Why they are not exact.
        reason: String,
    },
    /// An inexact operation was computed.
    Operation(String),
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inexact::Kernels(why) => write!(f, "ggml's kernels are used: {why}"),
            Inexact::Gpu => f.write_str("a GPU computes, with kernels of its own"),
            Inexact::FlashAttention => f.write_str("flash attention is on"),
            Inexact::QuantizedValues => f.write_str("the value cache is quantized, which needs flash attention"),
            Inexact::Matrices { n_tensors, tensor_type, reason } => {
                write!(f, "{n_tensors} matrices of {tensor_type}: {reason}")
            }
            Inexact::Operation(what) => f.write_str(what),
        }
    }
}

/// Result of a check: exact if there is no reason against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exactness(pub Vec<Inexact>);

impl Exactness {
    /// Whether there are no reasons against it.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons as texts.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.0.iter().map(Inexact::to_string).collect()
    }

    /// A hint for the user: what to change.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        let has = |wanted: fn(&Inexact) -> bool| self.0.iter().any(wanted);
        match () {
            () if has(|r| matches!(r, Inexact::Kernels(why) if why.contains(KERNELS_VARIABLE))) => {
                "unset CHASKI_KERNELS"
            }
            () if has(|r| matches!(r, Inexact::Kernels(_))) => "run without --exact, or on an x86-64 machine with AVX2",
            () if has(|r| matches!(r, Inexact::Gpu)) => "use -ngl 0",
            () if has(|r| matches!(r, Inexact::QuantizedValues)) => "use -ctv f16 -fa off",
            () if has(|r| matches!(r, Inexact::FlashAttention)) => "use -fa off",
            () => "run without --exact; chaski models show lists the matrices without exact kernels",
        }
    }
}

/// `yes`, or `no` and the reasons.
impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_exact() {
            true => f.write_str("yes"),
            false => write!(f, "no: {}", self.reasons().join("; ")),
        }
    }
}
