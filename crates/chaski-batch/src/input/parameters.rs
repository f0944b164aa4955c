//! Parses the parameters of a line: OpenAI's names, and llama-server's where OpenAI has none.
//!
//! A parameter is honoured, or the line is refused. Only parameters that do not affect the answer are ignored.

use serde_json::{Map, Value};

use crate::chat::template::TemplateValue;
use crate::engine::Constraint;
use crate::input::seed::seed_of;
use crate::refuse::{INVALID_VALUE, Refusal, UNSUPPORTED_PARAMETER, refuse};
use crate::render::Variables;
use crate::sampling::{SAMPLING_OPTIONS, Sampling, SamplingOption};
use crate::token::Token;

/// Most stop strings of a line.
const MAX_STOPS: usize = 16;
/// Most bytes of a stop string.
const MAX_STOP_BYTES: usize = 1024;
/// Most biased tokens.
const MAX_BIASES: usize = 1024;
/// Most alternatives reported per token.
const MAX_LOGPROBS: usize = 20;
/// Largest seed: llama.cpp takes the next number as a request for a random seed.
const MAX_SEED: u32 = u32::MAX - 1;

/// Ignored parameters, which do not affect the answer. `model` names whatever model the file was written for.
const PASSED_OVER: [&str; 8] =
    ["model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options"];

/// Parameters that are accepted only with these values, which have no effect.
const NEUTRAL: [(&str, &[&str]); 16] = [
    ("n", &["1", "1.0"]),
    ("best_of", &["1", "1.0"]),
    ("min_tokens", &["0", "0.0"]),
    ("n_probs", &["0", "0.0"]),
    ("n_keep", &["0", "0.0"]),
    ("id_slot", &["-1", "-1.0"]),
    ("cache_prompt", &["true", "false"]),
    ("use_beam_search", &["false"]),
    ("stream", &["false"]),
    ("echo", &["false"]),
    ("suffix", &["\"\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("parallel_tool_calls", &["true", "false"]),
    ("modalities", &["[\"text\"]"]),
    ("verbosity", &["\"medium\""]),
];

/// The parameters of a line. The command's own parameters apply where a line sets none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// Most tokens of the answer.
    pub max_tokens: Option<usize>,
    /// Whether the line asks for no token limit, whatever the command's limit is.
    pub is_unlimited: bool,
    /// Numbers of [`Sampling`], each with its index in [`SAMPLING_OPTIONS`].
    pub options: Vec<(usize, f64)>,
    /// See [`Sampling`].
    pub logit_bias: Option<Vec<(Token, f32)>>,
    /// See [`Sampling`].
    pub ignore_eos: Option<bool>,
    /// The seed, used as it is.
    pub seed: Option<u32>,
    /// Stop strings.
    pub stop: Option<Vec<String>>,
    /// The JSON schema or grammar that the answer must match.
    pub constraint: Option<Constraint>,
    /// Number of alternatives to report with each token; `None`: no log-probabilities.
    pub n_logprobs: Option<usize>,
    /// Variables of the chat template, including `tools`.
    pub template: Variables,
}

/// The command's own parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Sampling parameters. The seeds of lines are derived from this seed.
    pub sampling: Sampling,
    /// Most tokens of an answer; `None`: the engine's default limit.
    pub max_tokens: Option<usize>,
    /// Stop strings.
    pub stop: Vec<String>,
}

impl Parameters {
    /// Parses all members of a request's object except the prompt. `is_chat` selects OpenAI's chat form of `logprobs`.
    ///
    /// # Errors
    /// For the first parameter that cannot be honoured.
    pub fn take(object: &mut Map<String, Value>, is_chat: bool) -> Result<Parameters, Refusal> {
        // As in OpenAI's API, null means absent.
        object.retain(|_, value| !value.is_null());
        PASSED_OVER.iter().for_each(|name| drop(object.remove(*name)));
        for (name, neutral) in NEUTRAL {
            let Some(value) = object.remove(name) else { continue };
            if !neutral.contains(&value.to_string().as_str()) {
                return Err(refuse(UNSUPPORTED_PARAMETER, format!("{name} cannot be {}", shortened(&value))));
            }
        }
        let most = max_tokens(object)?;
        let parameters = Parameters {
            max_tokens: most.flatten(),
            is_unlimited: most == Some(None),
            options: options(object)?,
            logit_bias: logit_bias(object)?,
            ignore_eos: flag(object, "ignore_eos")?,
            seed: seed(object)?,
            stop: stop(object)?,
            constraint: constraint(object)?,
            n_logprobs: logprobs(object, is_chat)?,
            template: if is_chat { template(object)? } else { Variables::new() },
        };
        match object.keys().next() {
            None => Ok(parameters),
            Some(name) => Err(refuse(UNSUPPORTED_PARAMETER, format!("unknown parameter {name:?}"))),
        }
    }

