//! Rejects duplicate member names: no name may occur twice in one JSON object.
//!
//! llguidance's grammars cannot express that. So this module tracks the text itself, just enough to know the names in
//! all open objects. It relies on llguidance for well-formed JSON.

use std::rc::Rc;

/// Position in the text and the names so far. Cloning is cheap: the lists of names are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// The innermost open object or array.
    frame: Option<Rc<Frame>>,
    place: Place,
}

#[derive(Debug)]
struct Frame {
    is_object: bool,
    names: Option<Rc<Node>>,
    parent: Option<Rc<Frame>>,
}

/// A linked list of names that shares its tail with other lists.
#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    next: Option<Rc<Node>>,
}

impl Drop for Frame {
    /// Drops iteratively: recursion would overflow the stack on deep nesting.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut frame) = parent.and_then(Rc::into_inner) {
            parent = frame.parent.take();
        }
    }
}

impl Drop for Node {
    /// Drops iteratively, like `Frame`.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut node) = next.and_then(Rc::into_inner) {
            next = node.next.take();
        }
    }
}

#[derive(Clone, Debug, Default)]
enum Place {
    /// Outside of strings; the next string is a value.
    #[default]
    Value,
    /// Outside of strings; the next string is a name.
    BeforeName,
    /// In a string value; whether a backslash came just before.
    Text(bool),
    /// In a name, with its characters so far.
    Name(Vec<u8>, Escape),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    /// After `\u`: the number of digits, and their value.
    Unicode(u8, u8),
}

impl Names {
    /// Follows the text. Returns false if a name occurs twice, or is not in its plainest spelling: another spelling
    /// would hide a duplicate.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.step(byte))
    }

    /// Whether the text is at or in a name that could still become one of the object's names.
    pub(super) fn may_repeat(&self) -> bool {
        let start = match &self.place {
            Place::BeforeName => &[][..],
            Place::Name(name, _) => name,
            Place::Value | Place::Text(_) => return false,
        };
        self.known().any(|name| name.starts_with(start))
    }

    fn known(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.frame.as_ref().and_then(|frame| frame.names.as_ref());
        std::iter::successors(first, |node| node.next.as_ref()).map(|node| &*node.name)
    }

    fn step(&mut self, byte: u8) -> bool {
        match &mut self.place {
            Place::Text(is_escaped) => match byte {
                _ if *is_escaped => *is_escaped = false,
                b'\\' => *is_escaped = true,
                b'"' => self.place = Place::Value,
                _ => {}
            },
            Place::Name(name, escape) => match byte {
                b'"' if *escape == Escape::None => return self.end_name(),
                b'\\' if *escape == Escape::None => *escape = Escape::Begun,
                byte if *escape == Escape::None => name.push(byte),
                byte => match escape.then(byte) {
                    None => return false,
                    Some((next, character)) => {
                        *escape = next;
                        name.extend(character);
                    }
                },
            },
            Place::Value | Place::BeforeName => self.step_outside(byte),
        }
        true
    }

    fn step_outside(&mut self, byte: u8) {
        let is_before_name = matches!(self.place, Place::BeforeName);
        self.place = match byte {
            b'"' if is_before_name => Place::Name(Vec::new(), Escape::None),
            b'"' => Place::Text(false),
            b'{' | b'[' => {
                let is_object = byte == b'{';
                self.frame = Some(Rc::new(Frame { is_object, names: None, parent: self.frame.take() }));
                if is_object { Place::BeforeName } else { Place::Value }
            }
            b'}' | b']' => {
                self.frame = self.frame.take().and_then(|frame| frame.parent.clone());
                Place::Value
            }
            b',' if self.frame.as_ref().is_some_and(|frame| frame.is_object) => Place::BeforeName,
            _ => return,
        };
    }

    fn end_name(&mut self) -> bool {
        let Place::Name(name, _) = std::mem::replace(&mut self.place, Place::Value) else { return false };
        if self.known().any(|known| known == name) {
            return false;
        }
        if let Some(frame) = self.frame.take() {
            let names = Some(Rc::new(Node { name: name.into(), next: frame.names.clone() }));
            self.frame = Some(Rc::new(Frame { is_object: true, names, parent: frame.parent.clone() }));
        }
        true
    }
}

