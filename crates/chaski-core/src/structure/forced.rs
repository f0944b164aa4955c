//! Filters drafts by a form: where the form allows only one continuation, that continuation is drafted, and tokens that
//! the form forbids are never sent to verify.

use std::rc::Rc;

use crate::draft::DraftFilter;
use crate::structure::Structure;
use crate::token::Token;

/// Probability of a forced token. The forced bytes could be split into other tokens, but hardly ever are.
const FORCED_P: f32 = 0.98;

/// Splits bytes into tokens with the model's tokenizer.
pub type Tokenize = Rc<dyn Fn(&[u8]) -> Vec<Token>>;

/// A draft filter for a constrained text. It tracks the text by itself.
pub struct Forced {
    structure: Structure,
    tokenize: Tokenize,
    /// Number of the text's tokens that the structure has accepted, including the prompt.
    n_known: usize,
    /// Drafted tokens that the structure has accepted beyond the text.
    ahead: Vec<Token>,
    /// Forced tokens after a path of `forced_from` tokens.
    forced: Vec<Token>,
    forced_from: usize,
    /// False once the text has left the form; the sampler prevents that.
    is_sound: bool,
}

impl Forced {
    /// For a text that begins after `n_prompt` tokens.
    #[must_use]
    pub fn new(structure: Structure, n_prompt: usize, tokenize: Tokenize) -> Forced {
        Forced {
            structure,
            tokenize,
            n_known: n_prompt,
            ahead: Vec::new(),
            forced: Vec::new(),
            forced_from: 0,
            is_sound: true,
        }
    }

    /// Takes back drafted tokens until `n` are left.
    fn take_back(&mut self, n: usize) {
        let n_back = self.ahead.len().saturating_sub(n);
        if n_back > 0 {
            self.is_sound &= self.structure.take_back(n_back).is_ok();
            self.ahead.truncate(n);
        }
    }

    /// Moves the structure to the end of `text` followed by `path`.
    fn go_to(&mut self, text: &[Token], path: &[Token]) {
        if self.n_known < text.len() {
            self.take_back(0);
            self.forced.clear();
            for &token in &text[self.n_known..] {
                self.is_sound &= self.structure.accept(token).is_ok();
            }
            self.n_known = text.len();
        }
        let n_common = self.ahead.iter().zip(path).take_while(|(a, b)| a == b).count();
        self.take_back(n_common);
        for &token in &path[n_common..] {
            self.is_sound &= self.structure.accept(token).is_ok();
            self.ahead.push(token);
        }
    }

    /// Tokens that spell `bytes`: the tokenizer's, or the longest ones if the tokenizer changes the bytes, for example
    /// by a leading space.
    fn tokens(&self, bytes: &[u8]) -> Vec<Token> {
        let tokens = (self.tokenize)(bytes);
        let vocabulary = &self.structure.vocabulary;
        let pieces = tokens.iter().flat_map(|token| vocabulary.pieces.get(token.index()).into_iter().flatten());
        if pieces.eq(bytes) { tokens } else { vocabulary.longest_tokens().spell(bytes) }
    }

    /// The only token that may follow `path`, if there is one. The structure must be at the end of `path`.
    fn must(&mut self, path: &[Token]) -> Option<Token> {
        if self.structure.is_over() {
            return self.structure.vocabulary.ends.first().copied();
        }
        // Forced bytes are tokenized once per path, then returned token by token.
        let n_walked = path.len().checked_sub(self.forced_from).filter(|&n| n < self.forced.len());
        if let Some(n) = n_walked
            && path[self.forced_from..] == self.forced[..n]
        {
            return Some(self.forced[n]);
        }
        let bytes = self.structure.forced_bytes();
        self.forced = if bytes.is_empty() { Vec::new() } else { self.tokens(&bytes) };
        self.forced_from = path.len();
        self.forced.first().copied()
    }
}

impl DraftFilter for Forced {
    fn narrow(&mut self, text: &[Token], path: &[Token], children: &mut Vec<(Token, f32)>) {
        if path.last().is_some_and(|&token| self.structure.is_end(token)) {
            children.clear();
            return;
        }
        self.go_to(text, path);
        if !self.is_sound {
            return;
        }
        match self.must(path).filter(|&token| self.structure.allows(token)) {
            Some(token) => {
                children.clear();
                children.push((token, FORCED_P));
            }
            None => children.retain(|&(token, _)| self.structure.allows(token)),
        }
    }
}
