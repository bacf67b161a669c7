//! A frame: head, sums, the windows that run, one table, the keys. Pure; never wider or higher than the paper.

use super::look::{Data, Looked};
use super::state::{State, VIEWS};
use super::views::{Column, Value, columns};
use crate::cli::args::TopView;
use crate::cli::client::Rows;
use crate::cli::live::{Status, Style, seconds};
use crate::cli::table::{cut, len, visible};

/// The widest that a column gets, but for the last.
const COLUMN_MAX: usize = 30;

/// What it is drawn on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paper {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) style: Style,
}

impl Paper {
    /// A line that fits, told apart if the paper can do so.
    fn line(&self, text: &str, code: &str) -> String {
        let text = cut(text, self.width);
        if self.style == Style::Ansi && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
    }
}

/// The most lines that trouble takes.
const TROUBLE_LINES: usize = 4;

const BOLD: &str = "1";
const DIM: &str = "2";
const HEAD: &str = "7";
const ALARM: &str = "1;31";

const KEYS: &str = "q quit  1-4 view  s S sort  r turn  / filter  arrows scroll  space still  ? help";

const HELP: [&str; 11] = [
    "1 2 3 4, Tab      pools, clients, servers, windows",
    "s >  and  S <     sort by the next column, or the one before",
    "r                 turn the order; u: those that need a look first",
    "/                 filter: only lines with this text; Enter keeps it, Esc ends it",
    "up down, j k      scroll; PgUp PgDn Home End",
    "space, p          stand still, and go on",
    "+  and  -         look more often, or less",
    "? or h            this help, and back",
    "q, Ctrl-C         quit",
    "",
    "It only looks: nothing here changes anything.",
];

/// The frame; `place` is where the console is.
pub(super) fn frame(looked: &Looked, state: &State, place: &str, paper: Paper) -> Vec<String> {
    let mut lines = vec![paper.line(&head(looked, state, place), BOLD)];
    if let Some(trouble) = &looked.trouble {
        let since = if looked.data.is_some() { " (what follows is old)" } else { "" };
        let told = format!("cannot connect, trying again{since}: {}", visible(trouble));
        lines.extend(wrapped(&told, paper.width).iter().take(TROUBLE_LINES).map(|line| paper.line(line, ALARM)));
    }
    let endless = paper.height == usize::MAX;
    if state.help {
        lines.extend(HELP.iter().map(|line| paper.line(line, "")));
    } else if let Some(data) = &looked.data {
        lines.push(paper.line(&sums(data), ""));
        for status in &data.running {
            lines.extend(running(status).iter().map(|line| paper.line(line, ALARM)));
        }
        lines.push(paper.line(&tabs(state), DIM));
        let room = if endless { usize::MAX } else { paper.height.saturating_sub(lines.len() + 2) };
        lines.extend(table(rows(data, state.view), state, paper, room));
    }
    if !endless {
        lines.truncate(paper.height.saturating_sub(1));
        lines.resize(paper.height.saturating_sub(1), String::new());
        lines.push(paper.line(&foot(state), if state.typing { BOLD } else { DIM }));
        lines.truncate(paper.height);
    }
    lines
}

fn head(looked: &Looked, state: &State, place: &str) -> String {
    let version = looked.data.as_ref().map(|data| data.version.as_str()).unwrap_or_default();
    // `PgBouncer 1.25.2 (pglull 0.1.0)`: ours is in the brackets.
    let ours = version.split_once('(').map_or("pglull", |(_, ours)| ours.trim_end_matches(')'));
    let still = if state.still { "  STANDS STILL" } else { "" };
    format!("{} at {place}, every {} s{still}", visible(ours), state.every.as_secs_f64())
}

/// Lines of whole words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if len(line) + 1 + len(word) <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn foot(state: &State) -> String {
    if state.typing {
        format!("filter: {}_   Enter keeps it, Esc ends it", visible(&state.filter))
    } else {
        KEYS.to_owned()
    }
}

