//! A window while it runs, as lines of text: the phases, a clock against each budget, who is held, who blocks.
//!
//! Pure: `SHOW WINDOW id` goes in as keys and values, lines come out, never wider than asked for and always as many.
//! Who draws them, and where, is decided in `apply`.

use std::collections::BTreeMap;

use super::client::Rows;
use super::table::{cut, visible};

/// The phases that a change walks through, in order.
const WAY: [&str; 6] = ["preflight", "draining", "holding", "applying", "healing", "releasing"];

/// Blockers that are shown; the others are counted.
const BLOCKERS_SHOWN: usize = 3;

/// Width of a clock's bar in characters.
const BAR: usize = 24;

/// What is known of a window at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Every key of `SHOW WINDOW id`, in the console's words.
    values: BTreeMap<String, String>,
    /// The keys in the console's order, for the receipt.
    order: Vec<String>,
}

impl Status {
    /// From the rows `key, value` of `SHOW WINDOW id`.
    #[must_use]
    pub(crate) fn from_rows(rows: &Rows) -> Self {
        let mut out = Self::default();
        for row in &rows.rows {
            if let [Some(key), value] = row.as_slice() {
                out.order.push(key.clone());
                out.values.insert(key.clone(), value.clone().unwrap_or_default());
            }
        }
        out
    }

    /// The text under this key, empty where there is none.
    #[must_use]
    pub(crate) fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    /// The number under this key, in the key's own unit.
    #[must_use]
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let value = self.text(key).parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0)?;
        Some(value as u64)
    }

    /// All keys and values in the console's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.order.iter().map(|key| (key.as_str(), self.text(key)))
    }

    fn blockers(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(self.text("blockers")).unwrap_or_default()
    }
}

/// How a frame may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Letters only; the current phase stands in brackets.
    Plain,
    /// With bold and dim.
    Ansi,
}

/// The window as lines, each at most `width` characters wide (not counting what `Style::Ansi` adds).
#[must_use]
pub(crate) fn frame(status: &Status, width: usize, style: Style) -> Vec<String> {
    let mut lines = vec![
        cut(&visible(&title(status)), width),
        way(status.text("phase"), width, style),
        clock("drain", (status.number("drain_ms"), status.number("drain_limit_ms")), width, style),
        clock("apply", (status.number("apply_ms"), status.number("apply_limit_ms")), width, style),
        clock("hold", (status.number("hold_ms"), status.number("hold_limit_ms")), width, style),
        clock("tenure", tenure(status), width, style),
        cut(&counts(status), width),
    ];
    let blockers = status.blockers();
    lines.extend(blockers.iter().take(BLOCKERS_SHOWN).map(|b| cut(&blocker(b), width)));
    // As many lines in every frame: what is drawn in place must not jump.
    lines.resize(7 + BLOCKERS_SHOWN, String::new());
    let more = blockers.len().saturating_sub(BLOCKERS_SHOWN);
    lines.push(if more > 0 { cut(&format!("  and {more} more"), width) } else { String::new() });
    lines
}

fn way(current: &str, width: usize, style: Style) -> String {
    let known = WAY.contains(&current);
    let mut steps: Vec<&str> = WAY.to_vec();
    if !known && !current.is_empty() {
        steps.push(current);
    }
    let plain: usize = steps.iter().map(|s| s.len() + 3).sum::<usize>() + 1;
    if plain > width {
        return cut(&format!("  [{}]", visible(current)), width);
    }
    let drawn: Vec<String> = steps
        .iter()
        .map(|step| match (*step == current, style) {
            (true, Style::Ansi) => format!("\x1b[1m{}\x1b[0m", visible(step)),
            (true, Style::Plain) => format!("[{}]", visible(step)),
            (false, Style::Ansi) => format!("\x1b[2m{step}\x1b[0m"),
            (false, Style::Plain) => (*step).to_owned(),
        })
        .collect();
    format!("  {}", drawn.join(" > "))
}

