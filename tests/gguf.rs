//! The GGUF reader against files of an independent writer: valid files pass, each defect has its own error, and no
//! bytes make it panic.

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;

use chaski::gguf::{Defect, Gguf, GgufError, Value, ValueType, can_checkpoint, n_snapshots};
use proptest::prelude::*;
use support::gguf_writer::{GgufWriter, Meta, TensorSpec};
use support::tiny::{Arch, CHATML, N_CTX, N_EMBD, N_VOCAB, TinyOptions, tiny, tiny_writer};

fn check(bytes: Vec<u8>) -> Result<Gguf, GgufError> {
    let gguf = Gguf::from_bytes(bytes, Path::new("model.gguf"))?;
    gguf.check()?;
    Ok(gguf)
}

/// A valid file of about 1 kB, small enough to damage every byte in turn.
fn small() -> GgufWriter {
    let mut w = GgufWriter::default();
    w.meta("general.architecture", Meta::str("llama"));
    w.meta("general.name", Meta::str("small"));
    w.meta("llama.context_length", Meta::U32(128));
    w.meta("llama.embedding_length", Meta::U32(8));
    w.meta("llama.block_count", Meta::U32(2));
    w.meta("llama.attention.head_count", Meta::U32(2));
    w.meta("llama.attention.head_count_kv", Meta::u32s(&[2, 1]));
    w.meta("tokenizer.ggml.model", Meta::str("gpt2"));
    w.meta("tokenizer.ggml.tokens", Meta::strs(&["<unk>", "<s>", "</s>", "a"]));
    w.meta("tokenizer.ggml.scores", Meta::f32s(&[0.0; 4]));
    w.meta("tokenizer.ggml.token_type", Meta::i32s(&[2, 3, 3, 1]));
    w.meta("tokenizer.ggml.bos_token_id", Meta::U32(1));
    w.meta("tokenizer.ggml.eos_token_id", Meta::U32(2));
    w.meta("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    w.meta("tokenizer.chat_template", Meta::str("{{ messages }}"));
    w.tensor_f32("token_embd.weight", &[8, 4], &[0.5; 32]);
    w.tensor_f32("output_norm.weight", &[3], &[1.0; 3]);
    w.tensor_f32("output.weight", &[8, 4], &[0.5; 32]);
    w
}

/// The defect found in `small()` after `change`.
#[track_caller]
fn defect(change: impl FnOnce(&mut GgufWriter)) -> Defect {
    let mut w = small();
    change(&mut w);
    match check(w.finish()) {
        Ok(_) => panic!("the change is not a defect"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("model.gguf: "), "{text:?} does not name the file");
            assert!(!text.contains(char::is_control), "{text:?} is not fit for a terminal");
            error.defect().cloned().unwrap_or_else(|| panic!("{text}: not a defect"))
        }
    }
}

macro_rules! assert_defect {
    ($change:expr, $pattern:pat) => {
        let found = defect($change);
        assert!(matches!(found, $pattern), "expected {}, found {found:?}", stringify!($pattern));
    };
}

fn tensor(name: &str, dims: &[u64], type_code: u32, n_bytes: usize) -> TensorSpec {
    TensorSpec { name: name.as_bytes().to_vec(), dims: dims.to_vec(), type_code, data: vec![0; n_bytes], offset: None }
}

#[test]
fn sound_files_pass() {
    check(small().finish()).expect("small");
    for arch in [Arch::Llama, Arch::Mamba, Arch::Gemma3] {
        for chat_template in [None, Some(CHATML.to_owned())] {
            let options = TinyOptions { arch, chat_template: chat_template.clone(), ..TinyOptions::default() };
            let gguf = check(tiny(&options)).expect("tiny");
            assert_eq!(gguf.chat_template(), chat_template.as_deref());
            assert_eq!(gguf.n_vocab(), Some(N_VOCAB));
            assert_eq!(gguf.context_length(), Some(N_CTX));
            assert_eq!(gguf.embedding_length(), Some(N_EMBD as u32));
            assert_eq!(gguf.block_count(), Some(2));
        }
    }
}

