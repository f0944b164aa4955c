//! Named chat templates: chaski renders the same text as llama.cpp's own code.

#![cfg(feature = "llama")]

mod support;

use std::fs;

use chaski::chat::template::named::{named, names};
use chaski::chat::template::{ChatTemplate, Message, RenderOptions, SpecialGuard, SpecialTexts};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate, LlamaModel};

/// With white space around the texts, because some templates trim them.
const CONVERSATIONS: [&[(&str, &str)]; 4] = [
    &[("user", " hi\n")],
    &[("system", " be brief "), ("user", "hi")],
    &[("user", "a"), ("assistant", " b "), ("user", " c ")],
    &[("system", "s"), ("user", " a"), ("assistant", "b\n"), ("user", "c"), ("assistant", "d"), ("user", "e")],
];

#[test]
fn issue_13_8_named_templates_are_llama_cpps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, support::tiny::tiny_llama(3)).unwrap();
    let mut backend = LlamaBackend::init().unwrap();
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, &path, &LlamaModelParams::default()).unwrap();
    let mut differences = Vec::new();
    for name in names() {
        let template = ChatTemplate::parse(&named(name).unwrap(), SpecialTexts::default()).unwrap();
        let theirs = LlamaChatTemplate::new(name).unwrap();
        for conversation in CONVERSATIONS {
            // llama.cpp drops the system prompt there; chaski puts it into the user's message.
            if name == "yandex" && conversation[0].0 == "system" {
                continue;
            }
            let messages: Vec<Message> = conversation.iter().map(|(role, text)| Message::new(*role, *text)).collect();
            let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
            let rendered = template.render(&messages, &options, &SpecialGuard::new([])).unwrap().text();
            let chat = conversation
                .iter()
                .map(|(role, text)| LlamaChatMessage::new((*role).to_owned(), (*text).to_owned()).unwrap());
            let expected = model.apply_chat_template(&theirs, &chat.collect::<Vec<_>>(), true).unwrap();
            if rendered != expected {
                differences.push(format!("{name}: {rendered:?} is not {expected:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(names().count() > 50);
}
