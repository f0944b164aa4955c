use proptest::prelude::*;

use super::*;

fn ask(line: &str) -> Ask {
    Ask::of_json(line, 3).unwrap_or_else(|rejected| panic!("{line}: {rejected:?}"))
}

#[track_caller]
fn refuses(line: &str, custom_id: Option<&str>, code: &str, part: &str) {
    let rejected = Ask::of_json(line, 3).unwrap_err();
    assert_eq!((rejected.custom_id.as_deref(), rejected.refusal.code.as_str()), (custom_id, code), "{line}");
    assert!(rejected.refusal.message.contains(part), "{line}: {}", rejected.refusal.message);
}

#[test]
fn openais_lines_are_understood() {
    let chat = ask(
        r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "max_tokens": 9,
            "messages": [{"role": "system", "content": "Be brief."},
                         {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}}"#,
    );
    assert_eq!((chat.custom_id.as_str(), chat.endpoint, chat.parameters.max_tokens), ("a", Endpoint::Chat, Some(9)));
    let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Hello")];
    assert_eq!(chat.prompt, Prompt::Messages(messages));
    let raw = |prompt: &str| {
        let line =
            format!(r#"{{"custom_id": "b", "url": "/v1/completions", "body": {{"prompt": {prompt}, "logprobs": 2}}}}"#);
        ask(&line)
    };
    assert_eq!(raw(r#""Once""#), raw(r#"["Once"]"#));
    assert_eq!(raw(r#""Once""#).prompt, Prompt::Raw("Once".to_owned()));
    assert_eq!((raw(r#""x""#).endpoint, raw(r#""x""#).parameters.n_logprobs), (Endpoint::Completions, Some(2)));
}

#[test]
fn short_forms_have_the_same_parameters() {
    let short = ask(r#"{"prompt": "Hello", "temperature": 0}"#);
    assert_eq!((short.custom_id.as_str(), &short.parameters.options[..]), ("line-3", &[(0, 0.0)][..]));
    assert_eq!(short.prompt, Prompt::User("Hello".to_owned()));
    let named = ask(r#"{"custom_id": "x", "messages": [{"role": "user", "content": "Hi", "name": null}]}"#);
    assert_eq!((named.custom_id.as_str(), named.endpoint), ("x", Endpoint::Chat));
    assert_eq!(Ask::of_text("Hello".to_owned(), 3).prompt, short.prompt);
}

#[test]
fn what_is_wrong_is_said_and_who_it_was() {
    refuses("[1]", None, INVALID_REQUEST, "the line is not a JSON object");
    refuses("\"text\"", None, INVALID_REQUEST, "the line is not a JSON object");
    refuses("{\"prompt\": \"a\"", None, INVALID_JSON, "column");
    refuses("nonsense", None, INVALID_JSON, "not JSON");
    refuses(&"[".repeat(100_000), None, INVALID_JSON, "recursion");
    refuses(&format!("{{\"a\": {}1{}}}", "[".repeat(200), "]".repeat(200)), None, INVALID_JSON, "recursion");
    refuses(r#"{"custom_id": 5, "prompt": "a"}"#, None, INVALID_CUSTOM_ID, "text");
    refuses(r#"{"custom_id": "", "prompt": "a"}"#, None, INVALID_CUSTOM_ID, "text");
    let long = format!(r#"{{"custom_id": "{}", "prompt": "a"}}"#, "x".repeat(513));
    refuses(&long, None, INVALID_CUSTOM_ID, "512");
    let chat = r#""url": "/v1/chat/completions""#;
    let body = r#""body": {"messages": [{"role": "user", "content": "a"}]}"#;
    refuses(&format!("{{{chat}, {body}}}"), None, MISSING_CUSTOM_ID, "custom_id");
    let named = |rest: &str| format!(r#"{{"custom_id": "a", {rest}}}"#);
    refuses(&named(body), Some("a"), UNSUPPORTED_URL, "/v1/completions");
    refuses(&named(r#""url": "/v1/embeddings", "body": {}"#), Some("a"), UNSUPPORTED_URL, "url");
    refuses(&named(chat), Some("a"), INVALID_REQUEST, "body");
    refuses(&named(&format!("{chat}, {body}, \"method\": \"GET\"")), Some("a"), INVALID_REQUEST, "POST");
    refuses(&named(&format!("{chat}, {body}, \"prio\": 1")), Some("a"), UNSUPPORTED_PARAMETER, "prio");
    refuses(&named(r#""prompt": 5"#), Some("a"), INVALID_REQUEST, "prompt");
    refuses(&named(r#""text": "x""#), Some("a"), INVALID_REQUEST, "no body, prompt or messages");
    refuses(&named(r#""prompt": "x", "messages": []"#), Some("a"), INVALID_REQUEST, "cannot be used together");
    refuses(&named(r#""prompt": "x", "label": 1"#), Some("a"), UNSUPPORTED_PARAMETER, "label");
    refuses(&named(r#""prompt": "x", "n": 3"#), Some("a"), UNSUPPORTED_PARAMETER, "n cannot be 3");
    for (messages, part) in [
        ("5", "list"),
        ("[]", "empty"),
        ("[5]", "message 1: not an object"),
        (r#"[{"content": "a"}]"#, "role"),
        (r#"[{"role": "user"}]"#, "content"),
        (r#"[{"role": "user", "content": [{"type": "image_url"}]}]"#, "type text"),
        (r#"[{"role": "user", "content": "a", "audio": {}}]"#, "audio"),
    ] {
        refuses(&named(&format!("\"messages\": {messages}")), Some("a"), INVALID_REQUEST, part);
    }
    for prompt in ["5", "[]", r#"["a", "b"]"#, "[5]", "[[1, 2]]"] {
        let line = named(&format!(r#""url": "/v1/completions", "body": {{"prompt": {prompt}}}"#));
        refuses(&line, Some("a"), INVALID_REQUEST, "prompt");
    }
}

proptest! {
    #[test]
    fn no_line_panics(line in r#"[\[\]{}":, a-z0-9\\]{0,80}"#) {
        let _ = Ask::of_json(&line, 1);
    }
}

#[test]
fn what_templates_look_at_is_passed_on() {
    let ask = ask(r#"{"messages": [{"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}]}]}"#);
    let Prompt::Messages(messages) = ask.prompt else { panic!("messages") };
    let fields = r#"{"reasoning_content": "Hm.", "content": null, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]}"#;
    assert_eq!(messages[0].extra, serde_json::from_str(fields).unwrap());
}

#[test]
fn issue_13_7_an_assistants_content_may_be_null() {
    let ask = ask(
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "refusal": null,
            "annotations": [], "tool_calls": null}, {"role": "user", "content": "x"}]}"#,
    );
    let expected =
        [Message::new("user", "Hi"), Message::new("assistant", "").without_content(), Message::new("user", "x")];
    assert_eq!(ask.prompt, Prompt::Messages(expected.to_vec()));
    let null = r#"{"messages": [{"role": "user", "content": null}]}"#;
    refuses(null, None, INVALID_REQUEST, "content");
}
