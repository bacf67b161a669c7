//! The corners of the text format that the exporter leaves to us: counters of seconds, and label values
//! that it would not escape reversibly.
//!
//! Two different label values must never render alike: Prometheus rejects a whole scrape in which a series
//! appears twice, and some label values (user and database names) are chosen by others.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::table::Spec;

/// Doubles the backslashes of a label value before the exporter sees it. Its own escaping takes a backslash in
/// front of `"`, `\` or a newline for an escape that was made already, so that `a\"b` and `a"b` would render alike.
pub(super) fn presentable(value: &str) -> String {
    value.replace('\\', "\\\\")
}

/// `{a="x",b="y"}` with the values escaped as the text format demands; nothing for no labels.
#[must_use]
pub fn labels(names: &[&str], values: &[&str]) -> String {
    debug_assert_eq!(names.len(), values.len());
    if names.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> =
        names.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Appends one family with its HELP and TYPE lines; `write` adds the samples of one set of labels.
pub(super) fn write_family<T>(
    out: &mut String,
    spec: &Spec,
    by_labels: &BTreeMap<String, T>,
    write: impl Fn(&mut String, &str, &T),
) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {}", spec.name, spec.help, spec.name, spec.kind.word());
    for (labels, value) in by_labels {
        write(out, labels, value);
    }
    out.push('\n');
}

/// Joins several texts into one: a family stands once, with the samples of all.
pub(super) fn join(texts: impl Iterator<Item = String>) -> String {
    let mut families: BTreeMap<String, (String, String)> = BTreeMap::new();
    for text in texts {
        for family in text.split("\n\n").filter(|family| !family.trim().is_empty()) {
            let (about, samples): (Vec<_>, Vec<_>) = family.lines().partition(|line| line.starts_with('#'));
            let name = about.first().and_then(|line| line.split(' ').nth(2)).unwrap_or_default();
            let lines = |lines: Vec<&str>| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            let known = families.entry(name.to_owned()).or_insert_with(|| (lines(about), String::new()));
            known.1.push_str(&lines(samples));
        }
    }
    families.into_values().map(|(about, samples)| format!("{about}{samples}\n")).collect()
}