#[test]
fn values_come_back_as_written() {
    let mut w = small();
    w.version = 2;
    w.meta("v.u8", Meta::U8(200)).meta("v.i8", Meta::I8(-3)).meta("v.u16", Meta::U16(60_000));
    w.meta("v.i16", Meta::I16(-300)).meta("v.i32", Meta::I32(-70_000)).meta("v.u64", Meta::U64(u64::MAX));
    w.meta("v.i64", Meta::I64(i64::MIN)).meta("v.f64", Meta::F64(0.1)).meta("v.f32", Meta::F32(0.5));
    w.meta("v.bytes", Meta::Str(vec![0xff, 0, b'a'])).meta("v.empty", Meta::Array(8, Vec::new()));
    w.meta("v.bools", Meta::Array(7, vec![Meta::Bool(true), Meta::Bool(false)]));
    w.meta("v.u64s", Meta::Array(10, vec![Meta::U64(1), Meta::U64(2)]));
    let gguf = check(w.finish()).expect("sound");
    assert_eq!(gguf.version(), 2);
    assert_eq!(gguf.alignment(), 32);
    assert_eq!(gguf.architecture(), Some("llama"));
    assert_eq!(gguf.name(), Some("small"));
    assert_eq!(gguf.head_count(), Some(2));
    assert_eq!(gguf.head_count_kv(), Some(2));
    assert_eq!(gguf.per_layer_u32("attention.head_count"), [2, 2]);
    assert_eq!(gguf.per_layer_u32("attention.head_count_kv"), [2, 1]);
    assert_eq!(gguf.get("v.u8"), Some(Value::U8(200)));
    assert_eq!(gguf.get("v.i8"), Some(Value::I8(-3)));
    assert_eq!(gguf.get_u64("v.i8"), None);
    assert_eq!(gguf.get_u32("v.u16"), Some(60_000));
    assert_eq!(gguf.get("v.i16"), Some(Value::I16(-300)));
    assert_eq!(gguf.get("v.i32"), Some(Value::I32(-70_000)));
    assert_eq!(gguf.get_u64("v.u64"), Some(u64::MAX));
    assert_eq!(gguf.get_u32("v.u64"), None);
    assert_eq!(gguf.get("v.i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(gguf.get_f64("v.f64"), Some(0.1));
    assert_eq!(gguf.get_f64("v.f32"), Some(0.5));
    assert_eq!(gguf.get_bool("tokenizer.ggml.add_bos_token"), Some(true));
    assert_eq!(gguf.get("v.bytes"), Some(Value::Str(&[0xff, 0, b'a'])));
    assert_eq!(gguf.get_str("v.bytes"), None);
    assert!(gguf.get_array("v.empty").is_some_and(|a| a.is_empty() && a.strings().next().is_none()));
    let bools = gguf.get_array("v.bools").expect("array");
    assert_eq!(bools.iter().collect::<Vec<_>>(), [Value::Bool(true), Value::Bool(false)]);
    assert_eq!(bools.element_type(), ValueType::Bool);
    let numbers = gguf.get_array("v.u64s").expect("array");
    assert_eq!(numbers.iter().filter_map(|v| v.as_u64()).sum::<u64>(), 3);
    let tokens = gguf.get_array("tokenizer.ggml.tokens").expect("array");
    assert_eq!(tokens.strings().collect::<Vec<_>>(), [b"<unk>" as &[u8], b"<s>", b"</s>", b"a"]);
    assert_eq!(gguf.metadata().count(), 28);

    let sizes: Vec<_> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.offset, t.size_bytes)).collect();
    assert_eq!(sizes, [("token_embd.weight", 0, 128), ("output_norm.weight", 128, 12), ("output.weight", 160, 128)]);
    assert_eq!(gguf.tensors()[0].dims, [8, 4]);
    assert_eq!(gguf.tensor_bytes(), 268);
    let files = gguf.check().expect("checked above");
    assert_eq!((files.n_tensors, files.tensor_bytes), (3, 268));
    assert_eq!(files.paths, [PathBuf::from("model.gguf")]);
}

