//! Translates GBNF, llama.cpp's grammar notation, into a Lark grammar for llguidance.
//!
//! GBNF has no lexer; llguidance has one, and it takes the longest match. So every terminal becomes a single character,
//! which leaves nothing longer to match. Tokens in angle brackets are not supported.

use std::fmt::Write as _;

/// Maximum nesting of parentheses.
const MAX_DEPTH: usize = 64;

/// Largest number in a repetition such as `{m,n}`.
const MAX_REPEAT: u32 = 2000;

/// A mistake in a grammar, with its line number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct GbnfError {
    line: usize,
    message: String,
}

/// Translates a grammar. The rule `root` becomes Lark's `start`.
///
/// # Errors
/// At the first mistake.
pub fn to_lark(source: &str) -> Result<String, GbnfError> {
    let mut parser = Parser { rest: source, source, rules: Vec::new(), used: Vec::new() };
    let mut lark = String::from("start: r_root\n");
    parser.space(true);
    while !parser.rest.is_empty() {
        let name = parser.name()?;
        parser.space(true);
        parser.expect("::=")?;
        parser.space(true);
        let mut body = parser.alternatives(0)?;
        // A `|` at the start of a line continues the rule of the line before. Only a rule's top level needs this.
        parser.space(true);
        while parser.peek() == Some('|') {
            parser.next();
            parser.space(true);
            let _ = write!(body, " | {}", parser.alternatives(0)?);
            parser.space(true);
        }
        if parser.rules.contains(&name) {
            return Err(parser.error(format!("the rule {name:?} is defined twice")));
        }
        let _ = writeln!(lark, "{}: {body}", lark_name(&name));
        parser.rules.push(name);
        parser.space(true);
    }
    parser.used.push(("root".to_owned(), 1));
    match parser.used.iter().find(|(name, _)| !parser.rules.contains(name)) {
        Some((name, line)) => Err(GbnfError { line: *line, message: format!("there is no rule {name:?}") }),
        None => Ok(lark),
    }
}

/// Maps a rule name to Lark's lower-case names. Distinct names stay distinct: `_` always begins an escape.
fn lark_name(name: &str) -> String {
    let mut out = String::from("r_");
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            '-' => out.push_str("_d"),
            // The hexadecimal code, between `_x` and `z`.
            c => drop(write!(out, "_x{:x}z", u32::from(c))),
        }
    }
    out
}

struct Parser<'a> {
    rest: &'a str,
    source: &'a str,
    rules: Vec<String>,
    /// Names of referenced rules, with the line of each reference.
    used: Vec<(String, usize)>,
}

impl<'a> Parser<'a> {
    fn line(&self) -> usize {
        let n_read = self.source.len() - self.rest.len();
        1 + self.source[..n_read].matches('\n').count()
    }

    fn error(&self, message: impl Into<String>) -> GbnfError {
        GbnfError { line: self.line(), message: message.into() }
    }

