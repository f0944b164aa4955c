use proptest::prelude::*;

use super::forced::Forced;
use super::*;
use crate::draft::DraftFilter as _;

/// All bytes, some longer tokens, one without text, and two that end a text.
const WORDS: [&str; 13] = [r#"{""#, r#"": "#, r#"", ""#, "ab", "abc", "name", "12", "é", "tru", "e}", " ", "\n", ""];
const ENDS: [Token; 2] = [Token(269), Token(270)];

fn pieces() -> Vec<Vec<u8>> {
    let words = WORDS.iter().map(|word| word.as_bytes().to_vec());
    (0..=u8::MAX).map(|byte| vec![byte]).chain(words).chain([b"<end>".to_vec(), b"<stop>".to_vec()]).collect()
}

fn structure(constraint: &Constraint) -> Structure {
    Structures::new(&pieces(), &ENDS).structure(constraint).unwrap_or_else(|error| panic!("{constraint:?}: {error}"))
}

/// A tokenizer that takes the longest word first.
fn tokenize(bytes: &[u8]) -> Vec<Token> {
    let all = pieces();
    let (mut at, mut tokens) = (0, Vec::new());
    while at < bytes.len() {
        let fits = |(_, piece): &(usize, &Vec<u8>)| !piece.is_empty() && bytes[at..].starts_with(piece);
        let (id, piece) = all[..269].iter().enumerate().filter(fits).max_by_key(|(_, piece)| piece.len()).unwrap();
        tokens.push(Token(id as i32));
        at += piece.len();
    }
    tokens
}

/// Whether a text, byte by byte, matches the form, and whether it may end there.
fn takes(constraint: &Constraint, text: &str) -> bool {
    let mut structure = structure(constraint);
    let steps = text.bytes().all(|byte| {
        let token = Token(byte.into());
        structure.allows(token) && structure.accept(token).is_ok()
    });
    steps && structure.allows(ENDS[1])
}

#[track_caller]
fn check(constraint: &Constraint, right: &[&str], wrong: &[&str]) {
    for text in right {
        assert!(takes(constraint, text), "{constraint:?} refuses {text:?}");
    }
    for text in wrong {
        assert!(!takes(constraint, text), "{constraint:?} takes {text:?}");
    }
}

/// A text of random allowed tokens, ended at random where it may end.
fn random_text(constraint: &Constraint, choices: &[u16]) -> Option<String> {
    let (all, mut structure) = (pieces(), structure(constraint));
    let mut text = Vec::new();
    for &choice in choices {
        let allowed = structure.allowed().unwrap();
        let naive: Vec<Token> = (0..271).map(Token).filter(|&token| structure.allows(token)).collect();
        assert_eq!(allowed, naive, "{:?}", String::from_utf8_lossy(&text));
        let token = allowed[usize::from(choice) % allowed.len()];
        structure.accept(token).unwrap();
        if ENDS.contains(&token) {
            return Some(String::from_utf8(text).unwrap());
        }
        text.extend_from_slice(&all[token.index()]);
    }
    None
}

const SCHEMA: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 3},
    "n": {"type": "integer", "minimum": 0, "maximum": 120}, "ok": {"type": "boolean"}},
    "required": ["name", "n", "ok"], "additionalProperties": false}"#;

