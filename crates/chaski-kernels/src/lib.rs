//! Matrix products of quantized weights for few rows on x86-64, hooked in front of ggml's kernels.
//!
//! ggml's CPU kernels are made for one row of activations or for many. Verifying a draft takes 2 to 16 rows, and there
//! they unpack the weights again for each row or for each group of four. These kernels unpack a tile of weights once
//! for all rows. A row of the result has the same bits whatever other rows are in the batch, on every instruction set.
//!
//! Read the modules in this order: `weights` (types and blocks of a file), `format` (layout of tiles), `pack` (blocks
//! to tiles), `activation`, `simd` (operations of an instruction set), `gemm` (the kernels), `product` (ggml's
//! operations on all threads), `attention`, `hook` (how ggml calls them), `audit` (which operations of a graph are not
//! exact).
//!
//! On other architectures the crate is empty.
#![cfg(target_arch = "x86_64")]

mod activation;
mod attention;
mod audit;
mod format;
mod gemm;
mod hook;
mod isa;
mod matrix;
mod pack;
mod pages;
mod product;
mod simd;
mod tensor;
#[cfg(test)]
mod tests;
mod weights;

pub use activation::Activation;
pub use audit::{Inexact, Reason, audit, exact_at_any_cost, inexact_left, reset_audit, without_audit};
pub use hook::{Misfit, Refusal, buffer_type, install, takes};
pub use isa::Isa;
pub use matrix::Matrix;
pub use weights::WeightType;

// Links ggml, whose symbols the hook uses.
use llama_cpp_sys_2 as _;