impl Escape {
    /// The next state of an escape, and the character if the escape ends. `None` if the character has a plainer
    /// spelling.
    fn then(self, byte: u8) -> Option<(Escape, Option<u8>)> {
        match (self, byte) {
            (Escape::Begun, b'u') => Some((Escape::Unicode(0, 0), None)),
            (Escape::Begun, b'n') => Some((Escape::None, Some(b'\n'))),
            (Escape::Begun, b't') => Some((Escape::None, Some(b'\t'))),
            (Escape::Begun, b'r') => Some((Escape::None, Some(b'\r'))),
            (Escape::Begun, b'b') => Some((Escape::None, Some(8))),
            (Escape::Begun, b'f') => Some((Escape::None, Some(12))),
            (Escape::Begun, byte) => Some((Escape::None, Some(byte))),
            (Escape::Unicode(n @ (0 | 1), 0), b'0') => Some((Escape::Unicode(n + 1, 0), None)),
            (Escape::Unicode(2, 0), b'0' | b'1' | b'7') => Some((Escape::Unicode(3, byte - b'0'), None)),
            (Escape::Unicode(3, high), byte) => {
                let low = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                let code = high * 16 + low;
                let is_plain = match high {
                    0 => ![8, 9, 10, 12, 13].contains(&code),
                    1 => true,
                    _ => code == 0x7f,
                };
                is_plain.then_some((Escape::None, Some(code)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follows(text: &str) -> bool {
        Names::default().follow(text.as_bytes())
    }

    #[test]
    fn issue_13_2_a_name_comes_once_in_an_object() {
        for text in [
            r#"{"a": 1, "b": {"a": 2, "b": [{"a": 1}, {"a": 2}]}, "c": "a\", \"a\": "}"#,
            r#"{"a": {"b": 1}, "b": 2}"#,
            r#"{"a\n": 1, "a": 2, "an": 3, "a\\n": 4, "\u0001": 5}"#,
            r#"["a", "a", {"a": "a"}]"#,
        ] {
            assert!(follows(text), "{text}");
        }
        for text in [
            r#"{"a": 1, "a":"#,
            r#"{"a": {"b": [1, {"c": 2}]}, "b": {}, "a""#,
            r#"{"x": [{"é": 1, "é""#,
            r#"{"a\n": 1, "a\n""#,
            // Other spellings of the same name.
            r#"{"\u0061""#,
            r#"{"\u000a""#,
            r#"{"\u001F""#,
            r#"{"\u0100""#,
        ] {
            assert!(!follows(text), "{text}");
        }
    }

    #[test]
    fn where_a_name_may_be_one_that_is_there() {
        let may = |text: &str| {
            let mut names = Names::default();
            assert!(names.follow(text.as_bytes()));
            names.may_repeat()
        };
        assert!(may(r#"{"ab": 1, "#) && may(r#"{"ab": 1, "a"#) && may(r#"{"ab": 1, "ab"#));
        assert!(!may("{") && !may(r#"{"ab": 1, "b"#) && !may(r#"{"ab": "a"#) && !may(r#"{"ab": {"a"#));
    }

    #[test]
    fn many_names_end_without_a_deep_stack() {
        let mut names = Names::default();
        names.follow(b"{");
        for n in 0..3000 {
            assert!(names.follow(format!("\"{n}\": 1, ").as_bytes()));
        }
        let list: Option<Rc<Node>> =
            (0..200_000).fold(None, |next, _| Some(Rc::new(Node { name: Box::default(), next })));
        names.follow("[".repeat(200_000).as_bytes());
        drop((names, list));
    }
}
