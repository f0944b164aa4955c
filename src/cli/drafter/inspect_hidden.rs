//! `chaski drafter inspect` for a drafter on hidden states.

use serde::Serialize;

use crate::cli::drafter::InspectArgs;
use crate::cli::engine::{model_id, open_model};
use crate::cli::failure::Failure;
use crate::cli::output::write_stdout;
use crate::store::hidden_file::{HiddenFile, HiddenFileError, VERSION};

#[derive(Serialize)]
struct Report {
    version: u32,
    id: String,
    model: String,
    trained_tokens: u64,
    held_out_top1: f32,
    state: usize,
    hidden_units: usize,
    rank: usize,
    tokens: usize,
    weight_type: String,
    bytes: u64,
}

/// Shows the file if it is a drafter on hidden states. Returns whether it is one.
pub(super) fn inspect(args: &InspectArgs) -> Result<bool, Failure> {
    let opened = match &args.model {
        Some(model) => HiddenFile::open(&args.file, &model_id(open_model(model)?.path())),
        None => HiddenFile::open_any(&args.file),
    };
    let file = match opened {
        // Whatever is wrong with it, the caller says so.
        Err(HiddenFileError::NotAHiddenFile { .. } | HiddenFileError::NotAFile { .. } | HiddenFileError::Io { .. }) => {
            return Ok(false);
        }
        opened => opened?,
    };
    let bytes = std::fs::metadata(&args.file).map_err(|error| Failure::io(&args.file, &error))?.len();
    let report = Report {
        version: VERSION,
        id: file.id().to_string(),
        model: file.model.to_string(),
        trained_tokens: file.n_trained_tokens,
        held_out_top1: file.held_out_top1,
        state: file.n_embd(),
        hidden_units: file.n_hidden(),
        rank: file.rank(),
        tokens: file.tokens.len(),
        weight_type: file.first.tensor_type.name.to_owned(),
        bytes,
    };
    write_stdout(&if args.json {
        serde_json::to_string(&report).expect("strings and numbers serialize") + "\n"
    } else {
        to_text(&report, args.model.is_some())
    })?;
    Ok(true)
}

fn to_text(report: &Report, fits: bool) -> String {
    let Report {
        version,
        id,
        model,
        trained_tokens,
        held_out_top1,
        state,
        hidden_units,
        rank,
        tokens,
        weight_type,
        bytes,
    } = report;
    let fits = if fits { " (this model)" } else { "" };
    format!(
        "drafter on hidden states, version {version}, {id}\n\
         model: {model}{fits}\n\
         trained on: {trained_tokens} tokens; right on others: {:.1}%\n\
         network: states of {state} numbers, {hidden_units} hidden units\n\
         head: {tokens} tokens, rank {rank}\n\
         size: {bytes} bytes, weights in {weight_type}\n\
         checksum: correct\n",
        100.0 * held_out_top1
    )
}
