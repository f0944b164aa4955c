//! Writes a model with some blocks left out:
//! `cargo run --release -p chaski-gguf --example leave_out_layers -- IN.gguf OUT.gguf 3,4,9`.
//!
//! The other blocks move together and keep their weights. Such a model predicts what the whole model says ("Draft & Verify",
//! arXiv 2309.08168), so it can be the draft model of the whole one (`-md OUT.gguf`).

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use chaski_gguf::{Gguf, Tensor, Value, Writer};

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
    let mut out = BufWriter::new(File::create(&part).map_err(in_file)?);
    let written = leave_out(&gguf, &left_out, &mut out)
        .and_then(|()| Ok(out.flush().map_err(in_file)?))
        .and_then(|()| Ok(std::fs::rename(&part, to).map_err(in_file)?));
    if written.is_err() {
        // The first failure is the one to report.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes the model without the blocks `left_out`.
///
/// # Errors
/// If blocks of this architecture are not alike, the model is in several files, a block does not exist or is named twice, no
/// block remains, or writing fails.
pub fn leave_out(gguf: &Gguf, left_out: &[u32], out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    check(gguf, left_out)?;
    let n_blocks = gguf.block_count().unwrap_or_default();
    let n_out = left_out.len();
    let is_out = |block: u32| left_out.contains(&block);
    let new_number = |block: u32| block - (0..block).filter(|before| is_out(*before)).count() as u32;

    let prefix = format!("{}.", gguf.architecture().unwrap_or_default());
    let mut writer = Writer::with(gguf.version(), gguf.alignment());
    for (key, value) in gguf.metadata() {
        match value {
            _ if key == format!("{prefix}block_count") => writer.pair(key, &Value::U32(n_blocks - n_out as u32)),
            _ if key == "general.name" => {
                let name = format!("{} without {n_out} of {n_blocks} blocks", gguf.name().unwrap_or_default());
                writer.pair(key, &Value::Str(name.as_bytes()))
            }
            // One element for each block.
            Value::Array(array) if key.starts_with(&prefix) && array.len() == n_blocks as usize => {
                let blocks = (0..n_blocks).zip(array.iter()).filter(|(block, _)| !is_out(*block));
                writer.array(key, array.element_type(), blocks.map(|(_, element)| element))
            }
            value => writer.pair(key, &value),
        };
    }
    for tensor in gguf.tensors() {
        let name = match block_of(tensor, n_blocks) {
            Some((block, _)) if is_out(block) => continue,
            Some((block, part)) => format!("blk.{}.{part}", new_number(block)),
            None => tensor.name.clone(),
        };
        let data = gguf.data(tensor).expect("the reader checked that the file has all tensors");
        writer.tensor(&name, &tensor.dims, tensor.tensor_type, data);
    }
    Ok(writer.write(out)?)
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
