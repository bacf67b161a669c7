//! The format of `pgbouncer.ini`: sections, `key = value` lines, connection strings.
//!
//! Pure. As in PgBouncer a comment is a line of its own that begins with `;` or `#`, and a value goes to the end of its
//! line. A connection string is never quoted in a mistake, for it may hold a password.

use super::mistake::{quoted, suggestion};
use super::text::{Entry, Named, Parsed, Place};
use std::iter::Peekable;
use std::str::Chars;

/// The sections of an ini.
#[derive(Clone, Copy)]
enum Header {
    Main,
    Window,
    Databases,
    Users,
    /// Known to PgBouncer, without effect here yet.
    Idle,
    /// Before the first section, or in an unknown one, which was reported already.
    Nowhere,
}

/// Reads all lines into `parsed`.
pub(super) fn read(text: &str, parsed: &mut Parsed) {
    let mut header = Header::Nowhere;
    let mut headed = false;
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if line.starts_with('%') {
            parsed.broken = true;
            parsed.mistakes.add(number, "%", "%include FILE", quoted(line));
        } else if line.starts_with('[') {
            header = section(line, number, parsed);
            headed = true;
        } else if let Some((name, value)) = pair(line) {
            if headed {
                entry(header, (name, value.trim()), number, parsed);
            } else {
                parsed.mistakes.add(number, &name, "a section like [pgbouncer] before the first key", "no section");
            }
        } else {
            parsed.mistakes.add(number, "line", "name = value", "something else");
        }
    }
}

fn section(line: &str, number: usize, parsed: &mut Parsed) -> Header {
    let name = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
    match name {
        Some("pgbouncer" | "pglull") => Header::Main,
        Some("pglull.window") => Header::Window,
        Some("databases") => Header::Databases,
        Some("users") => Header::Users,
        Some("peers") => {
            let why = "there are no peers: one process uses as many processors as worker_threads says";
            parsed.warnings.push((number, format!("[peers]: ignored: {why}")));
            Header::Idle
        }
        _ => {
            let known = ["databases", "users", "pgbouncer", "pglull.window", "peers"].into_iter();
            let sections = "one of the sections [databases], [users], [pgbouncer], [pglull.window]";
            let expected = suggestion(sections, name.unwrap_or(line), known);
            parsed.mistakes.add(number, "section", expected, quoted(line));
            Header::Nowhere
        }
    }
}

/// Splits `name = value`. A name in double quotes may hold anything, with `""` for a quote.
fn pair(line: &str) -> Option<(String, &str)> {
    let Some(rest) = line.strip_prefix('"') else {
        let (name, value) = line.split_once('=')?;
        return Some((name.trim().to_owned(), value)).filter(|(name, _)| !name.is_empty());
    };
    let (name, rest) = unquote(rest, '"')?;
    let value = rest.trim_start().strip_prefix('=')?;
    Some((name, value)).filter(|(name, _)| !name.is_empty())
}

/// Reads up to the closing quote, of which two in a row stand for one; also what follows it.
pub(super) fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut found = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once(quote)?;
        found.push_str(part);
        match after.strip_prefix(quote) {
            Some(after) => {
                found.push(quote);
                rest = after;
            }
            None => return Some((found, after)),
        }
    }
}

fn entry(header: Header, (key, value): (String, &str), line: usize, parsed: &mut Parsed) {
    let place = match header {
        Header::Main => Place::Main,
        Header::Window => Place::Window,
        Header::Databases => Place::Database(key.clone()),
        Header::Users => Place::User(key.clone()),
        Header::Idle | Header::Nowhere => return,
    };
    if matches!(place, Place::Main | Place::Window) {
        parsed.entries.push(Entry { place, key, value: value.to_owned(), line });
        return;
    }
    match connection(value) {
        Ok(pairs) => {
            parsed.named.push(Named { place: place.clone(), line });
            let entries = pairs.into_iter().map(|(key, value)| Entry { place: place.clone(), key, value, line });
            parsed.entries.extend(entries);
        }
        Err(after) => {
            let expected = "key=value pairs with blanks between, a value with blanks in 'single quotes'";
            let got = format!("something else after character {after} of the value");
            parsed.mistakes.add(line, &place.path(""), expected, got);
        }
    }
}

/// Reads `key=value key='quoted ''value'''`; or says after how many characters that ended.
fn connection(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut pairs = vec![];
    let mut chars = text.chars().peekable();
    loop {
        skip_blanks(&mut chars);
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let at = text.chars().count() - chars.clone().count();
        pairs.push(one_pair(&mut chars).ok_or(at)?);
    }
}

fn one_pair(chars: &mut Peekable<Chars<'_>>) -> Option<(String, String)> {
    let mut key = String::new();
    while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
        key.push(c);
    }
    skip_blanks(chars);
    chars.next_if_eq(&'=')?;
    skip_blanks(chars);
    let mut value = String::new();
    if chars.next_if_eq(&'\'').is_some() {
        loop {
            match chars.next()? {
                '\'' if chars.next_if_eq(&'\'').is_none() => break,
                c => value.push(c),
            }
        }
    } else {
        while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
            value.push(c);
        }
    }
    Some((key, value)).filter(|(key, value)| !key.is_empty() && !value.is_empty())
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        for (text, expect) in [
            ("", Ok(vec![])),
            ("host=a port=1", Ok(vec![pair("host", "a"), pair("port", "1")])),
            ("  host = a\tport= 1 ", Ok(vec![pair("host", "a"), pair("port", "1")])),
            ("password='it''s = x' user=a=b", Ok(vec![pair("password", "it's = x"), pair("user", "a=b")])),
            ("host", Err(0)),
            ("host=a port", Err(7)),
            ("host=", Err(0)),
            ("host=a password=''", Err(7)),
            ("password='open", Err(0)),
            ("=a", Err(0)),
        ] {
            assert_eq!(connection(text), expect, "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(pair("a = b=c"), Some(("a".to_owned(), " b=c")));
        assert_eq!(pair("\"a \"\"b\"\" = c\" = d"), Some(("a \"b\" = c".to_owned(), " d")));
        assert_eq!(pair("* ="), Some(("*".to_owned(), "")));
        for text in ["= b", "\"a = b", "\"a\" b", "\"\" = b", "a"] {
            assert_eq!(pair(text), None, "{text}");
        }
    }
}
