//! `SHOW`: tables. PgBouncer's columns first, by its names and in its order; ours behind them.
//! Source: `src/admin.c` and `src/stats.c` of PgBouncer.

mod sockets;
mod windows;

use std::sync::Arc;

use crate::admin::command::{self, Show};
use crate::admin::console::{Answer, Env, Problem, Table};
use crate::pool::database::Database;
use crate::pool::stats::Stats;
use crate::wire::reply::{Report, sqlstate};

/// What a client reads as our version.
pub(super) const VERSION: &str = concat!("pglull ", env!("CARGO_PKG_VERSION"));

pub(super) fn show(show: &Show, env: &Env) -> Result<Answer, Problem> {
    let table = match show {
        Show::Help => return Ok(Answer::Say(command::HELP.to_owned(), "SHOW")),
        Show::Windows => windows::windows(env),
        Show::Window(id) => windows::window(id, env)?,
        Show::Held(database) => windows::held(database.as_deref(), env)?,
        Show::Blockers(database) => windows::blockers(database.as_deref(), env)?,
        Show::Pools => sockets::pools(env),
        Show::Clients => sockets::clients(env),
        Show::Servers => sockets::servers(env),
        Show::Databases => databases(env),
        Show::Stats => stats(env),
        Show::Lists => lists(env),
        Show::Users => users(env),
        Show::Config => config(env),
        Show::Version => one_column("version", VERSION.to_owned()),
        Show::State => state(env),
        Show::Parameter(name) => parameter(name)?,
        other => {
            let text = format!("SHOW {} is not in this version yet", format!("{other:?}").to_uppercase());
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, text).into());
        }
    };
    Ok(Answer::Rows(table, "SHOW"))
}

fn one_column(name: &'static str, value: String) -> Table {
    let mut table = Table::new(&[name]);
    table.rows.push(vec![value]);
    table
}

/// What drivers ask by habit before they ask anything else.
fn parameter(name: &str) -> Result<Table, Problem> {
    let (name, value) = match name {
        "client_encoding" => ("client_encoding", "UTF8"),
        "standard_conforming_strings" => ("standard_conforming_strings", "on"),
        "datestyle" => ("DateStyle", "ISO"),
        "timezone" => ("TimeZone", "UTC"),
        "default_transaction_isolation" => ("default_transaction_isolation", "read committed"),
        _ => return Err(Report::new(sqlstate::UNDEFINED_OBJECT, format!("unknown parameter: {name}")).into()),
    };
    Ok(one_column(name, value.to_owned()))
}

fn scope(database: Option<&str>, env: &Env) -> Result<Vec<Arc<Database>>, Problem> {
    match database {
        None => Ok(env.front.databases.list()),
        Some(name) => match env.front.databases.find(name) {
            Some(database) => Ok(vec![database]),
            None => Err(Report::new(sqlstate::INVALID_CATALOG_NAME, format!("no such database: {name}")).into()),
        },
    }
}

fn databases(env: &Env) -> Table {
    let mut table = Table::new(&[
        "name",
        "host",
        "port",
        "database",
        "force_user",
        "pool_size",
        "min_pool_size",
        "reserve_pool_size",
        "server_lifetime",
        "pool_mode",
        "load_balance_hosts",
        "max_connections",
        "current_connections",
        "max_client_connections",
        "current_client_connections",
        "paused",
        "disabled",
    ]);
    let config = &env.front.config();
    let clients = env.front.clients.list();
    for database in env.front.databases.list() {
        let Some(entry) = config.database(&database.name) else { continue };
        let current: usize =
            database.pools().iter().map(|pool| pool.counts()).map(|counts| counts.lent + counts.idle).sum();
        table.rows.push(vec![
            database.name.clone(),
            entry.host.clone(),
            entry.port.to_string(),
            entry.dbname.clone().unwrap_or_else(|| database.name.clone()),
            entry.user.clone().unwrap_or_default(),
            entry.pool_size.unwrap_or(config.default_pool_size).to_string(),
            entry.min_pool_size.unwrap_or(config.min_pool_size).to_string(),
            "0".to_owned(),
            config.server_lifetime.map(|lifetime| lifetime.as_secs()).unwrap_or_default().to_string(),
            entry.pool_mode.unwrap_or(config.pool_mode).as_str().to_owned(),
            String::new(),
            "0".to_owned(),
            current.to_string(),
            "0".to_owned(),
            clients.iter().filter(|client| client.database == database.name).count().to_string(),
            u8::from(database.is_shut()).to_string(),
            "0".to_owned(),
        ]);
    }
    table
}