#[test]
fn defects_of_the_container() {
    assert_defect!(|w| w.magic = *b"GGML", Defect::NotGguf { .. });
    assert_defect!(|w| w.magic = *b"\x1b[2J", Defect::NotGguf { .. });
    assert_defect!(|w| w.version = 1, Defect::Version { found: 1 });
    assert_defect!(|w| w.version = 4, Defect::Version { found: 4 });
    assert_defect!(|w| w.version = 0, Defect::Version { found: 0 });
    assert_defect!(|w| w.version = 3_u32.swap_bytes(), Defect::BigEndian);
    assert_defect!(|w| w.n_meta = Some(65_537), Defect::Count { what: "keys", .. });
    assert_defect!(|w| w.n_tensors = Some(u64::MAX), Defect::Count { what: "tensors", .. });
    assert_defect!(|w| w.n_tensors = Some(65_536), Defect::CutShort { what: "tensors", .. });
    assert_defect!(|w| w.meta.push((b"a\x1bb".to_vec(), Meta::U8(0))), Defect::UnprintableKey { .. });
    assert_defect!(|w| w.meta.push((vec![0xff], Meta::U8(0))), Defect::UnprintableKey { .. });
    assert_defect!(|w| w.meta.push((Vec::new(), Meta::U8(0))), Defect::UnprintableKey { .. });
    assert_defect!(|w| w.meta.push((b"general.name".to_vec(), Meta::U8(0))), Defect::DuplicateKey { .. });
    assert_defect!(|w| w.meta.push((b"x".to_vec(), Meta::Raw(13, vec![0]))), Defect::ValueType { found: 13, .. });
    assert_defect!(|w| w.meta.push((b"x".to_vec(), Meta::Array(99, Vec::new()))), Defect::ValueType { found: 99, .. });
    assert_defect!(|w| w.meta.push((b"x".to_vec(), Meta::Array(9, Vec::new()))), Defect::NestedArray { .. });
    for (code, n) in [(8_u32, u64::MAX), (10, u64::MAX / 8 + 1), (0, 1 << 40), (12, 1 << 61)] {
        let raw = [&code.to_le_bytes()[..], &n.to_le_bytes()].concat();
        assert_defect!(|w| w.meta.push((b"x".to_vec(), Meta::Raw(9, raw))), Defect::CutShort { .. });
    }
    let endless = u64::MAX.to_le_bytes().to_vec();
    assert_defect!(|w| w.meta.push((b"x".to_vec(), Meta::Raw(8, endless))), Defect::CutShort { .. });
    for alignment in [0, 16, 48, 1 << 21] {
        assert_defect!(|w| _ = w.set("general.alignment", Meta::U32(alignment)), Defect::Alignment { .. });
    }
    assert_defect!(|w| _ = w.set("general.alignment", Meta::U64(32)), Defect::WrongType { .. });

    for bytes in [&b""[..], b"GGUF", &small().finish()[..23]] {
        let error = check(bytes.to_vec()).expect_err("too small");
        assert!(matches!(error.defect(), Some(Defect::TooSmall { .. })), "{error}");
    }
}

#[test]
fn defects_of_tensors() {
    assert_defect!(|w| w.tensors[1].name = vec![b'x'; 64], Defect::TensorName { index: 1, .. });
    assert_defect!(|w| w.tensors[1].name = b"x\0y".to_vec(), Defect::TensorName { .. });
    assert_defect!(|w| w.tensors[1].name = Vec::new(), Defect::TensorName { .. });
    assert_defect!(|w| w.tensors[1].name = w.tensors[0].name.clone(), Defect::DuplicateTensor { .. });
    assert_defect!(|w| w.tensors[1].dims = Vec::new(), Defect::DimensionCount { found: 0, .. });
    assert_defect!(|w| w.tensors[1].dims = vec![1; 5], Defect::DimensionCount { found: 5, .. });
    assert_defect!(|w| w.tensors[1].dims = vec![3, 0], Defect::ZeroDimension { dim: 1, .. });
    assert_defect!(|w| w.tensors[1].dims = vec![1 << 32, 1 << 32], Defect::TensorTooLarge { .. });
    assert_defect!(|w| w.tensors[1].dims = vec![1 << 62], Defect::TensorTooLarge { .. });
    assert_defect!(|w| w.tensors[1].dims = vec![u64::MAX], Defect::TensorTooLarge { .. });
    for code in [4, 5, 31, 36, 43, u32::MAX] {
        assert_defect!(|w| w.tensors[1].type_code = code, Defect::TensorType { .. });
    }
    assert_defect!(|w| w.tensors[1].type_code = 8, Defect::BlockSize { n_block: 32, found: 3, .. });
    assert_defect!(|w| w.tensors[1].offset = Some(0), Defect::TensorOffset { expected: 128, found: 0, .. });
    assert_defect!(|w| w.tensors[2].offset = Some(140), Defect::TensorOffset { .. });
    assert_defect!(|w| w.tensors.clear(), Defect::NoTensors);
    assert_defect!(|w| w.tensors[2].data.truncate(96), Defect::Incomplete { .. });
    // Each tensor fits alone; only the sum overflows.
    let huge = |i: u64| TensorSpec { offset: Some(i << 62), ..tensor(&format!("t{i}"), &[1 << 60], 0, 0) };
    assert_defect!(|w| w.tensors = (0..3).map(huge).collect(), Defect::TensorTooLarge { .. });
    let mut w = small();
    w.tensors.extend(
        [(40, 64, 36), (39, 32, 17), (12, 256, 144), (30, 1, 2)]
            .map(|(code, n_block, n_bytes)| tensor(&format!("t{code}"), &[n_block], code, n_bytes)),
    );
    check(w.finish()).expect("quantized tensors");
    w.tensors[0].name = vec![b'x'; 63];
    check(w.finish()).expect("the longest name");
}

