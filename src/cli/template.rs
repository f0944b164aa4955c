//! Selects the chat template: the model's own, or the one given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::batch::job::summary;
use crate::chat::template::TemplateValue;
use crate::chat::template::named::{named, names};
use crate::cli::failure::Failure;
use crate::cli::input::read_file;
use crate::gguf::Gguf;

/// Size limit of a template file, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Flags of the chat template.
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
    /// The template's text: the given one, else the model's; `None` if there is neither.
    ///
    /// # Errors
    /// If a file cannot be read, or no template has the given name.
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

    /// The part of a batch job's key that depends on the template.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            TemplateArgs { chat_template: None, chat_template_file: None, chat_template_kwargs: None } => {
                "own".to_owned()
            }
            others => summary(&format!("{others:?}")),
        }
    }

    /// Like [`TemplateArgs::source`], but a missing template is an error.
    ///
    /// # Errors
    /// Also if there is no template.
    pub fn needed(&self, gguf: &Gguf) -> Result<String, Failure> {
        self.source(gguf)?.ok_or_else(|| {
            Failure::usage(format!("{}: the model has no chat template", gguf.path().display())).with_hint(
                "give one with --chat-template chatml or --chat-template-file FILE; `chaski run --raw` works without \
                 one",
            )
        })
    }

    /// The template variables from the flags.
    ///
    /// # Errors
    /// If they are not a JSON object.
    pub fn variables(&self) -> Result<BTreeMap<String, TemplateValue>, Failure> {
        let Some(text) = &self.chat_template_kwargs else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|error| {
            Failure::usage(format!("--chat-template-kwargs is not a JSON object: {error}"))
                .about("chat-template-kwargs")
                .with_hint(r#"as in --chat-template-kwargs '{"enable_thinking": false}'"#)
        })
    }
}
