//! `chaski models list`: lists the models on this machine.

use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::models::{ListArgs, places_with};
use crate::cli::output::{stderr_line, write_stdout};
use crate::models::describe::{About, Listed, describe};
use crate::models::draft_models::could_draft;
use crate::models::locations::Store;
use crate::models::search::search;
use crate::text::sanitize_for_terminal;

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    also: &'a [String],
    store: Store,
    path: String,
    #[serde(flatten)]
    about: Option<&'a About>,
    /// Names of the models in the list that could draft for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    draft_models: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'a str>,
}

#[derive(Serialize)]
struct Report<'a> {
    models: Vec<Row<'a>>,
    /// Whether the search stopped early.
    is_cut: bool,
}

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    if let Some(folder) = args.dir.iter().find(|folder| !folder.is_dir()) {
        return Err(Failure::usage(format!("--dir {}: no such folder", folder.display())));
    }
    let search = search(&places_with(&args.dir));
    let listed: Vec<Listed> = search.found.into_iter().map(describe).collect();
    if search.is_cut {
        stderr_line(
            "notice: not all folders were searched, because there are too many; hint: give a smaller folder with \
             --dir",
        );
    }
    if args.json {
        let report = Report { models: listed.iter().map(|model| row(model, &listed)).collect(), is_cut: search.is_cut };
        return write_stdout(&(serde_json::to_string(&report).expect("strings and numbers serialize") + "\n"));
    }
    if listed.is_empty() {
        stderr_line("no models found; hint: download one with scripts/get-model.sh, or search a folder with --dir DIR");
    }
    write_stdout(&table(&listed))?;
    let drafted: Vec<String> = listed
        .iter()
        .map(|target| (target, draft_models_of(target, &listed)))
        .filter(|(_, drafts)| !drafts.is_empty())
        .map(|(target, drafts)| clean(&format!("{} for {}", drafts.join(" or "), target.found.name)))
        .collect();
    if !drafted.is_empty() {
        stderr_line(&format!("draft models (-md): {}", drafted.join("; ")));
    }
    Ok(())
}

/// Names of the models in `all` that could draft for `target`.
fn draft_models_of<'a>(target: &Listed, all: &'a [Listed]) -> Vec<&'a str> {
    let Some(target) = &target.gguf else { return Vec::new() };
    let drafts = all.iter().filter(|listed| listed.gguf.as_ref().is_some_and(|draft| could_draft(draft, target)));
    drafts.map(|listed| listed.found.name.as_str()).collect()
}

fn row<'a>(listed: &'a Listed, all: &'a [Listed]) -> Row<'a> {
    let found = &listed.found;
    Row {
        name: &found.name,
        also: &found.aliases,
        store: found.store,
        path: found.path.to_string_lossy().into_owned(),
        about: listed.about.as_ref().ok(),
        draft_models: draft_models_of(listed, all),
        fault: listed.about.as_ref().err().map(String::as_str),
    }
}

/// One line per model, in aligned columns. For a model that cannot run, the reason.
fn table(listed: &[Listed]) -> String {
    let cells: Vec<[String; 6]> = listed.iter().map(cells).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|at| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (row, listed) in cells.iter().zip(listed) {
        let [name, size, quantization, parameters, context, store] = row;
        let path = clean(&listed.found.path.to_string_lossy());
        match &listed.about {
            Ok(_) => {
                text += &format!(
                    "{name:0$}  {size:>1$}  {quantization:2$}  {parameters:>3$}  {context:>4$}  {store:5$}  {path}\n",
                    widths[0], widths[1], widths[2], widths[3], widths[4], widths[5],
                );
            }
            Err(fault) => text += &format!("{name:0$}  ! {fault} ({store}, {path})\n", widths[0]),
        }
    }
    text
}

fn cells(listed: &Listed) -> [String; 6] {
    let (name, store) = (clean(&listed.found.name), listed.found.store.name().to_owned());
    match &listed.about {
        Ok(about) => [
            name,
            HumanBytes(about.size_bytes).to_string(),
            about.quantization.clone(),
            parameters(about.n_parameters),
            HumanCount(about.context_length.into()).to_string(),
            store,
        ],
        Err(_) => [name, String::new(), String::new(), String::new(), String::new(), store],
    }
}

/// A number of parameters, as in 135M or 1.5B.
pub(super) fn parameters(n: u64) -> String {
    match n {
        0..1_000_000 => HumanCount(n).to_string(),
        1_000_000..1_000_000_000 => format!("{}M", (n as f64 / 1e6).round()),
        _ => format!("{:.1}B", n as f64 / 1e9),
    }
}

/// Makes a name from a file safe to print: one line, no escape sequences.
pub(super) fn clean(text: &str) -> String {
    sanitize_for_terminal(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_said_as_people_say_them() {
        assert_eq!(parameters(134_515_008), "135M");
        assert_eq!(parameters(1_543_714_304), "1.5B");
        assert_eq!(parameters(90_112), "90,112");
    }

    #[test]
    fn names_stay_on_their_line() {
        assert_eq!(clean("a\x1b]52;c\n\tb"), "a]52;c  b");
    }
}
