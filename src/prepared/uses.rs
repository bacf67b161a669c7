//! Texts that name or end prepared statements in SQL: `DEALLOCATE`, `EXECUTE`, `DISCARD`.

use super::hints::{comment, identifier, skip_space, word};

/// Where a text names a prepared statement, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The place of the name in the text.
    pub place: std::ops::Range<usize>,
    /// The name as Postgres reads it.
    pub name: Vec<u8>,
    /// `DEALLOCATE`; otherwise `EXECUTE`.
    pub ends: bool,
}

/// What a text does with prepared statements. Only one with the hint [`NAMES`](super::hints::Hints::NAMES) does anything.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Uses {
    /// The statements of it that are `DEALLOCATE name` or `EXECUTE name ..`, in their order. Such a name may be one that a
    /// client has given in the protocol.
    pub named: Vec<Named>,
    /// It may end prepared statements: those that it names, or all.
    pub ends: bool,
}

impl Uses {
    /// Reads a text. One whose statements cannot be told apart at a glance names none, and may end all.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        let Some(statements) = statements(text) else { return Self { ends: true, ..Self::default() } };
        let (mut uses, mut from) = (Self::default(), 0);
        for statement in statements {
            let verb = word(statement, verb_of(statement));
            uses.ends |= [&b"deallocate"[..], b"discard"].iter().any(|ends| verb.eq_ignore_ascii_case(ends));
            if let Some(mut named) = named_statement(statement) {
                named.place = from + named.place.start..from + named.place.end;
                uses.named.push(named);
            }
            from += statement.len() + 1;
        }
        uses
    }
}

/// The text cut at its semicolons; `None` where a backslash or a dollar may hide one.
fn statements(text: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut found, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(&byte) = text.get(at) {
        let behind = comment(text, at);
        if behind > at {
            at = behind;
            continue;
        }
        match byte {
            b'\'' | b'"' => {
                let inside = text.get(at + 1..).unwrap_or_default();
                let Some(end) = inside.iter().position(|&inner| inner == byte) else { break };
                if byte == b'\'' && inside.get(..end).is_some_and(|inside| inside.contains(&b'\\')) {
                    return (!text.contains(&b';')).then(|| vec![text]);
                }
                at += end + 1;
            }
            b'$' if !text.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                return (!text.contains(&b';')).then(|| vec![text]);
            }
            b';' => {
                found.push(text.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    found.push(text.get(from..).unwrap_or_default());
    Some(found)
}

fn named_statement(text: &[u8]) -> Option<Named> {
    let mut at = verb_of(text);
    let verb = word(text, at);
    let ends = verb.eq_ignore_ascii_case(b"deallocate");
    if !ends && !verb.eq_ignore_ascii_case(b"execute") {
        return None;
    }
    at = skip_space(text, at + verb.len());
    if ends && word(text, at).eq_ignore_ascii_case(b"prepare") {
        at = skip_space(text, at + b"prepare".len());
    }
    let (length, name) = identifier(text.get(at..)?)?;
    let is_all = length == name.len() && name == b"all";
    if is_all || (ends && skip_space(text, at + length) < text.len()) {
        return None;
    }
    Some(Named { place: at..at + length, name, ends })
}

/// Where the statement's verb stands; that of an EXPLAIN is what it explains.
fn verb_of(text: &[u8]) -> usize {
    let mut at = skip_space(text, 0);
    if !word(text, at).eq_ignore_ascii_case(b"explain") {
        return at;
    }
    at = skip_space(text, at + b"explain".len());
    if text.get(at) == Some(&b'(') {
        let options = text.get(at..).unwrap_or_default();
        at = skip_space(text, at + options.iter().position(|&byte| byte == b')').map_or(0, |end| end + 1));
    }
    for option in [&b"analyze"[..], b"verbose"] {
        if word(text, at).eq_ignore_ascii_case(option) {
            at = skip_space(text, at + option.len());
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_are_named_in_sql() {
        for (text, expected) in [
            ("DEALLOCATE pdo_stmt_1", vec!["pdo_stmt_1"]),
            ("  deallocate PREPARE \"A\"\"b\" ; \0", vec!["A\"b"]),
            ("execute S1(1, 'x;y')", vec!["s1"]),
            ("EXECUTE \"all\"", vec!["all"]),
            ("begin; deallocate a; select 'deallocate b'; execute c; rollback", vec!["a", "c"]),
            ("select '; deallocate a; '", vec![]),
            ("select $$; deallocate a; $$", vec![]),
            ("-- ; deallocate a", vec![]),
            ("deallocate all; deallocate a", vec!["a"]),
            ("DEALLOCATE prepare all", vec![]),
            ("deallocate 1a", vec![]),
            ("deallocate \"\"", vec![]),
            ("deallocate \"a", vec![]),
            ("explain execute s1", vec!["s1"]),
            ("/* a; b */ explain (analyze, costs off) execute s1(2)", vec!["s1"]),
            ("explain analyze verbose execute s1", vec!["s1"]),
            ("/* app */ deallocate/**/ s1 -- done; really", vec!["s1"]),
            ("execute s1; select 2 -- ; deallocate a", vec!["s1"]),
            ("select '\\'; execute s1", vec![]),
            ("select $1; execute s1", vec!["s1"]),
            ("deallocate a /* b", vec!["a"]),
            ("select 1", vec![]),
            ("", vec![]),
        ] {
            let found = Uses::of(text.as_bytes()).named;
            let names: Vec<&str> = found.iter().map(|named| std::str::from_utf8(&named.name).unwrap()).collect();
            assert_eq!(names, expected, "{text}");
            for (named, name) in found.iter().zip(expected) {
                let place = text[named.place.clone()].to_lowercase();
                assert!(place.contains(&name.replace('"', "\"\"").to_lowercase()), "{text}: {place}");
            }
        }
    }
    #[test]
    fn texts_that_end_statements() {
        for (text, ends) in [
            ("deallocate all", true),
            ("/* x */ Discard plans", true),
            ("select 1; deallocate a", true),
            ("execute a; explain execute a", false),
            ("select '; deallocate all'", false),
            ("select $$x$$; execute a", true),
            ("select $$; deallocate all$$", true),
        ] {
            assert_eq!(Uses::of(text.as_bytes()).ends, ends, "{text}");
        }
    }
}
