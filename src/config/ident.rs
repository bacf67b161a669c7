//! The maps of `auth_ident_file`: which name outside (of a certificate, of the operating system) may be which user.
//!
//! Pure. Lines `map system-name user`; a user of `all` is every user. Regular expressions, groups and included files are
//! mistakes, as they have no meaning in PgBouncer either.

use super::mistake::{Mistakes, quoted};
use super::tokens::{self, Field, Token};
use std::collections::BTreeMap;
use std::path::Path;

/// All maps.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct IdentMaps(BTreeMap<String, Vec<Line>>);

#[derive(Clone, PartialEq, Debug)]
struct Line {
    system: String,
    /// `None` is every user.
    user: Option<String>,
}

impl IdentMaps {
    /// Is there such a map?
    #[must_use]
    pub fn knows(&self, map: &str) -> bool {
        self.0.contains_key(map)
    }

    /// May the one whom the system calls `system` be `user`?
    #[must_use]
    pub fn allows(&self, map: &str, system: &str, user: &str) -> bool {
        let fits = |line: &Line| line.system == system && line.user.as_deref().is_none_or(|allowed| allowed == user);
        self.0.get(map).is_some_and(|lines| lines.iter().any(fits))
    }
}

/// Reads the text of `file` into maps, with everything that is wrong.
pub(crate) fn parse(file: &Path, text: &str) -> (IdentMaps, Mistakes) {
    const EXPECTED: &str = "map system-name user, each one word (regular expressions and +group are not supported)";
    let mut mistakes = Mistakes::new(file);
    let mut maps = IdentMaps::default();
    for (number, fields) in tokens::lines(text, &mut mistakes) {
        match entry(&fields) {
            Ok((map, line)) => maps.0.entry(map).or_default().push(line),
            Err(got) => mistakes.add(number, "ident", EXPECTED, got),
        }
    }
    (maps, mistakes)
}

fn entry(fields: &[Field]) -> Result<(String, Line), String> {
    let [map, system, user] = fields else { return Err(format!("{} words", fields.len())) };
    let word = |field: &Field| match &field[..] {
        [token] if !odd(token) => Ok(token.clone()),
        [token] => Err(quoted(&token.text)),
        _ => Err("a list".to_owned()),
    };
    let (map, system, user) = (word(map)?, word(system)?, word(user)?);
    let user = if user.is("all") { None } else { Some(user.text) };
    Ok((map.text, Line { system: system.text, user }))
}

fn odd(token: &Token) -> bool {
    token.text.is_empty() || (!token.quoted && token.text.starts_with(['/', '+', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped() {
        let text = "# map system user\nos deploy app\nos deploy \"all\"\nos \"Jane Doe\" jane\ncerts ops all\n";
        let (maps, mistakes) = parse(Path::new("i"), text);
        assert!(mistakes.is_empty());
        for (map, system, user, expect) in [
            ("os", "deploy", "app", true),
            // In quotes it is a user's name.
            ("os", "deploy", "all", true),
            ("os", "deploy", "jane", false),
            ("os", "Jane Doe", "jane", true),
            ("os", "jane doe", "jane", false),
            ("certs", "ops", "anybody", true),
            ("certs", "deploy", "app", false),
            ("none", "deploy", "app", false),
        ] {
            assert_eq!(maps.allows(map, system, user), expect, "{map} {system} {user}");
        }
        assert!(maps.knows("os") && !maps.knows("none"));
    }

    #[test]
    fn mistakes_have_lines() {
        let text = "a b\na b c d\na b,c d\na /^(.*)$ \\1\na b +g\na \"\" c\n";
        let (_, mistakes) = parse(Path::new("i"), text);
        let got: Vec<_> = mistakes.into_vec().into_iter().map(|m| (m.line, m.got)).collect();
        let expect = ["2 words", "4 words", "a list", "`/^(.*)$`", "`+g`", "nothing"];
        assert_eq!(got, expect.iter().enumerate().map(|(at, got)| (at + 1, got.to_string())).collect::<Vec<_>>());
    }
}
