//! The first page: how the proxy stands, the windows that run, pools, traffic, the windows that have run.

use std::cmp::Reverse;

use super::card::{card, tag};
use super::format::{count, micros, moment, rate, time};
use super::html::{Html, Sheet, Side, cell, page};
use super::{Facts, Grid};

/// Rows of a table that are shown; the others are counted. A page is bounded, however many pools there are.
const ROWS_SHOWN: usize = 200;

/// What the first page shows.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Our version.
    pub version: &'static str,
    /// How long the process has been running, in milliseconds.
    pub uptime_ms: u64,
    /// Now, RFC 3339.
    pub now: String,
    /// Whether the process is shutting down.
    pub closing: bool,
    /// Everybody who is logged in.
    pub clients: usize,
    /// What the averages of the traffic are of, in milliseconds.
    pub period_ms: u64,
    /// `SHOW POOLS`
    pub pools: Grid,
    /// `SHOW STATS`
    pub stats: Grid,
    /// `SHOW WINDOWS`, the oldest first.
    pub windows: Grid,
    /// `SHOW WINDOW id` of those that run.
    pub running: Vec<Facts>,
    /// Whether the page loads itself anew.
    pub refresh: bool,
}

/// The page.
#[must_use]
pub fn overview(about: &Overview) -> String {
    let mut body = Html::new();
    head(about, &mut body);
    tiles(about, &mut body);
    if !about.running.is_empty() {
        body.element("h2", "", if about.running.len() == 1 { "A window is running" } else { "Windows are running" });
        for facts in &about.running {
            body.add(&card(facts));
        }
    }
    body.raw("<h2>Pools</h2>\n").add(&pools(&about.pools));
    body.raw("<h2>Traffic ").element("small", "", &format!("averages of the last {}", time(about.period_ms)));
    body.raw("</h2>\n").add(&traffic(&about.stats));
    body.raw("<h2>Past windows</h2>\n").add(&past(&about.windows));
    foot(&mut body);
    // While clients wait, whoever looks wants to see it.
    let period = if about.running.is_empty() { "10" } else { "1" };
    page("pglull", about.refresh.then_some(period), &body)
}

fn head(about: &Overview, html: &mut Html) {
    html.raw("<header><h1>pglull</h1>");
    html.element("small", "", &format!("{}, up for {}", about.version, time(about.uptime_ms)));
    html.element("small", "", &format!("{} UTC", moment(&about.now)));
    html.raw("<nav>");
    if about.refresh {
        html.raw("<a href=\"/?refresh=off\">stop refreshing</a>");
    } else {
        html.raw("<a href=\"/\">refresh by itself</a>");
    }
    html.raw("</nav></header>\n");
    if about.closing {
        html.element("p", "bad", "Shutting down: no new client is taken.");
    }
}

fn tiles(about: &Overview, html: &mut Html) {
    let sum = |columns: &[&str]| -> u64 {
        let of = |row: &Vec<String>| columns.iter().map(|column| about.pools.number(row, column)).sum::<u64>();
        about.pools.rows.iter().map(of).sum()
    };
    let of = |column: &str| about.stats.rows.iter().map(|row| about.stats.number(row, column)).sum::<u64>();
    let servers = sum(&["sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login", "sv_being_canceled"]);
    html.raw("<dl class=\"tiles\">");
    for (name, value) in [
        ("clients", count(about.clients as u64)),
        ("held", count(sum(&["cl_held"]))),
        ("waiting for a server", count(sum(&["cl_waiting"]).saturating_sub(sum(&["cl_held"])))),
        ("servers in use", format!("{} of {}", count(sum(&["sv_active"])), count(servers))),
        ("transactions/s", count(of("avg_xact_count"))),
        ("queries/s", count(of("avg_query_count"))),
    ] {
        html.raw("<div>").element("dt", "", name).element("dd", "", &value).raw("</div>");
    }
    html.raw("</dl>\n");
}

/// So many rows, and a line for those that are left out.
fn some(mut sheet: Sheet, rows: Vec<Vec<Html>>, empty: &'static str) -> Html {
    let (all, mut note) = (rows.len(), Html::new());
    if all == 0 {
        note.element("p", "faint", empty);
        return note;
    }
    rows.iter().take(ROWS_SHOWN).for_each(|row| sheet.row(row));
    let mut html = sheet.finish();
    if all > ROWS_SHOWN {
        html.element("p", "faint", &format!("and {} more: the console has them all", all - ROWS_SHOWN));
    }
    html
}

