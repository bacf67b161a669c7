//! What is wrong with a configuration, in a form that a person can act on.
//!
//! Every reader of this room collects its mistakes in one [`Mistakes`], so that all of them are reported
//! together. A mistake never holds a secret: values of secret keys and broken connection strings are
//! described, not quoted.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One mistake in a configuration file or in the file of users.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mistake {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// The line, from 1; 1 where the mistake is about the file as a whole.
    pub line: usize,
    /// The key, with its section where that is not the main one: `listen_port`, `databases.bench.host`.
    pub key: String,
    /// What would have been right.
    pub expected: String,
    /// What stands there instead.
    pub got: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(f, "{file}:{}: {}: expected {}, got {}", self.line, self.key, self.expected, self.got)
    }
}

impl std::error::Error for Mistake {}

/// A text with its control characters escaped, so that it stays one line.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_debug());
        } else {
            line.push(c);
        }
    }
    line
}

/// Why a file cannot be read, and what to do about it.
pub(crate) fn unread(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => ": is the path right?",
        io::ErrorKind::PermissionDenied => {
            ": it must be readable for the user that runs pglull (chgrp, then chmod 640)"
        }
        io::ErrorKind::IsADirectory => ": name a file in it",
        io::ErrorKind::InvalidData => ": save it as UTF-8 text",
        _ => "",
    };
    format!("{}{remedy}", one_line(&error.to_string()))
}

/// Where the lines of a text come from that was put together from several files.
#[derive(Clone, Default, Debug)]
pub(crate) struct Origins(Vec<(Rc<Path>, usize)>);

impl Origins {
    /// The next line of the text is this one.
    pub(crate) fn push(&mut self, file: &Rc<Path>, line: usize) {
        self.0.push((Rc::clone(file), line));
    }
}

/// The mistakes of one file, while they are being collected.
#[derive(Debug)]
pub(crate) struct Mistakes {
    file: PathBuf,
    origins: Origins,
    found: BTreeSet<Mistake>,
}

impl Mistakes {
    /// None yet, in `file`.
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_path_buf(), origins: Origins::default(), found: BTreeSet::new() }
    }

    /// From now on lines are those of a text with these origins.
    pub(crate) fn lines_are_of(&mut self, origins: Origins) {
        self.origins = origins;
    }

    /// The file and the line there that a line is.
    pub(crate) fn place(&self, line: usize) -> (&Path, usize) {
        let line = line.max(1);
        match self.origins.0.get(line - 1).or_else(|| self.origins.0.last()) {
            Some((file, line)) => (file, *line),
            None => (&self.file, line),
        }
    }

    /// Notes one; `key` is shown with its control characters escaped, so that a mistake stays one line.
    pub(crate) fn add(&mut self, line: usize, key: &str, expected: impl Into<String>, got: impl Into<String>) {
        let (file, line) = self.place(line);
        let file = file.to_path_buf();
        self.found.insert(Mistake {
            file,
            line,
            key: key.escape_debug().to_string(),
            expected: expected.into(),
            got: got.into(),
        });
    }

    /// Takes over those of another file.
    pub(crate) fn join(&mut self, other: Self) {
        self.found.extend(other.found);
    }

    /// Is there one whose key begins so?
    pub(crate) fn about(&self, section: &str) -> bool {
        self.found.iter().any(|mistake| mistake.key.starts_with(section))
    }

    /// Is there none?
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them, by file and line.
    pub(crate) fn into_vec(self) -> Vec<Mistake> {
        self.found.into_iter().collect()
    }
}

/// A value as it is shown in a mistake: in back quotes, on one line, cut after 60 characters.
pub(crate) fn quoted(value: &str) -> String {
    if value.is_empty() {
        return "nothing".to_owned();
    }
    let shown: String = value.chars().take(60).flat_map(char::escape_debug).collect();
    let rest = if value.chars().nth(60).is_some() { "..." } else { "" };
    format!("`{shown}{rest}`")
}

/// What is expected instead of an unknown word: the nearest known one, if any is near.
pub(crate) fn suggestion<'a>(what: &str, word: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest(word, known) {
        Some(near) => format!("{what}, perhaps `{near}`"),
        None => what.to_owned(),
    }
}

/// The known word with the fewest edits to `word`, if a third of its letters or fewer are wrong.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).collect();
    known
        .map(|name| (edits(&word, name), name))
        .filter(|(edits, name)| *edits <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance, one row at a time.
fn edits(word: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=word.len()).collect();
    for (i, b) in name.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (cell, a) in row.iter_mut().skip(1).zip(word) {
            let replaced = diagonal + usize::from(*a != b);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (a, b, expect) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("pol", "pool", 1),
        ] {
            assert_eq!(edits(&a.chars().collect::<Vec<_>>(), b), expect, "{a} {b}");
        }
    }

    #[test]
    fn only_near_words_are_suggested() {
        let known = ["pool_size", "min_pool_size", "host"];
        assert_eq!(nearest("pol_size", known.into_iter()), Some("pool_size"));
        assert_eq!(nearest("hots", known.into_iter()), None);
        assert_eq!(nearest("hosst", known.into_iter()), Some("host"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(suggestion("a key", "colour", known.into_iter()), "a key");
    }

    #[test]
    fn one_line_whatever_the_text() {
        let mut mistakes = Mistakes::new(Path::new("a.toml"));
        mistakes.add(0, "a\nb", "x", quoted("c\r\nd\x1b[31m"));
        let shown = mistakes.into_vec()[0].to_string();
        assert_eq!(shown, "a.toml:1: a\\nb: expected x, got `c\\r\\nd\\u{1b}[31m`");
        assert!(quoted(&"x".repeat(100)).ends_with("x...`"));
        assert_eq!(quoted(""), "nothing");
    }
}
