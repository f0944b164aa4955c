//! Turns a log of `chaski drafter align --keep-log` into texts with their prompts, for `teacher_forced` (an example of
//! chaski-llama): one `{"id", "kind", "prompt": [ids], "tokens": [ids], "top": [[[token, p], ...], ...]}` per line.
//!
//! ```text
//! cargo run --release --locked --example align_texts -- LOG OUT.jsonl [SEED]
//! ```
//!
//! The log must be of a run without `--prompts`. SEED is that of the run (0 unless given); the kinds depend on it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use chaski::align::prompts::Prompts;
use chaski::store::align_log::{self, LoggedToken};
use chaski::token::Token;
use serde_json::{Value, json};

/// A prompt and its answer.
type Answer = (Vec<Token>, Vec<LoggedToken>);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (log, out, seed) = match arguments.as_slice() {
        [log, out] => (log, out, 0),
        [log, out, seed] => (log, out, seed.parse()?),
        _ => return Err("expected LOG OUT.jsonl [SEED]".into()),
    };
    let mut answers: BTreeMap<u64, Answer> = BTreeMap::new();
    align_log::read(Path::new(log), |piece| {
        let (_, said) = answers.entry(piece.text).or_insert_with(|| (piece.before.clone(), Vec::new()));
        said.extend(piece.said.iter().cloned());
        Ok(())
    })?;
    let mut out = BufWriter::new(File::create(out)?);
    let kinds = Prompts::new(seed).map(|prompt| prompt.kind);
    for (id, kind) in (0..).zip(kinds).take_while(|(id, _)| answers.range(id..).next().is_some()) {
        let Some((prompt, said)) = answers.get(&id) else { continue };
        let ids = |tokens: &[Token]| tokens.iter().map(|token| token.0).collect::<Vec<i32>>();
        let top = |said: &LoggedToken| said.top.iter().map(|top| json!([top.token.0, top.weight])).collect();
        let tops: Vec<Value> = said.iter().map(top).collect();
        let tokens: Vec<Token> = said.iter().map(|said| said.token).collect();
        let line = json!({"id": id, "kind": kind, "prompt": ids(prompt), "tokens": ids(&tokens), "top": tops});
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(())
}