    /// The sampling parameters of this line, whose seed is derived from `custom_id` unless the line sets one.
    #[must_use]
    pub fn sampling(&self, defaults: &Sampling, custom_id: &str) -> Sampling {
        let mut sampling = defaults.clone();
        self.options.iter().for_each(|&(place, number)| SAMPLING_OPTIONS[place].set(&mut sampling, number));
        sampling.logit_bias = self.logit_bias.clone().unwrap_or(sampling.logit_bias);
        sampling.ignore_eos = self.ignore_eos.unwrap_or(sampling.ignore_eos);
        sampling.seed = self.seed.unwrap_or_else(|| seed_of(defaults.seed, custom_id));
        sampling
    }
}

fn invalid(name: &str, value: &Value, wanted: &str) -> Refusal {
    refuse(INVALID_VALUE, format!("{name} must be {wanted}, not {}", shortened(value)))
}

/// A value for an error message, cut to 60 characters.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn options(object: &mut Map<String, Value>) -> Result<Vec<(usize, f64)>, Refusal> {
    let take = |(place, option): (usize, &SamplingOption)| {
        let value = object.remove(option.name)?;
        let number = value.as_f64().filter(|&number| option.allows(number));
        Some(number.map(|number| (place, number)).ok_or_else(|| invalid(option.name, &value, &option.wanted())))
    };
    SAMPLING_OPTIONS.iter().enumerate().filter_map(take).collect()
}

/// OpenAI's form: `{"15043": -100}`.
fn logit_bias(object: &mut Map<String, Value>) -> Result<Option<Vec<(Token, f32)>>, Refusal> {
    let Some(value) = object.remove("logit_bias") else { return Ok(None) };
    let bias = |(token, bias): (&String, &Value)| {
        let token = token.parse().ok().filter(|&token: &i32| token >= 0)?;
        Some((Token(token), bias.as_f64().filter(|bias| bias.abs() <= 1e6)? as f32))
    };
    let biases = value.as_object().filter(|biases| biases.len() <= MAX_BIASES);
    let biases = biases.and_then(|biases| biases.iter().map(bias).collect());
    biases.map(Some).ok_or_else(|| invalid("logit_bias", &value, "an object of token ids and biases"))
}

fn flag(object: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, Refusal> {
    let Some(value) = object.remove(name) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| invalid(name, &value, "true or false"))
}

/// A whole number. 3.0 counts too: clients with only one kind of number write it so.
fn whole(value: &Value) -> Option<i128> {
    let exact = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    exact.or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i128))
}

/// The line's token limit. `Some(None)` is no limit: -1, and also -2, which is "until the context is full" in
/// llama-server.
fn max_tokens(object: &mut Map<String, Value>) -> Result<Option<Option<usize>>, Refusal> {
    let mut most = None;
    for name in ["n_predict", "max_tokens", "max_completion_tokens"] {
        let Some(value) = object.remove(name) else { continue };
        most = match whole(&value) {
            Some(-1 | -2) => Some(None),
            Some(count @ 1..) if usize::try_from(count).is_ok() => Some(usize::try_from(count).ok()),
            _ => return Err(invalid(name, &value, "a whole number above 0, or -1 for no limit")),
        };
    }
    Ok(most)
}

/// The line's seed; `None` for -1 and 4294967295, which leave it to the job. Seeds of OpenAI and vLLM have 64 bits: the
/// halves of a larger one are combined by XOR.
fn seed(object: &mut Map<String, Value>) -> Result<Option<u32>, Refusal> {
    let Some(value) = object.remove("seed") else { return Ok(None) };
    let seed = whole(&value).filter(|seed| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(seed));
    let seed = seed
        .ok_or_else(|| invalid("seed", &value, "a whole number of 64 bits, or -1 to derive it from the job's seed"))?;
    match u32::try_from(seed) {
        Ok(seed) if seed <= MAX_SEED => Ok(Some(seed)),
        Ok(_) => Ok(None),
        Err(_) if seed == -1 => Ok(None),
        Err(_) => Ok(Some(((seed ^ (seed >> 32)) as u32).min(MAX_SEED))),
    }
}

