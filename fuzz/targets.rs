//! What is fuzzed: functions that take any bytes and must neither panic nor break a promise. cargo-fuzz
//! (`fuzz/fuzz_targets`), the driver on stable Rust (`examples/fuzz.rs`) and a short run in the tests (`tests/fuzz.rs`)
//! share them.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use chaski::batch::input::format::Format;
use chaski::batch::input::lines::Lines;
use chaski::batch::input::request::Ask;
use chaski::chat::session;
use chaski::chat::template::{ChatTemplate, Message, RenderOptions, SpecialGuard, SpecialTexts};
use chaski::gguf::Gguf;
use chaski::models::describe::about;
use chaski::models::shape::{Kernels, shape};
use chaski::store::drafter_file::DrafterFile;
use chaski::structure::gbnf::to_lark;
use twox_hash::XxHash3_64;

/// A target: its name, which is also that of its corpus, and the function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them.
pub(crate) const TARGETS: [Target; 6] = [
    ("gguf", gguf),
    ("drafter_file", drafter_file),
    ("batch_line", batch_line),
    ("template", template),
    ("session", session),
    ("gbnf", gbnf),
];

/// A model file: the header, all checks, and everything that is asked of a model before it is loaded. A message must be fit
/// for a terminal.
pub(crate) fn gguf(bytes: &[u8]) {
    let opened = Gguf::from_bytes(bytes.to_vec(), Path::new("fuzzed.gguf"));
    let checked = opened.and_then(|gguf| {
        let walked = gguf.metadata().filter_map(|(_, value)| value.as_array()).map(|array| array.iter().count());
        let _ = (walked.sum::<usize>(), gguf.quantization(), gguf.tensors_by_type());
        let kernels = Kernels::new(&["REPACK".to_owned(), "AVX2".to_owned()]);
        let _ = shape(&gguf, &kernels).map(|shape| shape.layers.len());
        about(&gguf)
    });
    if let Err(error) = checked {
        let text = error.to_string();
        assert!(!text.contains(char::is_control), "not fit for a terminal: {text:?}");
    }
}

/// A drafter file: opened, and every row read; as it is, and with checksums that are right whatever it holds.
pub(crate) fn drafter_file(bytes: &[u8]) {
    for bytes in [bytes, &with_checksums(bytes.to_vec())] {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(bytes).expect("room for a temporary file");
        if let Ok(file) = DrafterFile::open_any(file.path()) {
            let n_vocab = file.vocabulary().n_tokens;
            for row in file.rows().flatten() {
                let known = row.successors.iter().all(|one| one.token.0 >= 0 && one.token.0 < n_vocab as i32);
                assert!(known, "a token beyond the vocabulary");
            }
        }
    }
}

/// The layout is told in `src/store/drafter_file/header.rs`: a header, blocks, an index with an entry for each block.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    const BLOCK: usize = 4096;
    const ENTRY: usize = 24;
    let put = |bytes: &mut Vec<u8>, at: usize, of: Range<usize>| {
        let sum = bytes.get(of).map(|of| XxHash3_64::oneshot(of).to_le_bytes());
        if let (Some(sum), Some(place)) = (sum, bytes.get_mut(at..at + 8)) {
            place.copy_from_slice(&sum);
        }
    };
    let n_blocks = bytes.get(24).map_or(0, |&n| usize::from(n));
    let index_at = BLOCK * (1 + n_blocks);
    for block in 0..n_blocks {
        put(&mut bytes, index_at + ENTRY * block + 16, BLOCK * (1 + block)..BLOCK * (2 + block));
    }
    let end = bytes.len();
    put(&mut bytes, 32, index_at..end);
    put(&mut bytes, BLOCK - 8, 0..BLOCK - 8);
    bytes
}

/// The lines of a batch, as JSON and as tables.
pub(crate) fn batch_line(bytes: &[u8]) {
    for format in [Format::Jsonl, Format::Text, Format::Table(b',')] {
        let mut lines = Lines::new(bytes, format);
        while let Ok(Some(line)) = lines.next_line() {
            if let Ok(text) = line.text {
                let _ = Ask::of_json(&text, line.number);
            }
        }
    }
}

/// What a user says, in a template: no special token of it may be parsed.
pub(crate) fn template(bytes: &[u8]) {
    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n\
                          {% endfor %}<|im_start|>assistant\n";
    let specials = ["<|im_start|>", "<|im_end|>", "</s>"];
    let guard = SpecialGuard::new(specials.map(str::to_owned));
    let template = ChatTemplate::parse(CHATML, SpecialTexts::default()).expect("a sound template");
    let content = String::from_utf8_lossy(bytes);
    let rendered = template.render(&[Message::new("user", content)], &RenderOptions::default(), &guard);
    let segments = rendered.expect("any content can be rendered").segments;
    let parsed = |special: &str| -> usize {
        segments
            .iter()
            .filter(|segment| segment.parse_special)
            .map(|segment| segment.text.matches(special).count())
            .sum()
    };
    assert_eq!(specials.map(parsed), [2, 1, 0], "a user's text is parsed for special tokens: {segments:?}");
}

/// A session: what is read can be written, and comes back.
pub(crate) fn session(bytes: &[u8]) {
    if let Ok(read) = session::from_json(bytes) {
        let again = session::from_json(session::to_json(&read).as_bytes()).expect("what was written can be read");
        assert_eq!(read, again);
    }
}

/// A grammar.
pub(crate) fn gbnf(bytes: &[u8]) {
    let _ = to_lark(&String::from_utf8_lossy(bytes));
}