fn schema() -> Constraint {
    Constraint::JsonSchema(SCHEMA.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_chosen_of_what_is_allowed_is_of_the_form(choices in prop::collection::vec(any::<u16>(), 80)) {
        if let Some(text) = random_text(&schema(), &choices) {
            let value: Value = serde_json::from_str(&text).unwrap();
            let object = value.as_object().unwrap();
            prop_assert_eq!(object.keys().collect::<Vec<_>>(), ["name", "n", "ok"]);
            prop_assert!(value["name"].as_str().unwrap().chars().count() <= 3);
            prop_assert!(value["n"].as_u64().unwrap() <= 120 && value["ok"].is_boolean());
        }
        if let Some(text) = random_text(&Constraint::Regex("^(ab|é{2,})c*$".to_owned()), &choices) {
            let rest = text.trim_end_matches('c');
            prop_assert!(rest == "ab" || rest.chars().count() >= 2 && rest.chars().all(|c| c == 'é'), "{}", text);
        }
        // The same length on both sides: no regular expression can require that.
        let grammar = r#"root ::= "a" root "b" | "ab" # nested"#.to_owned();
        if let Some(text) = random_text(&Constraint::Grammar(grammar), &choices) {
            let n = text.len() / 2;
            prop_assert_eq!(text, "a".repeat(n) + &"b".repeat(n));
        }
    }

    /// Moving between drafted paths leaves no trace.
    #[test]
    fn what_is_forced_depends_on_the_text_alone(choices in prop::collection::vec(any::<u16>(), 30), paths in prop::collection::vec(0usize..12, 1..10)) {
        let mut text = vec![Token(1), Token(2)];
        let mut walk = structure(&schema());
        for choice in choices {
            let allowed = walk.allowed().unwrap();
            let token = allowed[usize::from(choice) % allowed.len()];
            if ENDS.contains(&token) { break }
            walk.accept(token).unwrap();
            text.push(token);
        }
        let forced = || Forced::new(structure(&schema()), 2, Rc::new(tokenize));
        let mut used = forced();
        let mut paths = paths;
        // The text of one form only grows; the drafts may differ.
        paths.sort_by_key(|n_path| std::cmp::Reverse(*n_path));
        for n_path in paths {
            let n_said = 2 + (text.len() - 2).saturating_sub(n_path);
            for path in [&text[n_said..], &text[n_said..text.len().min(n_said + 1)], &[]] {
                let narrowed = |form: &mut Forced| {
                    let mut children: Vec<(Token, f32)> = (0..271).map(|id| (Token(id), 0.1)).collect();
                    form.narrow(&text[..n_said], path, &mut children);
                    children
                };
                prop_assert_eq!(narrowed(&mut used), narrowed(&mut forced()));
            }
        }
    }
}

#[test]
fn json_is_on_one_line_unless_the_schema_says_otherwise() {
    check(
        &schema(),
        &[r#"{"name": "x", "n": 7, "ok": true}"#],
        &[r#"{"name":"x", "n": 7, "ok": true}"#, r#"{"name": "abcd", "n": 7, "ok": true}"#, r#"{"name": "x"}"#, "7"],
    );
    let free = Constraint::JsonSchema(r#"{"type": "integer", "x-guidance": {"whitespace_flexible": true}}"#.to_owned());
    check(&free, &["7"], &["x"]);
    check(&Constraint::JsonObject, &["{}", r#"{"a": [1, {"b": null}]}"#], &["[]", "{", r#"{"a": 01}"#]);
}

#[test]
fn grammars_mean_what_they_say() {
    let grammar = |text: &str| Constraint::Grammar(text.to_owned());
    // A lexer's longest match would be "ab" and leave no c.
    check(&grammar(r#"root ::= [a] [b] [c] | "ab" "d""#), &["abc", "abd"], &["ab", "abe"]);
    check(
        &grammar("root ::= item{2,3} (\"-\" . | \"\\x41\")?\nitem ::= [^a-c\\]]\n"),
        &["xy", "xyz-é", "xyA"],
        &["x", "xa", "x]"],
    );
    let list = "# a list\nroot ::= \"[\" (num-ber\n  (\", \" num-ber)*)? \"]\"\nnum-ber ::= [0-9]+ |\n  \"none\"\n";
    check(&grammar(list), &["[]", "[1]", "[12, none]"], &["[", "[1,]", "[none,1]"]);
    check(&grammar("root ::= \"\" | \"a\" root\n"), &["", "aaa"], &["b"]);
}

#[test]
fn issue_13_14_grammars_that_llama_cpp_takes_are_taken() {
    let grammar = |text: &str| Constraint::Grammar(text.to_owned());
    let bars =
        "root ::= \"yes\"\n       | \"no\" # never\n# or\n\n  | item\r\nitem ::=\n    \"a\"\n  | \"b\" |\n \"c\"\n";
    check(&grammar(bars), &["yes", "no", "a", "b", "c"], &["", "y", "item", "|"]);
    check(&grammar("root ::= | \"a\""), &["", "a"], &["b"]);
    check(&grammar("root ::= (\n  | \"a\"\n  | \"b\"\n) \"!\""), &["!", "a!", "b!"], &["a"]);
    check(&grammar("root ::= \"a\" + \"b\" { 1 , 2 } [c] * ?"), &["ab", "aabbcc"], &["b", "abbb"]);
    check(&grammar("root ::= [a\\-z]+"), &["a-z"], &["b"]);
    check(&grammar("root ::= \"a\nb\""), &["a\nb"], &["ab"]);
}

#[test]
fn mistakes_are_named() {
    let error = |constraint: &Constraint| constraint.check().unwrap_err().to_string();
    for (grammar, line, what) in [
        ("root ::= item", 1, "no rule \"item\""),
        ("item ::= \"a\"\n", 1, "no rule \"root\""),
        ("root ::= \"a\"\nroot ::= \"b\"", 2, "twice"),
        ("root ::= \"a\nx", 1, "no closing quote"),
        ("root ::= [z-a]", 1, "range"),
        ("root ::= \"a\"{3,1}", 1, "repetitions"),
        ("root ::= (\"a\"", 1, "\")\""),
        ("root = \"a\"", 1, "\"::=\""),
        ("root ::= <think>", 1, "not supported"),
        ("root ::= \"\\q\"", 1, "escape"),
    ] {
        let error = error(&Constraint::Grammar(grammar.to_owned()));
        assert!(error.contains(&format!("line {line}")) && error.contains(what), "{grammar}: {error}");
    }
    for (schema, what) in [
        ("{", "not valid JSON"),
        ("3", "not a JSON object"),
        (r#"{"type": "strin"}"#, "strin"),
        (r##"{"$ref": "#/$defs/none"}"##, "none"),
        (r#"{"type": "array", "uniqueItems": true}"#, "uniqueItems"),
    ] {
        let error = error(&Constraint::JsonSchema(schema.to_owned()));
        assert!(error.starts_with("the JSON schema cannot be used") && error.contains(what), "{schema}: {error}");
    }
    assert_eq!(error(&Constraint::Regex("a(".to_owned())), "the regular expression cannot be used: unclosed group");
    let long = format!("root ::= \"{}\"", "a".repeat(MAX_BYTES));
    assert!(error(&Constraint::Grammar(long)).contains("the limit is 65536"));
    assert_eq!(schema().check(), Ok(()));
}

#[test]
fn what_must_come_is_drafted_token_by_token_and_then_the_end() {
    let mut form = Forced::new(structure(&schema()), 1, Rc::new(tokenize));
    let mut next = |text: &str, path: &str| {
        let said: Vec<Token> = [Token(0)].into_iter().chain(tokenize(text.as_bytes())).collect();
        let mut children =
            vec![(Token(i32::from(b'x')), 0.5), (Token(i32::from(b'q')), 0.2), (Token(i32::from(b'"')), 0.1)];
        let mut drafted = tokenize(path.trim_end_matches('$').as_bytes());
        if path.ends_with('$') {
            drafted.push(ENDS[0]);
        }
        form.narrow(&said, &drafted, &mut children);
        children.iter().map(|(token, _)| token.0).collect::<Vec<_>>()
    };
    let word = |text: &str| 256 + WORDS.iter().position(|word| *word == text).unwrap() as i32;
    assert_eq!(next("", ""), [word(r#"{""#)]);
    assert_eq!(next("", r#"{""#), [word("name")]);
    assert_eq!(next("", r#"{"name"#), [word(r#"": "#)]);
    // At most three characters, or the rest of them.
    assert_eq!(next(r#"{"name": ""#, "").len(), 3);
    assert_eq!(next(r#"{"name": "abc"#, ""), [word(r#"", ""#)]);
    assert_eq!(next(r#"{"name": "abc"#, r#"", ""#), [i32::from(b'n')]);
    assert_eq!(next(r#"{"name": "abc", "n": 12, "ok": tru"#, ""), [word("e}")]);
    assert_eq!(next(r#"{"name": "abc", "n": 12, "ok": tru"#, "e}"), [ENDS[0].0]);
    assert_eq!(next(r#"{"name": "abc", "n": 12, "ok": tru"#, "e}$"), [0; 0]);
    assert_eq!(next(r#"{"name": "abc", "n": 12, "ok": tru"#, ""), [word("e}")]);
}

/// Whether a name occurs twice in an object. serde_json would keep the last one.
fn has_repeated_names(text: &str) -> bool {
    let mut names = Names::default();
    !names.follow(text.as_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn issue_13_2_free_members_do_not_repeat_names(choices in prop::collection::vec(any::<u16>(), 120)) {
        for schema in [
            r#"{"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}}"#,
            r#"{"type": "object", "properties": {"a": true}, "additionalProperties": {"type": "object"}}"#,
            r#"{"type": "object", "patternProperties": {"^[ab]$": {"const": 1}}, "additionalProperties": false}"#,
            r#"{"type": "object", "patternProperties": {"^a*b$": {"const": 1}}, "additionalProperties": false}"#,
            r#"{"type": "array", "items": {"patternProperties": {"^(x[12]|y)$": {"const": 1}}, "additionalProperties": false, "type": "object"}}"#,
            "{}",
        ] {
            let constraint = Constraint::JsonSchema(schema.to_owned());
            if let Some(text) = random_text(&constraint, &choices) {
                prop_assert!(!has_repeated_names(&text), "{}", text);
            }
        }
    }
}

#[test]
fn issue_13_2_where_names_run_out_an_object_ends() {
    let few = Constraint::JsonSchema(
        r#"{"type": "object", "patternProperties": {"^[ab]$": {"const": 1}}, "additionalProperties": false}"#
            .to_owned(),
    );
    check(
        &few,
        &["{}", r#"{"a": 1}"#, r#"{"b": 1, "a": 1}"#],
        &[r#"{"a": 1, "a": 1}"#, r#"{"c": 1}"#, r#"{"a": 1, "b": 1, "a": 1}"#],
    );
    let mut structure = structure(&few);
    for byte in br#"{"b": 1, "a": 1"# {
        structure.accept(Token((*byte).into())).unwrap();
    }
    assert_eq!(structure.allowed().unwrap(), [Token(b'}'.into())], "no comma, since no name is left");
    structure.take_back(7).unwrap();
    assert_eq!(
        structure.allowed().unwrap(),
        [Token(b' '.into()), Token(WORDS.iter().position(|word| *word == " ").unwrap() as i32 + 256)]
    );
    let free = Constraint::JsonSchema(r#"{"type": "object", "additionalProperties": {"type": "object"}}"#.to_owned());
    check(
        &free,
        &[r#"{"a": {"a": 1, "b": 2}, "b": {"a": 1}}"#],
        &[r#"{"a": {}, "a": {}}"#, r#"{"a": {"x": 1, "x": 2}}"#, r#"{"a": {}, "\u0061": {}}"#],
    );
    let declared =
        r#"{"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"type": "string"}}"#;
    check(
        &Constraint::JsonSchema(declared.to_owned()),
        &[r#"{"a": 1, "b": "x"}"#, r#"{"b": "x"}"#],
        &[r#"{"a": 1, "a": "x"}"#, r#"{"a": "x"}"#, r#"{"\u0061": "x"}"#],
    );
}

#[test]
fn issue_13_2_schemas_mean_what_they_say() {
    let schema = |text: &str| Constraint::JsonSchema(text.to_owned());
    let escaped = r##"{"type": "object", "$defs": {"a/b~c": {"enum": ["x"]}}, "properties": {"v": {"$ref": "#/$defs/a~1b~0c"}},
        "required": ["v"], "additionalProperties": false}"##;
    check(&schema(escaped), &[r#"{"v": "x"}"#], &[r#"{"v": "y"}"#]);
    let wrapped = r#"{"name": "n", "strict": true, "schema": {"type": "integer", "minimum": 3, "maximum": 5}}"#;
    check(&schema(wrapped), &["3", "5"], &["2", "\"a\"", "{}"]);
    // Drafts of JSON Schema in which llguidance does not know a keyword.
    check(&schema(r#"{"$schema": "http://json-schema.org/draft-04/schema#", "const": 5}"#), &["5"], &["6", "{}"]);
    check(&schema(r#"{"$schema": "https://example.com/own", "const": 5}"#), &["5"], &["6", "{}"]);
    let far = r#"{"type": "integer", "minimum": 9007199254740992, "maximum": 9223372036854775807}"#;
    check(&schema(far), &["9007199254740993", "9223372036854775807"], &["9007199254740991", "9223372036854775808"]);
    let tree = r##"{"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": false}"##;
    check(&schema(tree), &["{}", r#"{"next": {"next": {}}}"#], &[r#"{"next": 1}"#, r#"{"n": {}}"#]);
    let guided = r#"{"x-guidance": {"whitespace_flexible": false, "item_separator": ","}, "type": "array", "items": {"const": 1}}"#;
    check(&schema(guided), &["[1,1]"], &["[1, 1]"]);
}

#[test]
fn issue_13_2_reasons_name_the_place_in_the_schemas_words() {
    let error = |schema: &str| Constraint::JsonSchema(schema.to_owned()).check().unwrap_err().to_string();
    let price = r#"{"properties": {"price": {"anyOf": [{"type": "number"},
        {"pattern": "^(?!^[-+.]*$)[+-]?0*\\d*\\.?\\d*$", "type": "string"}]}}, "required": ["price"], "type": "object"}"#;
    assert_eq!(
        error(price),
        "the JSON schema cannot be used: #/properties/price/anyOf/1: pattern: look-ahead and look-behind, as in (?!...), are not supported"
    );
    for (schema, path, what) in [
        (
            r#"{"properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["n"], "type": "object"}"#,
            "#/properties/n: ",
            "minimum (5) is greater than maximum (3)",
        ),
        (r#"{"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}"#, "#/items: ", "anyOf"),
        (
            r##"{"name": "n", "schema": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string", "pattern": "a("}}}}"##,
            "#/schema/$defs/a~1b: ",
            "unclosed group",
        ),
        (r#"{"type": "string", "pattern": "(a)\\1"}"#, "#: ", "groups"),
        (
            r#"{"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^a$", "minLength": 3}}"#,
            "#",
            "no text can match this pattern",
        ),
    ] {
        let error = error(schema);
        let is_plain = !error.contains("Unsatisfiable") && !error.contains("regex") && !error.contains("coerce");
        assert!(error.contains(path) && error.contains(what) && is_plain, "{schema}: {error}");
    }
    assert!(error(&" ".repeat(MAX_BYTES + 5)).contains("it has 65541 bytes; the limit is 65536"));
}
fn after_thinking(is_open: bool) -> Constraint {
    Constraint::AfterThinking { is_open, constraint: Box::new(schema()) }
}

#[test]
fn issue_13_6_thinking_comes_before_the_form() {
    let json = r#"{"name": "x", "n": 7, "ok": true}"#;
    let with = |start: &str| format!("{start}{json}");
    let (bare, short, long) = (with("a{b</think>"), with("</thin</think>\n\n"), with("</think>\n\n\n"));
    check(&after_thinking(true), &[&bare, &short], &[json, "a", "</think>", "a</think>x", &long]);
    let (own, blank) = (with("<think>hm</think>\n"), with("<think></think>"));
    check(&after_thinking(false), &[json, &own, &blank], &["<think>hm", "hm", &bare, &with("<thin"), &with("\n")]);
    assert!(after_thinking(true).check().is_ok());
    let broken = Constraint::AfterThinking { is_open: true, constraint: Box::new(Constraint::Regex("(".to_owned())) };
    assert!(broken.check().unwrap_err().to_string().starts_with("the regular expression"));
}

#[test]
fn issue_13_6_drafts_of_thinking_are_free_and_those_of_the_form_are_held() {
    let mut form = Forced::new(structure(&after_thinking(true)), 1, Rc::new(tokenize));
    let mut next = |text: &str, path: &str| {
        let said: Vec<Token> = [Token(0)].into_iter().chain(tokenize(text.as_bytes())).collect();
        let mut children = vec![(Token(i32::from(b'x')), 0.5), (Token(i32::from(b'{')), 0.2), (ENDS[0], 0.1)];
        form.narrow(&said, &tokenize(path.as_bytes()), &mut children);
        children.iter().map(|(token, _)| token.0).collect::<Vec<_>>()
    };
    let free = [i32::from(b'x'), i32::from(b'{')];
    assert_eq!(next("", "a"), free);
    // A draft across the border, taken back, then another one.
    assert_eq!(next("a", "</think>"), [i32::from(b'{')]);
    assert_eq!(next("a", "</think>{"), [i32::from(b'"')]);
    assert_eq!(next("a", "</thin"), free);
    assert_eq!(next("a</think>", ""), [i32::from(b'{')]);
    assert_eq!(next("a</think>{", "").len(), 1);
}

#[test]
fn issue_13_6_what_is_allowed_before_a_form_is_what_each_token_is_asked() {
    for is_open in [true, false] {
        let mut structure = structure(&after_thinking(is_open));
        for &token in &tokenize("<think>a</think>\n{".as_bytes()) {
            let allowed = structure.allowed().unwrap();
            let naive: Vec<Token> = (0..271).map(Token).filter(|&token| structure.allows(token)).collect();
            assert_eq!(allowed, naive);
            assert!(naive.contains(&token));
            structure.accept(token).unwrap();
        }
    }
}
