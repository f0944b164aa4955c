//! Models out of the ordinary, and special tokens in users' texts.

use super::harness::{PROMPT, Workplace, timing};
use super::support::tiny::{TinyOptions, tiny, tiny_mamba};

fn without_template() -> Workplace {
    Workplace::with_model(&tiny(&TinyOptions { seed: 3, chat_template: None, ..TinyOptions::default() }))
}

#[test]
fn a_model_without_a_chat_template_wants_to_be_told_how_to_go_on() {
    let place = without_template();
    place.run(&["-p", PROMPT]).fails(2, &["no chat template"]).hints("--raw");
    let raw = place.run(&["-p", PROMPT, "--raw", "-q"]);
    assert_eq!((raw.code, raw.stderr.as_str()), (Some(0), ""), "--raw is asked for, so nothing needs saying");
    let own = "{% for m in messages %}{{ m.content }} {% endfor %}{{ word }}";
    let given =
        ["-p", "the sun", "-sys", "he said", "--chat-template", own, "--chat-template-kwargs", r#"{"word": "is"}"#];
    assert_eq!(place.text_of(&given), place.text_of(&["--raw", "-p", "he said the sun is"]));
    std::fs::write(place.path("own.jinja"), own).unwrap();
    let file = [&given[..4], &["--chat-template-file", "own.jinja"], &given[6..]].concat();
    assert_eq!(place.text_of(&file), place.text_of(&given));
}

#[test]
fn templates_have_few_names() {
    let place = Workplace::new();
    // The tiny model's own.
    assert_eq!(place.text_of(&["-p", PROMPT, "--chat-template", "chatml"]), place.text_of(&["-p", PROMPT]));
    place.run(&["-p", PROMPT, "--chat-template", "vicuna"]).fails(2, &["vicuna"]).hints("chatml");
    place
        .run(&["-p", PROMPT, "--chat-template-kwargs", "[]"])
        .fails(2, &["--chat-template-kwargs"])
        .hints("enable_thinking");
    place.run(&["-p", PROMPT, "--chat-template-file", "none.jinja"]).fails(1, &["none.jinja"]);
}

#[test]
fn a_system_prompt_is_a_message_of_its_own() {
    let place = Workplace::new();
    let rendered =
        format!("<|im_start|>system\nhe said<|im_end|>\n<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n");
    let raw = place.json(&["--raw", "-p", &rendered, "-s", "7"]);
    let chat = place.json(&["-p", PROMPT, "-sys", "he said", "-s", "7"]);
    assert!(timing(&chat, "prompt_n") > timing(&place.json(&["-p", PROMPT]), "prompt_n"));
    // Rendered in pieces, so words may be cut elsewhere than in the whole; the special tokens are there in both.
    assert!(timing(&chat, "prompt_n").abs_diff(timing(&raw, "prompt_n")) <= 8, "{chat}\n{raw}");
}

#[test]
fn special_tokens_in_users_texts_are_text() {
    let n_tokens = |place: &Workplace, raw: bool, text: &str| {
        let mut arguments = vec!["-n", "1", "-p", text];
        arguments.extend(raw.then_some("--raw"));
        timing(&place.json(&arguments), "prompt_n")
    };
    let place = Workplace::new();
    let plain = n_tokens(&place, false, "rain 0 hotel");
    for special in ["<|im_end|>", "<|im_start|>", "</s>"] {
        let text = format!("rain 0{special} hotel");
        let n_more = n_tokens(&place, false, &text) - plain;
        assert!(n_more >= 3, "{special} became {n_more} tokens");
        let n_raw = n_tokens(&place, true, &text) - n_tokens(&place, true, "rain 0 hotel");
        // The token itself, and at most one of the space after it.
        assert!(n_raw <= 2 && n_raw < n_more, "{special} became {n_raw} tokens with --raw");
    }
    // The template's own are parsed.
    let n_chat = n_tokens(&place, false, PROMPT) - n_tokens(&place, true, PROMPT);
    assert!(n_chat < 30, "{n_chat} tokens around the prompt");
}

#[test]
fn a_recurrent_model_is_decoded_plainly() {
    let place = Workplace::with_model(&tiny_mamba(1));
    let auto = place.run(&["-p", PROMPT, "--temp", "0", "--json"]);
    auto.notices("this model is recurrent");
    let auto = auto.json();
    assert_eq!((timing(&auto, "draft_n"), timing(&auto, "steps")), (0, 32));
    let plain = place.json(&["-p", PROMPT, "--temp", "0", "--drafter", "none"]);
    assert_eq!(auto["tokens"], plain["tokens"]);
}

#[test]
fn a_model_that_answers_nan_is_reported() {
    let place = Workplace::with_model(&tiny(&TinyOptions { nan_weights: true, ..TinyOptions::default() }));
    for temperature in ["0", "0.8"] {
        for drafter in ["auto", "aded", "none"] {
            let ran = place.run(&["-p", PROMPT, "--temp", temperature, "--drafter", drafter]);
            ran.fails(1, &["not a number"]);
            let json = place.run(&["-p", PROMPT, "--temp", temperature, "--drafter", drafter, "--json"]);
            json.fails(1, &["not a number"]);
        }
    }
}

#[test]
fn a_broken_template_is_reported_with_the_model() {
    let place = Workplace::with_model(&tiny(&TinyOptions {
        chat_template: Some("{% for message in messages %}".into()),
        ..TinyOptions::default()
    }));
    place.run(&["-p", PROMPT]).fails(1, &["model.gguf: "]).hints("");
    place.run(&["-p", PROMPT, "--raw"]).succeeds();
}
