//! A `pgbouncer.ini` as our TOML, for `pglull convert`.
//!
//! Pure. What is in force is written, in the order of the file and with the comments that stand above it; where PgBouncer's
//! default is not ours it is written out. Both formats are read by the same tables, so values keep their text, and a test
//! shows that both files make the same configuration.

use super::build::{self, Reader};
use super::include;
use super::mistake::{Mistake, Mistakes};
use super::pgbouncer;
use super::text::{self, Entry, Format, Place};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// The TOML, and what should be known of the conversion, one line each.
pub(super) fn to_toml(file: &Path, text: &str, read: Reader<'_>) -> Result<(String, Vec<String>), Vec<Mistake>> {
    let parsed = text::parse(file, text, read);
    if parsed.format == Format::Toml {
        let mut mistakes = Mistakes::new(file);
        mistakes.add(1, "file", "a pgbouncer.ini", "TOML");
        return Err(mistakes.into_vec());
    }
    let config = build::build(file, text, read)?;
    let comments = comments(&include::expand(file, text, read).text);
    // Of those that are named twice the last one.
    let named: BTreeMap<Place, usize> = parsed.named.into_iter().map(|one| (one.place, one.line)).collect();
    let mut sections: BTreeMap<Place, Vec<Entry>> = named.keys().map(|place| (place.clone(), vec![])).collect();
    sections.insert(Place::Main, vec![]);
    for entry in parsed.entries {
        let key = pgbouncer::present_name(&entry.place, &entry.key).to_owned();
        let overridden = named.get(&entry.place).is_some_and(|line| *line != entry.line);
        if overridden || !build::is_known(&entry.place, &key) {
            continue;
        }
        let section = sections.entry(entry.place.clone()).or_default();
        section.retain(|other| other.key != key);
        section.push(Entry { key, ..entry });
    }
    let mut out = format!("# Made from {} by `pglull convert`.\n", file.display().to_string().escape_debug());
    for (place, entries) in &sections {
        write_section(place, entries, (named.get(place).copied(), &comments), &mut out);
    }
    Ok((out, config.warnings))
}

fn write_section(
    place: &Place,
    entries: &[Entry],
    (header, comments): (Option<usize>, &BTreeMap<usize, String>),
    out: &mut String,
) {
    let above = |line: usize| comments.get(&line).map_or("", String::as_str);
    let name = match place {
        Place::Main => "pglull".to_owned(),
        Place::Window => "pglull.window".to_owned(),
        Place::Database(name) => format!("databases.{}", key(name)),
        Place::User(name) => format!("users.{}", key(name)),
    };
    // Writing to a String cannot fail.
    let _ = write!(out, "\n{}[{name}]\n", header.map_or("", above));
    if *place == Place::Main {
        for (name, default) in pgbouncer::DEFAULTS {
            if !entries.iter().any(|entry| entry.key == *name) {
                let _ =
                    writeln!(out, "# PgBouncer's default, or what comes nearest to it.\n{name} = {}", value(default));
            }
        }
    }
    for entry in entries {
        let comment = if header == Some(entry.line) { "" } else { above(entry.line) };
        let _ = writeln!(out, "{comment}{} = {}", key(&entry.key), value(&entry.value));
    }
}

/// The comments above each line that is not one.
fn comments(text: &str) -> BTreeMap<usize, String> {
    let mut found = BTreeMap::new();
    let mut above = String::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if let Some(comment) = line.strip_prefix([';', '#']) {
            let comment: String = comment.trim_start_matches([';', '#']).chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(above, "# {}", comment.trim());
        } else {
            let above = std::mem::take(&mut above);
            if !above.is_empty() && !line.is_empty() {
                found.insert(number, above);
            }
        }
    }
    found
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { quoted(name) }
}

fn value(text: &str) -> String {
    let number = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() && text.len() < 10;
    if number && (text == "0" || !text.starts_with('0')) { text.to_owned() } else { quoted(text) }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
    out
}