#[test]
fn last_padding_may_be_absent() {
    let mut w = small();
    w.tensors.swap(1, 2);
    let mut bytes = w.finish();
    bytes.truncate(bytes.len() - 20);
    check(bytes.clone()).expect("12 of 32 bytes are data");
    bytes.pop();
    let error = check(bytes).expect_err("one byte of data is missing");
    let text = error.to_string();
    assert!(text.contains("bytes, but the file has") && text.ends_with("incomplete download"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("download it again")));
}

#[test]
fn defects_of_hyperparameters() {
    assert_defect!(|w| _ = w.remove("general.architecture"), Defect::MissingKey { .. });
    assert_defect!(|w| _ = w.set("general.architecture", Meta::str("nonesuch")), Defect::Architecture { .. });
    assert_defect!(|w| _ = w.set("general.architecture", Meta::str("clip")), Defect::Projector);
    assert_defect!(|w| _ = w.set("general.architecture", Meta::str("bert")), Defect::NotGenerative { .. });
    assert_defect!(|w| _ = w.set("general.architecture", Meta::U32(1)), Defect::WrongType { .. });
    assert_defect!(|w| _ = w.set("general.name", Meta::U32(1)), Defect::WrongType { .. });
    for key in ["block_count", "context_length", "embedding_length", "attention.head_count"] {
        assert_defect!(|w| _ = w.remove(&format!("llama.{key}")), Defect::MissingKey { .. });
        assert_defect!(|w| _ = w.set(&format!("llama.{key}"), Meta::U32(0)), Defect::OutOfRange { found: 0, .. });
        assert_defect!(|w| _ = w.set(&format!("llama.{key}"), Meta::U64(1)), Defect::WrongType { .. });
    }
    assert_defect!(|w| _ = w.set("llama.block_count", Meta::U32(513)), Defect::OutOfRange { found: 513, .. });
    assert_defect!(|w| _ = w.set("llama.attention.head_count_kv", Meta::U32(0)), Defect::OutOfRange { .. });
    assert_defect!(|w| _ = w.set("llama.attention.head_count_kv", Meta::u32s(&[0, 0])), Defect::OutOfRange { .. });
    assert_defect!(|w| _ = w.set("llama.attention.head_count_kv", Meta::u32s(&[1])), Defect::PerLayerLength { .. });
    assert_defect!(|w| _ = w.set("llama.attention.head_count", Meta::f32s(&[1.0, 1.0])), Defect::WrongType { .. });
    assert_defect!(|w| _ = w.set("llama.nextn_predict_layers", Meta::U32(3)), Defect::OutOfRange { .. });
    assert_defect!(|w| _ = w.set("llama.rope.scaling.type", Meta::str("cubic")), Defect::RopeScaling { .. });

    for epsilon in [-1e-5, f32::NAN, f32::INFINITY] {
        let key = "llama.attention.layer_norm_rms_epsilon";
        assert_defect!(|w| _ = w.set(key, Meta::F32(epsilon)), Defect::Epsilon { .. });
    }

    let experts = |total: u32, used: Meta, groups: u32, groups_used: u32| {
        move |w: &mut GgufWriter| {
            w.set("llama.expert_count", Meta::U32(total)).set("llama.expert_used_count", used);
            w.set("llama.expert_group_count", Meta::U32(groups));
            w.set("llama.expert_group_used_count", Meta::U32(groups_used));
        }
    };
    assert_defect!(experts(8, Meta::U32(9), 0, 0), Defect::ExpertsUsed { used: 9, total: 8 });
    assert_defect!(experts(8, Meta::u32s(&[2, 9]), 0, 0), Defect::ExpertsUsed { used: 9, total: 8 });
    assert_defect!(experts(8, Meta::U32(0), 0, 0), Defect::ExpertsUsed { used: 0, total: 8 });
    assert_defect!(experts(0, Meta::U32(1), 0, 0), Defect::ExpertsUsed { used: 1, total: 0 });
    assert_defect!(experts(1025, Meta::U32(1), 0, 0), Defect::OutOfRange { found: 1025, .. });
    assert_defect!(experts(8, Meta::U32(2), 8, 1), Defect::ExpertGroups { .. });
    assert_defect!(experts(8, Meta::U32(2), 3, 1), Defect::ExpertGroups { .. });
    assert_defect!(experts(8, Meta::U32(2), 4, 0), Defect::ExpertGroups { .. });
    assert_defect!(experts(8, Meta::U32(2), 4, 4), Defect::ExpertGroups { .. });
    assert_defect!(experts(0, Meta::U32(0), 1, 0), Defect::ExpertGroups { .. });
    for (total, used, groups, groups_used) in [(8, 2, 4, 2), (8, 2, 1, 1), (8, 8, 0, 0), (0, 0, 0, 0)] {
        let mut w = small();
        experts(total, Meta::U32(used), groups, groups_used)(&mut w);
        check(w.finish()).expect("experts that fit");
    }
}