fn stop(object: &mut Map<String, Value>) -> Result<Option<Vec<String>>, Refusal> {
    let Some(value) = object.remove("stop") else { return Ok(None) };
    let texts = match &value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(all) => all.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let is_text = |text: &String| (1..=MAX_STOP_BYTES).contains(&text.len());
    let texts = texts.filter(|texts| texts.len() <= MAX_STOPS && texts.iter().all(is_text));
    let wanted = || format!("a text or a list of at most {MAX_STOPS} texts, each of 1 to {MAX_STOP_BYTES} bytes");
    texts.map(Some).ok_or_else(|| invalid("stop", &value, &wanted()))
}

/// `response_format` in the forms of OpenAI and llama-server, or llama-server's `json_schema` or `grammar`.
fn constraint(object: &mut Map<String, Value>) -> Result<Option<Constraint>, Refusal> {
    let asked = ["response_format", "json_schema", "grammar"].map(|name| (name, object.remove(name)));
    let mut asked = asked.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let Some((name, value)) = asked.next() else { return Ok(None) };
    if let Some((other, _)) = asked.next() {
        return Err(refuse(INVALID_VALUE, format!("{name} and {other} cannot be used together")));
    }
    match (name, &value) {
        ("response_format", Value::Object(format)) => response_format(format),
        ("json_schema", Value::Object(_) | Value::Bool(_)) => Ok(Some(Constraint::JsonSchema(value.to_string()))),
        // Clients of llama-server send an empty grammar for none.
        ("grammar", Value::String(grammar)) if grammar.is_empty() => Ok(None),
        ("grammar", Value::String(grammar)) => Ok(Some(Constraint::Grammar(grammar.clone()))),
        ("json_schema", _) => Err(invalid(name, &value, "a JSON schema")),
        ("grammar", _) => Err(invalid(name, &value, "a text")),
        _ => Err(invalid(name, &value, "of the type text, json_object or json_schema")),
    }
}

fn response_format(format: &Map<String, Value>) -> Result<Option<Constraint>, Refusal> {
    let whole = || Value::Object(format.clone());
    let kind = format.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_schema = |value: Option<&Value>| value.is_some_and(|value| value.is_object() || value.is_boolean());
    let has_schema = is_schema(format.get("schema"));
    let members: &[&str] = match kind {
        "text" => &["type"],
        "json_object" => &["type", "schema"],
        // Some clients put the schema and its name here instead of into `json_schema`.
        "json_schema" => &["type", "json_schema", "schema", "name", "strict", "description"],
        _ => return Err(invalid("response_format", &whole(), "of the type text, json_object or json_schema")),
    };
    if let Some(other) = format.keys().find(|name| !members.contains(&name.as_str())) {
        let message = format!("response_format: unknown member {other:?} for the type {kind}");
        return Err(refuse(UNSUPPORTED_PARAMETER, message));
    }
    match (kind, format.get("json_schema"), has_schema) {
        ("text", ..) => Ok(None),
        ("json_object", _, false) if !format.contains_key("schema") => Ok(Some(Constraint::JsonObject)),
        // The answer must match the schema, whether `strict` is set or not.
        ("json_object", _, true) | ("json_schema", None, true) => {
            Ok(Some(Constraint::JsonSchema(format["schema"].to_string())))
        }
        ("json_schema", Some(Value::Object(wrapped)), false) if is_schema(wrapped.get("schema")) => {
            let known = ["name", "description", "strict", "schema"];
            match wrapped.keys().find(|name| !known.contains(&name.as_str())) {
                Some(other) => Err(refuse(UNSUPPORTED_PARAMETER, format!("json_schema: unknown member {other:?}"))),
                None => Ok(Some(Constraint::JsonSchema(wrapped["schema"].to_string()))),
            }
        }
        ("json_object", ..) => Err(invalid("response_format", &whole(), "with an object as its schema")),
        _ => Err(invalid("response_format", &whole(), "of the type json_schema with a json_schema.schema")),
    }
}

