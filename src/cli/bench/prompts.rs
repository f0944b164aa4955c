//! The prompts of `chaski bench`: shipped ones, or a file of the user's.

use std::collections::HashSet;

use serde::Deserialize;

use crate::chat::template::{ChatTemplate, Message, RenderOptions, Segment};
use crate::cli::bench::args::BenchArgs;
use crate::cli::failure::Failure;
use crate::cli::input::{MAX_BYTES, read_file};
use crate::gguf::Gguf;
use crate::llama::engine::Loaded;

const SHIPPED: &str = include_str!("../../../bench/prompts.jsonl");

/// A user message.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Prompt {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) prompt: String,
}

/// Reads the prompts that the arguments select.
pub(super) fn read(args: &BenchArgs) -> Result<Vec<Prompt>, Failure> {
    let prompts = match &args.prompts {
        Some(path) => {
            let text = read_file(path, MAX_BYTES, "a file of prompts")?;
            parse(&text, &path.display().to_string())?
        }
        None => shipped(),
    };
    choose(prompts, &args.kinds, &args.ids)
}

pub(super) fn shipped() -> Vec<Prompt> {
    parse(SHIPPED, "the shipped prompts").expect("a test reads them")
}

fn parse(text: &str, name: &str) -> Result<Vec<Prompt>, Failure> {
    let mut prompts: Vec<Prompt> = Vec::new();
    let mut ids = HashSet::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: String| {
            Failure::new(format!("{name}:{number}: {what}"))
                .with_hint(r#"each line must be {"id": "chat-1", "kind": "chat", "prompt": "..."}"#)
        };
        let prompt: Prompt = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        if !ids.insert(prompt.id.clone()) {
            return Err(wrong(format!("an earlier line has the same id {:?}", prompt.id)));
        }
        prompts.push(prompt);
    }
    if prompts.is_empty() { Err(Failure::new(format!("{name}: the file contains no prompts"))) } else { Ok(prompts) }
}

/// Selects the prompts that match `kinds` and `ids`. An empty list matches all prompts.
fn choose(prompts: Vec<Prompt>, kinds: &[String], ids: &[String]) -> Result<Vec<Prompt>, Failure> {
    let must_be_there = |flag: &str, asked: &[String], of: &dyn Fn(&Prompt) -> String| {
        let mut known: Vec<String> = prompts.iter().map(of).collect();
        known.dedup();
        match asked.iter().find(|name| !known.contains(name)) {
            Some(name) => Err(Failure::usage(format!("{flag}: no prompt has {name:?}"))
                .with_hint(format!("choose from {}", known.join(", ")))),
            None => Ok(()),
        }
    };
    must_be_there("--kinds", kinds, &|prompt| prompt.kind.clone())?;
    must_be_there("--ids", ids, &|prompt| prompt.id.clone())?;
    let is_asked = |asked: &[String], name: &String| asked.is_empty() || asked.contains(name);
    let chosen = prompts.into_iter().filter(|prompt| is_asked(kinds, &prompt.kind) && is_asked(ids, &prompt.id));
    let chosen: Vec<Prompt> = chosen.collect();
    if chosen.is_empty() {
        Err(Failure::usage("no prompt has one of these kinds and also one of these ids"))
    } else {
        Ok(chosen)
    }
}

/// Renders user messages with the model's chat template.
pub(super) struct Renderer<'a> {
    template: Option<ChatTemplate>,
    loaded: &'a Loaded,
}

impl<'a> Renderer<'a> {
    /// Parses the model's template.
    pub(super) fn new(gguf: &Gguf, loaded: &'a Loaded) -> Result<Renderer<'a>, Failure> {
        let template = gguf.chat_template().map(|source| ChatTemplate::parse(source, loaded.specials.clone()));
        let template = template.transpose();
        let template = template.map_err(|error| Failure::new(error.to_string()).with_hint(error.hint()))?;
        Ok(Renderer { template, loaded })
    }

    pub(super) fn segments(&self, text: &str) -> Result<Vec<Segment>, Failure> {
        let Some(template) = &self.template else {
            return Ok(vec![Segment { text: text.to_owned(), parse_special: false }]);
        };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let rendered = template.render(&[Message::new("user", text)], &options, &self.loaded.guard);
        rendered.map(|rendered| rendered.segments).map_err(|error| Failure::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_prompts_are_of_eight_kinds() {
        let kinds: HashSet<String> = shipped().into_iter().map(|prompt| prompt.kind).collect();
        assert_eq!((shipped().len(), kinds.len()), (24, 8));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let good = r#"{"id": "a", "kind": "k", "prompt": "p"}"#;
        let twice = parse(&format!("{good}\n\n{good}\n"), "my.jsonl").unwrap_err().to_string();
        assert!(twice.contains("my.jsonl:3: an earlier line has the same id \"a\""), "{twice}");
        let broken = parse("{}", "my.jsonl").unwrap_err().to_string();
        assert!(broken.contains("my.jsonl:1: missing field"), "{broken}");
        assert!(parse("\n", "my.jsonl").is_err());
    }

    #[test]
    fn filters_narrow_and_name_what_is_not_there() {
        let ids = |kinds: &[&str], ids: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            let chosen = choose(shipped(), &list(kinds), &list(ids));
            chosen.map(|chosen| chosen.into_iter().map(|prompt| prompt.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&[], &[]).unwrap().len(), 24);
        assert_eq!(ids(&["qa", "edit"], &[]).unwrap(), ["edit-1", "edit-2", "edit-3", "qa-1", "qa-2", "qa-3"]);
        assert_eq!(ids(&["qa"], &["qa-2", "chat-1"]).unwrap(), ["qa-2"]);
        assert!(ids(&["qua"], &[]).unwrap_err().to_string().contains("hint: choose from chat, code, edit"));
        assert!(ids(&["qa"], &["chat-1"]).is_err());
    }
}