#[test]
fn defects_of_tokenizers() {
    let key = |suffix: &str| format!("tokenizer.ggml.{suffix}");
    assert_defect!(|w| _ = w.remove(&key("model")), Defect::NoTokenizer { .. });
    assert_defect!(|w| _ = w.set(&key("model"), Meta::str("none")), Defect::NoTokenizer { .. });
    assert_defect!(|w| _ = w.set(&key("model"), Meta::str("no_vocab")), Defect::NoTokenizer { .. });
    assert_defect!(|w| _ = w.set(&key("model"), Meta::str("\x1b]52;x\x07")), Defect::Tokenizer { .. });
    assert_defect!(|w| _ = w.remove(&key("tokens")), Defect::MissingKey { .. });
    assert_defect!(|w| _ = w.set(&key("tokens"), Meta::i32s(&[1])), Defect::WrongType { .. });
    assert_defect!(|w| _ = w.set(&key("tokens"), Meta::Array(8, Vec::new())), Defect::VocabularySize { found: 0, .. });
    // 2^21 + 1 empty strings: 16 MiB of zero lengths.
    let n = (1_u64 << 21) + 1;
    let raw = [&8_u32.to_le_bytes()[..], &n.to_le_bytes(), &vec![0; n as usize * 8]].concat();
    assert_defect!(|w| _ = w.set(&key("tokens"), Meta::Raw(9, raw)), Defect::VocabularySize { .. });
    assert_defect!(
        |w| _ = w.set(&key("tokens"), Meta::strs(&["a", "b", "a", "c"])),
        Defect::DuplicateToken { id: 2, .. }
    );
    // For llama.cpp a token ends at the first zero byte.
    let twins = Meta::strs(&["a", "b\0x", "b\0y", "c"]);
    assert_defect!(|w| _ = w.set(&key("tokens"), twins), Defect::DuplicateToken { id: 2, .. });
    let mut w = small();
    w.set(&key("tokens"), Meta::strs(&["", "\0", "", "c"]));
    check(w.finish()).expect("empty tokens get names of their own");

    for suffix in ["scores", "token_type"] {
        let short = Meta::i32s(&[1, 1, 1]);
        assert_defect!(|w| _ = w.set(&key(suffix), short), Defect::PerTokenLength { expected: 4, found: 3, .. });
        assert_defect!(|w| _ = w.set(&key(suffix), Meta::strs(&["a"; 4])), Defect::WrongType { .. });
    }
    for suffix in ["bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id"] {
        assert_defect!(|w| _ = w.set(&key(suffix), Meta::U32(4)), Defect::SpecialToken { n_vocab: 4, found: 4, .. });
        assert_defect!(|w| _ = w.set(&key(suffix), Meta::I32(1)), Defect::WrongType { .. });
    }
    let mut w = small();
    w.set(&key("padding_token_id"), Meta::U32(4));
    check(w.finish()).expect("llama.cpp ignores a padding id past the end, as some published files have");

    assert_defect!(|w| _ = w.set(&key("add_bos_token"), Meta::U8(1)), Defect::WrongType { .. });
    for (id, adds) in [("bos_token_id", "add_bos_token"), ("eos_token_id", "add_eos_token")] {
        let change = |w: &mut GgufWriter| _ = w.remove(&key(id)).set(&key(adds), Meta::Bool(true));
        assert_defect!(change, Defect::NoSpecialToken { .. });
        let mut w = small();
        change(&mut w);
        w.set(&key(adds), Meta::Bool(false));
        check(w.finish()).expect("not added, not needed");
        let mut w = tiny_writer(&TinyOptions::default());
        change(&mut w);
        check(w.finish()).expect("SentencePiece has default ids 1 and 2");
    }
    let single = |w: &mut GgufWriter| {
        w.set(&key("model"), Meta::str("plamo2")).set(&key("tokens"), Meta::strs(&["a"]));
        w.set(&key("scores"), Meta::f32s(&[0.0])).set(&key("token_type"), Meta::i32s(&[1]));
        w.remove(&key("bos_token_id")).remove(&key("eos_token_id"));
    };
    assert_defect!(single, Defect::NoSpecialToken { which: "bos" });
}

