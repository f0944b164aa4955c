//! The example `leave_out_layers` against the tests' own writer.

#[path = "../../../tests/support/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod gguf_writer;
#[path = "../examples/leave_out_layers.rs"]
#[allow(unreachable_pub, reason = "it is an example of its own")]
mod leave_out_layers;
#[path = "../../../tests/support/tiny.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod tiny;

use std::path::Path;

use chaski_gguf::Gguf;
use gguf_writer::{GgufWriter, Meta};
use tiny::{Arch, TinyOptions, tiny_writer};

/// The example's output for a model, or its message.
fn without(model: &GgufWriter, blocks: &[u32]) -> Result<Vec<u8>, String> {
    let bytes = model.finish();
    let gguf = Gguf::from_bytes(bytes, Path::new("model.gguf")).expect("a sound file");
    let mut out = Vec::new();
    leave_out_layers::leave_out(&gguf, blocks, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

fn model() -> GgufWriter {
    let mut w = tiny_writer(&TinyOptions::default());
    w.set("llama.attention.head_count_kv", Meta::u32s(&[1, 2]));
    w.meta("llama.some.numbers", Meta::u32s(&[7, 8, 9]));
    w
}

#[test]
fn the_other_blocks_move_together() {
    let mut expected = model();
    expected.set("llama.block_count", Meta::U32(1));
    expected.set("llama.attention.head_count_kv", Meta::u32s(&[2]));
    expected.set("general.name", Meta::str("tiny llama 0 without 1 of 2 blocks"));
    expected.tensors.retain(|tensor| !tensor.name.starts_with(b"blk.0."));
    for tensor in &mut expected.tensors {
        if tensor.name.starts_with(b"blk.1.") {
            tensor.name[4] = b'0';
        }
    }
    assert_ne!(expected.tensors.len(), model().tensors.len());
    assert!(without(&model(), &[0]).expect("the first of two blocks") == expected.finish());
}

#[test]
fn what_cannot_be_left_out_is_refused() {
    for blocks in [&[2][..], &[0, 0], &[0, 1]] {
        let message = without(&model(), blocks).expect_err("not these blocks");
        assert!(message.contains("some of the blocks 0 to 1, each once"), "{message}");
    }
    let gemma = tiny_writer(&TinyOptions { arch: Arch::Gemma3, ..TinyOptions::default() });
    let message = without(&gemma, &[0]).expect_err("its blocks differ");
    assert!(message.contains("found gemma3"), "{message}");
    let mut part = model();
    part.meta("split.count", Meta::U16(2));
    assert!(without(&part, &[0]).expect_err("one file of two").contains("in one file"));
}
