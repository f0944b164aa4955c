//! Matrix products of quantized weights for few rows, on x86-64, in front of ggml's own.
//!
//! ggml's CPU kernels are made for one row of activations or for many. Verifying a draft is 2 to 16 rows, and there they unpack
//! the weights again for each row or for each group of four. These kernels unpack a tile of weights once for all rows, and what
//! a row of the result is does not depend on the other rows in the batch, to the bit, nor on the instruction set.
//!
//! Read it in this order: `weights` (types and blocks of a file), `format` (the layout of tiles), `pack` (from one to the
//! other), `activation`, `simd` (what is needed of an instruction set), `gemm` (the kernels), `product` (ggml's operations on
//! all threads), `attention`, `hook` (how ggml comes to call them), `audit` (what of a graph is not exact).
//!
//! Only x86-64 has kernels; elsewhere the crate is empty.
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
pub use audit::{Inexact, Reason, audit, exact_at_any_cost, inexact_left, reset_audit};
pub use hook::{Misfit, Refusal, install, takes};
pub use isa::Isa;
pub use matrix::Matrix;
pub use weights::WeightType;

// Links ggml, which the hook calls.
use llama_cpp_sys_2 as _;