/// llama.cpp aborts when it tokenizes text with a byte that the vocabulary lacks.
#[test]
fn sentencepiece_needs_all_bytes() {
    for (text, is_sound) in [("<0x0A>", true), ("\n", true), ("<0x0a>", false), ("newline", false)] {
        let mut w = tiny_writer(&TinyOptions::default());
        let tokens = w.meta.iter_mut().find(|(key, _)| key == b"tokenizer.ggml.tokens");
        let Some((_, Meta::Array(_, tokens))) = tokens else { panic!("no tokens") };
        tokens[3 + 0x0a] = Meta::str(text);
        match check(w.finish()) {
            Ok(_) => assert!(is_sound, "{text:?}"),
            Err(error) => {
                assert!(!is_sound && matches!(error.defect(), Some(Defect::MissingByte { byte: 0x0a })), "{error}");
            }
        }
    }
}

#[test]
fn defects_of_templates() {
    let key = "tokenizer.chat_template";
    assert_defect!(|w| _ = w.set(key, Meta::strs(&["x"])), Defect::WrongType { .. });
    assert_defect!(|w| _ = w.set(key, Meta::Str(vec![b'x'; (1 << 20) + 1])), Defect::TemplateTooLong { .. });
    assert_defect!(|w| _ = w.set(key, Meta::Str(vec![0xff])), Defect::TemplateEncoding);
    let mut w = small();
    w.set(key, Meta::Str(vec![b'x'; 1 << 20]));
    check(w.finish()).expect("the longest template");
}

/// Recurrent models declare 0 heads, hybrid models 0 for some blocks. llama.cpp loads both.
#[test]
fn zero_heads_are_sound_where_there_is_no_attention() {
    let mut w = small();
    w.set("llama.attention.head_count_kv", Meta::i32s(&[0, 2]));
    let gguf = check(w.finish()).expect("hybrid");
    assert_eq!(gguf.head_count_kv(), Some(2));
    check(tiny(&TinyOptions { arch: Arch::Mamba, ..TinyOptions::default() })).expect("recurrent");
}

struct Shards {
    dir: tempfile::TempDir,
    parts: Vec<GgufWriter>,
}

impl Shards {
    fn new() -> Self {
        let mut first = small();
        let tensors = std::mem::take(&mut first.tensors);
        let mut parts = vec![first, GgufWriter::default(), GgufWriter::default()];
        for (index, part) in parts.iter_mut().enumerate() {
            part.tensors.push(tensors[index].clone());
            part.meta("split.no", Meta::U16(index as u16)).meta("split.count", Meta::U16(3));
            part.meta("split.tensors.count", Meta::I32(3));
        }
        Self { dir: tempfile::tempdir().expect("temporary directory"), parts }
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("m-{:05}-of-00003.gguf", index + 1))
    }

    fn check(&self, open: usize) -> Result<chaski::gguf::ModelFiles, GgufError> {
        for (index, part) in self.parts.iter().enumerate() {
            std::fs::write(self.path(index), part.finish()).expect("write");
        }
        Gguf::open(&self.path(open))?.check()
    }

    #[track_caller]
    fn defect(&self, open: usize) -> Defect {
        self.check(open).expect_err("a defect").defect().expect("a defect").clone()
    }
}

#[test]
fn shards() {
    let sound = Shards::new();
    let files = sound.check(0).expect("sound");
    assert_eq!(files.paths, [sound.path(0), sound.path(1), sound.path(2)]);
    assert_eq!((files.n_tensors, files.tensor_bytes), (3, 268));
    assert_eq!(sound.defect(1), Defect::NotFirstShard { found: 2, count: 3 });

    let gguf = Gguf::open(&sound.path(0)).expect("first");
    std::fs::remove_file(sound.path(2)).expect("remove");
    let error = gguf.check().expect_err("the third is missing");
    assert!(matches!(error.defect(), Some(Defect::MissingShard { index: 3, count: 3, .. })), "{error}");
    let renamed = sound.dir.path().join("renamed.gguf");
    std::fs::copy(sound.path(0), &renamed).expect("copy");
    let error = Gguf::open(&renamed).expect("renamed").check().expect_err("not its name");
    assert!(matches!(error.defect(), Some(Defect::ShardName { .. })), "{error}");

    let changed = |index: usize, key: &str, value: Option<Meta>| {
        let mut shards = Shards::new();
        match value {
            Some(value) => shards.parts[index].set(key, value),
            None => shards.parts[index].remove(key),
        };
        shards.defect(0)
    };
    assert!(matches!(changed(1, "split.no", Some(Meta::U16(2))), Defect::ShardNumber { .. }));
    assert!(matches!(changed(1, "split.no", None), Defect::ShardNumber { .. }));
    assert!(matches!(changed(1, "split.no", Some(Meta::U32(1))), Defect::WrongType { .. }));
    assert!(matches!(changed(2, "split.count", Some(Meta::U16(4))), Defect::ShardNumber { .. }));
    assert!(matches!(changed(0, "split.no", None), Defect::MissingKey { .. }));
    assert!(matches!(changed(0, "split.tensors.count", None), Defect::MissingKey { .. }));
    assert!(matches!(changed(0, "split.tensors.count", Some(Meta::I32(4))), Defect::ShardTensors { .. }));
    let mut shards = Shards::new();
    shards.parts[2].tensors[0].name = b"token_embd.weight".to_vec();
    assert!(matches!(shards.defect(0), Defect::DuplicateTensor { .. }));
    let mut shards = Shards::new();
    shards.parts[2].tensors[0].data.clear();
    assert!(matches!(shards.defect(0), Defect::Incomplete { .. }));
}

