//! Renders messages with a chat template.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::chat::template::{
    ChatTemplate, LocalTime, Message, RenderOptions, Rendered, SpecialGuard, TemplateError, TemplateValue,
};
use crate::cli::failure::Failure;
use crate::llama::engine::Loaded;

/// Printed if [`Rendered::merged_system`] is set.
pub const MERGED_SYSTEM: &str = "notice: the model's chat template has no system role, so the system prompt goes at the start of the user's \
     message";

/// Renders messages for one model.
#[derive(Debug)]
pub struct Prompter {
    template: ChatTemplate,
    guard: SpecialGuard,
    model: PathBuf,
}

impl Prompter {
    /// Parses the template `source` for a model.
    ///
    /// # Errors
    /// If the template cannot be parsed.
    pub fn new(model: &Path, source: &str, loaded: Loaded) -> Result<Prompter, Failure> {
        let template = ChatTemplate::parse(source, loaded.specials).map_err(|error| failure(model, &error))?;
        Ok(Prompter { template, guard: loaded.guard, model: model.to_owned() })
    }

    /// Whether the template supports thinking.
    #[must_use]
    pub fn knows_thinking(&self) -> bool {
        self.template.knows_thinking()
    }

    /// Renders a prompt, with the opening of an answer if `opens_answer`. `extra` are variables of the template.
    ///
    /// # Errors
    /// If the template rejects the messages, or fails.
    pub fn render(
        &self,
        messages: &[Message],
        opens_answer: bool,
        extra: BTreeMap<String, TemplateValue>,
    ) -> Result<Rendered, Failure> {
        let options =
            RenderOptions { add_generation_prompt: opens_answer, now: now(), extra, ..RenderOptions::default() };
        self.template.render(messages, &options, &self.guard).map_err(|error| failure(&self.model, &error))
    }
}

fn failure(model: &Path, error: &TemplateError) -> Failure {
    let failure = Failure::new(format!("{}: {error}", model.display())).with_hint(error.hint());
    failure.about("chat-template").about("chat-template-file")
}

/// The current time: templates may print the date.
fn now() -> LocalTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    local(i64::try_from(since_epoch.as_secs()).unwrap_or(0))
}

/// A time in the user's zone: TZ, else the system's, else UTC.
#[must_use]
pub fn local(unix_s: i64) -> LocalTime {
    let offset = Timestamp::from_second(unix_s).map(|time| TimeZone::system().to_offset(time).seconds());
    LocalTime { unix_s, utc_offset_s: offset.unwrap_or(0) }
}
