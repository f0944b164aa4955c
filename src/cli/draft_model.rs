//! `--draft-model`: checks, before llama.cpp loads anything, that a model can draft for the target.

use std::path::Path;

use serde::Serialize;

use crate::cli::args::DraftingArgs;
use crate::cli::engine::open_model_of;
use crate::cli::failure::Failure;
use crate::cli::models::draft_models_for;
use crate::cli::output::stderr_line;
use crate::engine::{Details, DraftModelStats, DrafterKind};
use crate::gguf::{DifferentToken, Gguf};
use crate::llama::engine::EngineConfig;
use crate::llama::model::ModelConfig;

/// Long name of the flag.
pub const FLAG: &str = "draft-model";

/// The value that means no draft model, for a settings file that names one.
const NONE: &str = "none";

/// Most models named in a hint.
const N_TOLD: usize = 4;

/// The draft model that the flag names, if any.
#[must_use]
pub fn named(flag: Option<&Path>) -> Option<&Path> {
    flag.filter(|path| *path != Path::new(NONE))
}

/// Opens the draft model that the flags name, and adds it to `config`.
///
/// # Errors
/// If the drafter asks no draft model, the file cannot be run, or it cannot draft for `target`.
pub fn add(args: &DraftingArgs, target: &Gguf, config: &mut EngineConfig) -> Result<Option<Gguf>, Failure> {
    add_for(args.draft_model.as_deref(), &[args.drafter], target, config)
}

/// The same for a command with several drafters.
///
/// # Errors
/// As [`add`], if none of `drafters` asks a draft model.
pub fn add_for(
    flag: Option<&Path>,
    drafters: &[DrafterKind],
    target: &Gguf,
    config: &mut EngineConfig,
) -> Result<Option<Gguf>, Failure> {
    let Some(path) = named(flag) else { return Ok(None) };
    if !drafters.contains(&DrafterKind::Auto) {
        return Err(Failure::usage("only the drafter auto can ask a draft model")
            .about(FLAG)
            .with_hint("use --drafter auto, or give -md none"));
    }
    let draft = open_model_of(path, FLAG)?;
    check(&draft, target).map_err(|failure| failure.about(FLAG))?;
    let n_gpu_layers = config.model.n_gpu_layers;
    config.draft_model = Some(ModelConfig { path: path.to_owned(), n_gpu_layers, lora: None });
    Ok(Some(draft))
}

fn check(draft: &Gguf, target: &Gguf) -> Result<(), Failure> {
    let (name, target_name) = (draft.path().display(), target.path().display());
    if !target.takes_drafts() {
        let why = "this model's state cannot go back from a rejected draft";
        return Err(Failure::new(format!("{target_name}: {why}")).with_hint("give -md none"));
    }
    if draft.is_recurrent() {
        let why = "this model is recurrent, and such a model cannot draft";
        return Err(Failure::new(format!("{name}: {why}")).with_hint(what_fits(target)));
    }
    let Some(different) = draft.first_different_token(target) else { return Ok(()) };
    let why = in_words(&different, &file_name(draft.path()), &file_name(target.path()));
    Err(Failure::new(format!("{name}: cannot draft for this model, which has another vocabulary: {why}"))
        .with_hint(what_fits(target)))
}

fn in_words(different: &DifferentToken, draft: &str, target: &str) -> String {
    let id = different.id;
    match (&different.first, &different.second) {
        (Some(first), Some(second)) => format!("token {id} is {first:?} in {draft} and {second:?} in {target}"),
        (Some(only), None) => format!("token {id} is {only:?} in {draft} and does not exist in {target}"),
        (None, only) => {
            let only = only.as_deref().unwrap_or_default();
            format!("token {id} is {only:?} in {target} and does not exist in {draft}")
        }
    }
}

/// Hint: the models at hand that could draft, or what to look for.
fn what_fits(target: &Gguf) -> String {
    let names = draft_models_for(target);
    match &names[..] {
        [] => "use a small model of the same family, with the same vocabulary; or give -md none".to_owned(),
        names => format!("these could draft: -md {}", names[..names.len().min(N_TOLD)].join(", -md ")),
    }
}

/// Prints with `-v` what the draft model, or the drafter on hidden states, did for an answer.
pub fn tell(details: &Details, is_verbose: bool) {
    if let (true, Some(DraftModelStats { is_hidden, n_predictions, row_ms })) = (is_verbose, details.draft_model) {
        let who = if is_hidden { "drafter on hidden states" } else { "draft model" };
        let price = row_ms.map(|ms| format!(", {ms:.2} ms per token")).unwrap_or_default();
        stderr_line(&format!("{who}: {n_predictions} predictions{price}"));
    }
}

/// The member `draft_model` of a JSON object.
#[derive(Clone, Debug, Serialize)]
pub struct JsonDraftModel {
    name: String,
    predictions: u64,
}

impl JsonDraftModel {
    /// For an answer with these details; `None` if no draft model was used.
    #[must_use]
    pub fn of(flag: Option<&Path>, details: &Details) -> Option<JsonDraftModel> {
        let DraftModelStats { n_predictions: predictions, .. } = details.draft_model?;
        Some(JsonDraftModel { name: file_name(named(flag)?), predictions })
    }
}

/// The name of a file without its folder.
#[must_use]
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
