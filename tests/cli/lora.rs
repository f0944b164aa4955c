//! `--lora` on tiny models: an adapter changes the text, and a misfit is refused.

use super::harness::{PROMPT, Workplace};
use super::support::gguf_writer::{GgufWriter, Meta};

/// An adapter of rank 4 for one matrix of the tiny model, with 128 columns and 64 rows.
fn adapter(architecture: &str, n_rows: usize, alpha: Meta) -> Vec<u8> {
    let numbers = |n: usize| (0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.05).collect::<Vec<f32>>();
    let mut writer = GgufWriter::default();
    writer
        .meta("general.type", Meta::str("adapter"))
        .meta("general.architecture", Meta::str(architecture))
        .meta("adapter.type", Meta::str("lora"))
        .meta("adapter.lora.alpha", alpha)
        .tensor_f32("blk.0.ffn_down.weight.lora_a", &[128, 4], &numbers(128 * 4))
        .tensor_f32("blk.0.ffn_down.weight.lora_b", &[4, n_rows], &numbers(4 * n_rows));
    writer.finish()
}

#[test]
fn an_adapter_changes_the_text_by_its_scale() {
    let place = Workplace::new();
    let file = place.write("style.gguf", adapter("llama", 64, Meta::F32(4.0)));
    let file = file.to_str().unwrap();
    let usual = place.text_of(&["-p", PROMPT]);
    let text = place.text_of(&["-p", PROMPT, "--lora", file]);
    assert_ne!(text, usual);
    assert_eq!(place.text_of(&["-p", PROMPT, "--lora", &format!("{file}=0")]), usual);
    assert_eq!(place.text_of(&["-p", PROMPT, "--lora", &format!("{file}=1")]), text);
    assert_eq!(place.text_of(&["-p", PROMPT, "--lora", file, "--drafter", "none"]), text);
}

#[test]
fn what_is_no_adapter_for_this_model_is_refused() {
    let place = Workplace::new();
    let run = |name: &str, bytes: Vec<u8>| {
        place.write(name, bytes);
        place.run(&["-p", PROMPT, "--lora", name])
    };
    run("other.gguf", adapter("qwen2", 64, Meta::F32(4.0))).fails(1, &["other.gguf", "\"qwen2\"", "\"llama\""]);
    run("alpha.gguf", adapter("llama", 64, Meta::str("4"))).fails(1, &["alpha.gguf", "alpha"]);
    run("shape.gguf", adapter("llama", 63, Meta::F32(4.0))).fails(1, &["shape.gguf"]);
    run("text.gguf", b"no adapter".to_vec()).fails(1, &["text.gguf"]);
    place.run(&["-p", PROMPT, "--lora", "none.gguf"]).fails(4, &["none.gguf"]);
    let model = super::support::tiny::tiny_llama(5);
    run("model.gguf", model).fails(1, &["not a LoRA adapter"]).hints("convert_lora_to_gguf.py");
}