/// A column of `SHOW STATS` and where its figure comes from.
type Total = (&'static str, fn(&Stats) -> u64);

/// All of them, in PgBouncer's order.
const STATS: [Total; 12] = [
    ("total_server_assignment_count", |stats| stats.server_assignments.value()),
    ("total_xact_count", |stats| stats.transactions.value()),
    ("total_query_count", |stats| stats.queries.value()),
    ("total_received", |stats| stats.received.value()),
    ("total_sent", |stats| stats.sent.value()),
    ("total_xact_time", |stats| stats.transaction_us.value()),
    ("total_query_time", |stats| stats.query_us.value()),
    ("total_wait_time", |stats| stats.wait_us.value()),
    ("total_client_parse_count", |stats| stats.client_parses.value()),
    ("total_server_parse_count", |stats| stats.server_parses.value()),
    ("total_bind_count", |stats| stats.binds.value()),
    ("total_client_login_count", |stats| stats.logins.value()),
];

fn stats(env: &Env) -> Table {
    let mut table = Table::new(&["database"]);
    table.columns.extend(STATS.map(|(name, _)| name));
    for database in env.front.databases.list() {
        let pools = database.pools();
        let mut row = vec![database.name.clone()];
        row.extend(STATS.map(|(_, value)| pools.iter().map(|pool| value(&pool.stats)).sum::<u64>().to_string()));
        table.rows.push(row);
    }
    table
}

fn lists(env: &Env) -> Table {
    let mut table = Table::new(&["list", "items"]);
    let pools = sockets::all_pools(env);
    let servers: usize = pools.iter().map(|pool| pool.counts()).map(|counts| counts.lent + counts.idle).sum();
    for (name, count) in [
        ("databases", env.front.databases.list().len()),
        ("users", env.front.config().users.len()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", env.front.clients.count()),
        ("login_clients", 0),
        ("free_servers", 0),
        ("used_servers", servers),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ] {
        table.rows.push(vec![name.to_owned(), count.to_string()]);
    }
    table
}

fn users(env: &Env) -> Table {
    let mut table = Table::new(&[
        "name",
        "pool_size",
        "reserve_pool_size",
        "pool_mode",
        "max_user_connections",
        "current_connections",
        "max_user_client_connections",
        "current_client_connections",
    ]);
    let pools = sockets::all_pools(env);
    let clients = env.front.clients.list();
    let config = env.front.config();
    for name in config.users.keys() {
        let mode = config.user_overrides.get(name).and_then(|user| user.pool_mode);
        let servers: usize =
            pools.iter().filter(|pool| pool.user == *name).map(|pool| pool.counts()).map(|c| c.lent + c.idle).sum();
        table.rows.push(vec![
            name.clone(),
            String::new(),
            String::new(),
            mode.map(|mode| mode.as_str().to_owned()).unwrap_or_default(),
            "0".to_owned(),
            servers.to_string(),
            "0".to_owned(),
            clients.iter().filter(|client| client.user == *name).count().to_string(),
        ]);
    }
    table
}

fn config(env: &Env) -> Table {
    let mut table = Table::new(&["key", "value", "default", "changeable"]);
    for (key, value, default, changeable) in env.front.config().show() {
        table.rows.push(vec![key, value, default, if changeable { "yes" } else { "no" }.to_owned()]);
    }
    table
}

fn state(env: &Env) -> Table {
    let mut table = Table::new(&["key", "value"]);
    let word = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let databases = env.front.databases.list();
    let paused = !databases.is_empty() && databases.iter().all(|database| database.is_shut());
    for (key, value) in [("active", !paused), ("paused", paused), ("suspended", false)] {
        table.rows.push(vec![key.to_owned(), word(value)]);
    }
    table
}
