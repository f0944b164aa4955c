//! Which chat template a prompt is put into: the model's own, or the one given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::batch::job::summary;
use crate::chat::template::TemplateValue;
use crate::chat::template::named::{named, names};
use crate::cli::failure::Failure;
use crate::cli::input::read_file;
use crate::gguf::Gguf;

/// Longest template in a file.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// How prompts are put into words.
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArgs {
    /// Replace the model's chat template: Jinja, or one of llama.cpp's names, such as chatml
    #[arg(hide_short_help = true, long, value_name = "TEMPLATE", env = "LLAMA_ARG_CHAT_TEMPLATE", hide_env = true)]
    pub chat_template: Option<String>,

    /// The same from a file
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        conflicts_with = "chat_template",
        env = "LLAMA_ARG_CHAT_TEMPLATE_FILE",
        hide_env = true
    )]
    pub chat_template_file: Option<PathBuf>,

    /// Variables for the chat template, as in '{"enable_thinking": false}'
    #[arg(hide_short_help = true, long, value_name = "JSON", env = "LLAMA_ARG_CHAT_TEMPLATE_KWARGS", hide_env = true)]
    pub chat_template_kwargs: Option<String>,
}

impl TemplateArgs {
    /// The template's text: the one given, or else the model's; `None` where there is neither.
    ///
    /// # Errors
    /// When a file cannot be read, or there is no template of that name.
    pub fn source(&self, gguf: &Gguf) -> Result<Option<String>, Failure> {
        match (&self.chat_template, &self.chat_template_file) {
            (Some(text), _) if text.contains("{{") || text.contains("{%") => Ok(Some(text.clone())),
            (Some(name), _) if named(name.trim()).is_some() => Ok(named(name.trim())),
            (Some(name), _) => {
                Err(Failure::usage(format!("--chat-template: {name:?} is neither Jinja nor the name of a template"))
                    .about("chat-template")
                    .with_hint(format!(
                        "give a template's Jinja text or one of the names {}; to read a file, use --chat-template-file \
                     FILE",
                        names().collect::<Vec<_>>().join(" ")
                    )))
            }
            (None, Some(path)) => read_file(path, MAX_TEMPLATE_BYTES, "a template")
                .map(Some)
                .map_err(|failure| failure.about("chat-template-file")),
            (None, None) => Ok(gguf.chat_template().map(str::to_owned)),
        }
    }

    /// What of this makes another job of a batch.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            TemplateArgs { chat_template: None, chat_template_file: None, chat_template_kwargs: None } => {
                "own".to_owned()
            }
            others => summary(&format!("{others:?}")),
        }
    }

    /// The same where there must be one.
    ///
    /// # Errors
    /// Also when there is none.
    pub fn needed(&self, gguf: &Gguf) -> Result<String, Failure> {
        self.source(gguf)?.ok_or_else(|| {
            Failure::usage(format!("{}: the model has no chat template", gguf.path().display())).with_hint(
                "give one with --chat-template chatml or --chat-template-file FILE; `chaski run --raw` works without \
                 one",
            )
        })
    }

    /// The variables given.
    ///
    /// # Errors
    /// When they are no object.
    pub fn variables(&self) -> Result<BTreeMap<String, TemplateValue>, Failure> {
        let Some(text) = &self.chat_template_kwargs else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|error| {
            Failure::usage(format!("--chat-template-kwargs is not a JSON object: {error}"))
                .about("chat-template-kwargs")
                .with_hint(r#"as in --chat-template-kwargs '{"enable_thinking": false}'"#)
        })
    }
}