#[test]
fn things_that_are_not_files() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let error = Gguf::open(dir.path()).expect_err("a directory");
    assert!(matches!(error, GgufError::NotAFile { .. }), "{error}");
    let error = Gguf::open(&dir.path().join("none.gguf")).expect_err("missing");
    assert!(matches!(error, GgufError::Io { .. }) && error.hint().is_some(), "{error}");
    if cfg!(unix) {
        assert!(matches!(Gguf::open(Path::new("/dev/zero")), Err(GgufError::NotAFile { .. })));
    }
    let empty = dir.path().join("empty.gguf");
    std::fs::write(&empty, b"").expect("write");
    assert!(matches!(Gguf::open(&empty).expect_err("empty").defect(), Some(Defect::TooSmall { has: 0 })));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().finish();
    for n in 0..bytes.len() {
        let error = check(bytes[..n].to_vec()).expect_err("truncated");
        let defect = error.defect().expect("a defect");
        assert!(
            matches!(defect, Defect::TooSmall { .. } | Defect::CutShort { .. } | Defect::Incomplete { .. }),
            "{n} of {} bytes: {error}",
            bytes.len()
        );
    }
}

#[test]
fn no_damaged_byte_panics() {
    let bytes = small().finish();
    for at in 0..bytes.len() {
        for value in (0..8).map(|bit| bytes[at] ^ (1 << bit)).chain([0, 0x7f, 0x80, 0xff, !bytes[at]]) {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            if let Err(error) = check(damaged) {
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = check(bytes);
    }

    #[test]
    fn random_bytes_after_a_sound_start_never_panic(
        cut in 24_usize..1000,
        tail in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let sound = small().finish();
        let mut bytes = sound[..cut.min(sound.len())].to_vec();
        bytes.extend(tail);
        let _ = check(bytes);
    }

    /// Overwrites eight bytes at a time: lengths, counts, offsets and dimensions at their extremes.
    #[test]
    fn overwritten_numbers_never_panic(
        edits in prop::collection::vec((8_usize..1200, prop_oneof![
            any::<u64>(), 0_u64..100, Just(u64::MAX), Just(i64::MAX as u64), (0_u32..64).prop_map(|bit| 1 << bit),
        ]), 1..4),
    ) {
        let mut bytes = small().finish();
        for (at, number) in edits {
            let at = at.min(bytes.len() - 8);
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let _ = check(bytes);
    }

    #[test]
    fn written_strings_and_dims_come_back(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..50),
        dims in prop::collection::vec(1_usize..6, 1..=4),
    ) {
        let mut w = small();
        w.meta("x.texts", Meta::Array(8, texts.iter().cloned().map(Meta::Str).collect()));
        let n: usize = dims.iter().product();
        w.tensor_f32("x.weight", &dims, &vec![1.0; n]);
        let gguf = check(w.finish()).expect("sound");
        let back: Vec<Vec<u8>> = gguf.get_array("x.texts").expect("array").strings().map(<[u8]>::to_vec).collect();
        prop_assert_eq!(back, texts);
        let tensor = gguf.tensors().last().expect("a tensor");
        prop_assert_eq!(&tensor.dims, &dims.iter().map(|n| *n as u64).collect::<Vec<_>>());
        prop_assert_eq!(tensor.size_bytes, 4 * n as u64);
    }
}

/// Run this after changing `small`: it rewrites the files in `fuzz/corpus/gguf`.
#[test]
#[ignore = "writes into the source tree"]
fn the_fuzz_corpus_is_renewed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf");
    std::fs::write(folder.join("small"), small().finish()).expect("the corpus");
    let mut experts = small();
    experts.set("llama.expert_count", Meta::U32(8)).set("llama.expert_used_count", Meta::u32s(&[2, 2]));
    experts.set("general.alignment", Meta::U32(64)).alignment = 64;
    experts.tensors.push(tensor("blk.0.ffn_up.weight", &[256, 8], 12, 8 * 144));
    std::fs::write(folder.join("experts"), experts.finish()).expect("the corpus");
}

/// Checking 200,000 tokens must take a fraction of the loading time, whatever the machine.
#[test]
fn large_vocabularies_are_fast() {
    let tokens: Vec<String> = (0..200_000).map(|i| format!("token {i}")).collect();
    let mut w = tiny_writer(&TinyOptions::default());
    w.set("tokenizer.ggml.model", Meta::str("gpt2"));
    w.set("tokenizer.ggml.tokens", Meta::strs(&tokens));
    w.set("tokenizer.ggml.scores", Meta::f32s(&vec![0.0; tokens.len()]));
    w.set("tokenizer.ggml.token_type", Meta::i32s(&vec![1; tokens.len()]));
    let bytes = w.finish();
    let start = Instant::now();
    check(bytes).expect("sound");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// Set `CHASKI_TEST_MODELS` to a directory of published models: all must pass.
#[test]
fn published_models_pass() {
    let Some(dir) = std::env::var_os("CHASKI_TEST_MODELS") else {
        return;
    };
    let mut n_models = 0;
    for entry in std::fs::read_dir(dir).expect("CHASKI_TEST_MODELS") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "gguf") {
            let gguf = Gguf::open(&path).unwrap_or_else(|error| panic!("{error}"));
            let files = gguf.check().unwrap_or_else(|error| panic!("{error}"));
            assert!(gguf.tensor_bytes() <= gguf.file_bytes());
            assert!(files.n_tensors > 0 && gguf.n_vocab().is_some() && gguf.head_count().is_some());
            n_models += 1;
        }
    }
    assert!(n_models > 0, "no models in CHASKI_TEST_MODELS");
}

