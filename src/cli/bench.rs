//! `chaski bench`: drafters against plain decoding on real text.
use crate::cli::args::BenchArgs;
use crate::cli::failure::{ExitCode, Failure};

/// x
pub fn bench(_args: &BenchArgs) -> Result<ExitCode, Failure> { Ok(ExitCode::Success) }
