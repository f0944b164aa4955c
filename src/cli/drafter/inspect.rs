//! `chaski drafter inspect`: shows what a drafter file contains, and checks it for damage.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::drafter::{InspectArgs, inspect_hidden};
use crate::cli::engine::open_model;
use crate::cli::failure::Failure;
use crate::cli::output::write_stdout;
use crate::llama::logs;
use crate::llama::tokenizer::Tokenizer;
use crate::store::drafter_file::{BaseRow, DrafterFile, VERSION};
use crate::store::vocabulary::Vocabulary;

/// Number of rows shown as text, and of successors of each.
const N_TOP_ROWS: usize = 10;
const N_TOP_SUCCESSORS: usize = 3;

#[derive(Serialize)]
struct Report {
    version: u32,
    n_vocab: u32,
    vocabulary_hash: String,
    /// Contexts of two tokens, then of one, then of none.
    trigrams: Counts,
    bigrams: Counts,
    unigrams: Counts,
    bytes: u64,
    bytes_per_trigram: f64,
    blocks: usize,
    damaged_blocks: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<TopRow>>,
}

#[derive(Serialize)]
struct Counts {
    contexts: u64,
    successors: u64,
}

#[derive(Serialize)]
struct TopRow {
    context: String,
    count: f32,
    successors: Vec<TopSuccessor>,
}

#[derive(Serialize)]
struct TopSuccessor {
    text: String,
    share: f32,
}

pub(super) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    if inspect_hidden::inspect(args)? {
        return Ok(());
    }
    let (file, tokenizer) = match &args.model {
        None => (DrafterFile::open_any(&args.file)?, None),
        Some(model) => {
            let vocabulary = Vocabulary::of(&open_model(model)?);
            let vocabulary = vocabulary.ok_or_else(|| Failure::new("the model file contains no vocabulary"))?;
            let file = DrafterFile::open(&args.file, &vocabulary)?;
            logs::capture(false);
            (file, Some(Tokenizer::load(model).map_err(|error| Failure::new(error.to_string()))?))
        }
    };
    let mut first_error = None;
    let mut n_damaged = 0;
    let mut top: Vec<BaseRow> = Vec::new();
    for row in file.rows() {
        match row {
            Ok(row) if row.context.tokens().len() == 2 => keep_most_frequent(&mut top, row),
            Ok(_) => {}
            Err(error) => {
                n_damaged += 1;
                first_error.get_or_insert(error);
            }
        }
    }
    let top = tokenizer.map(|tokenizer| top.iter().map(|row| top_row(row, &tokenizer)).collect());
    let report = report(&file, n_damaged, top);
    write_stdout(&if args.json {
        serde_json::to_string(&report).expect("strings and numbers serialize") + "\n"
    } else {
        to_text(&report)
    })?;
    first_error.map_or(Ok(()), |error| Err(error.into()))
}

fn keep_most_frequent(top: &mut Vec<BaseRow>, row: BaseRow) {
    let place = top.partition_point(|known| known.total >= row.total);
    if place < N_TOP_ROWS {
        top.truncate(N_TOP_ROWS - 1);
        top.insert(place, row);
    }
}

fn top_row(row: &BaseRow, tokenizer: &Tokenizer) -> TopRow {
    let successors = row.successors.iter().take(N_TOP_SUCCESSORS);
    TopRow {
        context: tokenizer.text(row.context.tokens()),
        count: row.total,
        successors: successors
            .map(|one| TopSuccessor { text: tokenizer.text(&[one.token]), share: one.weight / row.total })
            .collect(),
    }
}

fn report(file: &DrafterFile, damaged_blocks: usize, top: Option<Vec<TopRow>>) -> Report {
    let (vocabulary, totals) = (file.vocabulary(), file.totals());
    let counts = |order: usize| Counts { contexts: totals.n_rows[order], successors: totals.n_successors[order] };
    Report {
        version: VERSION,
        n_vocab: vocabulary.n_tokens,
        vocabulary_hash: format!("{:016x}", vocabulary.hash),
        trigrams: counts(2),
        bigrams: counts(1),
        unigrams: counts(0),
        bytes: file.file_bytes(),
        bytes_per_trigram: file.file_bytes() as f64 / totals.n_successors[2].max(1) as f64,
        blocks: file.n_blocks(),
        damaged_blocks,
        top,
    }
}

fn to_text(report: &Report) -> String {
    let mut text = format!(
        "drafter file, version {}\nvocabulary: {} tokens, hash {}\n",
        report.version, report.n_vocab, report.vocabulary_hash
    );
    for (name, counts) in
        [("tri-grams", &report.trigrams), ("bi-grams", &report.bigrams), ("uni-grams", &report.unigrams)]
    {
        let _ = writeln!(text, "{name}: {} in {} rows", counts.successors, counts.contexts);
    }
    let _ = writeln!(text, "size: {} bytes, {:.2} for each tri-gram", report.bytes, report.bytes_per_trigram);
    let _ = match report.damaged_blocks {
        0 => writeln!(text, "checksums: all {} blocks are correct", report.blocks),
        n => writeln!(text, "checksums: {n} of {} blocks are damaged", report.blocks),
    };
    if let Some(top) = &report.top {
        text += "vocabulary: fits the model\nmost frequent:\n";
        for row in top {
            let successors: Vec<String> =
                row.successors.iter().map(|one| format!("{:?} {:.0}%", one.text, one.share * 100.0)).collect();
            let _ = writeln!(text, "  {:?} {:.0} times: {}", row.context, row.count, successors.join(", "));
        }
    }
    text
}
