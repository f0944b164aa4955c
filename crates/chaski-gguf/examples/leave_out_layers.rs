//! Writes a model with some blocks left out:
//! `cargo run --release -p chaski-gguf --example leave_out_layers -- IN.gguf OUT.gguf 3,4,9`.
//!
//! The other blocks move together and keep their weights. Such a model predicts what the whole model says ("Draft & Verify",
//! arXiv 2309.08168), so it can be the draft model of the whole one (`-md OUT.gguf`).

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use chaski_gguf::{Gguf, Tensor, Value};

/// Architectures whose blocks differ in nothing but their weights. In others the number of a block decides its attention or
/// its experts, and a block that moves would become another one.
const ALIKE: &[&str] = &["llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe"];

#[allow(dead_code, reason = "the test includes this file as a module")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, blocks] = arguments.as_slice() else {
        return Err("usage: leave_out_layers IN.gguf OUT.gguf BLOCK,BLOCK,...".into());
    };
    let left_out = blocks.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>();
    let left_out = left_out.map_err(|_| format!("expected numbers of blocks such as 3,4,9, found {blocks:?}"))?;
    let gguf = Gguf::open(Path::new(from))?;
    gguf.check()?;
    // Renamed when it is whole, so that a failure leaves no broken model behind.
    let part = format!("{to}.part");
    let in_file = |error| format!("{part}: {error}");
    let mut from = File::open(from)?;
    let mut out = BufWriter::new(File::create(&part).map_err(in_file)?);
    let written = leave_out(&gguf, &mut from, &left_out, &mut out)
        .and_then(|()| Ok(out.flush().map_err(in_file)?))
        .and_then(|()| Ok(std::fs::rename(&part, to).map_err(in_file)?));
    if written.is_err() {
        // The first failure is the one to report.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes the model in `from`, whose header is `gguf`, without the blocks `left_out`.
///
/// # Errors
/// If blocks of this architecture are not alike, the model is in several files, a block does not exist or is named twice, no
/// block remains, or reading or writing fails.
pub fn leave_out(
    gguf: &Gguf,
    from: &mut (impl Read + Seek),
    left_out: &[u32],
    out: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let file = gguf.path().display();
    check(gguf, left_out)?;
    let arch = gguf.architecture().unwrap_or_default();
    let n_blocks = gguf.block_count().unwrap_or_default();
    let n_out = left_out.len();
    let is_out = |block: u32| left_out.contains(&block);
    let new_number = |block: u32| block - (0..block).filter(|before| is_out(*before)).count() as u32;

    let prefix = format!("{arch}.");
    let mut pairs = Vec::new();
    for (key, value) in gguf.metadata() {
        let mut value = Encoded::of(&value);
        if key == format!("{prefix}block_count") {
            value = Encoded::of(&Value::U32(n_blocks - n_out as u32));
        } else if key == "general.name" {
            let name = format!("{} without {n_out} of {n_blocks} blocks", gguf.name().unwrap_or_default());
            value = Encoded::of(&Value::Str(name.as_bytes()));
        } else if key.starts_with(&prefix) && value.is_array && value.elements.len() == n_blocks as usize {
            // One element for each block.
            let mut block = 0..n_blocks;
            value.elements.retain(|_| block.next().is_some_and(|block| !is_out(block)));
        }
        pairs.push((key, value));
    }
    let mut tensors = Vec::new();
    for tensor in gguf.tensors() {
        let Some((block, part)) = block_of(tensor, n_blocks) else {
            tensors.push((tensor.name.clone(), tensor));
            continue;
        };
        if !is_out(block) {
            tensors.push((format!("blk.{}.{part}", new_number(block)), tensor));
        }
    }

    // The reader does not say where the data begins, but a header has only one encoding.
    let whole: Vec<_> = gguf.metadata().map(|(key, value)| (key, Encoded::of(&value))).collect();
    let all: Vec<_> = gguf.tensors().iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let data = header(gguf, &whole, &all).len() as u64;
    out.write_all(&header(gguf, &pairs, &tensors))?;
    for (_, tensor) in &tensors {
        from.seek(SeekFrom::Start(data + tensor.offset))?;
        let n_copied = std::io::copy(&mut from.by_ref().take(tensor.size_bytes), out)?;
        if n_copied != tensor.size_bytes {
            return Err(
                format!("{file}: expected {} bytes of {}, found {n_copied}", tensor.size_bytes, tensor.name).into()
            );
        }
        out.write_all(&vec![0; (padded(tensor.size_bytes, gguf) - tensor.size_bytes) as usize])?;
    }
    Ok(())
}

/// Refuses what [`leave_out`] cannot do with this model.
fn check(gguf: &Gguf, left_out: &[u32]) -> Result<(), Box<dyn Error>> {
    let file = gguf.path().display();
    let arch = gguf.architecture().unwrap_or_default();
    if !ALIKE.contains(&arch) {
        return Err(format!(
            "{file}: expected an architecture with blocks all alike ({}), found {arch}",
            ALIKE.join(", ")
        )
        .into());
    }
    if gguf.get_u32("split.count").is_some_and(|n| n > 1) {
        return Err(format!("{file}: expected a model in one file, found a part of one").into());
    }
    let n_blocks = gguf.block_count().unwrap_or_default();
    let n_out = (0..n_blocks).filter(|block| left_out.contains(block)).count();
    if n_out != left_out.len() || n_out == n_blocks as usize {
        return Err(format!(
            "{file}: expected some of the blocks 0 to {}, each once, found {left_out:?}",
            n_blocks.saturating_sub(1)
        )
        .into());
    }
    Ok(())
}

/// The number of the block that a tensor belongs to, and the rest of its name.
fn block_of(tensor: &Tensor, n_blocks: u32) -> Option<(u32, &str)> {
    let (block, part) = tensor.name.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse().ok().filter(|block| *block < n_blocks)?, part))
}

