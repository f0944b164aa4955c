//! Finds GGUF files below a list of folders, by name only: it opens no file. The search is bounded in depth and number,
//! and its order does not depend on the file system.
//!
//! Unreadable folders are skipped, because they belong to other programs.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::models::locations::{Place, Store};
use crate::models::ollama;

/// Deepest level of folders to search.
const MAX_DEPTH: usize = 6;

/// Most files and folders to look at in all.
const MAX_ENTRIES: usize = 50_000;

/// Suffixes of a partial download, after `.gguf`.
const PARTIAL: [&str; 6] = [".part", ".partial", ".tmp", ".incomplete", ".downloadinprogress", ".crdownload"];

/// A model that was found, by name only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name: the file name without `.gguf` and the shard's number, or Ollama's `MODEL:TAG`.
    pub name: String,
    /// Other names of the model.
    pub aliases: Vec<String>,
    /// The program it belongs to.
    pub store: Store,
    /// The file, or the first shard found.
    pub path: PathBuf,
    /// Why it is not a complete model, if that shows without opening it.
    pub fault: Option<String>,
}

/// The result of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// The models, by place and then by path.
    pub found: Vec<Found>,
    /// Whether the search stopped at its limit.
    pub is_cut: bool,
}

/// Searches `places` in order. A file reachable in several ways is listed once, at the first.
#[must_use]
pub fn search(places: &[Place]) -> Search {
    let mut walk = Walk::default();
    for place in places {
        match place.store {
            Store::Ollama => walk.ollama(&place.folder),
            Store::Manifest if !place.folder.join("models.toml").is_file() => {}
            store => walk.folder(store, &place.folder),
        }
    }
    Search { found: walk.found, is_cut: walk.n_seen > MAX_ENTRIES }
}

#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    n_seen: usize,
    /// Canonical paths seen so far, so that link loops and duplicates are skipped.
    seen: HashSet<PathBuf>,
}

