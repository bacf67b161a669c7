//! Entries become a [`Config`], and everything that is wrong with them is collected.
//!
//! Pure: the file of users is read by a function that the caller gives. Each key is looked up in the tables of
//! `types.rs`; what concerns several keys at once is in `check.rs`.

use super::check;
use super::mistake::{Mistake, Mistakes, one_line, quoted, suggestion};
use super::pgbouncer;
use super::text::{self, Entry, Format, Parsed, Place};
use super::types::{Config, Database, Key, Section, UserOverride};
use super::value::Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// A file's content and whether everybody on the machine may read it.
pub(crate) struct Content {
    pub(crate) text: String,
    pub(crate) world_readable: bool,
}

/// Reads a file.
pub(crate) type Reader<'a> = &'a dyn Fn(&Path) -> io::Result<Content>;

/// A configuration in the making.
pub(super) struct Draft<'a> {
    pub(super) file: &'a Path,
    pub(super) format: Format,
    pub(super) config: Config,
    pub(super) mistakes: Mistakes,
    /// Is the text so broken that what is missing from it means nothing?
    pub(super) broken: bool,
    /// Where each key was set first.
    lines: BTreeMap<(Place, String), usize>,
    /// Where each database and user was named first.
    named: BTreeMap<Place, usize>,
    /// The keys whose values were refused: what depends on them is not checked.
    refused: BTreeSet<(Place, String)>,
}

/// What became of one entry.
enum Fate {
    Set,
    Unknown,
    Refused(&'static str),
}

/// Makes the text of `file` into a configuration; `read` is asked for `auth_file` only.
///
/// # Errors
/// Every mistake of both files, by file and line.
pub(crate) fn build(file: &Path, text: &str, read: Reader<'_>) -> Result<Config, Vec<Mistake>> {
    let Parsed { format, entries, named, warnings, mistakes, broken, world_readable } = text::parse(file, text, read);
    let config = Config { file: file.to_path_buf(), ..Config::default() };
    let mut draft = Draft { format, mistakes, broken, ..Draft::of(config, file) };
    for (line, warning) in warnings {
        draft.warn_at(line, &warning);
    }
    if format == Format::Ini {
        draft.defaults_of_pgbouncer();
    }
    for one in named {
        draft.name(one.place, one.line);
    }
    for entry in entries {
        draft.enter(entry);
    }
    check::all(&mut draft, read);
    check::readable(&mut draft, &world_readable);
    if draft.mistakes.is_empty() { Ok(draft.config) } else { Err(draft.mistakes.into_vec()) }
}

impl<'a> Draft<'a> {
    /// Of a configuration that is there already, so that it can be checked once more.
    pub(super) fn of(config: Config, file: &'a Path) -> Self {
        let (lines, named, refused) = Default::default();
        Self { file, format: Format::Toml, config, mistakes: Mistakes::new(file), broken: false, lines, named, refused }
    }

    /// The line of a key, or else of its database or user, or else 1.
    pub(super) fn line(&self, place: &Place, key: &str) -> usize {
        let of_key = self.lines.get(&(place.clone(), key.to_owned()));
        of_key.or_else(|| self.named.get(place)).copied().unwrap_or(1)
    }

    /// Was the key given?
    pub(super) fn given(&self, place: &Place, key: &str) -> bool {
        self.lines.contains_key(&(place.clone(), key.to_owned()))
    }

    /// Was none of these values refused?
    pub(super) fn sound(&self, place: &Place, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.refused.contains(&(place.clone(), (*key).to_owned())))
    }

    /// Notes a mistake at the line of a key.
    pub(super) fn mistake(&mut self, place: &Place, key: &str, expected: impl Into<String>, got: impl Into<String>) {
        let line = self.line(place, key);
        self.mistakes.add(line, &place.path(key), expected, got);
    }

    /// Notes what is not wrong but should be known.
    pub(super) fn warn(&mut self, warning: &str) {
        self.config.warnings.push(format!("{}: {}", self.file.display(), one_line(warning)));
    }

    /// The same, of a line.
    pub(super) fn warn_at(&mut self, line: usize, warning: &str) {
        let (file, line) = self.mistakes.place(line);
        self.config.warnings.push(format!("{}:{line}: {}", file.display(), one_line(warning)));
    }

    /// What is not in the file is as it is in PgBouncer.
    fn defaults_of_pgbouncer(&mut self) {
        for (key, value) in pgbouncer::DEFAULTS {
            // That these are good values is shown by a test.
            let _ = self.set(&Place::Main, key, value);
        }
    }

