//! Long texts are tokenized in pieces: quickly, and to the same tokens as in one piece.

use std::time::{Duration, Instant};

use chaski::chat::template::Segment;
use chaski::llama::model::Model;
use chaski::token::Token;

use super::support::tiny::{self, BOS, IM_START};
use super::with_model;

fn tokens(model: &Model, text: String, parse_special: bool) -> Vec<Token> {
    model.tokenize(&[Segment { text, parse_special }])
}

/// Every repetition has the tokens of the second one. The first has a space in front.
fn expected(model: &Model, unit: &str, n: usize, parse_special: bool) -> Vec<Token> {
    let of = |n| tokens(model, unit.repeat(n), parse_special);
    let (one, two, three) = (of(1), of(2), of(3));
    assert!(
        two.starts_with(&one) && three[..two.len()] == two[..] && three[two.len()..] == two[one.len()..],
        "{unit:?}"
    );
    [&one[..], &two[one.len()..].repeat(n - 1)].concat()
}

#[test]
fn a_long_text_has_the_tokens_of_its_parts() {
    with_model(&tiny::tiny_llama(3), |model| {
        for unit in [
            "\0",
            "\n",
            "木",
            "👩",
            "the\n",
            "the \n",
            "\nthe ",
            "_the\n_",
            "rain\u{301}rain",
            "<|im_start|>\n",
            "\n<|im_start|>",
            "\n<|im_start|>\n",
            "a<|im_start|>\n the",
        ] {
            for parse_special in [false, true] {
                // Several pieces long; the last piece is shorter.
                let n = 60_000 / unit.len() + 1;
                let found = tokens(model, unit.repeat(n), parse_special);
                assert!(found == expected(model, unit, n, parse_special), "{unit:?}, {parse_special}");
                let n_special = found.iter().filter(|token| token.0 == IM_START).count();
                let n_expected = if parse_special { n * unit.matches("<|im_start|>").count() } else { 0 };
                assert_eq!(n_special, n_expected, "{unit:?}");
                assert_eq!((found[0], found[1..].contains(&Token(BOS))), (Token(BOS), false), "{unit:?}");
            }
        }
    });
}

/// A forged vocabulary: llama.cpp finds special tokens byte by byte.
#[test]
fn a_special_token_that_begins_inside_a_character_is_found() {
    let mut bytes = tiny::tiny_llama(3);
    // Starts with the last two bytes of 木: judged by characters, a text could be split only after 木, inside this token.
    let (honest, forged) = (b"<|im_start|>", b"\x9c\xa8\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5e");
    let at = bytes.windows(honest.len()).position(|window| window == honest).unwrap();
    bytes[at..at + honest.len()].copy_from_slice(forged);
    with_model(&bytes, |model| {
        let n = 4000;
        let found = tokens(model, "he木日日日e".repeat(n), true);
        assert_eq!(found.iter().filter(|token| token.0 == IM_START).count(), n);
    });
}

#[test]
fn characters_that_no_token_has_take_little_time() {
    with_model(&tiny::tiny_llama(3), |model| {
        let start = Instant::now();
        assert_eq!(tokens(model, "木".repeat(1 << 20), false).len(), 2 + 3 * (1 << 20));
        // In one piece this takes minutes.
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    });
}
