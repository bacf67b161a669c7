//! What the status page shows: the tables of `SHOW`, of one moment as far as one lock reaches.

use std::time::SystemTime;

use super::command::Show;
use super::console::{Answer, Env};
use super::show;
use super::table::Table;
use crate::clock::rfc3339;
use crate::ids::millis;
use crate::page::{self, Facts, Grid, Overview};
use crate::telemetry::http::Page;

/// The page at this path, or none if there is no such path. Looks at every pool: call it where that may take a moment.
#[must_use]
pub fn page(path: &str, query: &str, env: &Env) -> Option<Page> {
    if !env.front.config().status_page {
        return None;
    }
    match path {
        "/" | "/status" => Some(html(page::overview(&overview(query != "refresh=off", env)), true)),
        _ => {
            let below = path.strip_prefix("/window/")?;
            let (id, rest) = below.split_once('/').unwrap_or((below, ""));
            let id = page::id_of(id)?;
            match (window(&id, env), rest) {
                (Some(facts), "") => Some(html(page::receipt(&facts), true)),
                (Some(facts), "timeline.svg") => {
                    let body = page::drawing(&facts)?;
                    Some(Page { found: true, kind: "image/svg+xml", policy: page::policy(), body })
                }
                (None, "") => Some(html(page::unknown(&id), false)),
                _ => None,
            }
        }
    }
}

fn html(body: String, found: bool) -> Page {
    Page { found, kind: "text/html; charset=utf-8", policy: page::policy(), body }
}

fn overview(refresh: bool, env: &Env) -> Overview {
    let windows = grid(&Show::Windows, env);
    let phase = windows.columns.iter().position(|name| *name == "outcome");
    let runs = |row: &&Vec<String>| phase.and_then(|at| row.get(at)).is_some_and(String::is_empty);
    let running = windows.rows.iter().filter(runs).filter_map(|row| window(row.first()?, env)).collect();
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: env.front.clock.now().0,
        now: rfc3339(SystemTime::now()),
        closing: env.front.is_closing(),
        clients: env.front.clients.count(),
        period_ms: millis(env.front.clock.now().since(env.periods.older())),
        pools: grid(&Show::Pools, env),
        stats: grid(&Show::Stats, env),
        windows,
        running,
        refresh,
    }
}

fn table(what: &Show, env: &Env) -> Option<Table> {
    match show::show(what, env) {
        Ok(Answer::Rows(table, _)) => Some(table),
        _ => None,
    }
}

fn grid(what: &Show, env: &Env) -> Grid {
    let Some(table) = table(what, env) else { return Grid::default() };
    let row = |row: Vec<super::table::Cell>| row.into_iter().map(|cell| cell.0.unwrap_or_default()).collect();
    Grid {
        columns: table.columns.iter().map(|column| column.name).collect(),
        rows: table.rows.into_iter().map(row).collect(),
    }
}

fn window(id: &str, env: &Env) -> Option<Facts> {
    let table = table(&Show::Window(id.to_owned()), env)?;
    let pair = |row: Vec<super::table::Cell>| {
        let mut cells = row.into_iter().map(|cell| cell.0.unwrap_or_default());
        Some((cells.next()?, cells.next()?))
    };
    Some(Facts(table.rows.into_iter().filter_map(pair).collect()))
}