fn title(status: &Status) -> String {
    let elapsed = status.number("elapsed_ms").map(|ms| format!(", {}", seconds(ms))).unwrap_or_default();
    format!("window {} on {}{elapsed}", status.text("id"), status.text("database"))
}

/// What is spent of the tenure, and all of it.
fn tenure(status: &Status) -> (Option<u64>, Option<u64>) {
    let limit = status.number("tenure_limit_ms");
    let left = status.number("tenure_left_ms").filter(|_| limit.is_some_and(|limit| limit > 0));
    (left.map(|left| limit.unwrap_or_default().saturating_sub(left)), limit)
}

fn clock(name: &str, (spent, limit): (Option<u64>, Option<u64>), width: usize, style: Style) -> String {
    let (spent, limit) = (spent.unwrap_or(0), limit.unwrap_or(0));
    let bound = if limit == 0 { "no bound".to_owned() } else { format!("of {}", seconds(limit)) };
    let over = if limit > 0 && spent > limit { "  over" } else { "" };
    let figures = format!("{} {bound}{over}", seconds(spent));
    // The figures say more than the bar: it has what they leave.
    let room = BAR.min(width.saturating_sub(11 + figures.len()));
    let full = if limit == 0 { 0 } else { (spent.min(limit) as usize * room).div_ceil(limit as usize).min(room) };
    let bar = format!("{}{}", "█".repeat(full), "░".repeat(room - full));
    let line = cut(&format!("  {name:<6} {bar}  {figures}"), width);
    // What has not begun steps back, what is nearly over comes forward.
    match style {
        Style::Ansi if spent == 0 => format!("\x1b[2m{line}\x1b[0m"),
        Style::Ansi if limit > 0 && spent.saturating_mul(10) >= limit.saturating_mul(9) => {
            format!("\x1b[1m{line}\x1b[0m")
        }
        _ => line,
    }
}

fn counts(status: &Status) -> String {
    let number = |key| status.number(key).unwrap_or(0);
    format!(
        "  held    {} now, {} at most    open transactions {}",
        number("held_now"),
        number("held_peak"),
        number("open_transactions")
    )
}

fn blocker(value: &serde_json::Value) -> String {
    let field = |key: &str| match value.get(key) {
        Some(serde_json::Value::String(text)) => visible(text),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => visible(&other.to_string()),
    };
    let age = field("age_ms").parse::<f64>().map(|ms| seconds(ms.max(0.0) as u64)).unwrap_or_default();
    let port = field("port");
    let address = if port.is_empty() { field("addr") } else { format!("{}:{port}", field("addr")) };
    let parts = [field("user"), field("application_name"), address, field("state"), age, field("statement")];
    let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    format!("  waits for {}", parts.join(" · "))
}

