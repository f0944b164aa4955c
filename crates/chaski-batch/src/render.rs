//! Renders prompts in the model's chat template, or as raw text.
//!
//! Text from users is never parsed for special tokens. Text from the template is, and so is a raw prompt, whose author
//! writes the template text himself.

use std::collections::BTreeMap;

use crate::chat::template::{
    ChatTemplate, LocalTime, Message, RenderOptions, Segment, SpecialGuard, TemplateError, TemplateValue,
};
use crate::chat::thinking::Opening;
use crate::engine::Shorter;
use crate::input::request::Prompt;
use crate::refuse::{INVALID_REQUEST, Refusal, TEMPLATE_ERROR, refuse};

/// Each shorter version of a conversation has at most this fraction of the text before it. So all versions together are
/// only a few times as long as the conversation.
const SHORTER: (usize, usize) = (3, 4);

/// Renders prompts.
#[derive(Debug)]
pub struct Renderer {
    /// The model's template. Without one, a user's text is continued as it is and conversations are refused.
    pub template: Option<ChatTemplate>,
    /// Keeps special tokens out of text from users.
    pub guard: SpecialGuard,
    /// System message for single prompts; conversations bring their own.
    pub system: Option<String>,
    /// Whether single prompts are used as they are, without the template.
    pub is_raw: bool,
    /// The time that templates see. It is the same for all lines, also if the job is resumed on another day.
    pub now: LocalTime,
    /// Variables of the template; a line's own variables override them.
    pub variables: Variables,
    /// Whether the oldest messages of a conversation may be dropped.
    pub drops_oldest: bool,
    /// Whether to ask the model not to think.
    pub is_thinking_unwanted: bool,
}

/// Variables of a chat template.
pub type Variables = BTreeMap<String, TemplateValue>;

impl Renderer {
    /// Renders a prompt into segments. The line's own variables are `own`.
    ///
    /// # Errors
    /// When the template rejects the messages or fails.
    pub fn render(&self, prompt: Prompt, own: Variables) -> Result<Vec<Segment>, Refusal> {
        match prompt {
            Prompt::Raw(text) => Ok(vec![Segment { text, parse_special: true }]),
            Prompt::User(text) if self.is_raw => Ok(vec![Segment { text, parse_special: true }]),
            Prompt::User(text) => match &self.template {
                Some(template) => {
                    let system = self.system.iter().map(|system| Message::new("system", system));
                    self.expand(template, &system.chain([Message::new("user", text)]).collect::<Vec<Message>>(), own)
                }
                None => {
                    let system = self.system.iter().map(|system| format!("{system}\n\n"));
                    let text = system.chain([text]).collect();
                    Ok(vec![Segment { text, parse_special: false }])
                }
            },
            Prompt::Messages(messages) => match &self.template {
                Some(template) => self.expand(template, &messages, own),
                None => Err(refuse(
                    INVALID_REQUEST,
                    "the model has no chat template, so it cannot take messages; hint: give --chat-template",
                )),
            },
        }
    }

    /// Whether a prompt is rendered in a chat template. Only then can its answer begin with thinking.
    #[must_use]
    pub fn is_templated(&self, prompt: &Prompt) -> bool {
        let is_raw = matches!(prompt, Prompt::Raw(_)) || matches!(prompt, Prompt::User(_)) && self.is_raw;
        self.template.is_some() && !is_raw
    }

    /// Whether the answer to a prompt begins with thinking.
    #[must_use]
    pub fn opening(&self, prompt: &[Segment]) -> Opening {
        let last = prompt.last().map_or("", |segment| segment.text.as_str());
        Opening::after(last, self.template.as_ref().is_some_and(ChatTemplate::knows_thinking))
    }

    /// Shorter versions of a conversation: without its oldest turns, in steps down to its last turn. System messages at
    /// the beginning are always kept.
    ///
    /// # Errors
    /// When the template rejects the messages or fails.
    pub fn shorter(&self, prompt: &Prompt, own: &Variables) -> Result<Vec<Shorter>, Refusal> {
        let (Prompt::Messages(messages), Some(template), true) = (prompt, &self.template, self.drops_oldest) else {
            return Ok(Vec::new());
        };
        let n_kept = messages.iter().take_while(|message| message.role == "system").count();
        let (kept, rest) = messages.split_at(n_kept);
        let n_bytes = |from: usize| rest[from..].iter().map(|message| message.content.len()).sum::<usize>();
        let turns: Vec<usize> = (1..rest.len()).filter(|&at| rest[at].role == "user").collect();
        let mut shorter: Vec<Shorter> = Vec::new();
        let mut n_most = n_bytes(0) / SHORTER.1 * SHORTER.0;
        for &from in &turns {
            if n_bytes(from) <= n_most || Some(&from) == turns.last() {
                n_most = n_bytes(from) / SHORTER.1 * SHORTER.0;
                let messages = [kept, &rest[from..]].concat();
                let prompt = self.expand(template, &messages, own.clone())?;
                shorter.push(Shorter { n_left_out: from, prompt });
            }
        }
        Ok(shorter)
    }

