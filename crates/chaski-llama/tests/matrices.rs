//! A target's rows against those that its file was made from.

#[path = "../../../tests/support/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod gguf_writer;
#[path = "../../../tests/support/tiny.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod tiny;

use std::path::{Path, PathBuf};

use chaski_draft::token::Token;
use chaski_gguf::Gguf;
use chaski_llama::hidden::TargetMatrices;
use gguf_writer::{GgufWriter, Meta};
use tiny::{N_EMBD, N_VOCAB, TinyOptions, tiny_writer};

fn gguf(model: &GgufWriter) -> Gguf {
    Gguf::from_bytes(model.finish(), Path::new("model.gguf")).expect("a sound file")
}

fn matrices(model: &GgufWriter) -> Result<TargetMatrices, String> {
    TargetMatrices::new(vec![gguf(model)]).map_err(|error| error.to_string())
}

/// The elements of a tensor of F32 in the file.
fn floats(model: &GgufWriter, name: &str) -> Vec<f32> {
    let tensor = model.tensors.iter().find(|tensor| tensor.name == name.as_bytes()).expect("it is there");
    tensor.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn assert_rows(found: &TargetMatrices, embedding: &[f32], head: &[f32], tolerance: f32) {
    assert_eq!((found.n_embd(), found.n_vocab()), (N_EMBD, N_VOCAB));
    let mut row = vec![0.0; N_EMBD];
    let mut assert_near = |token: usize, is_head: bool, expected: &[f32]| {
        let token_id = Token(i32::try_from(token).expect("a small number"));
        if is_head {
            found.head(token_id, &mut row)
        } else {
            found.embedding(token_id, &mut row)
        }
        let expected = &expected[token * N_EMBD..][..N_EMBD];
        let most = expected.iter().map(|x| x.abs()).fold(0.0, f32::max) * tolerance;
        assert!(
            row.iter().zip(expected).all(|(a, b)| (a - b).abs() <= most),
            "{token} {is_head}: {row:?} {expected:?}"
        );
    };
    for token in [0, 1, 77, N_VOCAB - 1] {
        assert_near(token, false, embedding);
        assert_near(token, true, head);
    }
}

#[test]
fn rows_are_those_of_the_file() {
    let plain = tiny_writer(&TinyOptions::default());
    let (embedding, head) = (floats(&plain, "token_embd.weight"), floats(&plain, "output.weight"));
    assert_ne!(embedding, head);
    assert_rows(&matrices(&plain).unwrap(), &embedding, &head, 0.0);
    let quantized = tiny_writer(&TinyOptions { is_quantized: true, ..TinyOptions::default() });
    // Half a step of Q8_0.
    assert_rows(&matrices(&quantized).unwrap(), &embedding, &head, 0.5 / 127.0 + 1e-3);
    // One matrix for both.
    let mut tied = plain;
    tied.tensors.retain(|tensor| tensor.name != b"output.weight");
    assert_rows(&matrices(&tied).unwrap(), &embedding, &embedding, 0.0);
}

#[test]
fn shards_are_searched() {
    let whole = tiny_writer(&TinyOptions::default());
    let (embedding, head) = (floats(&whole, "token_embd.weight"), floats(&whole, "output.weight"));
    let folder = Folder::new();
    let at = whole.tensors.iter().position(|tensor| tensor.name == b"output.weight").expect("it is there");
    let mut rest = whole.tensors.clone();
    let first = rest.drain(..at).collect();
    let parts = [GgufWriter { tensors: first, ..whole.clone() }, GgufWriter { tensors: rest, ..GgufWriter::default() }];
    for (number, mut part) in (0_u16..).zip(parts) {
        part.meta("split.no", Meta::U16(number)).meta("split.count", Meta::U16(2));
        part.meta("split.tensors.count", Meta::I32(whole.tensors.len() as i32));
        let name = format!("model-0000{}-of-00002.gguf", number + 1);
        std::fs::write(folder.0.join(name), part.finish()).expect("room for a small file");
    }
    let found = TargetMatrices::open(&folder.0.join("model-00001-of-00002.gguf")).unwrap();
    assert_rows(&found, &embedding, &head, 0.0);
}

/// A folder that is removed again.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("chaski-matrices-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_cannot_be_read_is_refused() {
    let changed = |change: &dyn Fn(&mut GgufWriter)| {
        let mut model = tiny_writer(&TinyOptions::default());
        change(&mut model);
        matrices(&model).expect_err("not readable")
    };
    let text = changed(&|model| model.tensors.retain(|tensor| tensor.name != b"token_embd.weight"));
    assert!(text.ends_with("expected a tensor token_embd.weight"), "{text}");
    let text = changed(&|model| {
        model.set("llama.embedding_length", Meta::U32(32));
    });
    assert!(text.ends_with("token_embd.weight: expected rows of 32, found 64"), "{text}");
    let text = changed(&|model| {
        model.tensor_f32("output.bias", &[N_VOCAB], &[0.0; N_VOCAB]);
    });
    assert!(text.ends_with("without a bias, found output.bias"), "{text}");
    // I32 has the size of F32.
    let text = changed(&|model| model.tensors.iter_mut().for_each(|tensor| tensor.type_code = 26));
    assert!(text.ends_with("token_embd.weight: cannot read the type i32"), "{text}");
}

#[test]
#[should_panic(expected = "token 384 of 384")]
fn a_token_beyond_the_vocabulary_is_a_mistake() {
    let found = matrices(&tiny_writer(&TinyOptions::default())).unwrap();
    found.head(Token(N_VOCAB as i32), &mut [0.0; N_EMBD]);
}
