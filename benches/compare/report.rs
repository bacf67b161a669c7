//! The report: one Markdown table for each figure and metric, then the goals.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::bench::Bench;
use crate::goals::{self, Goal};
use crate::samples::{Key, Samples, Spread};
use crate::targets::Kind;

/// What was compared, where and when; before it is measured.
pub(crate) fn head(bench: &Bench) -> String {
    let said = |program: &Path, argument| {
        let output = Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    };
    let versions: Vec<String> = bench
        .targets
        .iter()
        .filter_map(|target| match &target.kind {
            Kind::Bouncer(program) | Kind::Pglull(program) => {
                Some(format!("{} is {}", target.name, said(program, "--version")?))
            }
            Kind::Direct | Kind::Floor => None,
        })
        .collect();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "# pglull beside its peers, {}\n\n{} cores, load {}; {}.\nMedians (lowest-highest) of rounds that take turns; ratios are of \
         pairs of the same round. Only ratios mean something on another day.\n",
        today(),
        bench.cores.count,
        load.split(' ').next().unwrap_or_default(),
        versions.join("; "),
    )
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Writes `benches/results/<date>.md`, and all single values beside it.
pub(crate) fn save(bench: &Bench, text: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&folder)?;
    let date = today();
    fs::write(folder.join(format!("{date}.md")), text)?;
    fs::write(folder.join(format!("{date}.json")), serde_json::to_string_pretty(&bench.samples)?)?;
    bench.say(&format!("saved: benches/results/{date}.md and .json"));
    Ok(())
}

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