    /// As in llama-server and vLLM, a final assistant message is the beginning of the answer. If the template fails on
    /// a message with null content, the content is replaced by an empty string.
    fn expand(&self, template: &ChatTemplate, messages: &[Message], own: Variables) -> Result<Vec<Segment>, Refusal> {
        let mut extra = self.variables.clone();
        if self.is_thinking_unwanted {
            extra.insert("enable_thinking".to_owned(), TemplateValue::from(false));
        }
        extra.extend(own);
        let continues_last = continues_last(messages)?;
        let options = RenderOptions { add_generation_prompt: true, continues_last, now: self.now, extra };
        let rendered = match template.render(messages, &options, &self.guard) {
            Err(error @ TemplateError::Render { .. }) if messages.iter().any(Message::has_no_content) => {
                let with_words: Vec<Message> = messages.iter().cloned().map(Message::with_empty_content).collect();
                template.render(&with_words, &options, &self.guard).map_err(|_| error)
            }
            rendered => rendered,
        };
        let rendered = rendered.map_err(|error| match error {
            TemplateError::Role { .. } => refuse(INVALID_REQUEST, error.to_string()),
            TemplateError::OpensThinking => refuse(INVALID_REQUEST, format!("{error}; {}", error.hint())),
            _ => refuse(TEMPLATE_ERROR, error.to_string()),
        })?;
        Ok(rendered.segments)
    }
}

