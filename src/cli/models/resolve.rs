//! Resolves `-m NAME` to a file.

use std::path::{Path, PathBuf};

use crate::cli::failure::{ExitCode, Failure};
use crate::cli::models::list::clean;
use crate::cli::models::places_with;
use crate::models::names::{Meaning, meaning};
use crate::models::search::{Found, search};

/// Number of names shown in a message.
const N_TOLD: usize = 8;

/// Least similarity of a suggested name, from 0 to 1.
const LEAST_LIKENESS: f64 = 0.8;

/// Replaces a model name by its file. A path stays unchanged, even if there is no such file.
///
/// # Errors
/// If no model has the name, or several have.
pub fn resolve(model: &mut PathBuf) -> Result<(), Failure> {
    if is_path(model) {
        return Ok(());
    }
    let Some(name) = model.to_str() else { return Ok(()) };
    let search = search(&places_with(&[]));
    match meaning(name, &search.found) {
        Meaning::One(found) => {
            let path = found.path.clone();
            *model = path;
            Ok(())
        }
        Meaning::Several(several) => Err(ambiguous(name, &several)),
        Meaning::Nothing => Err(unknown(name, &search.found)),
    }
}

fn is_path(model: &Path) -> bool {
    let is_gguf = model.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let text = model.to_string_lossy();
    is_gguf || text.is_empty() || text.starts_with(['.', '/', '~', '\\']) || model.is_absolute() || model.exists()
}

fn ambiguous(name: &str, several: &[&Found]) -> Failure {
    let names: Vec<String> = several
        .iter()
        .take(N_TOLD)
        .map(|found| format!("{} ({})", clean(&found.name), clean(&found.path.to_string_lossy())))
        .collect();
    let more = several.len().saturating_sub(N_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Failure::usage(format!(
        "{name}: {} models have names that start like this: {}{more}",
        several.len(),
        names.join(", ")
    ))
    .with_hint("give more of the name, or the path of the file")
}

fn unknown(name: &str, found: &[Found]) -> Failure {
    let lower = name.to_lowercase();
    let is_near = |known: &str| {
        let known = known.to_lowercase();
        known.contains(&lower) || strsim::jaro_winkler(&known, &lower) >= LEAST_LIKENESS
    };
    let near: Vec<String> =
        found.iter().filter(|found| is_near(&found.name)).take(N_TOLD).map(|found| clean(&found.name)).collect();
    let failure = Failure::new(format!("{name}: no such model file, and no model has this name"));
    failure.with_code(ExitCode::ModelNotFound).with_hint(match near[..] {
        [] => "list your models with chaski models list, or download one with scripts/get-model.sh".to_owned(),
        _ => format!("your models: {}", near.join(", ")),
    })
}