fn sums(data: &Data) -> String {
    let sum = |columns: &[&str]| -> u64 {
        let of = |row: &Vec<Option<String>>| {
            columns.iter().map(|column| data.pools.value(row, column).parse::<u64>().unwrap_or_default()).sum::<u64>()
        };
        data.pools.rows.iter().map(of).sum()
    };
    let busy = sum(&["sv_active"]);
    let all = busy + sum(&["sv_idle", "sv_used", "sv_tested", "sv_login"]);
    let (held, waiting) = (sum(&["cl_held"]), sum(&["cl_waiting"]));
    let [transactions, queries, received, sent] = data.rates;
    format!(
        "clients {}  waiting {}  held {held}  servers {busy}/{all}  {} tx/s  {} q/s  in {}B/s  out {}B/s",
        sum(&["cl_active"]),
        waiting.saturating_sub(held),
        short(transactions),
        short(queries),
        short(received),
        short(sent)
    )
}

/// A number in four letters or so.
fn short(number: f64) -> String {
    match number {
        n if n < 10.0 && n.fract() != 0.0 => format!("{n:.1}"),
        n if n < 999.5 => format!("{n:.0}"),
        n if n < 99_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_500.0 => format!("{:.0}k", n / 1e3),
        n if n < 1e9 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}G", n / 1e9),
    }
}

/// A window that runs, in two lines.
fn running(status: &Status) -> [String; 2] {
    let clock = |name: &str, spent: &str, limit: &str| {
        let spent = seconds(status.number(spent).unwrap_or_default());
        match status.number(limit) {
            None | Some(0) => format!("{name} {spent}"),
            Some(limit) => format!("{name} {}/{}", spent.trim_end_matches(" s"), seconds(limit)),
        }
    };
    let clocks = [
        clock("drain", "drain_ms", "drain_limit_ms"),
        clock("apply", "apply_ms", "apply_limit_ms"),
        clock("hold", "hold_ms", "hold_limit_ms"),
    ];
    let tenure = match status.number("tenure_limit_ms") {
        None | Some(0) => String::new(),
        Some(_) => format!("  tenure {} left", seconds(status.number("tenure_left_ms").unwrap_or_default())),
    };
    let number = |key| status.number(key).unwrap_or_default();
    let title = format!(
        "window {} on {}: {}, {} held, {} open",
        status.text("id"),
        status.text("database"),
        status.text("phase"),
        number("held_now"),
        number("open_transactions")
    );
    [visible(&title), format!("  {}{tenure}", clocks.join("  "))]
}

fn tabs(state: &State) -> String {
    let tabs = VIEWS.iter().enumerate().map(|(at, (view, name))| {
        let name = format!("{} {name}", at + 1);
        if *view == state.view { format!("[{name}]") } else { name }
    });
    let mut line = tabs.collect::<Vec<_>>().join("  ");
    let (sort, descending) = state.sort();
    if let Some(column) = sort {
        line.push_str(&format!("   by {} {}", column.title, if descending { "down" } else { "up" }));
    }
    if !state.filter.is_empty() {
        line.push_str(&format!("   filter: {}", visible(&state.filter)));
    }
    line
}

const fn rows(data: &Data, view: TopView) -> &Rows {
    match view {
        TopView::Pools => &data.pools,
        TopView::Clients => &data.clients,
        TopView::Servers => &data.servers,
        TopView::Windows => &data.windows,
    }
}

