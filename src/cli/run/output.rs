//! Writes an answer as it arrives: text to stdout and thinking to stderr, or both as events.

use crate::chat::thinking::{Part, Thinking};
use crate::cli::events::EventLines;
use crate::cli::failure::Failure;
use crate::cli::output::{TextOutput, stderr_text};
use crate::cli::run::AnswerEvent;
use crate::cli::run::args::RunArgs;

/// What the model generated.
#[derive(Debug, Default)]
pub(super) struct AnswerText {
    /// The answer.
    pub(super) text: String,
    /// The thinking before the answer, with its tags.
    pub(super) thinking: String,
    /// Whether it ended inside the thinking.
    pub(super) is_cut: bool,
}

/// How to treat thinking.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThinkingPlan {
    /// Whether the prompt has opened it; `None` turns the separation off.
    pub(super) is_open: Option<bool>,
    /// Whether to show it on stderr.
    pub(super) is_shown: bool,
}

/// Shows one answer.
pub(super) struct AnswerOutput {
    said: AnswerText,
    splitter: Thinking,
    is_thinking_shown: bool,
    is_text_due: bool,
    /// Whether to show everything at the end (`--explain`).
    is_late: bool,
    output: TextOutput,
    events: Option<EventLines>,
}

impl AnswerOutput {
    pub(super) fn new(args: &RunArgs, plan: ThinkingPlan) -> AnswerOutput {
        let is_text_due = !(args.json || args.jsonl);
        AnswerOutput {
            said: AnswerText::default(),
            splitter: plan.is_open.map_or_else(Thinking::never, Thinking::new),
            is_thinking_shown: plan.is_shown && is_text_due,
            is_text_due,
            is_late: args.explain,
            output: TextOutput::default(),
            events: args.jsonl.then(EventLines::default),
        }
    }

    /// Handles one event of the job.
    pub(super) fn take(&mut self, event: &AnswerEvent<'_>) -> Result<(), Failure> {
        let AnswerEvent::Text(piece) = event else {
            return self.events.as_mut().map_or(Ok(()), |events| events.write(event));
        };
        let mut parts = Vec::new();
        self.splitter.push(piece, |part, text| parts.push((part, text.to_owned())));
        parts.iter().try_for_each(|(part, text)| self.say(*part, text))
    }

    /// Writes the rest and returns the whole answer. Fails if the output cannot be written.
    pub(super) fn finish(mut self) -> Result<AnswerText, Failure> {
        let mut parts = Vec::new();
        self.splitter.finish(|part, text| parts.push((part, text.to_owned())));
        parts.iter().try_for_each(|(part, text)| self.say(*part, text))?;
        self.said.is_cut = self.splitter.is_inside();
        if self.is_late {
            self.is_late = false;
            let AnswerText { thinking, text, .. } = std::mem::take(&mut self.said);
            self.show(Part::Thinking, &thinking)?;
            self.show(Part::Answer, &text)?;
            self.said = AnswerText { thinking, text, is_cut: self.splitter.is_inside() };
        }
        if self.is_thinking_shown && self.said.text.is_empty() && !self.said.thinking.is_empty() {
            stderr_text("\n");
        }
        self.output.finish()?;
        Ok(self.said)
    }

    fn say(&mut self, part: Part, text: &str) -> Result<(), Failure> {
        match part {
            Part::Thinking => self.said.thinking.push_str(text),
            Part::Answer => self.said.text.push_str(text),
        }
        if let Some(events) = &mut self.events {
            let event = if part == Part::Thinking { AnswerEvent::Thinking(text) } else { AnswerEvent::Text(text) };
            return events.write(&event);
        }
        if self.is_late { Ok(()) } else { self.show(part, text) }
    }

    fn show(&mut self, part: Part, text: &str) -> Result<(), Failure> {
        match part {
            Part::Answer if self.is_text_due => self.output.write(text),
            Part::Thinking if self.is_thinking_shown && !text.is_empty() => {
                stderr_text(text);
                Ok(())
            }
            Part::Answer | Part::Thinking => Ok(()),
        }
    }
}
