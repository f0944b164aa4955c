//! `bench --check`: compares the logits of wide batches with plain decoding, bit for bit, at every position of real
//! text.
//!
//! The plain text is forced through batches of several shapes. In a context that is not exact, logits depend slightly
//! on the number of rows, and at a near-tie a wide batch can choose another token. The report then lists what was not
//! exact, and the plain margin at each difference.

use serde::Serialize;

use crate::cli::bench::prompts::{Prompt, Renderer};
use crate::cli::bench::stats::{median, range};
use crate::cli::bench::table::{Row, Table};
use crate::cli::bench::{Bench, next_prompt};
use crate::cli::failure::Failure;
use crate::exactness::Exactness;
use crate::llama::engine::forced::{Difference, Forced, Shape};
use crate::llama::engine::measure::{Measured, What};

/// Default widths: the most used one, and one that uses another kernel.
const WIDTHS: [usize; 2] = [4, 16];

/// Longest token text in the list, in characters.
const MAX_SHOWN: usize = 24;

pub(super) fn measure(
    bench: &mut Bench<'_>,
    prompts: &[Prompt],
    renderer: &Renderer<'_>,
) -> Result<(Vec<Table>, String), Failure> {
    let widths = match bench.args.curve.widths.as_slice() {
        [] => WIDTHS.to_vec(),
        widths if widths.contains(&1) => {
            return Err(Failure::usage("--widths: 1 is plain decoding; give 2 or more").with_hint("2 to 64 rows"));
        }
        widths => widths.to_vec(),
    };
    let kinds = if bench.takes_trees { &[false, true][..] } else { &[false] };
    let shapes: Vec<Shape> =
        kinds.iter().flat_map(|&is_tree| widths.iter().map(move |&n_rows| Shape { n_rows, is_tree })).collect();
    let mut texts = Vec::new();
    let mut list = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let what = What::Forced { max_tokens: bench.args.n_predict, shapes: shapes.clone(), n_ctx: bench.n_ctx };
        let Measured::Forced(forced) = bench.measured(next_prompt(number, prompts, renderer)?, what)? else {
            return Err(Failure::new("unexpected result from the engine"));
        };
        for ((shape, differences), &n_same_bits) in shapes.iter().zip(&forced.differences).zip(&forced.n_same_bits) {
            let text = Text {
                id: &prompt.id,
                kind: &prompt.kind,
                shape: name(shape),
                n_rows: shape.n_rows,
                n_positions: forced.n_positions,
                n_same_bits,
                n_different: differences.len(),
            };
            bench.raw.write(&bench.setup, &text)?;
            for difference in differences {
                let row = listed(&prompt.id, shape, difference);
                bench.raw.write(&bench.setup, &row)?;
                list.push(row);
            }
        }
        texts.push(forced);
    }
    let rows = shapes.iter().enumerate().map(|(number, shape)| summary(shape, number, &texts)).collect();
    bench.setup = std::mem::take(&mut bench.setup).hidden("exact", exactness(&texts).is_exact());
    Ok((vec![Table { name: "summary", rows }, Table { name: "differences", rows: list }], verdict(&texts)))
}

/// All reasons of all texts: contexts may be recreated between texts.
fn exactness(texts: &[Forced]) -> Exactness {
    let mut reasons = Vec::new();
    for reason in texts.iter().flat_map(|text| &text.exactness.0) {
        if !reasons.contains(reason) {
            reasons.push(reason.clone());
        }
    }
    Exactness(reasons)
}

/// Number of positions with equal logits, and the reasons why the rest is not exact.
fn verdict(texts: &[Forced]) -> String {
    let n_same: usize = texts.iter().flat_map(|text| &text.n_same_bits).sum();
    let n: usize = texts.iter().map(|text| text.n_positions * text.n_same_bits.len()).sum();
    let reasons = exactness(texts).reasons();
    reasons.iter().fold(format!("equal: {n_same} of {n} positions, bits"), |all, reason| all + "\nnot exact: " + reason)
}

/// Raw record of one text in one shape.
#[derive(Serialize)]
struct Text<'a> {
    id: &'a str,
    kind: &'a str,
    shape: &'static str,
    n_rows: usize,
    n_positions: usize,
    n_same_bits: usize,
    n_different: usize,
}

fn name(shape: &Shape) -> &'static str {
    if shape.is_tree { "tree" } else { "chain" }
}

/// Summary row of all texts in one shape.
fn summary(shape: &Shape, number: usize, texts: &[Forced]) -> Row {
    let n_positions: usize = texts.iter().map(|text| text.n_positions).sum();
    let differences: Vec<&Difference> = texts.iter().flat_map(|text| &text.differences[number]).collect();
    let margins: Vec<f64> = differences.iter().map(|difference| f64::from(difference.plain_margin)).collect();
    let n_equal = n_positions - differences.len();
    let n_same_bits = texts.iter().map(|text| text.n_same_bits[number]).sum();
    let n_equal_texts = texts.iter().filter(|text| text.differences[number].is_empty()).count();
    let row = Row::default()
        .text("shape", "shape", name(shape))
        .count("n_rows", "rows", shape.n_rows)
        .count("n_positions", "positions", n_positions)
        .count("n_same_bits", "same bits", n_same_bits)
        .count("n_equal", "equal", n_equal)
        .percent("share_equal", "share", n_equal as f64 / n_positions as f64, 3);
    // The Markdown table shows margins only if something differs.
    let is_different = texts.iter().any(|text| text.differences.iter().any(|differences| !differences.is_empty()));
    let title = |title: &'static str| if is_different { title } else { "" };
    let row = match margins.is_empty() {
        true => row
            .number("median_margin", title("median margin"), f64::NAN, 3)
            .shown("-".into())
            .number("greatest_margin", title("greatest"), f64::NAN, 3)
            .shown("-".into()),
        false => row.number("median_margin", "median margin", median(&margins), 3).number(
            "greatest_margin",
            "greatest",
            range(&margins).1,
            3,
        ),
    };
    row.count("n_equal_texts", "texts without a difference", n_equal_texts)
        .shown(format!("{n_equal_texts}/{}", texts.len()))
        .hidden("n_texts", texts.len())
}

fn listed(id: &str, shape: &Shape, difference: &Difference) -> Row {
    let cut = |text: &str| format!("{:?}", text.chars().take(MAX_SHOWN).collect::<String>());
    Row::default()
        .text("id", "prompt", id)
        .text("shape", "shape", name(shape))
        .count("n_rows", "rows", shape.n_rows)
        .count("position", "position", difference.position)
        .text("plain", "plain", &difference.plain)
        .shown(cut(&difference.plain))
        .text("batch", "batch", &difference.batch)
        .shown(cut(&difference.batch))
        .number("plain_margin", "margin", f64::from(difference.plain_margin), 3)
        .number("batch_margin", "in the batch", f64::from(difference.batch_margin), 3)
}
