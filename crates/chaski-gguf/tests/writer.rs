//! The writer against the reader, and against the tests' own writer.

#[path = "../../../tests/support/gguf_writer.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests use the rest")]
mod gguf_writer;

use std::io;
use std::path::Path;

use chaski_gguf::{Gguf, TensorType, Value, ValueType, Writer};
use gguf_writer::{GgufWriter, Meta};

fn bytes_of(writer: &Writer<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    writer.write(&mut out).expect("a sound file");
    out
}

fn tensor_type(name: &str) -> TensorType {
    TensorType::from_name(name).expect("a type of ggml")
}

const SCALARS: [(&str, Value<'static>); 12] = [
    ("a.u8", Value::U8(200)),
    ("a.i8", Value::I8(-3)),
    ("a.u16", Value::U16(60_000)),
    ("a.i16", Value::I16(-300)),
    ("a.u32", Value::U32(4_000_000_000)),
    ("a.i32", Value::I32(-70_000)),
    ("a.f32", Value::F32(0.5)),
    ("a.bool", Value::Bool(true)),
    ("a.str", Value::Str("Straße".as_bytes())),
    ("a.u64", Value::U64(1 << 60)),
    ("a.i64", Value::I64(-(1 << 60))),
    ("a.f64", Value::F64(0.1)),
];

#[test]
fn what_is_written_can_be_read() {
    let floats: Vec<u8> = (0..6).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let blocks: Vec<u8> = (0..2 * 34).collect();
    let mut w = Writer::new();
    for (key, value) in &SCALARS {
        w.pair(key, value);
    }
    w.array("b.strings", ValueType::Str, [Value::Str(b"x"), Value::Str(b"")]);
    w.array("b.none", ValueType::F32, []);
    w.tensor("floats", &[3, 2], tensor_type("f32"), &floats);
    w.tensor("blocks", &[32, 2], tensor_type("q8_0"), &blocks);
    let gguf = Gguf::from_bytes(bytes_of(&w), Path::new("new.gguf")).expect("a sound file");
    for (key, value) in SCALARS {
        assert_eq!(gguf.get(key), Some(value), "{key}");
    }
    assert_eq!(gguf.get_array("b.strings").expect("it is there").strings().collect::<Vec<_>>(), [&b"x"[..], b""]);
    assert!(gguf.get_array("b.none").expect("it is there").is_empty());
    let read = |name: &str| gguf.data(gguf.tensor(name).expect("it is there")).expect("it is whole");
    assert_eq!((read("floats"), read("blocks")), (&floats[..], &blocks[..]));
    assert_eq!(gguf.tensors()[1].dims, [32, 2]);
    assert_eq!(gguf.tensors()[1].offset, 32, "padded");

    // A value that was read is written as it was.
    let mut again = Writer::with(gguf.version(), gguf.alignment());
    gguf.metadata().for_each(|(key, value)| {
        again.pair(key, &value);
    });
    for tensor in gguf.tensors() {
        again.tensor(&tensor.name, &tensor.dims, tensor.tensor_type, gguf.data(tensor).expect("it is whole"));
    }
    assert!(bytes_of(&again) == bytes_of(&w));
}

#[test]
fn it_agrees_with_the_tests_own_writer() {
    let data = [1.0_f32, -2.0, 3.5];
    let encoded: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut expected = GgufWriter { version: 2, alignment: 64, ..GgufWriter::default() };
    expected.meta("general.alignment", Meta::U32(64));
    expected.meta("names", Meta::strs(&["a", "bc"]));
    expected.meta("flags", Meta::Array(7, vec![Meta::Bool(true), Meta::Bool(false)]));
    expected.meta("numbers", Meta::i32s(&[-1, 2]));
    expected.tensor_f32("first", &[3], &data).tensor_f32("second", &[1, 3], &data);
    let mut w = Writer::with(2, 64);
    w.pair("general.alignment", &Value::U32(64));
    w.array("names", ValueType::Str, ["a", "bc"].map(|text| Value::Str(text.as_bytes())));
    w.array("flags", ValueType::Bool, [true, false].map(Value::Bool));
    w.array("numbers", ValueType::I32, [-1, 2].map(Value::I32));
    w.tensor("first", &[3], tensor_type("f32"), &encoded).tensor("second", &[1, 3], tensor_type("f32"), &encoded);
    assert!(bytes_of(&w) == expected.finish());
    assert!(bytes_of(&Writer::new()) == GgufWriter::default().finish(), "without tensors there is no padding");
}

#[test]
fn what_would_be_damaged_is_refused() {
    let message = |w: &Writer<'_>| {
        let mut out = Vec::new();
        let error = w.write(&mut out).expect_err("it does not fit");
        assert!(error.kind() == io::ErrorKind::InvalidInput && out.is_empty());
        error.to_string()
    };
    let mut w = Writer::new();
    w.array("numbers", ValueType::I32, [Value::I32(1), Value::U32(2)]);
    assert_eq!(message(&w), "numbers: expected elements of type i32, found u32");
    let data = [0; 34];
    for (dims, kind) in [(&[64_u64][..], "q8_0"), (&[16, 2], "q8_0"), (&[], "f32"), (&[u64::MAX, 2], "i8")] {
        let mut w = Writer::new();
        w.tensor("t", dims, tensor_type(kind), &data);
        assert!(message(&w).starts_with("t: 34 bytes are not a tensor of ["), "{dims:?}");
    }
}