impl Walk {
    /// The sorted entries of a folder; empty if it was seen before.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let is_new = fs::canonicalize(folder).is_ok_and(|folder| self.seen.insert(folder));
        let Some(entries) = is_new.then(|| fs::read_dir(folder).ok()).flatten() else { return Vec::new() };
        let n_left = (MAX_ENTRIES + 1).saturating_sub(self.n_seen);
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // Sorted first, so that the limit keeps the same files on every file system.
        paths.sort_unstable();
        paths.truncate(n_left);
        self.n_seen += paths.len();
        paths
    }

    fn folder(&mut self, store: Store, folder: &Path) {
        let mut files = Vec::new();
        self.files_below(folder, MAX_DEPTH, &mut files);
        for mut found in join_shards(store, &files) {
            let target = fs::canonicalize(&found.path);
            if target.is_err() {
                found.fault.get_or_insert_with(|| "the link is broken: the download is incomplete".to_owned());
            }
            if self.seen.insert(target.unwrap_or_else(|_| found.path.clone())) {
                self.found.push(found);
            }
        }
    }

    fn files_below(&mut self, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
        for path in self.entries(folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                if depth > 0 {
                    self.files_below(&path, depth - 1, files);
                }
            } else if name.ends_with(".gguf") || is_partial(&name) {
                files.push(path);
            }
        }
    }

    fn ollama(&mut self, folder: &Path) {
        let mut manifests = Vec::new();
        self.manifests_below(&folder.join("manifests"), 4, &mut manifests);
        for manifest in manifests {
            let found = ollama::model_of(folder, &manifest);
            // Several tags may share a blob; each becomes an alias.
            let target = fs::canonicalize(&found.path).unwrap_or_else(|_| found.path.clone());
            let known = self.found.iter_mut().find(|known| known.store == Store::Ollama && known.path == found.path);
            match known {
                Some(known) if found.fault.is_none() => {
                    known.aliases.extend([vec![found.name], found.aliases].concat())
                }
                _ if self.seen.insert(target) || found.fault.is_some() => self.found.push(found),
                _ => {}
            }
        }
    }

    /// Collects the files below `manifests`, at any level of host, user, model and tag.
    fn manifests_below(&mut self, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) {
        for path in self.entries(folder) {
            if path.is_dir() && depth > 0 {
                self.manifests_below(&path, depth - 1, files);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
}

fn is_partial(lower_name: &str) -> bool {
    PARTIAL.iter().any(|end| lower_name.strip_suffix(end).is_some_and(|name| name.contains(".gguf")))
}

/// Splits `NAME-00002-of-00005` into `(NAME, 2, 5)`.
fn shard(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| (digits.len() == 5).then(|| digits.parse().ok()).flatten();
    Some((name, parse(number)?, parse(count)?))
}

/// Joins shards to one entry per model, with the path of the first shard found.
fn join_shards(store: Store, files: &[PathBuf]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut models: BTreeMap<(&Path, &str, u32), usize> = BTreeMap::new();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        let fault = is_partial(&lower).then(|| "the download is incomplete".to_owned());
        let stem = &name[..lower.find(".gguf").unwrap_or(name.len())];
        let shard = shard(stem).filter(|_| fault.is_none());
        if let Some((base, _, count)) = shard {
            let folder = path.parent().unwrap_or(Path::new(""));
            if models.insert((folder, base, count), found.len()).is_some() {
                continue;
            }
        }
        let stem = shard.map_or(stem, |(base, ..)| base);
        let aliases = aliases(store, path, stem);
        found.push(Found { name: stem.to_owned(), aliases, store, path: path.clone(), fault });
    }
    found
}

/// `ORGANIZATION/NAME` names, where the folders give the organization.
fn aliases(store: Store, path: &Path, stem: &str) -> Vec<String> {
    let folders = path.ancestors().skip(1).filter_map(|folder| folder.file_name()?.to_str());
    match store {
        Store::HuggingFace => {
            let repository = folders.filter_map(|folder| folder.strip_prefix("models--")).next();
            let repository = repository.map(|name| name.replacen("--", "/", 1));
            repository.map_or_else(Vec::new, |name| vec![format!("{name}/{stem}")])
        }
        Store::LmStudio => {
            let folders: Vec<&str> = folders.take(2).collect();
            match folders[..] {
                [model, publisher] => vec![format!("{publisher}/{model}/{stem}")],
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(store: Store, folder: &Path) -> Place {
        Place { store, folder: folder.to_owned() }
    }

    fn touch(folder: &Path, name: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }

    fn names(search: &Search) -> Vec<&str> {
        search.found.iter().map(|found| found.name.as_str()).collect()
    }

    #[test]
    fn shards_are_one_model_and_other_files_none() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b-00001-of-00002.gguf",
            "b-00002-of-00002.gguf",
            "c-00002-of-00003.gguf",
            "a.GGUF",
            "half.gguf.part",
            "readme.md",
            ".hidden/x.gguf",
            "1/2/3/4/5/6/deep.gguf",
            "1/2/3/4/5/6/7/too-deep.gguf",
        ] {
            touch(folder.path(), name);
        }
        let search = search(&[place(Store::Folder, folder.path()), place(Store::Folder, folder.path())]);
        assert_eq!(names(&search), ["deep", "a", "b", "c", "half"]);
        assert!(search.found[2].path.ends_with("b-00001-of-00002.gguf"));
        assert!(search.found[3].path.ends_with("c-00002-of-00003.gguf"));
        assert!(search.found[4].fault.as_ref().is_some_and(|fault| fault.contains("the download is incomplete")));
        assert!(!search.is_cut);
    }

    #[test]
    fn a_manifest_folder_is_known_by_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), "a.gguf");
        let places = [place(Store::Manifest, folder.path())];
        assert_eq!(names(&search(&places)), [""; 0]);
        touch(folder.path(), "models.toml");
        assert_eq!(names(&search(&places)), ["a"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_lead_somewhere() {
        use std::os::unix::fs::symlink;
        let hub = tempfile::tempdir().unwrap();
        let model = hub.path().join("models--org--name-GGUF");
        touch(&model, "blobs/abc");
        fs::create_dir_all(model.join("snapshots/1")).unwrap();
        fs::create_dir_all(model.join("snapshots/2")).unwrap();
        for (from, to) in [("1/x.Q4_0.gguf", "abc"), ("2/x.Q4_0.gguf", "abc"), ("2/y.gguf", "missing")] {
            symlink(Path::new("../../blobs").join(to), model.join("snapshots").join(from)).unwrap();
        }
        symlink(hub.path(), model.join("snapshots/loop")).unwrap();
        let search = search(&[place(Store::HuggingFace, hub.path())]);
        assert_eq!(names(&search), ["x.Q4_0", "y"]);
        assert_eq!(search.found[0].aliases, ["org/name-GGUF/x.Q4_0"]);
        assert!(search.found[1].fault.as_ref().is_some_and(|fault| fault.contains("the link is broken")));
    }

    #[test]
    fn publishers_are_part_of_a_name() {
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), "org/model-GGUF/model.Q8_0.gguf");
        let search = search(&[place(Store::LmStudio, folder.path())]);
        assert_eq!(search.found[0].aliases, ["org/model-GGUF/model.Q8_0"]);
    }
}
