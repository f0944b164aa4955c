//! Turns a log of `chaski drafter align --keep-log` into texts with their prompts, for `teacher_forced` (an example of
//! chaski-llama): one `{"id", "kind", "prompt": [ids], "tokens": [ids], "top": [[[token, p], ...], ...]}` per line.
//!
//! ```text
//! cargo run --release --locked --example align_texts -- MODEL.gguf LOG OUT.jsonl [SEED]
//! ```
//!
//! The log has the tokens of the answers only. The prompts are those that align ships, rendered and tokenized again, so the log
//! must be of a run without `--prompts` and with this SEED (0 unless given). A prompt that does not end as the log says is an
//! error.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use chaski::align::prompts::Prompts;
use chaski::chat::template::{ChatTemplate, Message, RenderOptions, Segment, SpecialGuard};
use chaski::gguf::Gguf;
use chaski::llama::logs;
use chaski::llama::model::{Model, ModelConfig};
use chaski::store::align_log::{self, LoggedToken};
use chaski::token::Token;
use serde_json::json;

/// What the log has of a text: the last tokens of its prompt, and its answer.
type Answer = (Vec<Token>, Vec<LoggedToken>);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (files, seed) = match arguments.as_slice() {
        [model, log, out] => ([model, log, out], 0),
        [model, log, out, seed] => ([model, log, out], seed.parse()?),
        _ => return Err("expected MODEL.gguf LOG OUT.jsonl [SEED]".into()),
    };
    let [path, log, out] = files.map(PathBuf::from);
    logs::capture(false);
    let gguf = Gguf::open(&path)?;
    let model = Model::load(&ModelConfig { path, n_gpu_layers: None, lora: None }, |_| true)?;
    let (specials, all) = model.special_texts();
    let template = gguf.chat_template().map(|source| ChatTemplate::parse(source, specials)).transpose()?;
    let guard = SpecialGuard::new(all);

    let mut answers: BTreeMap<u64, Answer> = BTreeMap::new();
    align_log::read(&log, |piece| {
        let (_, said) = answers.entry(piece.text).or_insert_with(|| (piece.before.clone(), Vec::new()));
        said.extend(piece.said.iter().cloned());
        Ok(())
    })?;
    let mut out = BufWriter::new(File::create(out)?);
    for (id, prompt) in (0..).zip(Prompts::new(seed)).take_while(|(id, _)| answers.range(id..).next().is_some()) {
        let Some((before, said)) = answers.get(&id) else { continue };
        let segments = match &template {
            None => vec![Segment { text: prompt.text, parse_special: false }],
            Some(template) => {
                let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
                template.render(&[Message::new("user", prompt.text)], &options, &guard)?.segments
            }
        };
        let tokens: Vec<i32> = model.tokenize(&segments).iter().map(|token| token.0).collect();
        if !tokens.ends_with(&before.iter().map(|token| token.0).collect::<Vec<i32>>()) {
            return Err(format!("prompt {id} is not the one of the log\nhint: give the seed of the log").into());
        }
        let top = said.iter().map(|said| said.top.iter().map(|top| json!([top.token.0, top.weight])).collect());
        let top: Vec<Vec<serde_json::Value>> = top.collect();
        let said: Vec<i32> = said.iter().map(|said| said.token.0).collect();
        writeln!(out, "{}", json!({"id": id, "kind": prompt.kind, "prompt": tokens, "tokens": said, "top": top}))?;
    }
    out.flush()?;
    Ok(())
}
