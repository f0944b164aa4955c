//! Reads Ollama's store: `manifests/HOST/USER/MODEL/TAG` is JSON that names layers by digest, and `blobs/sha256-HEX`
//! holds the layers.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::models::locations::Store;
use crate::models::search::Found;

/// A manifest has a few hundred bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

const MODEL_LAYER: &str = "application/vnd.ollama.image.model";

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
}

/// The model that a manifest below `store/manifests` names, or a `Found` with a fault.
pub(super) fn model_of(store: &Path, manifest: &Path) -> Found {
    let names = names(manifest.strip_prefix(store.join("manifests")).unwrap_or(manifest));
    let (path, fault) = match blob(manifest) {
        Ok(digest) => {
            let path = store.join("blobs").join(format!("sha256-{digest}"));
            let fault = (!path.is_file()).then(|| "its blob is missing: the download is incomplete".to_owned());
            (path, fault)
        }
        Err(fault) => (manifest.to_owned(), Some(fault)),
    };
    Found { name: names.0, aliases: names.1, store: Store::Ollama, path, fault }
}

/// The hexadecimal digits of the model's digest.
fn blob(manifest: &Path) -> Result<String, String> {
    let mut text = Vec::new();
    let read = File::open(manifest).and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_end(&mut text));
    read.map_err(|error| format!("cannot read its manifest: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("its manifest is damaged: {error}"))?;
    let layer = manifest.layers.iter().find(|layer| layer.media_type == MODEL_LAYER);
    let digest = &layer.ok_or("its manifest contains no model")?.digest;
    // This untrusted text becomes part of a path, so accept nothing but a digest.
    let digits = digest.strip_prefix("sha256:").filter(|digits| {
        digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    });
    digits.map(str::to_owned).ok_or_else(|| "its manifest contains a layer without a sha256".to_owned())
}

/// The name as Ollama shows it, without the default host and user, and its aliases.
fn names(place: &Path) -> (String, Vec<String>) {
    let parts: PathBuf = place.iter().skip_while(|part| *part == "registry.ollama.ai").collect();
    let parts: Vec<_> = parts.iter().skip_while(|part| *part == "library").map(|part| part.to_string_lossy()).collect();
    match parts.split_last() {
        Some((tag, model)) if !model.is_empty() => {
            let model = model.join("/");
            let is_latest = tag == "latest";
            (format!("{model}:{tag}"), is_latest.then_some(model).into_iter().collect())
        }
        _ => (place.to_string_lossy().into_owned(), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_as_ollama_shows_them() {
        let name = |place: &str| names(Path::new(place));
        assert_eq!(name("registry.ollama.ai/library/smollm2/135m"), ("smollm2:135m".into(), vec![]));
        assert_eq!(name("registry.ollama.ai/library/qwen/latest"), ("qwen:latest".into(), vec!["qwen".into()]));
        assert_eq!(name("registry.ollama.ai/me/qwen/1b").0, "me/qwen:1b");
        assert_eq!(name("hf.co/org/qwen-GGUF/Q8_0").0, "hf.co/org/qwen-GGUF:Q8_0");
        assert_eq!(name("stray").0, "stray");
    }

    #[test]
    fn a_manifest_leads_to_a_blob_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("manifests/registry.ollama.ai/library/m/latest");
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        fs::create_dir_all(folder.path().join("blobs")).unwrap();
        let digest = "a1".repeat(32);
        let fault_of = |text: String| {
            fs::write(&manifest, text).unwrap();
            model_of(folder.path(), &manifest).fault
        };
        let layer =
            |kind: &str, digest: &str| format!(r#"{{"layers":[{{"mediaType":"{kind}","digest":"{digest}"}}]}}"#);
        assert!(fault_of(layer(MODEL_LAYER, &format!("sha256:{digest}"))).unwrap().contains("missing"));
        fs::write(folder.path().join("blobs").join(format!("sha256-{digest}")), b"").unwrap();
        assert_eq!(fault_of(layer(MODEL_LAYER, &format!("sha256:{digest}"))), None);
        assert!(fault_of(layer("text/plain", &format!("sha256:{digest}"))).unwrap().contains("contains no model"));
        for bad in ["sha256:../../../etc/passwd", "md5:00", "sha256:", &format!("sha256:{}", "A1".repeat(32))] {
            assert!(fault_of(layer(MODEL_LAYER, bad)).unwrap().contains("without a sha256"), "{bad}");
        }
        assert!(fault_of("{".to_owned()).unwrap().contains("damaged"));
    }
}
