//! Console text as tokens: words, "quoted" names, 'strings', $tag$ strings and single symbols, without comments.
//!
//! Pure. It follows Postgres' lexical rules where they matter to text that people paste: two quotes stand for one,
//! `/* */` nests, a dollar quote ends at its own tag only. Any input gives tokens or one error.

use super::CommandError;

/// What a token is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A bare word, as written.
    Word(String),
    /// A name in double quotes.
    Name(String),
    /// A string in single or dollar quotes.
    Text(String),
    /// Any other character.
    Symbol(char),
}

/// A token and where it starts, in bytes from the start of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
}

/// Walks over a text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the next token is looked for, in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next token, or none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Token>, CommandError> {
        self.skip()?;
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(None);
        };
        let kind = match first {
            '\'' => Kind::Text(self.quoted('\'', "a closing quote")?),
            '"' => Kind::Name(self.quoted('"', "a closing double quote")?),
            '$' => match dollar_tag(self.rest()) {
                Some(tag) => Kind::Text(self.dollar(tag)?),
                None => self.symbol(first),
            },
            c if is_word(c) => self.word(),
            c => self.symbol(c),
        };
        Ok(Some(Token { kind, start }))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn symbol(&mut self, symbol: char) -> Kind {
        self.at += symbol.len_utf8();
        Kind::Symbol(symbol)
    }

    /// Skips blanks and comments.
    fn skip(&mut self) -> Result<(), CommandError> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with("--") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += comment(rest)
                    .ok_or_else(|| CommandError::at(self.text, self.at, "expected the end of the comment, `*/`"))?;
            } else {
                return Ok(());
            }
        }
    }

    /// A word: letters, digits and `_ - . :`, but two dashes begin a comment.
    fn word(&mut self) -> Kind {
        let rest = self.rest();
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or(rest);
        let word = word.split("--").next().unwrap_or(word);
        self.at += word.len();
        Kind::Word(word.to_owned())
    }

    /// A text in quotes, of which two in a row stand for one.
    fn quoted(&mut self, quote: char, expected: &str) -> Result<String, CommandError> {
        let start = self.at;
        let mut found = String::new();
        self.at += 1;
        loop {
            let Some((part, after)) = self.rest().split_once(quote) else {
                return Err(CommandError::at(self.text, start, &format!("expected {expected}")));
            };
            found.push_str(part);
            self.at += part.len() + 1;
            if !after.starts_with(quote) {
                return Ok(found);
            }
            found.push(quote);
            self.at += 1;
        }
    }

    fn dollar(&mut self, tag: &str) -> Result<String, CommandError> {
        let start = self.at;
        self.at += tag.len();
        let Some((text, _)) = self.rest().split_once(tag) else {
            return Err(CommandError::at(self.text, start, &format!("expected the closing {tag}")));
        };
        self.at += text.len() + tag.len();
        Ok(text.to_owned())
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.:".contains(c)
}

/// The `$tag$` that the text begins with; a tag is empty or a plain identifier.
fn dollar_tag(text: &str) -> Option<&str> {
    let (tag, _) = text.strip_prefix('$')?.split_once('$')?;
    let plain = tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_ascii_digit());
    text.get(..tag.len() + 2).filter(|_| plain)
}

/// The length of the comment that the text begins with; none if it does not end.
fn comment(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(pair) = bytes.get(at..at + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}
