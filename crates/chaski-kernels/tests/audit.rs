//! Compares the audit with ggml: what it calls exact must be exact, and the rest must be recorded. Hook and record are
//! global to the process, so a single test runs all steps in turn.

#![cfg(target_arch = "x86_64")]

use std::ffi::{CStr, c_char};

use chaski_kernels::{Inexact, Isa, Reason, audit, exact_at_any_cost, install, reset_audit};

unsafe extern "C" {
    fn chaski_kernels_test_rows_name(number: i32) -> *const c_char;
    fn chaski_kernels_test_rows(number: i32, threads: i32) -> i32;
    fn chaski_kernels_test_inexact(number: i32) -> i32;
}

#[test]
fn the_audit_is_right() {
    let Some(isa) = Isa::best() else { return eprintln!("not run: this CPU has no AVX2") };
    assert_eq!(install(isa), Ok(isa));
    assert_eq!(audit(), [], "the self-test counts for nobody");
    exact_operations_are_exact();
    others_are_noted();
}

/// A row must have the same bits alone and among others, on one to three threads.
fn exact_operations_are_exact() {
    exact_at_any_cost(true);
    let mut different = Vec::new();
    for number in 0.. {
        // SAFETY: returns null beyond the last; the names are static.
        let name = unsafe { chaski_kernels_test_rows_name(number) };
        if name.is_null() {
            assert!(number > 50, "{number} operations");
            break;
        }
        // SAFETY: the number belongs to an operation.
        let same = (1..4).all(|threads| unsafe { chaski_kernels_test_rows(number, threads) } == 1);
        // SAFETY: see above.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        if !same {
            different.push(name.clone());
        }
        assert_eq!(audit(), [], "{name} is held to be exact");
    }
    assert_eq!(different, Vec::<String>::new());
    exact_at_any_cost(false);
}

fn others_are_noted() {
    let expected = [
        ("MUL_MAT", "iq3_s", Reason::Wide),
        ("MUL_MAT", "f32", Reason::Product),
        ("SOFT_MAX", "f32", Reason::Softmax),
        ("FLASH_ATTN_EXT", "f16", Reason::Flash),
        ("CUMSUM", "f32", Reason::Positions),
        ("SILU", "f32", Reason::Positions),
        ("TIMESTEP_EMBEDDING", "f32", Reason::Unknown),
    ];
    for (number, (op, tensor_type, reason)) in (0..).zip(expected) {
        reset_audit();
        // SAFETY: the number belongs to an operation.
        assert_eq!(unsafe { chaski_kernels_test_inexact(number) }, 1, "{op}");
        assert_eq!(audit(), [Inexact { op, tensor_type, reason }]);
    }
    reset_audit();
}
