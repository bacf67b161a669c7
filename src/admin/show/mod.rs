//! `SHOW`: tables. Their columns stand in `columns`.
//!
//! Each is of one moment as far as one lock reaches; figures of different rows may be microseconds apart.

mod columns;
#[cfg(test)]
mod docs;
mod people;
mod sockets;
mod stats;
mod windows;

use std::sync::Arc;

pub(super) use columns::columns;

use crate::admin::command::{self, Show};
use crate::admin::console::{Answer, Env, Problem};
use crate::admin::table::{Table, row};
use crate::config::COMPATIBLE;
use crate::pool::database::Database;
use crate::wire::reply::{Report, sqlstate};

/// What the console says of its settings at log-in. `server_version` is PgBouncer's: drivers and psql know its form.
pub(super) const SETTINGS: [(&str, &str); 7] = [
    ("server_version", "1.25.2/bouncer"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("standard_conforming_strings", "on"),
    ("integer_datetimes", "on"),
];

/// What drivers ask besides; a console has no such settings, so these are those of a fresh Postgres.
const ASKED: [(&str, &str); 13] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_min_messages", "notice"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("IntervalStyle", "postgres"),
    ("lock_timeout", "0"),
    ("search_path", "\"$user\", public"),
    ("statement_timeout", "0"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// A setting that drivers ask for by habit: its name as Postgres writes it, and its value.
fn setting(name: &str) -> Option<(&'static str, &'static str)> {
    SETTINGS.into_iter().chain(ASKED).find(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// An empty table with the columns of a `SHOW`.
fn of(show: &Show) -> Table {
    Table::new(&columns(show).unwrap_or_default())
}

pub(super) fn show(show: &Show, env: &Env) -> Result<Answer, Problem> {
    let table = match show {
        Show::Help => return Ok(Answer::Say(command::HELP.to_owned(), "SHOW")),
        Show::Fds => {
            let text = "SHOW FDS is not supported";
            let hint =
                "It served PgBouncer's online restart, which is UPGRADE here. SHOW SOCKETS lists the connections.";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text).hint(hint).into());
        }
        Show::Windows => windows::windows(env),
        Show::Window(id) => windows::window(id, env)?,
        Show::Held(database) => windows::held(database.as_deref(), env)?,
        Show::Blockers(database) => windows::blockers(database.as_deref(), env)?,
        Show::Pools => sockets::pools(env),
        Show::Clients => sockets::clients(env),
        Show::Servers => sockets::servers(env),
        Show::Sockets => sockets::sockets(env, false),
        Show::ActiveSockets => sockets::sockets(env, true),
        Show::Databases => people::databases(env),
        Show::Users => people::users(env),
        Show::Lists => people::lists(env),
        Show::Mem => people::mem(env),
        Show::Stats => stats::stats(env),
        Show::StatsTotals => stats::totals_only(env),
        Show::StatsAverages => stats::averages_only(env),
        Show::Totals => stats::totals(env),
        Show::Config => config(env),
        Show::Version => {
            let ours = env!("CARGO_PKG_VERSION");
            with_rows(show, vec![row![format!("{COMPATIBLE} (pglull {ours})")]])
        }
        Show::State => state(env),
        Show::Parameter(name) => match setting(name) {
            Some((_, value)) => with_rows(show, vec![row![value]]),
            None => return Err(Report::new(sqlstate::UNDEFINED_OBJECT, format!("unknown parameter: {name}")).into()),
        },
        // There are no peers, and names are looked up by the system at each connect.
        Show::Peers | Show::PeerPools | Show::DnsHosts | Show::DnsZones => of(show),
    };
    Ok(Answer::Rows(table, "SHOW"))
}

fn with_rows(show: &Show, rows: Vec<Vec<crate::admin::table::Cell>>) -> Table {
    Table { rows, ..of(show) }
}

/// One database, or all.
pub(super) fn scope(database: Option<&str>, env: &Env) -> Result<Vec<Arc<Database>>, Problem> {
    match database {
        None => Ok(env.front.databases.list()),
        Some(name) => match env.front.databases.find(name) {
            Some(database) => Ok(vec![database]),
            None => Err(no_such_database(name)),
        },
    }
}

/// The same, to be looked at only: whoever may only look makes no database that the entry `*` would make.
fn seen(database: Option<&str>, env: &Env) -> Result<Vec<Arc<Database>>, Problem> {
    let mut all = env.front.databases.list();
    if let Some(name) = database {
        if env.front.config().database(name).is_none() {
            return Err(no_such_database(name));
        }
        all.retain(|one| one.name == name);
    }
    Ok(all)
}

fn no_such_database(name: &str) -> Problem {
    Report::new(sqlstate::INVALID_CATALOG_NAME, format!("no such database: {name}")).into()
}

fn config(env: &Env) -> Table {
    let row = |(key, value, default, changeable): (String, String, String, bool)| {
        row![key, value, default, if changeable { "yes" } else { "no" }]
    };
    with_rows(&Show::Config, env.front.config().show().into_iter().map(row).collect())
}

fn state(env: &Env) -> Table {
    let databases = env.front.databases.list();
    let paused = !databases.is_empty() && databases.iter().all(|database| database.is_shut());
    let row = |(key, yes): (&str, bool)| row![key, if yes { "yes" } else { "no" }];
    let rows = [("active", !paused), ("paused", paused), ("suspended", false)].map(row);
    with_rows(&Show::State, rows.to_vec())
}
