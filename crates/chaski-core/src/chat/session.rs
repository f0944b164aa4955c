//! A conversation that can be saved: turns, settings, and its JSON form.
//!
//! This module does no IO; `sessions` of chaski-store does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::chat::template::Message;
use crate::chat::thinking::without_thinking;
use crate::gguf::ModelId;

/// The format version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Maximum turns in a session.
const MAX_TURNS: usize = 100_000;

/// Maximum name in bytes.
const MAX_NAME: usize = 64;

/// A message and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The user's message.
    pub user: String,
    /// The model's answer, including its thinking.
    pub assistant: String,
    /// The seed used to sample the answer.
    pub seed: u32,
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StoredSession", try_from = "StoredSession")]
pub struct Session {
    /// Which model answered last.
    pub model: ModelId,
    /// The system prompt.
    pub system: Option<String>,
    /// Settings, by the long names of their flags, with values as on the command line.
    pub settings: BTreeMap<String, Vec<String>>,
    /// All turns from the beginning.
    pub turns: Vec<Turn>,
    /// Number of oldest turns that are no longer sent because the context is full.
    pub n_left_out: usize,
    /// Summary of the turns left out.
    pub summary: Option<String>,
}

impl Session {
    /// The messages to send: the system prompt, all but the first `n_left_out` turns, then `message`.
    #[must_use]
    pub fn messages(&self, system: Option<String>, n_left_out: usize, message: Option<&str>) -> Vec<Message> {
        let system = system.map(|system| Message::new("system", system));
        let turns = self.turns.iter().skip(n_left_out).flat_map(|turn| {
            // Models are trained without the thinking of earlier turns.
            let answer = without_thinking(&turn.assistant);
            [Message::new("user", &*turn.user), Message::new("assistant", answer)]
        });
        system.into_iter().chain(turns).chain(message.map(|text| Message::new("user", text))).collect()
    }

    /// Removes and returns the last turn.
    pub fn undo(&mut self) -> Option<Turn> {
        let turn = self.turns.pop()?;
        if self.n_left_out > self.turns.len() {
            // The summary covers the removed turn.
            (self.n_left_out, self.summary) = (0, None);
        }
        Some(turn)
    }
}

/// The seed of turn `n`, counted from 0. The first turn uses `seed` itself, so its answer is the same as that of
/// `chaski run`. The seed depends on nothing else: the same messages give the same text, whatever was undone in
/// between.
#[must_use]
pub fn turn_seed(seed: u32, n: usize) -> u32 {
    if n == 0 { seed } else { derived(seed, &format!("turn {n}")) }
}

/// The seed for another answer to the same message.
#[must_use]
pub fn next_seed(seed: u32) -> u32 {
    derived(seed, "again")
}

/// The top bit stays 0, so the result is never the value that makes llama.cpp choose a seed.
fn derived(seed: u32, of: &str) -> u32 {
    (XxHash3_64::oneshot_with_seed(u64::from(seed), of.as_bytes()) >> 33) as u32
}

/// Checks a session name. A name becomes part of a file name, and must never be a path.
///
/// # Errors
/// A message that says what a name may contain.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_name = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) && !name.starts_with(['.', '-']);
    if is_name {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a chat: a name has 1 to {MAX_NAME} letters, digits, '.', '_' and '-', and \
         starts with a letter, a digit or '_'"
    ))
}

/// Why a file is not a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionFileError {
    /// Not JSON, or not the JSON of a session.
    #[error("not a saved chat: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Written in another format version.
    #[error("saved by another version of chaski (format {0}, this version reads {VERSION})")]
    Version(u64),
}

/// Parses a session file.
///
/// # Errors
/// When it is not a session, or has another version.
pub fn from_json(text: &[u8]) -> Result<Session, SessionFileError> {
    #[derive(Deserialize)]
    struct Head {
        chaski_session: u64,
    }
    // Check the version first: another version may have other fields.
    let head: Head = serde_json::from_slice(text)?;
    if head.chaski_session != u64::from(VERSION) {
        return Err(SessionFileError::Version(head.chaski_session));
    }
    Ok(serde_json::from_slice(text)?)
}

/// The text of a session file, readable for people.
#[must_use]
pub fn to_json(session: &Session) -> String {
    serde_json::to_string_pretty(session).expect("strings and numbers serialize") + "\n"
}

/// The JSON of a session file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSession {
    chaski_session: u32,
    model: ModelId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(default)]
    settings: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    turns_left_out: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    messages: Vec<StoredMessage>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredMessage {
    role: Role,
    content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
}

impl From<Session> for StoredSession {
    fn from(session: Session) -> StoredSession {
        let said = session.turns.into_iter().flat_map(|turn| {
            let user = StoredMessage { role: Role::User, content: turn.user, seed: None };
            [user, StoredMessage { role: Role::Assistant, content: turn.assistant, seed: Some(turn.seed) }]
        });
        StoredSession {
            chaski_session: VERSION,
            model: session.model,
            system: session.system,
            settings: session.settings,
            turns_left_out: session.n_left_out,
            summary: session.summary,
            messages: said.collect(),
        }
    }
}

impl TryFrom<StoredSession> for Session {
    type Error = String;

