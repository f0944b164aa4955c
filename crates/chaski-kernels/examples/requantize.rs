//! Requantizes a model to a single matrix type, to measure kernels of types for which no file is at hand.
//!
//! usage: requantize IN.gguf OUT.gguf TYPE        TYPE as in ggml: q4_0, q5_K, iq4_xs, bf16, ...
//!
//! Types with blocks of 256 columns need matrices of such widths; llama.cpp chooses another type for the others.
use std::ffi::{CString, c_char};

use chaski_kernels::WeightType;

/// llama.cpp's file type (`llama_ftype`) for matrices of this type.
fn file_type(ty: WeightType) -> u32 {
    match ty {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q4_0 => 2,
        WeightType::Q4_1 => 3,
        WeightType::Q8_0 => 7,
        WeightType::Q5_0 => 8,
        WeightType::Q5_1 => 9,
        WeightType::Q2K => 10,
        WeightType::Q3K => 11,
        WeightType::Q4K => 14,
        WeightType::Q5K => 16,
        WeightType::Q6K => 18,
        WeightType::Iq4Nl => 25,
        WeightType::Iq4Xs => 30,
        WeightType::Bf16 => 32,
        WeightType::Mxfp4 => 38,
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, name] = arguments.as_slice() else { panic!("usage: requantize IN.gguf OUT.gguf TYPE") };
    let ty = WeightType::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name)).expect("a type of ggml");
    let (from, to) = (CString::new(from.as_str()).unwrap(), CString::new(to.as_str()).unwrap());
    // SAFETY: both names are NUL-terminated, and the parameters are llama.cpp's defaults with a few fields set.
    let failed = unsafe {
        llama_cpp_sys_2::llama_log_set(Some(quiet), std::ptr::null_mut());
        let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
        params.ftype = file_type(ty);
        params.allow_requantize = true;
        // The same type for all matrices, no mixture.
        params.pure_ = true;
        llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    assert_eq!(failed, 0, "llama.cpp could not quantize");
}

unsafe extern "C" fn quiet(_: llama_cpp_sys_2::ggml_log_level, _: *const c_char, _: *mut std::ffi::c_void) {}
