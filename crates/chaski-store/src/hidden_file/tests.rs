//! Files come back as they were written, and damage of every kind is an error.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const EMBD: usize = 32;
const HIDDEN: usize = 64;
const RANK: usize = 32;
const TOKENS: usize = 5;

fn weights(kind: &str, n_columns: usize, n_rows: usize, seed: u64) -> Weights {
    let tensor_type = TensorType::from_name(kind).unwrap();
    let n_bytes = tensor_type.size_bytes((n_columns * n_rows) as u64).unwrap();
    let mut state = seed;
    let data = (0..n_bytes).map(|_| random(&mut state) as u8).collect();
    Weights { tensor_type, n_columns, n_rows, data }
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn file() -> HiddenFile {
    HiddenFile {
        model: ModelId::from("model.gguf 0123456789abcdef".to_owned()),
        n_trained_tokens: 70_000,
        held_out_top1: 0.4,
        experience: Some("{\"weights\":[1,2]}".to_owned()),
        scale: 2.5,
        mean: (0..2 * EMBD).map(|n| n as f32 / 8.0).collect(),
        std: (0..2 * EMBD).map(|n| 1.0 + n as f32).collect(),
        first: weights("q8_0", 2 * EMBD, EMBD + HIDDEN, 1),
        first_bias: (0..EMBD + HIDDEN).map(|n| -(n as f32)).collect(),
        second: weights("q5_0", HIDDEN, EMBD, 2),
        down: weights("q4_0", EMBD, RANK, 3),
        up: weights("q8_0", RANK, TOKENS, 4),
        tokens: [7, 3, 0, 100_000, 9].map(Token).to_vec(),
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The message for a file of these bytes.
    fn refusal(&self, bytes: &[u8]) -> String {
        let path = self.path("bad");
        fs::write(&path, bytes).unwrap();
        let error = HiddenFile::open_any(&path).expect_err("a bad file");
        assert!(error.hint().is_some());
        let text = error.to_string();
        let named = text.strip_prefix(&format!("{}: ", path.display())).expect("the file's name");
        named.to_owned()
    }
}

#[test]
fn a_file_comes_back() {
    let place = Place::new();
    for experience in [file().experience, None] {
        let written = HiddenFile { experience, ..file() };
        let path = place.path("net.gguf");
        let n_bytes = written.write(&path).unwrap();
        assert_eq!(n_bytes, fs::metadata(&path).unwrap().len());
        assert_eq!(HiddenFile::open(&path, &file().model).unwrap(), written);
        assert_eq!((written.n_embd(), written.n_hidden(), written.rank()), (EMBD, HIDDEN, RANK));
    }
    let names: Vec<_> = fs::read_dir(place.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["net.gguf"], "no temporary file stays");
}

#[test]
fn another_model_is_refused() {
    let place = Place::new();
    let path = place.path("net.gguf");
    HiddenFile { model: ModelId::from("\u{1b}[31m.gguf 00000000deadbeef".to_owned()), ..file() }.write(&path).unwrap();
    let error = HiddenFile::open(&path, &file().model).unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("(\\u{1b}[31m.gguf 00000000deadbeef); expected model.gguf 0123456789abcdef"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("chaski drafter align")));
    // A renamed model is the same one.
    HiddenFile { model: ModelId::from("renamed.gguf 0123456789abcdef".to_owned()), ..file() }.write(&path).unwrap();
    HiddenFile::open(&path, &file().model).unwrap();
}

#[test]
fn foreign_files_are_named() {
    let place = Place::new();
    assert!(place.refusal(b"PK\x03\x04 and so on, many bytes").starts_with("not a hidden-state drafter"));
    assert!(place.refusal(b"").starts_with("damaged: expected a GGUF header"));
    let mut other = Vec::new();
    let mut model = crate::gguf::Writer::new();
    model.pair("general.architecture", &crate::gguf::Value::Str(b"llama")).write(&mut other).unwrap();
    assert_eq!(place.refusal(&other), "not a hidden-state drafter");
    let error = HiddenFile::open_any(place.0.path()).unwrap_err();
    assert!(matches!(error, HiddenFileError::NotAFile { .. }), "{error}");
    let error = HiddenFile::open_any(&place.path("missing")).unwrap_err();
    assert_eq!(error.hint(), Some("check the path"));
}

#[test]
fn a_newer_format_is_not_damage() {
    let place = Place::new();
    let path = place.path("net.gguf");
    file().write(&path).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let key = b"chaski-hidden.version";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&2_u32.to_le_bytes());
    assert!(place.refusal(&bytes).contains("(format 2, this version reads 1)"));
}

