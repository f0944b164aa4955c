//! Makes a file of another type from a model: for measuring kernels of types that no file at hand has.
//!
//! usage: requantize IN.gguf OUT.gguf FTYPE       FTYPE: a number of llama.cpp's `llama_ftype`: 2 q4_0, 7 q8_0, 8 q5_0, 10 q2_K, 12 q3_K_M,
//!                                                14 q4_K_S, 17 q5_K_M, 18 q6_K, 1 f16, 32 bf16, 0 f32, 25 iq4_nl, 30 iq4_xs, 38 mxfp4_moe
use std::ffi::CString;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, ftype] = arguments.as_slice() else { panic!("usage: requantize IN.gguf OUT.gguf FTYPE") };
    let (from, to) = (CString::new(from.as_str()).unwrap(), CString::new(to.as_str()).unwrap());
    // SAFETY: the two names are NUL-terminated, and the parameters are llama.cpp's own with a few fields set.
    let failed = unsafe {
        let mut params = llama_cpp_sys_2::llama_model_quantize_default_params();
        params.ftype = ftype.parse().expect("a number");
        params.allow_requantize = true;
        llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &params)
    };
    assert_eq!(failed, 0, "llama.cpp could not quantize");
}
