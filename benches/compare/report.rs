//! The report: one Markdown table for each figure and metric, then the goals.

use std::fmt::Write as _;

use crate::goals::{self, Goal};
use crate::samples::{Key, Samples, Spread};

/// All tables; `targets` by the order of their columns.
pub(crate) fn markdown(samples: &Samples, targets: &[String]) -> String {
    let mut out = String::new();
    let keys = samples.keys();
    let mut tables: Vec<(&str, &str)> = Vec::new();
    for key in &keys {
        if !tables.contains(&(key.figure, key.metric)) {
            tables.push((key.figure, key.metric));
        }
    }
    for table in tables {
        let rows: Vec<&Key> = keys.iter().filter(|row| (row.figure, row.metric) == table).collect();
        out += &figure(samples, targets, &rows);
    }
    out + &goal_table(samples)
}

fn figure(samples: &Samples, targets: &[String], rows: &[&Key]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let seen = |name: &&String| rows.iter().any(|key| samples.find(key, name).is_some());
    let columns: Vec<&String> = targets.iter().filter(seen).collect();
    let pairs = pairs(&columns);
    let mut out = format!("\n### {}: {}\n\n| |", first.figure, first.metric);
    for name in &columns {
        let _ = write!(out, " {name} |");
    }
    for (ours, theirs) in &pairs {
        let _ = write!(out, " {ours} / {theirs} |");
    }
    out += "\n|---|";
    out += &"---:|".repeat(columns.len() + pairs.len());
    out.push('\n');
    for key in rows {
        let _ = write!(out, "| {} |", key.cell);
        for name in &columns {
            let _ = write!(out, " {} |", cell(samples, key, name));
        }
        for (ours, theirs) in &pairs {
            let ratio = samples.ratio(key, ours, theirs);
            let _ = write!(out, " {} |", ratio.map_or_else(|| "-".to_owned(), |ratio| shown(&ratio, 2)));
        }
        out.push('\n');
    }
    out
}

/// Which columns are divided by which: pglull, and other builds of it, by everything that is not pglull; other builds
/// also by pglull.
fn pairs<'a>(columns: &[&'a String]) -> Vec<(&'a str, &'a str)> {
    let peers: Vec<&str> =
        columns.iter().map(|name| name.as_str()).filter(|name| goals::PEERS.contains(name)).collect();
    let ours =
        columns.iter().map(|name| name.as_str()).filter(|name| !goals::PEERS.contains(name) && *name != "direct");
    let mut pairs = Vec::new();
    for name in ours {
        pairs.extend(peers.iter().map(|peer| (name, *peer)));
        if name != goals::OURS && columns.iter().any(|column| column.as_str() == goals::OURS) {
            pairs.push((name, goals::OURS));
        }
    }
    pairs
}

fn cell(samples: &Samples, key: &Key, target: &str) -> String {
    let Some(series) = samples.find(key, target) else { return "-".to_owned() };
    match (series.spread(), &series.failure) {
        (Some(spread), None) => shown(&spread, if spread.median < 100.0 { 2 } else { 0 }),
        (Some(spread), Some(_)) => format!("{} (some fail)", shown(&spread, 1)),
        (None, Some(why)) => format!("fails: {}", why.chars().take(40).collect::<String>().replace('|', "/")),
        (None, None) => "-".to_owned(),
    }
}

fn shown(spread: &Spread, digits: usize) -> String {
    let Spread { median, low, high } = spread;
    format!("{median:.digits$} ({low:.digits$}-{high:.digits$})")
}

fn goal_table(samples: &Samples) -> String {
    let judged: Vec<(Goal, Option<f64>)> = goals::all()
        .into_iter()
        .map(|goal| (goal.measured(samples), goal))
        .map(|(value, goal)| (goal, value))
        .collect();
    if judged.iter().all(|(_, value)| value.is_none()) {
        return String::new();
    }
    let mut out = "\n### Goals\n\n| figure | goal | measured | holds |\n|---|---|---:|---|\n".to_owned();
    for (goal, value) in judged {
        if let Some(value) = value {
            let holds = if goal.holds(value) { "yes" } else { "**no**" };
            let _ = writeln!(
                out,
                "| {}, {}: {} | {} | {value:.2} | {holds} |",
                goal.figure,
                goal.cell,
                goal.metric,
                goal.words()
            );
        }
    }
    out
}