#[test]
fn parts_that_do_not_fit_are_not_written() {
    let place = Place::new();
    let path = place.path("net.gguf");
    type Change = fn(&mut HiddenFile);
    let changes: [(&str, Change); 13] = [
        ("expected states of 1", |file| file.mean.clear()),
        ("expected its hidden layer of 1", |file| file.second.n_columns = 0),
        ("expected the list of tokens", |file| file.tokens.clear()),
        ("first.weight: expected 64 × 96", |file| file.first.n_rows -= 1),
        ("second.weight: expected 64 × 32", |file| file.second.n_rows = 1 << 40),
        ("head.up.weight: expected 32 × 5", |file| file.up.n_columns = 64),
        ("bytes are not 32 × 32 elements of type q4_0", |file| file.down.data.truncate(3)),
        ("head.down.weight has the type q8_1", |file| file.down = weights("q8_1", EMBD, RANK, 1)),
        ("input.mean has NaN", |file| file.mean[3] = f32::NAN),
        ("input.std has a number that is not positive", |file| file.std[3] = 0.0),
        ("first.bias: expected 96", |file| file.first_bias.push(0.0)),
        ("expected a positive scale", |file| file.scale = f32::INFINITY),
        ("head.tokens has the id -1", |file| file.tokens[2] = Token(-1)),
    ];
    for (expected, change) in changes {
        let mut file = file();
        change(&mut file);
        let text = file.write(&path).unwrap_err().to_string();
        assert!(text.contains("cannot write the file: ") && text.contains(expected), "{text}");
    }
    assert!(!path.exists());
}

/// No changed byte changes the content unnoticed.
#[test]
fn a_changed_byte_is_found() {
    let place = Place::new();
    let path = place.path("net.gguf");
    file().write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut n_unnoticed = 0;
    for at in 0..bytes.len() {
        // The header in every byte, the weights in every seventh.
        if at > 2048 && at % 7 != 0 {
            continue;
        }
        let mut bad = bytes.clone();
        bad[at] ^= 0x41;
        fs::write(&path, &bad).unwrap();
        match HiddenFile::open_any(&path) {
            // Padding.
            Ok(same) => {
                assert_eq!(same, file(), "byte {at}");
                n_unnoticed += 1;
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control)),
        }
    }
    assert!(n_unnoticed < 64, "{n_unnoticed} bytes are not padding");
}

#[test]
fn a_cut_off_file_is_found() {
    let place = Place::new();
    let path = place.path("net.gguf");
    file().write(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    for n in (0..bytes.len() - 32).step_by(13) {
        place.refusal(&bytes[..n]);
    }
    assert!(place.refusal(&bytes[..bytes.len() - 64]).starts_with("the file is cut off: expected "));
}

/// Whatever a file holds, what is opened fits together: checksums that are right over random changes.
#[test]
fn a_forged_file_is_refused_or_sound() {
    let place = Place::new();
    let path = place.path("net.gguf");
    let mut state = 7;
    let mut n_opened = 0;
    for _ in 0..1000 {
        let mut forged = file();
        for _ in 0..1 + random(&mut state) % 3 {
            let n = random(&mut state);
            let any = (random(&mut state) % 200) as usize;
            match n % 9 {
                0 => forged.mean.truncate(any),
                1 => forged.std[any % (2 * EMBD)] = f32::from_bits(n as u32),
                2 => forged.first.n_columns = any,
                3 => forged.second = weights("q8_0", 32 * (any % 4), any, n),
                4 => forged.up.data = vec![n as u8; any],
                5 => forged.tokens = (0..any).map(|_| Token(random(&mut state) as i32)).collect(),
                6 => forged.scale = f32::from_bits(n as u32),
                7 => {
                    forged.down.tensor_type = TensorType::from_code(any as u32 % 43).unwrap_or(forged.down.tensor_type)
                }
                _ => forged.held_out_top1 = f32::from_bits(n as u32),
            }
        }
        if write_unchecked(&forged, &path)
            && let Ok(opened) = HiddenFile::open_any(&path)
        {
            opened.check().unwrap();
            n_opened += 1;
        }
    }
    assert!(n_opened > 10, "{n_opened} of 1000 were opened");
}

/// Writes what `write` refuses, with a right checksum. False if even GGUF cannot hold it.
fn write_unchecked(file: &HiddenFile, path: &Path) -> bool {
    let mut bytes = Vec::new();
    let is_written = file.encode_unchecked(&mut bytes).is_ok();
    fs::write(path, bytes).unwrap();
    is_written
}
