//! Which kernels compute matrix products and attention on a CPU: those of the crate `chaski-kernels`, or ggml's own.
//!
//! The choice is made once for the process, before the first model is loaded, since weights are packed for one kind.

use std::sync::OnceLock;

/// The variable that chooses: an instruction set, or `ggml`.
pub const VARIABLE: &str = "CHASKI_KERNELS";

/// Why the choice cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// No such kernels.
    #[error("{VARIABLE}={0}: expected avx2, avxvnni, avx512 or ggml")]
    Unknown(String),
    /// This CPU, or this build, has none.
    #[error("{VARIABLE}={0}: {1} cannot run these kernels")]
    Unsupported(String, &'static str),
    /// They do not fit this llama.cpp; ggml's are used.
    #[error("chaski's own kernels are off: {0}")]
    Misfit(String),
}

/// The kernels in use: the name of an instruction set, or none for ggml's own. The first call puts them in front of ggml's.
///
/// # Errors
/// If `CHASKI_KERNELS` cannot be followed, or the kernels fail their self-test. ggml's kernels are used then.
pub fn in_use() -> Result<Option<&'static str>, ChoiceError> {
    static IN_USE: OnceLock<Result<Option<&'static str>, ChoiceError>> = OnceLock::new();
    let wanted =
        || std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(|name| name.to_string_lossy().into_owned());
    IN_USE.get_or_init(|| ours::install(wanted())).clone()
}

/// Whether the kernels in use take a matrix of ggml's type `code`, or why not; none where ggml's are used.
pub fn takes(code: u32, columns: u64, rows: u64) -> Option<Result<(), String>> {
    in_use().ok()??;
    ours::takes(code, columns, rows)
}

/// Why a matrix of ggml's type `code` that the kernels do not take is not exact either; none where ggml computes it exactly, or where exactness
/// was demanded and can be had.
#[must_use]
pub fn inexact_left(code: u32, rows: u64) -> Option<String> {
    ours::inexact_left(code, rows)
}

/// Why ggml's kernels are in use, where nothing failed.
#[must_use]
pub fn why_ggml() -> String {
    match std::env::var_os(VARIABLE) {
        Some(name) if name == "ggml" => format!("{VARIABLE}=ggml"),
        _ => ours::WHY_NONE.to_owned(),
    }
}

/// What was not exact of all that the CPU computed since the last [`reset_audit`]: operations, by their names and in words.
#[must_use]
pub fn audit() -> Vec<(&'static str, String)> {
    ours::audit()
}

/// Forgets what was not exact.
pub fn reset_audit() {
    ours::reset_audit();
}

/// Has products be exact that otherwise would not be, to be faster.
pub fn exact_at_any_cost() {
    ours::exact_at_any_cost();
}

#[cfg(all(feature = "kernels", target_arch = "x86_64"))]
mod ours {
    use chaski_kernels::Isa;

    use super::ChoiceError;

    pub(super) const WHY_NONE: &str = "this CPU has no AVX2";

    pub(super) fn audit() -> Vec<(&'static str, String)> {
        chaski_kernels::audit().iter().map(|inexact| (inexact.op, inexact.to_string())).collect()
    }

    pub(super) fn reset_audit() {
        chaski_kernels::reset_audit();
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
    use super::ChoiceError;

    pub(super) const WHY_NONE: &str = "this build has no others";

    pub(super) fn audit() -> Vec<(&'static str, String)> {
        Vec::new()
    }

    pub(super) fn reset_audit() {}

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
