//! Lists the folders where programs keep models. Pure: the environment is passed in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The program that a folder belongs to, and so its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// `models/` of a checkout, filled by `scripts/get-model.sh` and recognized by its `models.toml`.
    Manifest,
    /// A folder with GGUF files at any depth.
    Folder,
    /// Hugging Face's cache: snapshots with links to blobs.
    HuggingFace,
    /// Ollama: manifests that name blobs.
    Ollama,
    /// LM Studio: `PUBLISHER/MODEL/FILE`.
    LmStudio,
    /// llama.cpp's cache.
    LlamaCpp,
}

impl Store {
    /// The name shown to users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Store::Manifest => "models",
            Store::Folder => "folder",
            Store::HuggingFace => "Hugging Face",
            Store::Ollama => "Ollama",
            Store::LmStudio => "LM Studio",
            Store::LlamaCpp => "llama.cpp",
        }
    }
}

/// A folder to search. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its layout.
    pub store: Store,
    /// The folder.
    pub folder: PathBuf,
}

/// Number of parent folders of the program that may be a checkout: `CHECKOUT/target/release/chaski`.
const N_ABOVE_PROGRAM: usize = 4;

/// The folders to search. `env` reads a variable (an empty one counts as unset); `program` is the path of this program.
/// If `CHASKI_MODELS` is set, it replaces the manifest folders.
pub fn places(env: impl Fn(&str) -> Option<OsString>, program: Option<&Path>) -> Vec<Place> {
    let folder = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = folder("HOME").or_else(|| folder("USERPROFILE"));
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let cache = folder("XDG_CACHE_HOME").or_else(|| in_home(".cache"));
    let in_cache = |path: &str| cache.as_ref().map(|cache| cache.join(path));

    let mut places = Vec::new();
    let mut add = |store, folder: Option<PathBuf>| places.extend(folder.map(|folder| Place { store, folder }));
    match folder("CHASKI_MODELS") {
        Some(given) => add(Store::Folder, Some(given)),
        None => {
            add(Store::Manifest, Some(PathBuf::from("models")));
            let above = program.into_iter().flat_map(|program| program.ancestors().skip(1).take(N_ABOVE_PROGRAM));
            above.for_each(|folder| add(Store::Manifest, Some(folder.join("models"))));
        }
    }
    let hugging_face = folder("HF_HUB_CACHE").or_else(|| folder("HF_HOME").map(|home| home.join("hub")));
    add(Store::HuggingFace, hugging_face.or_else(|| in_cache("huggingface/hub")));
    match folder("OLLAMA_MODELS") {
        Some(given) => add(Store::Ollama, Some(given)),
        None => {
            add(Store::Ollama, in_home(".ollama/models"));
            // Ollama's installer for Linux uses this folder when Ollama runs as a service.
            add(Store::Ollama, Some(PathBuf::from("/usr/share/ollama/.ollama/models")));
        }
    }
    add(Store::LmStudio, in_home(".lmstudio/models"));
    add(Store::LmStudio, in_home(".cache/lm-studio/models"));
    match folder("LLAMA_CACHE") {
        Some(given) => add(Store::LlamaCpp, Some(given)),
        None => {
            add(Store::LlamaCpp, in_cache("llama.cpp"));
            add(Store::LlamaCpp, in_home("Library/Caches/llama.cpp"));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(vars: &[(&str, &str)], store: Store) -> Vec<String> {
        let env = |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let all = places(env, Some(Path::new("/src/chaski/target/release/chaski")));
        let of_store = all.into_iter().filter(|place| place.store == store);
        of_store.map(|place| place.folder.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn each_program_has_its_own_variables() {
        let home = ("HOME", "/h");
        let hugging_face = |vars: &[_]| folders(vars, Store::HuggingFace);
        assert_eq!(hugging_face(&[home]), ["/h/.cache/huggingface/hub"]);
        assert_eq!(hugging_face(&[home, ("XDG_CACHE_HOME", "/c")]), ["/c/huggingface/hub"]);
        assert_eq!(hugging_face(&[home, ("HF_HOME", "/f")]), ["/f/hub"]);
        assert_eq!(hugging_face(&[home, ("HF_HOME", "/f"), ("HF_HUB_CACHE", "/u")]), ["/u"]);
        assert_eq!(folders(&[home, ("OLLAMA_MODELS", "/o")], Store::Ollama), ["/o"]);
        assert_eq!(folders(&[home, ("OLLAMA_MODELS", "")], Store::Ollama)[0], "/h/.ollama/models");
        assert_eq!(folders(&[home], Store::LmStudio), ["/h/.lmstudio/models", "/h/.cache/lm-studio/models"]);
        assert_eq!(folders(&[home, ("LLAMA_CACHE", "/l")], Store::LlamaCpp), ["/l"]);
        assert_eq!(folders(&[home], Store::LlamaCpp)[0], "/h/.cache/llama.cpp");
    }

    #[test]
    fn the_manifest_folder_is_here_or_above_the_program() {
        let found = folders(&[], Store::Manifest);
        assert_eq!(found[0], "models");
        assert!(found.contains(&"/src/chaski/models".to_owned()), "{found:?}");
        assert_eq!(folders(&[("CHASKI_MODELS", "/m")], Store::Manifest), [""; 0]);
        assert_eq!(folders(&[("CHASKI_MODELS", "/m")], Store::Folder), ["/m"]);
    }

    #[test]
    fn without_a_home_there_are_few_places() {
        assert_eq!(folders(&[], Store::HuggingFace), [""; 0]);
        assert_eq!(folders(&[], Store::LmStudio), [""; 0]);
    }
}
