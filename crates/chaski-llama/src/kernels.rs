//! Selects the CPU kernels for matrix products and attention: those of the crate `chaski-kernels`, or ggml's.
//!
//! The choice is made once per process, before the first model is loaded, because weights are packed for one kind.

use std::sync::OnceLock;

use llama_cpp_sys_2::ggml_backend_buffer_type_t;

/// Environment variable that selects the kernels: an instruction set, or `ggml`.
pub const VARIABLE: &str = "CHASKI_KERNELS";

/// Why the selected kernels cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// The name is unknown.
    #[error("{VARIABLE}={0}: expected avx2, avxvnni, avx512 or ggml")]
    Unknown(String),
    /// This CPU or this build does not support them.
    #[error("{VARIABLE}={0}: {1} cannot run these kernels")]
    Unsupported(String, &'static str),
    /// They failed their self-test with this llama.cpp, so ggml's are in use.
    #[error("chaski's own kernels are off: {0}")]
    Misfit(String),
}

/// The instruction set of our kernels in use, or `None` for ggml's. The first call installs ours in front of ggml's.
///
/// # Errors
/// If `CHASKI_KERNELS` cannot be satisfied, or the kernels fail their self-test. ggml's kernels are used then.
pub fn in_use() -> Result<Option<&'static str>, ChoiceError> {
    static IN_USE: OnceLock<Result<Option<&'static str>, ChoiceError>> = OnceLock::new();
    let wanted =
        || std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(|name| name.to_string_lossy().into_owned());
    IN_USE.get_or_init(|| ours::install(wanted())).clone()
}

/// Whether our kernels support a matrix of ggml type `code`, or the reason why not; `None` if ggml's are in use.
pub fn takes(code: u32, columns: u64, rows: u64) -> Option<Result<(), String>> {
    in_use().ok()??;
    ours::takes(code, columns, rows)
}

/// The buffer type in which our kernels multiply a matrix of ggml type `code`; `None` if ggml's do.
pub(crate) fn buffer_type(code: u32, columns: u64, rows: u64) -> Option<ggml_backend_buffer_type_t> {
    if takes(code, columns, rows)?.is_ok() { ours::buffer_type() } else { None }
}

/// Why ggml does not compute a matrix of type `code` exactly, if our kernels do not support it; `None` if ggml is
/// exact, or [`exact_at_any_cost`] makes it so.
#[must_use]
pub fn inexact_left(code: u32, rows: u64) -> Option<String> {
    ours::inexact_left(code, rows)
}

/// Why ggml's kernels are in use if nothing failed.
#[must_use]
pub fn why_ggml() -> String {
    match std::env::var_os(VARIABLE) {
        Some(name) if name == "ggml" => format!("{VARIABLE}=ggml"),
        _ => ours::WHY_NONE.to_owned(),
    }
}

/// Inexact operations of the CPU since the last [`reset_audit`]: their names and descriptions.
#[must_use]
pub fn audit() -> Vec<(&'static str, String)> {
    ours::audit()
}

/// Clears the audit.
pub fn reset_audit() {
    ours::reset_audit();
}

/// Runs `work` without auditing its operations.
pub fn without_audit<T>(work: impl FnOnce() -> T) -> T {
    ours::without_audit(work)
}

/// Computes products exactly even for types without a kernel of ours, at the cost of a slower prefill.
pub fn exact_at_any_cost() {
    ours::exact_at_any_cost();
}

#[cfg(all(feature = "kernels", target_arch = "x86_64"))]
mod ours {
    use chaski_kernels::Isa;

    pub(super) use chaski_kernels::buffer_type;

    use super::ChoiceError;

    pub(super) const WHY_NONE: &str = "this CPU has no AVX2";

    pub(super) fn audit() -> Vec<(&'static str, String)> {
        chaski_kernels::audit().iter().map(|inexact| (inexact.op, inexact.to_string())).collect()
    }

    pub(super) fn reset_audit() {
        chaski_kernels::reset_audit();
    }

    pub(super) fn without_audit<T>(work: impl FnOnce() -> T) -> T {
        chaski_kernels::without_audit(work)
    }

    pub(super) fn exact_at_any_cost() {
        chaski_kernels::exact_at_any_cost(true);
    }

    pub(super) fn inexact_left(code: u32, rows: u64) -> Option<String> {
        let reason = chaski_kernels::inexact_left(code as i32, rows as usize)?;
        Some(reason.to_string())
    }

    pub(super) fn install(wanted: Option<String>) -> Result<Option<&'static str>, ChoiceError> {
        let isa = match wanted.as_deref() {
            Some("ggml") => return Ok(None),
            None => Isa::best(),
            Some(name) => {
                let isa: Isa = name.parse().map_err(|()| ChoiceError::Unknown(name.to_owned()))?;
                let missing = || ChoiceError::Unsupported(name.to_owned(), "this CPU");
                Some(isa).filter(|isa| isa.is_supported()).ok_or_else(missing)?.into()
            }
        };
        let Some(isa) = isa else { return Ok(None) };
        let installed = chaski_kernels::install(isa).map_err(|misfit| ChoiceError::Misfit(misfit.to_string()))?;
        Ok(Some(installed.name()))
    }

    pub(super) fn takes(code: u32, columns: u64, rows: u64) -> Option<Result<(), String>> {
        let isa: Isa = super::in_use().ok()??.parse().ok()?;
        let taken = chaski_kernels::takes(isa, code as i32, columns as usize, rows as usize);
        Some(taken.map(|_| ()).map_err(|refusal| refusal.to_string()))
    }
}

#[cfg(not(all(feature = "kernels", target_arch = "x86_64")))]
mod ours {
    use super::{ChoiceError, ggml_backend_buffer_type_t};

    pub(super) const WHY_NONE: &str = "this build has no others";

    pub(super) fn buffer_type() -> Option<ggml_backend_buffer_type_t> {
        None
    }

    pub(super) fn audit() -> Vec<(&'static str, String)> {
        Vec::new()
    }

    pub(super) fn reset_audit() {}

    pub(super) fn without_audit<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    pub(super) fn exact_at_any_cost() {}

    pub(super) fn inexact_left(_: u32, _: u64) -> Option<String> {
        None
    }

    pub(super) fn install(wanted: Option<String>) -> Result<Option<&'static str>, ChoiceError> {
        match wanted.as_deref() {
            None | Some("ggml") => Ok(None),
            Some(name @ ("avx2" | "avxvnni" | "avx512")) => {
                Err(ChoiceError::Unsupported(name.to_owned(), "this build"))
            }
            Some(name) => Err(ChoiceError::Unknown(name.to_owned())),
        }
    }

    pub(super) fn takes(_: u32, _: u64, _: u64) -> Option<Result<(), String>> {
        None
    }
}