    fn try_from(form: StoredSession) -> Result<Session, String> {
        let n_turns = form.messages.len() / 2;
        if n_turns > MAX_TURNS {
            return Err(format!("more than {MAX_TURNS} turns"));
        }
        if form.turns_left_out > n_turns {
            return Err(format!("{} turns left out, but there are {n_turns}", form.turns_left_out));
        }
        let mut turns = Vec::with_capacity(n_turns);
        let mut said = form.messages.into_iter();
        while let Some(user) = said.next() {
            let assistant = said.next().filter(|said| said.role == Role::Assistant && user.role == Role::User);
            let number = 2 * turns.len() + 1;
            let assistant =
                assistant.ok_or_else(|| format!("message {number} and the next are no question and answer"))?;
            let seed = assistant.seed.unwrap_or(0);
            turns.push(Turn { user: user.content, assistant: assistant.content, seed });
        }
        let StoredSession { model, system, settings, turns_left_out: n_left_out, summary, .. } = form;
        Ok(Session { model, system, settings, turns, n_left_out, summary })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turn(user: &str, assistant: &str, seed: u32) -> Turn {
        Turn { user: user.to_owned(), assistant: assistant.to_owned(), seed }
    }

    fn session() -> Session {
        Session {
            model: "m.gguf 7ab".to_owned().into(),
            system: Some("Be brief.".to_owned()),
            settings: BTreeMap::from([("temp".to_owned(), vec!["0".to_owned()])]),
            turns: vec![turn("a", "b", 7), turn("c", "d", 8)],
            n_left_out: 1,
            summary: Some("ab".to_owned()),
        }
    }

    #[test]
    fn the_form_is_plain_json() {
        let json: serde_json::Value = serde_json::from_str(&to_json(&session())).unwrap();
        let expected = serde_json::json!({
            "chaski_session": 1, "model": "m.gguf 7ab", "system": "Be brief.", "settings": {"temp": ["0"]},
            "turns_left_out": 1, "summary": "ab",
            "messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "seed": 7},
                {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "seed": 8},
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_is_none_is_told() {
        let told = |text: &str| from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(told("").starts_with("not a saved chat: EOF"));
        assert!(told("{}").contains("missing field `chaski_session`"));
        assert_eq!(
            told(r#"{"chaski_session": 2, "x": 0}"#),
            "saved by another version of chaski (format 2, this version reads 1)"
        );
        let with = |rest: &str| told(&format!(r#"{{"chaski_session": 1, "model": "m", {rest}}}"#));
        assert!(with(r#""messages": [], "x": 0"#).contains("unknown field `x`"));
        let user = r#"{"role": "user", "content": "a"}"#;
        for messages in
            [user.to_owned(), format!("{user}, {user}"), r#"{"role": "assistant", "content": "a"}"#.to_owned()]
        {
            assert!(with(&format!(r#""messages": [{messages}]"#)).contains("message 1 and the next are no question"));
        }
        assert!(with(r#""messages": [], "turns_left_out": 1"#).contains("1 turns left out, but there are 0"));
    }

    #[test]
    fn a_name_is_never_a_path() {
        for name in ["a", "my-chat_2.1", "_", &"x".repeat(64)] {
            assert_eq!(check_name(name), Ok(()));
        }
        for name in ["", ".", "..", "a/b", "/a", "a\\b", "-a", ".a", "a b", "é", "a\0", "a\n", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn taking_back_what_was_left_out_begins_anew() {
        let mut session = session();
        assert_eq!(session.undo().unwrap().user, "c");
        assert_eq!((session.n_left_out, session.summary.is_some()), (1, true));
        session.undo();
        assert_eq!((session.n_left_out, session.summary.as_deref()), (0, None));
        assert_eq!(session.undo(), None);
    }

    #[test]
    fn what_is_sent_begins_with_the_system_prompt_whatever_is_left_out() {
        let mut session = session();
        session.turns[1].assistant = "<think>hm</think>\nd".to_owned();
        for n_left_out in 0..=2 {
            let sent = session.messages(session.system.clone(), n_left_out, Some("e"));
            let said: Vec<&str> = sent.iter().map(|message| message.content.as_str()).collect();
            let expected = ["Be brief.", "a", "b", "c", "d", "e"];
            assert_eq!(said, [&expected[..1], &expected[1 + 2 * n_left_out..]].concat());
        }
        assert_eq!(session.messages(None, 2, None), []);
    }

    #[test]
    fn the_first_turn_has_the_seed_and_all_others_their_own() {
        let seeds: std::collections::BTreeSet<u32> = (0..100).map(|n| turn_seed(7, n)).collect();
        assert_eq!((turn_seed(7, 0), seeds.len()), (7, 100));
        assert!(next_seed(7) != 7 && next_seed(7) < 1 << 31);
    }

    proptest! {
        #[test]
        fn a_session_comes_back(texts in prop::collection::vec(any::<(String, String, u32)>(), 0..5), system in any::<Option<String>>()) {
            let turns: Vec<Turn> = texts.iter().map(|(user, assistant, seed)| turn(user, assistant, *seed)).collect();
            let session = Session { turns, system, ..Session::default() };
            prop_assert_eq!(from_json(to_json(&session).as_bytes()).unwrap(), session);
        }

        #[test]
        fn a_damaged_file_is_an_error_or_a_session(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut text = to_json(&session()).into_bytes();
            let at = at.index(text.len());
            if cut { text.truncate(at) } else { text[at] = byte }
            if let Ok(read) = from_json(&text) {
                prop_assert_eq!(from_json(to_json(&read).as_bytes()).unwrap(), read);
            }
        }
    }
}