fn pools(grid: &Grid) -> Html {
    let sheet = Sheet::new(&[
        ("database", Side::Left),
        ("user", Side::Left),
        ("state", Side::Left),
        ("held", Side::Right),
        ("waiting", Side::Right),
        ("clients", Side::Right),
        ("longest wait", Side::Right),
        ("servers active", Side::Right),
        ("idle", Side::Right),
        ("connecting", Side::Right),
        ("mode", Side::Left),
    ]);
    let row = |row: &Vec<String>| {
        let number = |column: &str| cell(&count(grid.number(row, column)));
        let wait = grid.number(row, "maxwait").saturating_mul(1_000_000) + grid.number(row, "maxwait_us");
        let idle = grid.number(row, "sv_idle") + grid.number(row, "sv_used") + grid.number(row, "sv_tested");
        let mut state = Html::new();
        match grid.number(row, "paused") {
            0 => state.element("span", "good", "open"),
            _ => state.element("span", "warm", "shut"),
        };
        vec![
            cell(grid.at(row, "database")),
            cell(grid.at(row, "user")),
            state,
            number("cl_held"),
            // In PgBouncer's words, who is held waits too.
            cell(&count(grid.number(row, "cl_waiting").saturating_sub(grid.number(row, "cl_held")))),
            number("cl_active"),
            cell(&micros(wait)),
            number("sv_active"),
            cell(&count(idle)),
            number("sv_login"),
            cell(grid.at(row, "pool_mode")),
        ]
    };
    // Those that are in trouble stand first: of many not all are shown, and few are on a small screen.
    let mut rows: Vec<&Vec<String>> = grid.rows.iter().collect();
    rows.sort_by_key(|row| Reverse((grid.number(row, "cl_waiting"), grid.number(row, "paused"))));
    some(sheet, rows.into_iter().map(row).collect(), "No pool yet: nobody has asked for a database.")
}

fn traffic(grid: &Grid) -> Html {
    let sheet = Sheet::new(&[
        ("database", Side::Left),
        ("transactions/s", Side::Right),
        ("queries/s", Side::Right),
        ("a transaction takes", Side::Right),
        ("a query takes", Side::Right),
        ("waited per second", Side::Right),
        ("from clients", Side::Right),
        ("to clients", Side::Right),
        ("transactions in all", Side::Right),
    ]);
    let row = |row: &Vec<String>| {
        let number = |column: &str| grid.number(row, column);
        vec![
            cell(grid.at(row, "database")),
            cell(&count(number("avg_xact_count"))),
            cell(&count(number("avg_query_count"))),
            cell(&micros(number("avg_xact_time"))),
            cell(&micros(number("avg_query_time"))),
            cell(&micros(number("avg_wait_time"))),
            cell(&rate(number("avg_recv"))),
            cell(&rate(number("avg_sent"))),
            cell(&count(number("total_xact_count"))),
        ]
    };
    some(sheet, grid.rows.iter().map(row).collect(), "None yet.")
}

fn past(grid: &Grid) -> Html {
    let sheet = Sheet::new(&[
        ("window", Side::Left),
        ("outcome", Side::Left),
        ("database", Side::Left),
        ("started (UTC)", Side::Left),
        ("longest stall", Side::Right),
        ("hold", Side::Right),
        ("apply", Side::Right),
        ("held at most", Side::Right),
        ("reason", Side::Left),
    ]);
    let row = |row: &Vec<String>| {
        let mut link = Html::new();
        link.link(("/window/", grid.at(row, "id"), ""), grid.at(row, "id"));
        let mut reason = Html::new();
        reason.element("span", "wide short", grid.at(row, "reason"));
        let took = |column: &str| cell(&time(grid.number(row, column)));
        vec![
            link,
            tag(grid.at(row, "phase"), grid.at(row, "outcome")),
            cell(grid.at(row, "database")),
            cell(&moment(grid.at(row, "started_at"))),
            took("stall_max_ms"),
            took("hold_ms"),
            took("apply_ms"),
            cell(&count(grid.number(row, "held_peak"))),
            if grid.at(row, "reason").is_empty() { Html::new() } else { reason },
        ]
    };
    let over = grid.rows.iter().rev().filter(|row| !grid.at(row, "outcome").is_empty());
    some(sheet, over.map(row).collect(), "None yet. pglull window rehearse DATABASE tells what one would meet.")
}

pub(super) fn foot(html: &mut Html) {
    html.raw(
        "<footer>Read-only. Figures for machines: <a href=\"/metrics\">/metrics</a>. To do something: the console, or ",
    );
    html.raw("<code>pglull window</code>.</footer>\n");
}