/// Whether a conversation ends with an assistant message to continue.
///
/// # Errors
/// When its last message is an assistant message that cannot be continued.
fn continues_last(messages: &[Message]) -> Result<bool, Refusal> {
    let is_assistants = |message: &Message| message.role == "assistant";
    let Some((last, before)) = messages.split_last().filter(|(last, _)| is_assistants(last)) else { return Ok(false) };
    let place = messages.len();
    let what = if before.last().is_some_and(is_assistants) {
        "the last two messages are the assistant's; only one can be continued"
    } else if last.extra.contains_key("tool_calls") {
        "a tool call cannot be continued; add a message of the role tool with its result"
    } else if last.extra.keys().any(|name| ["reasoning_content", "reasoning", "thinking"].contains(&name.as_str())) {
        "an answer that is continued cannot have reasoning; remove it, or add a user message"
    } else {
        return Ok(true);
    };
    Err(refuse(INVALID_REQUEST, format!("message {place}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::template::SpecialTexts;

    const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}<|assistant|>";

    fn renderer(template: Option<&str>) -> Renderer {
        Renderer {
            template: template.map(|source| ChatTemplate::parse(source, SpecialTexts::default()).unwrap()),
            guard: SpecialGuard::new(["<|user|>", "<|assistant|>"].map(str::to_owned)),
            system: Some("Be brief.".to_owned()),
            is_raw: false,
            now: LocalTime::default(),
            variables: Variables::new(),
            drops_oldest: true,
            is_thinking_unwanted: false,
        }
    }

    fn text(segments: &[Segment]) -> String {
        segments.iter().map(|segment| segment.text.as_str()).collect()
    }

    fn user(text: &str) -> Prompt {
        Prompt::User(text.to_owned())
    }

    #[test]
    fn each_kind_of_prompt_is_what_it_says() {
        let chat = renderer(Some(TEMPLATE));
        assert_eq!(
            text(&chat.render(user("Hi"), Variables::new()).unwrap()),
            "<|system|>Be brief.\n<|user|>Hi\n<|assistant|>"
        );
        let messages = Prompt::Messages(vec![Message::new("user", "Hi")]);
        assert_eq!(text(&chat.render(messages.clone(), Variables::new()).unwrap()), "<|user|>Hi\n<|assistant|>");
        let raw = vec![Segment { text: "<|user|>".to_owned(), parse_special: true }];
        assert_eq!(chat.render(Prompt::Raw("<|user|>".to_owned()), Variables::new()).unwrap(), raw);
        assert_eq!(
            Renderer { is_raw: true, ..renderer(Some(TEMPLATE)) }.render(user("<|user|>"), Variables::new()).unwrap(),
            raw
        );
        let plain = renderer(None);
        let continued = vec![Segment { text: "Be brief.\n\n<|user|>".to_owned(), parse_special: false }];
        assert_eq!(plain.render(user("<|user|>"), Variables::new()).unwrap(), continued);
        assert_eq!(plain.render(messages, Variables::new()).unwrap_err().code, INVALID_REQUEST);
    }

    #[test]
    fn issue_13_7_an_assistants_message_at_the_end_is_continued() {
        let chat = renderer(Some(TEMPLATE));
        let render = |messages: &[(&str, &str)]| {
            let messages = messages.iter().map(|(role, content)| Message::new(*role, *content)).collect();
            chat.render(Prompt::Messages(messages), Variables::new())
        };
        let continued = render(&[("user", "Hi"), ("assistant", " A B <|user|> ")]).unwrap();
        assert_eq!(text(&continued), "<|user|>Hi\n<|assistant|> A B <|user|> ");
        assert!(continued.iter().any(|part| part.text.contains("<|user|>") && !part.parse_special), "{continued:?}");
        let empty = render(&[("user", "Hi"), ("assistant", "")]).unwrap();
        assert_eq!(text(&empty), "<|user|>Hi\n<|assistant|>");
        let refused = |result: Result<Vec<Segment>, Refusal>, part: &str| {
            let refusal = result.unwrap_err();
            assert!(refusal.code == INVALID_REQUEST && refusal.message.contains(part), "{}", refusal.message);
        };
        refused(render(&[("user", "Hi"), ("assistant", "A"), ("assistant", "B")]), "message 3: the last two");
        let mut call = Message::new("assistant", "").without_content();
        call.extra.insert("tool_calls".to_owned(), TemplateValue::from_serialize(["call"]));
        refused(chat.render(Prompt::Messages(vec![Message::new("user", "Hi"), call]), Variables::new()), "role tool");
        let mut thought = Message::new("assistant", "A");
        thought.extra.insert("reasoning_content".to_owned(), "Hm.".into());
        refused(
            chat.render(Prompt::Messages(vec![Message::new("user", "Hi"), thought]), Variables::new()),
            "reasoning",
        );
        let thinking = renderer(Some("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"));
        let messages = Prompt::Messages(vec![Message::new("user", "Hi"), Message::new("assistant", "A")]);
        refused(thinking.render(messages, Variables::new()), "enable_thinking");
    }

    #[test]
    fn issue_13_7_no_content_is_what_python_prints_or_else_no_words() {
        let messages = || {
            vec![Message::new("user", "Hi"), Message::new("assistant", "").without_content(), Message::new("user", "x")]
        };
        let rendered = |template: &str| {
            text(&renderer(Some(template)).render(Prompt::Messages(messages()), Variables::new()).unwrap())
        };
        assert_eq!(rendered("{% for m in messages %}[{{ m.content }}]{% endfor %}"), "[Hi][None][x]");
        assert_eq!(rendered("{% for m in messages %}[{{ m.content or '' }}]{% endfor %}"), "[Hi][][x]");
        // Python raises an error here; servers use an empty string.
        assert_eq!(rendered("{% for m in messages %}{{ '[' + m.content + ']' }}{% endfor %}"), "[Hi][][x]");
        assert_eq!(
            rendered("{% for m in messages %}[{{ m.content | trim }}{{ m['content'].strip() }}]{% endfor %}"),
            "[HiHi][][xx]"
        );
    }

    #[test]
    fn a_conversation_is_shortened_from_its_beginning() {
        let chat = renderer(Some(TEMPLATE));
        let roles = ["system", "user", "assistant", "user", "assistant", "tool", "assistant", "user"];
        let messages =
            roles.iter().zip("abcdefgh".chars()).map(|(role, c)| Message::new(*role, c.to_string().repeat(9)));
        let prompt = Prompt::Messages(messages.collect());
        let shorter = chat.shorter(&prompt, &Variables::new()).unwrap();
        let said = |shorter: &Shorter| {
            "abcdefgh".chars().filter(|&c| text(&shorter.prompt).contains(&c.to_string().repeat(9))).collect::<String>()
        };
        let told: Vec<(usize, String)> = shorter.iter().map(|shorter| (shorter.n_left_out, said(shorter))).collect();
        assert_eq!(told, [(2, "adefgh".to_owned()), (6, "ah".to_owned())]);
        assert_eq!(chat.shorter(&user("Hi"), &Variables::new()), Ok(Vec::new()), "one text is one text");
        let strict = Renderer { drops_oldest: false, ..chat };
        assert_eq!(strict.shorter(&prompt, &Variables::new()), Ok(Vec::new()));
    }

    #[test]
    fn what_users_say_is_not_parsed() {
        let segments = renderer(Some(TEMPLATE)).render(user("a <|assistant|> b"), Variables::new()).unwrap();
        assert!(
            segments.iter().any(|segment| segment.text == "<|assistant|>" && !segment.parse_special),
            "{segments:?}"
        );
    }

    #[test]
    fn what_the_template_refuses_is_an_error_of_the_line() {
        let chat = renderer(Some("{{ raise_exception('no system here') }}"));
        let refusal = chat.render(user("Hi"), Variables::new()).unwrap_err();
        assert_eq!(refusal.code, TEMPLATE_ERROR);
        assert!(refusal.message.contains("no system here"), "{}", refusal.message);
        let role = Prompt::Messages(vec![Message::new("us er", "Hi")]);
        assert_eq!(renderer(Some(TEMPLATE)).render(role, Variables::new()).unwrap_err().code, INVALID_REQUEST);
    }
}