    /// Skips blanks and comments, and newlines if `with_newlines`.
    fn space(&mut self, with_newlines: bool) {
        loop {
            let is_space = |c: char| c == ' ' || c == '\t' || with_newlines && (c == '\n' || c == '\r');
            self.rest = self.rest.trim_start_matches(is_space);
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..];
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn expect(&mut self, text: &str) -> Result<(), GbnfError> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.error(format!("expected {text:?}"))),
        }
    }

    fn name(&mut self) -> Result<String, GbnfError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        if end == 0 {
            let what = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
            return Err(self.error(format!("expected the name of a rule, found {what}")));
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name.to_owned())
    }

    /// Parses `a b | c` up to the first token that cannot continue it.
    fn alternatives(&mut self, depth: usize) -> Result<String, GbnfError> {
        if depth > MAX_DEPTH {
            return Err(self.error("parentheses are nested too deep"));
        }
        let mut out = self.sequence(depth)?;
        while self.peek() == Some('|') {
            self.next();
            self.space(true);
            let _ = write!(out, " | {}", self.sequence(depth)?);
        }
        Ok(out)
    }

    fn sequence(&mut self, depth: usize) -> Result<String, GbnfError> {
        let mut items: Vec<String> = Vec::new();
        loop {
            let item = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    r"/(?s:.)/".to_owned()
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    let inner = self.alternatives(depth + 1)?;
                    self.expect(")")?;
                    format!("({inner})")
                }
                Some('<' | '!') => return Err(self.error("tokens, as in <[1]>, are not supported")),
                Some(c) if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                    let line = self.line();
                    let name = self.name()?;
                    self.used.push((name.clone(), line));
                    lark_name(&name)
                }
                // An empty alternative matches the empty text.
                _ if items.is_empty() => return Ok("\"\"".to_owned()),
                _ => return Ok(items.join(" ")),
            };
            items.push(self.repeated(item, depth)?);
        }
    }

    /// Parses the repetitions after an item. There may be several, with blanks before each; inside parentheses newlines
    /// count as blanks.
    fn repeated(&mut self, mut item: String, depth: usize) -> Result<String, GbnfError> {
        let mut n_repeats = 0;
        loop {
            self.space(depth > 0);
            let repeat = self.repeat()?;
            if repeat.is_empty() {
                return Ok(item);
            }
            // Parenthesize: Lark reads `*?` and the like as lazy operators.
            item = if n_repeats == 0 { item + &repeat } else { format!("({item}){repeat}") };
            n_repeats += 1;
            if n_repeats > MAX_DEPTH {
                return Err(self.error("there are too many repetitions of one item"));
            }
        }
    }

    /// Parses one repetition: `?`, `*`, `+`, `{m}`, `{m,}`, `{m,n}`, or nothing.
    fn repeat(&mut self) -> Result<String, GbnfError> {
        match self.peek() {
            Some(c @ ('?' | '*' | '+')) => {
                self.next();
                Ok(c.to_string())
            }
            Some('{') => {
                let end = self.rest.find('}').ok_or_else(|| self.error("expected '}'"))?;
                let (inside, rest) = (&self.rest[1..end], &self.rest[end + 1..]);
                let number = |text: &str| text.trim().parse().ok().filter(|&n: &u32| n <= MAX_REPEAT);
                let bounds = match inside.split_once(',') {
                    None => number(inside).map(|n| (n, Some(n))),
                    Some((from, to)) if to.trim().is_empty() => number(from).map(|n| (n, None)),
                    Some((from, to)) => number(from).zip(number(to)).map(|(from, to)| (from, Some(to))),
                };
                let bounds = bounds.filter(|&(from, to)| to.is_none_or(|to| from <= to));
                let Some((from, to)) = bounds else {
                    return Err(
                        self.error(format!("{{{inside}}}: expected a number of repetitions up to {MAX_REPEAT}"))
                    );
                };
                self.rest = rest;
                Ok(format!("{{{from},{}}}", to.map(|to| to.to_string()).unwrap_or_default()))
            }
            _ => Ok(String::new()),
        }
    }

    fn literal(&mut self) -> Result<String, GbnfError> {
        let line = self.line();
        self.next();
        let mut characters = Vec::new();
        loop {
            match self.peek() {
                Some('"') => break,
                None => return Err(GbnfError { line, message: "this literal has no closing quote".to_owned() }),
                Some(_) => characters.push(format!(r"/\x{{{:x}}}/", u32::from(self.character()?))),
            }
        }
        self.next();
        match characters.len() {
            0 => Ok("\"\"".to_owned()),
            1 => Ok(characters.remove(0)),
            _ => Ok(format!("({})", characters.join(" "))),
        }
    }

    fn class(&mut self) -> Result<String, GbnfError> {
        self.next();
        let mut out = String::from("/[");
        if self.peek() == Some('^') {
            self.next();
            out.push('^');
        }
        let mut is_empty = true;
        while self.peek() != Some(']') {
            if self.rest.is_empty() {
                return Err(self.error("this character class has no closing ]"));
            }
            let first = self.character()?;
            let _ = write!(out, r"\x{{{:x}}}", u32::from(first));
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let last = self.character()?;
                if last < first {
                    return Err(self.error(format!(
                        "{first:?}-{last:?} is not a range: the first character comes after the last"
                    )));
                }
                let _ = write!(out, r"-\x{{{:x}}}", u32::from(last));
            }
            is_empty = false;
        }
        self.next();
        if is_empty {
            return Err(self.error("this character class is empty"));
        }
        out.push_str("]/");
        Ok(out)
    }

    /// Parses one character, possibly escaped.
    fn character(&mut self) -> Result<char, GbnfError> {
        let c = self.next().ok_or_else(|| self.error("expected a character"))?;
        if c != '\\' {
            return Ok(c);
        }
        let n_digits = match self.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('n') => return Ok('\n'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => return Ok(c),
            Some(c) => return Err(self.error(format!("unknown escape \\{c}"))),
            None => return Err(self.error("expected a character after \\")),
        };
        let digits = self.rest.get(..n_digits);
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        let c = code.ok_or_else(|| self.error(format!("expected {n_digits} hexadecimal digits")))?;
        self.rest = &self.rest[n_digits..];
        Ok(c)
    }
}