/// The rows that are left by the filter, in their order.
fn chosen(rows: &Rows, state: &State) -> Vec<Vec<Value>> {
    let all = columns(state.view);
    let mut values: Vec<Vec<Value>> = rows
        .rows
        .iter()
        .map(|row| {
            let value = |column: &Column| {
                let value = column.value(rows, row);
                Value { shown: visible(&value.shown), ..value }
            };
            all.iter().map(value).collect()
        })
        .filter(|row: &Vec<Value>| {
            state.filter.is_empty() || row.iter().any(|value| value.shown.contains(&state.filter))
        })
        .collect();
    let (sort, descending) = state.sort();
    if let Some(at) = sort.and_then(|sort| all.iter().position(|column| std::ptr::eq(column, sort))) {
        values.sort_by(|a, b| {
            let (Some(a), Some(b)) = (a.get(at), b.get(at)) else { return std::cmp::Ordering::Equal };
            let order = a.number.total_cmp(&b.number).then_with(|| a.shown.cmp(&b.shown));
            if descending { order.reverse() } else { order }
        });
    } else if state.view == TopView::Windows {
        // The last first: those that run, then those that have just ended.
        values.reverse();
    } else if state.view == TopView::Pools {
        // Those in trouble first: of many the others are below the screen's end.
        let number = |row: &[Value], title: &str| {
            let at = all.iter().position(|column| column.title == title);
            at.and_then(|at| row.get(at)).map_or(0.0, |value| value.number)
        };
        let waits = |row: &[Value]| number(row, "waiting") + number(row, "held");
        values.sort_by(|a, b| waits(b).total_cmp(&waits(a)));
    }
    values
}

/// The windows in a terminal, the last first, without what there is no room for.
pub(crate) fn listing(windows: &Rows, width: usize) -> String {
    let state = State::new(TopView::Windows, None, std::time::Duration::ZERO);
    let paper = Paper { width, height: usize::MAX, style: Style::Plain };
    table(windows, &state, paper, usize::MAX).join("\n") + "\n"
}

fn table(rows: &Rows, state: &State, paper: Paper, room: usize) -> Vec<String> {
    let (all, values) = (columns(state.view), chosen(rows, state));
    let widths: Vec<usize> = all
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let longest = values.iter().filter_map(|row| row.get(at)).map(|value| len(&value.shown)).max();
            let most = if paper.width == usize::MAX { usize::MAX } else { COLUMN_MAX };
            longest.unwrap_or(0).min(most).max(len(column.title))
        })
        .collect();
    let kept = fitting(all, &widths, paper.width);
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = kept.iter().map(|at| {
            let (text, width) = (cell(*at), widths.get(*at).copied().unwrap_or_default());
            let text = cut(&text, width);
            let space = " ".repeat(width.saturating_sub(len(&text)));
            if all.get(*at).is_some_and(Column::is_number) {
                format!("{space}{text}")
            } else {
                format!("{text}{space}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![paper.line(&line(&|at| all.get(at).map_or("", |column| column.title).to_owned()), HEAD)];
    let from = state.scrolled(values.len(), room);
    for row in values.iter().skip(from).take(room) {
        let text = line(&|at| row.get(at).map(|value| value.shown.clone()).unwrap_or_default());
        lines.push(paper.line(&text, ""));
    }
    if values.is_empty() {
        let nothing = if state.filter.is_empty() { "nothing" } else { "nothing with this text: Esc ends the filter" };
        lines.push(paper.line(nothing, DIM));
    }
    lines
}

/// The columns for which there is room: the least wanted go first.
fn fitting(all: &[Column], widths: &[usize], width: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..all.len()).collect();
    let total = |kept: &[usize]| {
        kept.iter().filter_map(|at| widths.get(*at)).fold(0_usize, |sum, width| sum.saturating_add(width + 2))
    };
    let rank = |at: &usize| all.get(*at).map_or(0, |column| column.rank);
    while total(&kept).saturating_sub(2) > width {
        // The rightmost of those that are wanted least.
        let Some(least) = kept.iter().map(rank).min().filter(|rank| *rank < 9) else { break };
        let Some(place) = kept.iter().rposition(|at| rank(at) == least) else { break };
        kept.remove(place);
    }
    kept
}

#[cfg(test)]
mod tests;