    /// Something is there a second time. In an ini that overrides the first, as in PgBouncer; in TOML it cannot be meant.
    fn again(&mut self, what: &str, (line, first): (usize, usize)) -> bool {
        let first = self.mistakes.place(first);
        let first = format!("the first is in {}:{}", first.0.display(), first.1);
        match self.format {
            Format::Ini => self.warn_at(line, &format!("{what}: given twice, this one is in force ({first})")),
            Format::Toml => self.mistakes.add(line, what, "it once", format!("it again ({first})")),
        }
        self.format == Format::Ini
    }

    fn name(&mut self, place: Place, line: usize) {
        if let Some(first) = self.named.get(&place).copied()
            && !self.again(&place.path(""), (line, first))
        {
            return;
        }
        match &place {
            Place::Database(name) => drop(self.config.databases.insert(name.clone(), Database::default())),
            Place::User(name) => drop(self.config.user_overrides.insert(name.clone(), UserOverride::default())),
            Place::Main | Place::Window => {}
        }
        self.named.insert(place, line);
    }

    fn enter(&mut self, entry: Entry) {
        let Entry { place, key, value, line } = entry;
        let key = pgbouncer::present_name(&place, &key).to_owned();
        // Another definition of the same name is in force.
        if self.named.get(&place).is_some_and(|first| self.format == Format::Ini && *first != line) {
            return;
        }
        let at = (place.clone(), key.clone());
        if let Some(first) = self.lines.get(&at).copied()
            && !self.again(&place.path(&key), (line, first))
        {
            return;
        }
        match self.set(&place, &key, &value) {
            Fate::Set => {}
            Fate::Refused(expected) => {
                self.mistakes.add(line, &place.path(&key), expected, quoted(&value));
                self.refused.insert(at.clone());
            }
            Fate::Unknown => self.unknown(&place, (&key, &value), line),
        }
        self.lines.insert(at, line);
    }

    fn set(&mut self, place: &Place, key: &str, value: &str) -> Fate {
        match place {
            Place::Main => set(Some(&mut self.config), key, value),
            Place::Window => set(Some(&mut self.config.window), key, value),
            Place::Database(name) => set(self.config.databases.get_mut(name), key, value),
            Place::User(name) => set(self.config.user_overrides.get_mut(name), key, value),
        }
    }

    /// An unknown key: a mistake, unless it is PgBouncer's and the file is too. The value is not shown: the key may be
    /// a misspelt `password`.
    fn unknown(&mut self, place: &Place, (key, value): (&str, &str), line: usize) {
        let path = place.path(key);
        let Some(why) = pgbouncer::why_ignored(place, key) else {
            let mut expected = suggestion("a known key", key, keys_of(place).into_iter());
            if expected == "a known key" {
                expected.push_str(" (reference.toml lists them all)");
            }
            return self.mistakes.add(line, &path, expected, quoted(key));
        };
        if self.format == Format::Toml {
            self.mistakes.add(line, &path, format!("a known key (PgBouncer's; {why})"), quoted(key));
        } else if let Some(expected) = pgbouncer::unsafe_to_ignore(place, key, value) {
            self.mistakes.add(line, &path, expected, quoted(value));
        } else {
            self.warn_at(line, &format!("{path}: ignored: {why}"));
        }
    }
}

fn set<T: Section>(section: Option<&mut T>, key: &str, value: &str) -> Fate {
    let known = T::KEYS.iter().find(|known| known.name == key);
    let (Some(section), Some(Key { slot, .. })) = (section, known) else {
        return Fate::Unknown;
    };
    let place: Slot<'_> = slot(section);
    place.set(value).map_or_else(Fate::Refused, |()| Fate::Set)
}

/// What to say of a `SET` of a key that does not exist.
pub(super) fn unknown_setting(key: &str) -> String {
    let known = keys_of(&Place::Main).into_iter().chain(["window.drain", "window.hold"]);
    format!("unknown setting {}: {}", quoted(key), suggestion("SHOW CONFIG lists them", key, known))
}

/// Has this key a meaning in this place?
pub(super) fn is_known(place: &Place, key: &str) -> bool {
    keys_of(place).contains(&key)
}

fn keys_of(place: &Place) -> Vec<&'static str> {
    fn names<T: Section>() -> Vec<&'static str> {
        T::KEYS.iter().map(|key| key.name).collect()
    }
    match place {
        Place::Main => names::<Config>(),
        Place::Window => names::<super::types::WindowDefaults>(),
        Place::Database(_) => names::<Database>(),
        Place::User(_) => names::<UserOverride>(),
    }
}
