//! The text of a configuration file, TOML or a `pgbouncer.ini`, as a flat list of entries with their lines.
//!
//! Pure. It knows the shapes of both formats and which sections there are, but no key: `build.rs` gives entries a
//! meaning. The two formats are told apart by content, never by the file's name.

use super::build::Reader;
use super::include::{self, Expanded};
use super::ini;
use super::mistake::{Mistakes, suggestion};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where an entry stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// `[pglull]`, or `[pgbouncer]` of an ini.
    Main,
    /// `[pglull.window]`.
    Window,
    /// `[databases.NAME]`, or a line under `[databases]` of an ini.
    Database(String),
    /// `[users.NAME]`, or a line under `[users]` of an ini.
    User(String),
}

impl Place {
    /// A key's name with its section, for mistakes; the section alone if the key is empty.
    pub(crate) fn path(&self, key: &str) -> String {
        let section = match self {
            Self::Main => return key.to_owned(),
            Self::Window => "window".to_owned(),
            Self::Database(name) => format!("databases.{name}"),
            Self::User(name) => format!("users.{name}"),
        };
        if key.is_empty() { section } else { format!("{section}.{key}") }
    }
}

/// One key and its value. Numbers and booleans are as they are written, an array is a comma list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) value: String,
    /// From 1.
    pub(crate) line: usize,
}

/// A database or user that the file names, even if it says nothing more of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) place: Place,
    /// From 1.
    pub(crate) line: usize,
}

/// The two formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Toml,
    Ini,
}

/// A file's content, by line.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) format: Format,
    pub(crate) entries: Vec<Entry>,
    pub(crate) named: Vec<Named>,
    /// With their lines.
    pub(crate) warnings: Vec<(usize, String)>,
    pub(crate) mistakes: Mistakes,
    /// Is the text so broken that what is missing from it means nothing?
    pub(crate) broken: bool,
    /// Included files that everybody on the machine may read.
    pub(crate) world_readable: Vec<PathBuf>,
}

impl Parsed {
    pub(crate) fn new(file: &Path, format: Format) -> Self {
        let (mistakes, world_readable) = (Mistakes::new(file), vec![]);
        Self { format, entries: vec![], named: vec![], warnings: vec![], mistakes, broken: false, world_readable }
    }
}

/// Splits the text of `file` into entries; `read` is asked for the files that an ini includes.
pub(crate) fn parse(file: &Path, text: &str, read: Reader<'_>) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = detect(text);
    let mut parsed = Parsed::new(file, format);
    match format {
        Format::Toml => read_toml(text, &mut parsed),
        Format::Ini => {
            let Expanded { text, origins, mistakes, world_readable } = include::expand(file, text, read);
            parsed.broken |= !mistakes.is_empty();
            parsed.mistakes.join(mistakes);
            parsed.mistakes.lines_are_of(origins);
            parsed.world_readable = world_readable;
            ini::read(&text, &mut parsed);
        }
    }
    parsed.entries.sort_by_key(|entry| entry.line);
    parsed
}

/// The format of a text, from the first line that only one of the two can have.
fn detect(text: &str) -> Format {
    let mut in_names = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with(';') || line.starts_with('%') {
            return Format::Ini;
        }
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default().trim();
            match name {
                "pgbouncer" | "peers" => return Format::Ini,
                "databases" | "users" => in_names = true,
                _ => return Format::Toml,
            }
        } else if in_names && !line.starts_with('#') {
            match line.split_once('=').map(|(_, value)| value.trim()) {
                Some(value) if value.starts_with(['{', '"', '[']) => return Format::Toml,
                Some(value) if value.is_empty() || value.contains('=') => return Format::Ini,
                _ => {}
            }
        }
    }
    Format::Toml
}

/// The lines of a text, to find the one of an offset.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

fn read_toml(text: &str, parsed: &mut Parsed) {
    let lines = Lines::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        parsed.broken = true;
        for error in errors {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            parsed.mistakes.add(line, "TOML", "valid TOML", format!("a syntax error: {}", error.message()));
        }
        return;
    }
    for (key, value) in root.get_ref() {
        let line = lines.at(key.span().start);
        let name = key.get_ref().as_ref();
        match (name, value.get_ref()) {
            ("pglull", DeValue::Table(table)) => read_main(table, &lines, parsed),
            ("databases", DeValue::Table(table)) => read_names(table, Place::Database, &lines, parsed),
            ("users", DeValue::Table(table)) => read_names(table, Place::User, &lines, parsed),
            _ => {
                let known = ["pglull", "databases", "users"].into_iter();
                let sections = "one of the sections [pglull], [pglull.window], [databases.NAME], [users.NAME]";
                parsed.mistakes.add(line, name, suggestion(sections, name, known), "something else");
            }
        }
    }
}

fn read_main(table: &DeTable<'_>, lines: &Lines, parsed: &mut Parsed) {
    for (key, value) in table {
        match value.get_ref() {
            DeValue::Table(window) if key.get_ref() == "window" => {
                for (key, value) in window {
                    read_value(Place::Window, key, value, lines, parsed);
                }
            }
            _ => read_value(Place::Main, key, value, lines, parsed),
        }
    }
}

/// Reads `[databases.NAME]` and `[users.NAME]`.
fn read_names(table: &DeTable<'_>, place: fn(String) -> Place, lines: &Lines, parsed: &mut Parsed) {
    for (name, value) in table {
        let line = lines.at(name.span().start);
        let place = place(name.get_ref().to_string());
        if let DeValue::Table(keys) = value.get_ref() {
            for (key, value) in keys {
                read_value(place.clone(), key, value, lines, parsed);
            }
            parsed.named.push(Named { place, line });
        } else {
            // Not quoted: it may be a connection string with a password.
            let section = place.path("");
            parsed.mistakes.add(line, &section, "a section of its own, with keys", "a plain value");
        }
    }
}

fn read_value(
    place: Place,
    key: &Spanned<toml::de::DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    lines: &Lines,
    parsed: &mut Parsed,
) {
    let line = lines.at(key.span().start);
    let key = key.get_ref().to_string();
    let text = match value.get_ref() {
        DeValue::Array(items) => {
            items.iter().map(|item| plain(item.get_ref())).collect::<Option<Vec<_>>>().map(|all| all.join(","))
        }
        value => plain(value),
    };
    match text {
        Some(value) => parsed.entries.push(Entry { place, key, value, line }),
        None => parsed.mistakes.add(
            line,
            &place.path(&key),
            "a plain value or a list of them",
            "a table or a list of lists",
        ),
    }
}

/// The text of a single value; none of a table or an array.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