/// Variables for the template besides the messages. How the model calls tools depends on its template.
fn template(object: &mut Map<String, Value>) -> Result<Variables, Refusal> {
    let mut variables = Variables::new();
    let mut set =
        |name: &str, value: &Value| drop(variables.insert(name.to_owned(), TemplateValue::from_serialize(value)));
    match object.remove("chat_template_kwargs") {
        None => {}
        Some(Value::Object(all)) => all.iter().for_each(|(name, value)| set(name, value)),
        Some(other) => return Err(invalid("chat_template_kwargs", &other, "an object")),
    }
    if let Some(effort) = object.remove("reasoning_effort") {
        if !effort.is_string() {
            return Err(invalid("reasoning_effort", &effort, "a text"));
        }
        set("reasoning_effort", &effort);
    }
    let choice = object.remove("tool_choice").unwrap_or_else(|| "auto".into());
    if choice != "auto" && choice != "none" {
        return Err(refuse(UNSUPPORTED_PARAMETER, format!("tool_choice cannot be {}", shortened(&choice))));
    }
    let tools = match object.remove("tools") {
        None => Vec::new(),
        Some(Value::Array(tools)) if tools.iter().all(Value::is_object) => tools,
        Some(other) => return Err(invalid("tools", &other, "a list of objects")),
    };
    if choice == "auto" && !tools.is_empty() {
        set("tools", &Value::Array(tools));
    }
    Ok(variables)
}