/// Milliseconds as seconds, as exact as the eye needs.
#[must_use]
pub(crate) fn seconds(ms: u64) -> String {
    if ms < 10_000 { format!("{:.2} s", ms as f64 / 1000.0) } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

/// Milliseconds as they are while they are few: what a window costs is measured in them.
pub(crate) fn exact(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { seconds(ms) }
}

/// One sentence for a change that was made: what it has cost whom.
#[must_use]
pub(crate) fn verdict(status: &Status) -> String {
    let number = |key| status.number(key).unwrap_or(0);
    // Somebody may still wait for a server.
    let least = if number("held_now") > 0 { "at least " } else { "" };
    let held = match number("held_total") {
        0 => "nobody had to wait".to_owned(),
        1 => format!("one client was held, for {least}{}", exact(number("stall_max_ms"))),
        all => format!("{all} requests were held, the longest for {least}{}", exact(number("stall_max_ms"))),
    };
    let cut = match number("cut") {
        0 => "nobody was disconnected".to_owned(),
        cut => format!("{cut} cut, as the policy says"),
    };
    let took = exact(number("elapsed_ms"));
    match status.text("outcome") {
        "already_applied" => format!("already applied, in an earlier window: nothing was done, {held}"),
        outcome => format!("{outcome} in {took}: {held}, {cut}"),
    }
}

/// The receipt for the eye: what it was, how it ended, how long it took, who noticed.
#[must_use]
pub(crate) fn receipt(status: &Status) -> Vec<(String, String)> {
    let time = |key: &str| status.number(key).map(exact).unwrap_or_default();
    let of = |key: &str, limit: &str| match (status.number(key), status.number(limit)) {
        (Some(spent), Some(limit)) if limit > 0 => {
            format!("{} of {}", exact(spent), exact(limit))
        }
        (Some(spent), _) => exact(spent),
        (None, _) => String::new(),
    };
    let number = |key| status.number(key).unwrap_or(0);
    let held = format!(
        "{} at most, {} in all; {} released, {} left, {} cancelled, {} cut",
        number("held_peak"),
        number("held_total"),
        number("released"),
        number("left"),
        number("cancelled"),
        number("cut")
    );
    let stall =
        format!("{} median, {} p99, {} longest", time("stall_p50_ms"), time("stall_p99_ms"), time("stall_max_ms"));
    let stall = if status.number("stall_max_ms").is_some() { stall } else { String::new() };
    let mut out = vec![
        ("window", status.text("id").to_owned()),
        ("database", status.text("database").to_owned()),
        ("outcome", status.text("outcome").to_owned()),
        ("reason", status.text("reason").to_owned()),
        ("owner", status.text("owner").to_owned()),
        ("started", status.text("started_at").to_owned()),
        ("change sha256", status.text("change_sha256").to_owned()),
        ("change", noted(status)),
        ("preflight", time("preflight_ms")),
        ("drain", of("drain_ms", "drain_limit_ms")),
        ("apply", of("apply_ms", "apply_limit_ms")),
        ("heal", time("heal_ms")),
        ("release", time("release_ms")),
        ("hold", of("hold_ms", "hold_limit_ms")),
        ("held clients", held),
        ("stall", stall),
    ];
    for (at, value) in status.blockers().iter().enumerate() {
        out.push((if at == 0 { "blockers" } else { "" }, blocker(value).trim_start().to_owned()));
    }
    out.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Everything that is known of a window, for the eye: lists as lines, not as JSON.
#[must_use]
pub(crate) fn whole(status: &Status) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (key, value) in status.entries() {
        let lines: Vec<String> = match key {
            "receipt" => Vec::new(),
            "preflight" => {
                let found: Vec<serde_json::Value> = serde_json::from_str(value).unwrap_or_default();
                found.iter().map(finding).collect()
            }
            "blockers" => status.blockers().iter().map(|value| blocker(value).trim_start().to_owned()).collect(),
            _ => vec![value.to_owned()],
        };
        let mut name = key;
        for line in lines {
            out.push((name.to_owned(), line));
            name = "";
        }
    }
    out
}

/// One line of preflight.
fn finding(value: &serde_json::Value) -> String {
    let field = |key: &str| visible(value[key].as_str().unwrap_or_default());
    let subject = field("subject");
    let whom = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
    format!("{} {}{whom}: {}", field("verdict"), field("check"), field("reason"))
}

/// What preflight has found in the change table.
fn noted(status: &Status) -> String {
    let lines: Vec<serde_json::Value> = serde_json::from_str(status.text("preflight")).unwrap_or_default();
    let line = lines.iter().find(|line| line["check"] == "change");
    line.and_then(|line| line["reason"].as_str()).map(visible).unwrap_or_default()
}

/// The receipt as JSON: the console's own, or every key of the window where there is none yet.
#[must_use]
pub(crate) fn receipt_json(status: &Status) -> serde_json::Value {
    let own: Option<serde_json::Value> = serde_json::from_str(status.text("receipt")).ok();
    own.filter(serde_json::Value::is_object).unwrap_or_else(|| {
        let keys = status.entries().filter(|(key, _)| *key != "receipt");
        keys.map(|(key, value)| (key.to_owned(), super::table::json_value(Some(value))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    })
}

#[cfg(test)]
mod tests;