#[test]
fn vocabularies_are_compared_token_by_token() {
    let with = |tokens: &[&str], types: &[i32]| {
        let mut w = small();
        w.set("tokenizer.ggml.tokens", Meta::strs(tokens));
        w.set("tokenizer.ggml.scores", Meta::f32s(&vec![0.0; tokens.len()]));
        w.set("tokenizer.ggml.token_type", Meta::i32s(types));
        check(w.finish()).unwrap()
    };
    let usual = with(&["<unk>", "<s>", "</s>", "a"], &[2, 3, 3, 1]);
    let padded = with(&["<unk>", "<s>", "</s>", "a", "[PAD4]", "[PAD5]"], &[2, 3, 3, 1, 5, 5]);
    let other = with(&["<unk>", "<s>", "</s>", "b"], &[2, 3, 3, 1]);
    let longer = with(&["<unk>", "<s>", "</s>", "a", "[PAD4]", "b"], &[2, 3, 3, 1, 5, 1]);
    for (first, second, different) in [
        (&usual, &usual, None),
        (&usual, &padded, None),
        (&padded, &usual, None),
        (&usual, &other, Some((3, Some("a"), Some("b")))),
        (&padded, &other, Some((3, Some("a"), Some("b")))),
        (&usual, &longer, Some((5, None, Some("b")))),
        (&longer, &usual, Some((5, Some("b"), None))),
    ] {
        let found = first.first_different_token(second);
        let found = found.as_ref().map(|found| (found.id, found.first.as_deref(), found.second.as_deref()));
        assert_eq!(found, different);
    }
}

#[test]
fn recurrent_and_hybrid_models_are_known_by_their_architecture() {
    for (architecture, is_recurrent, takes_drafts) in [
        ("llama", false, true),
        ("mamba", true, true),
        ("rwkv7", true, true),
        ("qwen3next", true, true),
        ("deepseek4", true, false),
    ] {
        let mut w = small();
        w.set("general.architecture", Meta::str(architecture));
        let gguf = Gguf::from_bytes(w.finish(), Path::new("model.gguf")).unwrap();
        assert_eq!((gguf.is_recurrent(), gguf.takes_drafts()), (is_recurrent, takes_drafts), "{architecture}");
        assert_eq!(can_checkpoint(architecture), is_recurrent && takes_drafts, "{architecture}");
    }
    assert_eq!([true, false].map(|is_causal| n_snapshots("lfm2", is_causal)), [7, 0]);
    assert_eq!(n_snapshots("mamba", true), 0);
}