fn logprobs(object: &mut Map<String, Value>, is_chat: bool) -> Result<Option<usize>, Refusal> {
    let (asked, top) = (object.remove("logprobs"), object.remove("top_logprobs"));
    // Some clients always send `top_logprobs: 0`, so without `logprobs: true` it is ignored.
    let is_none = |top: &Value| whole(top) == Some(0) && asked != Some(Value::Bool(true));
    let top = top.filter(|top| !is_none(top));
    let count = |name: &str, value: &Value| {
        let count = whole(value).and_then(|count| usize::try_from(count).ok()).filter(|&count| count <= MAX_LOGPROBS);
        count.ok_or_else(|| invalid(name, value, &format!("a whole number from 0 to {MAX_LOGPROBS}")))
    };
    match (asked, top) {
        (None | Some(Value::Bool(false)), None) => Ok(None),
        (Some(Value::Bool(true)), top) if is_chat => top.map_or(Ok(0), |top| count("top_logprobs", &top)).map(Some),
        (Some(asked), None) if !is_chat => count("logprobs", &asked).map(Some),
        (Some(asked), None) => Err(invalid("logprobs", &asked, "true or false")),
        (_, Some(top)) => Err(invalid("top_logprobs", &top, "absent unless logprobs is true")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(name: &str, number: f64) -> (usize, f64) {
        (SAMPLING_OPTIONS.iter().position(|option| option.name == name).unwrap(), number)
    }

    fn take(json: &str, is_chat: bool) -> Result<Parameters, Refusal> {
        let Value::Object(mut object) = serde_json::from_str(json).unwrap() else { panic!("an object") };
        Parameters::take(&mut object, is_chat)
    }

    #[track_caller]
    fn accepts(json: &str, expected: Parameters) {
        assert_eq!(take(json, true).unwrap(), expected, "{json}");
    }

    #[track_caller]
    fn refuses(json: &str, code: &str, name: &str) {
        let refusal = take(json, true).unwrap_err();
        assert_eq!(refusal.code, code, "{json}: {}", refusal.message);
        assert!(refusal.message.contains(name), "{json}: {}", refusal.message);
    }

    #[test]
    fn what_is_asked_for_is_taken() {
        let none = Parameters::default;
        accepts("{}", none());
        accepts(r#"{"model": "gpt-4o", "user": "me", "n": 1, "stream": false, "tools": [], "stop": null}"#, none());
        accepts(r#"{"max_tokens": 5}"#, Parameters { max_tokens: Some(5), ..none() });
        accepts(r#"{"max_tokens": 5, "max_completion_tokens": 6}"#, Parameters { max_tokens: Some(6), ..none() });
        let json = r#"{"temperature": 0, "presence_penalty": -0.5, "top_k": 0, "dry_multiplier": 0.8, "seed": 3}"#;
        let numbers = [("temperature", 0.0), ("top_k", 0.0), ("presence_penalty", -0.5), ("dry_multiplier", 0.8)];
        let sampled =
            Parameters { options: numbers.map(|(name, x)| option(name, x)).to_vec(), seed: Some(3), ..none() };
        accepts(json, sampled);
        let biases = vec![(Token(5), 1.0), (Token(7), -100.0)];
        accepts(r#"{"logit_bias": {"5": 1, "7": -100}}"#, Parameters { logit_bias: Some(biases), ..none() });
        accepts(r#"{"ignore_eos": true}"#, Parameters { ignore_eos: Some(true), ..none() });
        accepts(r#"{"stop": "x"}"#, Parameters { stop: Some(vec!["x".to_owned()]), ..none() });
        accepts(r#"{"stop": []}"#, Parameters { stop: Some(vec![]), ..none() });
        accepts(r#"{"response_format": {"type": "text"}}"#, none());
        let object = Parameters { constraint: Some(Constraint::JsonObject), ..none() };
        accepts(r#"{"response_format": {"type": "json_object"}}"#, object);
        let schema = Constraint::JsonSchema(r#"{"type":"string"}"#.to_owned());
        accepts(
            r#"{"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "string"}}}}"#,
            Parameters { constraint: Some(schema), ..none() },
        );
        let tools: Variables = serde_json::from_str(r#"{"tools": [{"b": 1, "a": 2}], "think": false}"#).unwrap();
        let json = r#"{"tools": [{"b": 1, "a": 2}], "tool_choice": "auto", "chat_template_kwargs": {"think": false}}"#;
        accepts(json, Parameters { template: tools, ..none() });
        accepts(r#"{"tools": [{"b": 1}], "tool_choice": "none"}"#, none());
        accepts(r#"{"logprobs": true}"#, Parameters { n_logprobs: Some(0), ..none() });
        accepts(r#"{"logprobs": true, "top_logprobs": 5}"#, Parameters { n_logprobs: Some(5), ..none() });
        accepts(r#"{"logprobs": false}"#, none());
        assert_eq!(take(r#"{"logprobs": 3}"#, false).unwrap().n_logprobs, Some(3));
    }

    #[test]
    fn issue_13_2_forms_are_taken_in_every_spelling() {
        let none = Parameters::default;
        let schema = Constraint::JsonSchema(r#"{"type":"string"}"#.to_owned());
        for format in [
            r#"{"type": "json_object", "schema": {"type": "string"}}"#,
            r#"{"type": "json_schema", "schema": {"type": "string"}}"#,
            r#"{"type": "json_schema", "name": "n", "strict": true, "schema": {"type": "string"}}"#,
            r#"{"type": "json_schema", "json_schema": {"strict": true, "schema": {"type": "string"}}}"#,
        ] {
            let expected = Parameters { constraint: Some(schema.clone()), ..none() };
            accepts(&format!("{{\"response_format\": {format}}}"), expected);
        }
        let own = Parameters { constraint: Some(schema), ..none() };
        accepts(r#"{"json_schema": {"type": "string"}}"#, own);
        let grammar = Constraint::Grammar("root ::= \"a\"".to_owned());
        accepts(r#"{"grammar": "root ::= \"a\""}"#, Parameters { constraint: Some(grammar), ..none() });
        accepts(r#"{"grammar": ""}"#, none());
        let two = r#"{"grammar": "root ::= \"a\"", "response_format": {"type": "text"}}"#;
        refuses(two, INVALID_VALUE, "response_format and grammar cannot be used together");
        let shema = r#"{"response_format": {"type": "json_object", "shema": {}}}"#;
        refuses(shema, UNSUPPORTED_PARAMETER, "\"shema\"");
        let strct = r#"{"response_format": {"type": "json_schema", "json_schema": {"strct": true, "schema": {}}}}"#;
        refuses(strct, UNSUPPORTED_PARAMETER, "\"strct\"");
        refuses(r#"{"response_format": {"type": "json_object", "schema": 5}}"#, INVALID_VALUE, "schema");
    }

    #[test]
    fn issue_13_12_numbers_are_taken_as_others_take_them() {
        let none = Parameters::default;
        accepts(r#"{"max_tokens": 3.0}"#, Parameters { max_tokens: Some(3), ..none() });
        accepts(r#"{"max_completion_tokens": 3e2}"#, Parameters { max_tokens: Some(300), ..none() });
        accepts(r#"{"n_predict": 3}"#, Parameters { max_tokens: Some(3), ..none() });
        accepts(r#"{"max_tokens": -1}"#, Parameters { is_unlimited: true, ..none() });
        accepts(r#"{"max_tokens": -1, "max_completion_tokens": 4}"#, Parameters { max_tokens: Some(4), ..none() });
        accepts(r#"{"top_k": -1}"#, Parameters { options: vec![option("top_k", -1.0)], ..none() });
        accepts(r#"{"repeat_last_n": -1.0}"#, Parameters { options: vec![option("repeat_last_n", -1.0)], ..none() });
        accepts(
            r#"{"dry_penalty_last_n": -1}"#,
            Parameters { options: vec![option("dry_penalty_last_n", -1.0)], ..none() },
        );
        accepts(r#"{"seed": 5.0}"#, Parameters { seed: Some(5), ..none() });
        accepts(r#"{"seed": -1, "n": 1.0, "min_tokens": 0, "id_slot": -1}"#, none());
        accepts(r#"{"seed": 4294967295}"#, none());
        accepts(r#"{"seed": 4294967296}"#, Parameters { seed: Some(1), ..none() });
        accepts(r#"{"logprobs": true, "top_logprobs": 2.0}"#, Parameters { n_logprobs: Some(2), ..none() });
        accepts(r#"{"logprobs": false, "top_logprobs": 0}"#, none());
        assert_eq!(take(r#"{"logprobs": 3.0}"#, false).unwrap().n_logprobs, Some(3));
        let sampling =
            Parameters { options: vec![option("top_k", -1.0)], ..none() }.sampling(&Sampling::default(), "a");
        assert!(!sampling.links().contains(&crate::sampling::SamplerKind::TopK));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        refuses(r#"{"n": 2}"#, UNSUPPORTED_PARAMETER, "n");
        refuses(r#"{"stream": true}"#, UNSUPPORTED_PARAMETER, "stream");
        refuses(r#"{"tools": ["x"]}"#, INVALID_VALUE, "tools");
        refuses(r#"{"tools": [{}], "tool_choice": "required"}"#, UNSUPPORTED_PARAMETER, "tool_choice");
        refuses(r#"{"chat_template_kwargs": 3}"#, INVALID_VALUE, "chat_template_kwargs");
        refuses(r#"{"reasoning_effort": 3}"#, INVALID_VALUE, "reasoning_effort");
        for (name, values) in [
            ("max_tokens", &["0", "-3", "1.5", "\"5\"", "1e30"][..]),
            ("temperature", &["-0.1", "\"hot\"", "1e300"]),
            ("top_p", &["1.1", "-1"]),
            ("min_p", &["2"]),
            ("top_k", &["-2", "0.5", "99999999999"]),
            ("repeat_penalty", &["0", "-1"]),
            ("frequency_penalty", &["\"much\"", "1e300"]),
            ("logit_bias", &["[]", "{\"x\": 1}", "{\"5\": \"1\"}", "{\"-5\": 1}"]),
            ("ignore_eos", &["1"]),
            ("seed", &["\"1\"", "1e30", "0.5"]),
            ("stop", &["5", "[5]", "\"\"", "[\"\"]", "{}"]),
            ("response_format", &["{}", "\"json\"", "{\"type\": \"json_schema\"}", "{\"type\": \"xml\"}"]),
            ("logprobs", &["2", "\"yes\""]),
            ("top_logprobs", &["2"]),
        ] {
            for value in values {
                refuses(&format!("{{\"{name}\": {value}}}"), INVALID_VALUE, name);
            }
        }
        refuses(r#"{"logprobs": true, "top_logprobs": 21}"#, INVALID_VALUE, "top_logprobs");
        assert!(take(r#"{"logprobs": 21}"#, false).is_err());
        let many = format!("{{\"stop\": [{}]}}", vec!["\"x\""; 17].join(","));
        refuses(&many, INVALID_VALUE, "stop");
    }

    #[test]
    fn a_line_wins_over_the_command_and_its_seed_follows_from_its_id() {
        let defaults = Sampling { seed: 7, presence_penalty: 0.5, ..Sampling::default() };
        let line = Parameters { options: vec![option("temperature", 0.1)], ..Parameters::default() };
        let expected = Sampling { temperature: 0.1, seed: seed_of(7, "a"), ..defaults.clone() };
        assert_eq!(line.sampling(&defaults, "a"), expected);
        assert_ne!(line.sampling(&defaults, "b").seed, expected.seed);
        assert_eq!(Parameters { seed: Some(7), ..line }.sampling(&defaults, "a").seed, 7);
    }
}
