//! Lines of `pg_hba.conf` and `pg_ident.conf` as fields, each a list of words.
//!
//! Pure. Blanks part fields, commas part the words of one, `#` begins a comment, a backslash at a line's end joins the next
//! line to it; in double quotes anything is text, and `""` is a quote. Source: `next_token` in `hba.c` of Postgres.

use super::mistake::Mistakes;
use std::iter::Peekable;
use std::str::Chars;

/// One word.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    /// Without its quotes.
    pub(crate) text: String,
    /// Did it begin with a quote? Then it is a name, whatever it says.
    pub(crate) quoted: bool,
}

impl Token {
    /// Is it this keyword?
    pub(crate) fn is(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// One field: words that commas part.
pub(crate) type Field = Vec<Token>;

/// The lines that hold anything, each with the number of its first line, from 1.
pub(crate) fn lines(text: &str, mistakes: &mut Mistakes) -> Vec<(usize, Vec<Field>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut found = vec![];
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let mut whole = line.to_owned();
        while let Some(front) = whole.strip_suffix('\\') {
            whole = format!("{front}{}", lines.next().map_or("", |(_, next)| next));
        }
        match fields(&whole) {
            Some(fields) if fields.is_empty() => {}
            Some(fields) => found.push((at + 1, fields)),
            None => mistakes.add(at + 1, "hba", "a closing quote", "the end of the line"),
        }
    }
    found
}

/// The names in a file that a list names with `@`: words between blanks, commas and lines.
pub(crate) fn listed(text: &str) -> Vec<String> {
    let words = |line: &str| fields(line).unwrap_or_default().into_iter().flatten().map(|token| token.text);
    text.lines().flat_map(|line| words(line).collect::<Vec<_>>()).collect()
}

/// Splits a line; `None` if a quote is not closed.
fn fields(line: &str) -> Option<Vec<Field>> {
    let mut fields: Vec<Field> = vec![];
    let mut chars = line.chars().peekable();
    let mut list_goes_on = false;
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if matches!(chars.peek(), None | Some('#')) {
            return Some(fields);
        }
        let token = token(&mut chars)?;
        match fields.last_mut() {
            Some(field) if list_goes_on => field.push(token),
            _ => fields.push(vec![token]),
        }
        list_goes_on = chars.next_if_eq(&',').is_some();
    }
}

fn token(chars: &mut Peekable<Chars<'_>>) -> Option<Token> {
    let mut token = Token { text: String::new(), quoted: chars.peek() == Some(&'"') };
    let mut inside = false;
    loop {
        match chars.peek().copied() {
            None if inside => return None,
            None => return Some(token),
            Some('"') => {
                chars.next();
                if inside && chars.next_if_eq(&'"').is_some() {
                    token.text.push('"');
                } else {
                    inside = !inside;
                }
            }
            Some(c) if !inside && (c.is_whitespace() || c == ',' || c == '#') => return Some(token),
            Some(c) => {
                chars.next();
                token.text.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_lists_and_comments() {
        let shown = |line: &str| -> Option<String> {
            let show = |token: Token| if token.quoted { format!("'{}'", token.text) } else { token.text };
            let field = |field: Field| field.into_iter().map(show).collect::<Vec<_>>().join(",");
            Some(fields(line)?.into_iter().map(field).collect::<Vec<_>>().join("|"))
        };
        for (line, expect) in [
            ("", ""),
            ("  # a b", ""),
            ("a b", "a|b"),
            ("a,b,\tc d#x", "a,b,c|d"),
            (r#""a b","c""d" map="x y""#, "'a b','c\"d'|map=x y"),
            (r#""" a"#, "''|a"),
            ("a,", "a"),
            (",a", ",a"),
        ] {
            assert_eq!(shown(line).as_deref(), Some(expect), "{line}");
        }
        assert_eq!(shown("a \"b"), None);
    }
}
