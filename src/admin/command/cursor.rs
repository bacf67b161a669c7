//! A cursor over the tokens of one command, with the small readers that every rule of the grammar uses.
//!
//! Pure. Every error says what was expected at that place and what stands there; a string is never repeated, for it may
//! hold a secret.

use super::CommandError;
use super::lexer::{Kind, Lexer, Token};

/// A parse, or what was expected.
pub(super) type Parse<T> = Result<T, CommandError>;

/// What an id is made of.
const ID: &str = "an id of 1 to 64 letters, digits and _ - . :";

pub(super) struct Cursor<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    /// The index of the next token; beyond the last one at the end.
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Before the first token of `text`.
    pub(super) fn new(text: &'a str) -> Parse<Self> {
        let mut lexer = Lexer::new(text);
        let mut tokens = vec![];
        while let Some(token) = lexer.next()? {
            tokens.push(token);
        }
        Ok(Self { text, tokens, at: 0 })
    }

    /// Back to the token with this index.
    pub(super) fn back_to(&mut self, at: usize) {
        self.at = at;
    }

    /// Takes everything up to the end of the command.
    pub(super) fn skip(&mut self) {
        while !self.is_end() {
            self.at += 1;
        }
    }

    pub(super) fn id(&mut self) -> Parse<String> {
        let id = self.value(ID)?;
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
        if !plain || id.is_empty() || id.len() > 64 {
            return Err(self.expected_last(ID));
        }
        Ok(id)
    }

    pub(super) fn number(&mut self) -> Parse<u64> {
        const EXPECTED: &str = "the id of a client, a number";
        let text = self.value(EXPECTED)?;
        text.parse().map_err(|_| self.expected_last(EXPECTED).hinting("SHOW CLIENTS lists them"))
    }

    pub(super) fn optional_name(&mut self) -> Parse<Option<String>> {
        if self.is_end() { Ok(None) } else { self.name("a database or the end of the command").map(Some) }
    }

    /// A name, bare or in double quotes, as it is written.
    pub(super) fn name(&mut self, expected: &str) -> Parse<String> {
        match self.advance() {
            Some(Kind::Word(name) | Kind::Name(name)) if !name.is_empty() => Ok(name),
            _ => Err(self.expected_last(expected)),
        }
    }

    /// A word, a name or a string.
    pub(super) fn value(&mut self, expected: &str) -> Parse<String> {
        match self.advance() {
            Some(Kind::Word(text) | Kind::Name(text) | Kind::Text(text)) => Ok(text),
            _ => Err(self.expected_last(expected)),
        }
    }

    /// Takes the next token; its bare word in lower case, or else an empty text.
    pub(super) fn keyword(&mut self) -> String {
        let word = self.peek_keyword().unwrap_or_default();
        self.at += 1;
        word
    }

    pub(super) fn peek_keyword(&self) -> Option<String> {
        match &self.tokens.get(self.at)?.kind {
            Kind::Word(word) => Some(word.to_ascii_lowercase()),
            _ => None,
        }
    }

    pub(super) fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.peek_keyword().is_some_and(|word| word == keyword);
        self.at += usize::from(found);
        found
    }

    pub(super) fn symbol(&mut self, symbol: char) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| token.kind == Kind::Symbol(symbol));
        self.at += usize::from(found);
        found
    }

    pub(super) fn need(&mut self, symbol: char) -> Parse<()> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.expected(&symbol.to_string())) }
    }

    pub(super) fn advance(&mut self) -> Option<Kind> {
        let kind = self.tokens.get(self.at).map(|token| token.kind.clone());
        self.at += 1;
        kind
    }

    /// Is the command over: at the end, or at a `;`?
    pub(super) fn is_end(&self) -> bool {
        self.tokens.get(self.at).is_none_or(|token| token.kind == Kind::Symbol(';'))
    }

    pub(super) fn end(&mut self) -> Parse<()> {
        while self.symbol(';') {}
        if self.at < self.tokens.len() { Err(self.expected("the end of the command")) } else { Ok(()) }
    }

    /// The error at the token that was taken last.
    pub(super) fn expected_last(&mut self, what: &str) -> CommandError {
        self.at = self.at.saturating_sub(1);
        self.expected(what)
    }

    /// The error at the next token.
    pub(super) fn expected(&self, what: &str) -> CommandError {
        let token = self.tokens.get(self.at);
        let got = match token.map(|token| &token.kind) {
            None => "the end of the command".to_owned(),
            Some(Kind::Word(word) | Kind::Name(word)) => shown(word),
            Some(Kind::Text(_)) => "a string".to_owned(),
            Some(Kind::Symbol(symbol)) => shown(&symbol.to_string()),
        };
        let byte = token.map_or(self.text.len(), |token| token.start);
        CommandError::at(self.text, byte, &format!("expected {what}, got {got}"))
    }

    /// The error of a command that is known but not served.
    pub(super) fn refuse(&self, why: &str, hint: &str) -> CommandError {
        CommandError::at(self.text, 0, why).hinting(hint)
    }
}

impl CommandError {
    pub(super) fn hinting(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }
}

/// A word on one line, cut after 40 characters.
fn shown(word: &str) -> String {
    let start: String = word.chars().take(40).flat_map(char::escape_debug).collect();
    let rest = if word.chars().nth(40).is_some() { "..." } else { "" };
    format!("\"{start}{rest}\"")
}
