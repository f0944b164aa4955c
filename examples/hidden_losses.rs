//! Compares the losses that a drafter on hidden states can be trained with, on a log of `chaski drafter align --hidden --keep-log`.
//! Prints a row of a table after each pass: how often the target's token is among the network's first candidates, on texts held out.
//!
//! ```text
//! cargo run --release --locked --example hidden_losses -- MODEL.gguf LOG [EPOCHS [RATE OF TVD++]]
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Write as _, stdout};
use std::ops::ControlFlow;
use std::path::Path;

use chaski::llama::hidden::TargetMatrices;
use chaski::store::align_log;
use chaski::token::Token;
use chaski_hidden::{Event, Loss, Matrices, Said, Settings, Text, train};

struct Rows(TargetMatrices);

impl Matrices for Rows {
    fn n_embd(&self) -> usize {
        self.0.n_embd()
    }

    fn embedding(&self, token: Token, row: &mut [f32]) {
        self.0.embedding(token, row);
    }

    fn head(&self, token: Token, row: &mut [f32]) {
        self.0.head(token, row);
    }
}

fn texts(log: &Path) -> Result<Vec<Text>, Box<dyn Error>> {
    let mut texts: BTreeMap<u64, Text> = BTreeMap::new();
    align_log::read(log, |piece| {
        let text = texts.entry(piece.text).or_default();
        for said in &piece.said {
            text.states.extend_from_slice(&said.state);
            text.said.push(Said { token: said.token, top: said.top.clone() });
        }
        Ok(())
    })?;
    Ok(texts.into_values().collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, log, rest @ ..] = arguments.as_slice() else { return Err("expected MODEL.gguf LOG".into()) };
    let number = |at: usize| rest.get(at).map(|text: &String| text.parse::<f32>()).transpose();
    let defaults = Settings::default();
    let n_epochs = number(0)?.map_or(defaults.n_epochs, |n| n as usize);
    let tvd_rate = number(1)?.unwrap_or(defaults.rate);
    let texts = texts(Path::new(log))?;
    let matrices = Rows(TargetMatrices::open(Path::new(model))?);
    writeln!(stdout(), "| loss | rate | pass | first | first 3 | first 8 |\n|---|---:|---:|---:|---:|---:|")?;
    for (name, loss, rate) in
        [("cross-entropy", Loss::CrossEntropy, defaults.rate), ("TVD++", Loss::TotalVariation, tvd_rate)]
    {
        let settings = Settings { loss, rate, n_epochs, ..Settings::default() };
        let mut told = Ok(());
        train(&texts, &matrices, &settings, &mut |event, _| {
            if let Event::Epoch { epoch, held_out, .. } = event {
                let [first, first3, first8] = [held_out.top1, held_out.top3, held_out.top8].map(|share| 100.0 * share);
                told =
                    writeln!(stdout(), "| {name} | {rate:e} | {epoch} | {first:.1}% | {first3:.1}% | {first8:.1}% |");
            }
            if told.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        told?;
    }
    Ok(())
}