fn padded(n_bytes: u64, gguf: &Gguf) -> u64 {
    n_bytes.next_multiple_of(gguf.alignment())
}

/// Everything before the data section, padded.
fn header(gguf: &Gguf, pairs: &[(&str, Encoded)], tensors: &[(String, &Tensor)]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(gguf.version().to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(key.as_bytes(), &mut out);
        value.write(&mut out);
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        text(name.as_bytes(), &mut out);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(tensor.tensor_type.code.to_le_bytes());
        out.extend(u64::to_le_bytes(offset));
        offset += padded(tensor.size_bytes, gguf);
    }
    out.resize(padded(out.len() as u64, gguf) as usize, 0);
    out
}

fn text(text: &[u8], out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// A metadata value in the bytes of the format.
struct Encoded {
    /// the code of its type, or of the type of its elements
    code: u32,
    /// whether it is an array; other values have one element
    is_array: bool,
    elements: Vec<Vec<u8>>,
}

impl Encoded {
    fn of(value: &Value<'_>) -> Encoded {
        match value {
            Value::Array(array) => {
                let elements = array.iter().map(|element| encode(&element)).collect();
                Encoded { code: array.element_type() as u32, is_array: true, elements }
            }
            scalar => Encoded { code: scalar.value_type() as u32, is_array: false, elements: vec![encode(scalar)] },
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.is_array {
            out.extend((chaski_gguf::ValueType::Array as u32).to_le_bytes());
            out.extend(self.code.to_le_bytes());
            out.extend((self.elements.len() as u64).to_le_bytes());
        } else {
            out.extend(self.code.to_le_bytes());
        }
        self.elements.iter().for_each(|element| out.extend(element));
    }
}

/// The bytes of a value that is no array.
fn encode(value: &Value<'_>) -> Vec<u8> {
    match *value {
        Value::U8(v) => v.to_le_bytes().to_vec(),
        Value::I8(v) => v.to_le_bytes().to_vec(),
        Value::U16(v) => v.to_le_bytes().to_vec(),
        Value::I16(v) => v.to_le_bytes().to_vec(),
        Value::U32(v) => v.to_le_bytes().to_vec(),
        Value::I32(v) => v.to_le_bytes().to_vec(),
        Value::F32(v) => v.to_le_bytes().to_vec(),
        Value::Bool(v) => vec![u8::from(v)],
        Value::U64(v) => v.to_le_bytes().to_vec(),
        Value::I64(v) => v.to_le_bytes().to_vec(),
        Value::F64(v) => v.to_le_bytes().to_vec(),
        Value::Str(v) => {
            let mut out = Vec::new();
            text(v, &mut out);
            out
        }
        // The reader refuses arrays of arrays.
        Value::Array(_) => Vec::new(),
    }
}
