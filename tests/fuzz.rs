//! Runs every fuzz target briefly: on its corpus and on mutations of it. `fuzz/README.md` describes longer runs.

#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

use mutate::{Rng, mutate};
use targets::TARGETS;

const N_MUTATIONS: usize = 1500;

#[test]
fn targets_survive_their_corpus_and_mutations_of_it() {
    for (name, check) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        let corpus: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
        corpus.iter().for_each(|bytes| check(bytes));
        let mut rng = Rng(7);
        (0..N_MUTATIONS).for_each(|_| check(&mutate(&mut rng, &corpus)));
    }
}

/// Corpus files must pass the first check; otherwise the fuzzer reaches nothing beyond it.
#[test]
fn corpora_are_sound() {
    let read = |path: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(path)).unwrap();
    let gguf = chaski::gguf::Gguf::from_bytes(read("gguf/small"), Path::new("small")).unwrap();
    gguf.check().unwrap();
    chaski::chat::session::from_json(&read("session/talk.json")).unwrap();
    chaski::structure::gbnf::to_lark(&String::from_utf8(read("gbnf/list.gbnf")).unwrap()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/drafter_file/small.chaski");
    let file = chaski::store::drafter_file::DrafterFile::open_any(&folder).unwrap();
    assert!(file.rows().all(|row| row.is_ok()) && file.rows().count() > 3);
}
