//! `SHOW`: tables. PgBouncer's columns first, by its names and in its order; ours behind them.
//! Source: `src/admin.c` and `src/stats.c` of PgBouncer.

use std::sync::Arc;

use super::command::{self, Show};
use super::console::{Answer, Env, Problem, Table};
use crate::clients::{Client, State};
use crate::clock::rfc3339;
use crate::ids::{Moment, millis};
use crate::pool::database::{Database, Pool};
use crate::pool::stats::Stats;
use crate::window::driver;
use crate::wire::reply::{Report, sqlstate};

/// What a client reads as our version.
pub(super) const VERSION: &str = concat!("pglull ", env!("CARGO_PKG_VERSION"));

pub(super) fn show(show: &Show, env: &Env) -> Result<Answer, Problem> {
    let table = match show {
        Show::Help => return Ok(Answer::Say(command::HELP.to_owned(), "SHOW")),
        Show::Windows => windows(env),
        Show::Window(id) => window(id, env)?,
        Show::Held(database) => held(database.as_deref(), env)?,
        Show::Blockers(database) => blockers(database.as_deref(), env)?,
        Show::Pools => pools(env),
        Show::Clients => clients(env),
        Show::Servers => servers(env),
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

fn windows(env: &Env) -> Table {
    let mut table = Table::new(&[
        "id",
        "database",
        "form",
        "phase",
        "outcome",
        "reason",
        "owner",
        "started_at",
        "elapsed_ms",
        "drain_ms",
        "hold_ms",
        "apply_ms",
        "held_now",
        "held_peak",
        "stall_max_ms",
    ]);
    for handle in env.registry.list() {
        let receipt = handle.receipt();
        table.rows.push(vec![
            receipt.id,
            receipt.databases.join(","),
            receipt.form.to_owned(),
            receipt.phase.to_owned(),
            receipt.outcome.to_owned(),
            receipt.reason,
            receipt.owner,
            receipt.started_at,
            receipt.took.elapsed_ms.to_string(),
            receipt.took.drain_ms.to_string(),
            receipt.took.hold_ms.to_string(),
            receipt.took.apply_ms.to_string(),
            receipt.held.held_now.to_string(),
            receipt.held.held_peak.to_string(),
            receipt.held.stall_max_ms.to_string(),
        ]);
    }
    table
}

fn window(id: &str, env: &Env) -> Result<Table, Problem> {
    let handle = env.registry.find(id).map_err(|denied| Report::new(sqlstate::UNDEFINED_OBJECT, denied.to_string()))?;
    let receipt = handle.receipt();
    let status = handle.status.borrow().clone();
    let bounds = &status.window.bounds;
    let limit = |limit: Option<std::time::Duration>| limit.map(millis).unwrap_or_default().to_string();
    let open: usize = handle.databases.iter().map(|database| database.pulse().1).sum();
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let closed = receipt.phase == "closed";
    let (took, held) = (receipt.took, &receipt.held);
    let mut table = Table::new(&["key", "value"]);
    for (key, value) in [
        ("id", receipt.id.clone()),
        ("database", receipt.databases.join(",")),
        ("form", receipt.form.to_owned()),
        ("phase", receipt.phase.to_owned()),
        ("outcome", receipt.outcome.to_owned()),
        ("reason", receipt.reason.clone()),
        ("owner", receipt.owner.clone()),
        ("change_sha256", receipt.change_sha256.clone()),
        ("started_at", receipt.started_at.clone()),
        ("elapsed_ms", took.elapsed_ms.to_string()),
        ("drain_limit_ms", limit(bounds.drain)),
        ("apply_limit_ms", limit(Some(bounds.apply))),
        ("hold_limit_ms", limit(bounds.hold)),
        ("tenure_limit_ms", limit(bounds.tenure)),
        ("tenure_left_ms", if closed { "0".to_owned() } else { handle.tenure_left_ms().to_string() }),
        ("open_transactions", if closed { "0".to_owned() } else { open.to_string() }),
        ("preflight_ms", took.preflight_ms.to_string()),
        ("drain_ms", took.drain_ms.to_string()),
        ("hold_ms", took.hold_ms.to_string()),
        ("apply_ms", took.apply_ms.to_string()),
        ("heal_ms", took.heal_ms.to_string()),
        ("release_ms", took.release_ms.to_string()),
        ("held_now", held.held_now.to_string()),
        ("held_peak", held.held_peak.to_string()),
        ("held_total", held.held_total.to_string()),
        ("released", held.released.to_string()),
        ("left", held.left.to_string()),
        ("cancelled", held.cancelled.to_string()),
        ("cut", held.cut.to_string()),
        ("stall_p50_ms", held.stall_p50_ms.to_string()),
        ("stall_p99_ms", held.stall_p99_ms.to_string()),
        ("stall_max_ms", held.stall_max_ms.to_string()),
        ("blockers", json(serde_json::to_string(&current_blockers(&receipt.blockers, &handle, closed, env)))),
        ("receipt", if closed { json(serde_json::to_string(&receipt)) } else { String::new() }),
    ] {
        table.rows.push(vec![key.to_owned(), value]);
    }
    Ok(table)
}

/// While a window drains, its blockers are those of this moment; afterwards, those that it was aborted for.
fn current_blockers(
    kept: &[crate::window::receipt::Blocker],
    handle: &crate::window::registry::Handle,
    closed: bool,
    env: &Env,
) -> Vec<crate::window::receipt::Blocker> {
    let draining = handle.status.borrow().window.phase.as_str() == "draining";
    if draining && !closed { driver::blockers(&env.registry, &handle.databases) } else { kept.to_vec() }
}

fn held(database: Option<&str>, env: &Env) -> Result<Table, Problem> {
    let now = env.front.clock.now();
    let mut table = Table::new(&["database", "user", "application_name", "addr", "port", "held_ms", "id", "window"]);
    let live = env.registry.live();
    for database in scope(database, env)? {
        let window = live.iter().find(|handle| handle.covers(&database.name)).map(|handle| handle.id.clone());
        for (client, since) in database.held() {
            table.rows.push(vec![
                database.name.clone(),
                client.user.clone(),
                client.application_name(),
                client.peer.addr(),
                client.peer.port().to_string(),
                millis(now.since(since)).to_string(),
                client.id.to_string(),
                window.clone().unwrap_or_default(),
            ]);
        }
    }
    Ok(table)
}

fn blockers(database: Option<&str>, env: &Env) -> Result<Table, Problem> {
    let mut table = Table::new(&[
        "database",
        "kind",
        "user",
        "application_name",
        "addr",
        "port",
        "state",
        "age_ms",
        "statement",
        "server_pid",
        "id",
    ]);
    for blocker in driver::blockers(&env.registry, &scope(database, env)?) {
        table.rows.push(vec![
            blocker.database,
            blocker.kind.to_owned(),
            blocker.user,
            blocker.application_name,
            blocker.addr,
            blocker.port.to_string(),
            blocker.state.to_owned(),
            blocker.age_ms.to_string(),
            blocker.statement,
            blocker.server_pid.to_string(),
            blocker.id.to_string(),
        ]);
    }
    Ok(table)
}

fn all_pools(env: &Env) -> Vec<Arc<Pool>> {
    env.front.databases.list().iter().flat_map(|database| database.pools()).collect()
}

/// Clients of each state in a pool: active, idle, waiting (those held included).
fn client_counts(pool: &Pool, clients: &[Arc<Client>]) -> (usize, usize) {
    let ours = clients.iter().filter(|client| client.database == pool.database.name && client.user == pool.user);
    ours.fold((0, 0), |(working, idle), client| match client.view().state {
        State::Active | State::IdleInTransaction => (working + 1, idle),
        State::Idle => (working, idle + 1),
        State::Waiting => (working, idle),
    })
}

fn pools(env: &Env) -> Table {
    let mut table = Table::new(&[
        "database",
        "user",
        "cl_active",
        "cl_waiting",
        "cl_active_cancel_req",
        "cl_waiting_cancel_req",
        "sv_active",
        "sv_active_cancel",
        "sv_being_canceled",
        "sv_idle",
        "sv_used",
        "sv_tested",
        "sv_login",
        "maxwait",
        "maxwait_us",
        "pool_mode",
        "load_balance_hosts",
        "cl_held",
        "paused",
    ]);
    let now = env.front.clock.now();
    let clients = env.front.clients.list();
    for pool in all_pools(env) {
        let counts = pool.counts();
        let (working, idle) = client_counts(&pool, &clients);
        let longest = counts.oldest.map(|since| now.since(since)).unwrap_or_default();
        let number = |n: usize| n.to_string();
        table.rows.push(vec![
            pool.database.name.clone(),
            pool.user.clone(),
            number(working + idle),
            number(counts.waiting + counts.held),
            number(0),
            number(0),
            number(counts.lent),
            number(0),
            number(0),
            number(counts.idle),
            number(0),
            number(0),
            number(counts.connecting),
            longest.as_secs().to_string(),
            longest.subsec_micros().to_string(),
            pool.mode.as_str().to_owned(),
            String::new(),
            number(counts.held),
            number(usize::from(pool.database.is_shut())),
        ]);
    }
    table
}

const SOCKET_COLUMNS: [&str; 21] = [
    "type",
    "user",
    "database",
    "replication",
    "state",
    "addr",
    "port",
    "local_addr",
    "local_port",
    "connect_time",
    "request_time",
    "wait",
    "wait_us",
    "close_needed",
    "ptr",
    "link",
    "remote_pid",
    "tls",
    "application_name",
    "prepared_statements",
    "id",
];

/// A moment of the process's clock as a wall-clock time.
fn wall(moment: Moment, now: Moment) -> String {
    let ago = now.since(moment);
    let at = std::time::SystemTime::now().checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
    rfc3339(at).replace('T', " ").split('.').next().unwrap_or_default().to_owned() + " UTC"
}

fn clients(env: &Env) -> Table {
    let mut table = Table::new(&SOCKET_COLUMNS);
    table.columns.extend(["held", "transaction_ms"]);
    let now = env.front.clock.now();
    let held: Vec<_> =
        env.front.databases.list().iter().flat_map(|database| database.held()).map(|(client, _)| client.id).collect();
    for client in env.front.clients.list() {
        let view = client.view();
        let state = match view.state {
            State::Idle => "idle",
            State::Waiting => "waiting",
            State::Active | State::IdleInTransaction => "active",
        };
        let wait = if view.state == State::Waiting { now.since(view.since) } else { std::time::Duration::ZERO };
        table.rows.push(vec![
            "C".to_owned(),
            client.user.clone(),
            client.database.clone(),
            "none".to_owned(),
            state.to_owned(),
            client.peer.addr(),
            client.peer.port().to_string(),
            String::new(),
            String::new(),
            wall(client.connected_at, now),
            wall(view.since, now),
            wait.as_secs().to_string(),
            wait.subsec_micros().to_string(),
            "0".to_owned(),
            format!("C-{}", client.id),
            view.link.as_ref().map(|link| format!("S-{}", link.key.pid)).unwrap_or_default(),
            "0".to_owned(),
            String::new(),
            client.application_name(),
            "0".to_owned(),
            client.id.to_string(),
            u8::from(held.contains(&client.id)).to_string(),
            view.transaction.map(|since| millis(now.since(since))).unwrap_or_default().to_string(),
        ]);
    }
    table
}

fn servers(env: &Env) -> Table {
    let mut table = Table::new(&SOCKET_COLUMNS);
    let now = env.front.clock.now();
    let row = |pool: &Pool, state: &str, pid: i32, times: (Moment, Moment), link: String| {
        vec![
            "S".to_owned(),
            pool.target.user.clone(),
            pool.database.name.clone(),
            "none".to_owned(),
            state.to_owned(),
            pool.target.host.clone(),
            pool.target.port.to_string(),
            String::new(),
            String::new(),
            wall(times.0, now),
            wall(times.1, now),
            "0".to_owned(),
            "0".to_owned(),
            "0".to_owned(),
            format!("S-{pid}"),
            link,
            pid.to_string(),
            String::new(),
            String::new(),
            "0".to_owned(),
            pid.to_string(),
        ]
    };
    let clients = env.front.clients.list();
    for pool in all_pools(env) {
        for (_, pid, connected, used) in pool.idle_servers() {
            table.rows.push(row(&pool, "idle", pid, (connected, used), String::new()));
        }
        for client in clients.iter().filter(|client| client.database == pool.database.name) {
            let view = client.view();
            if let Some(link) = view.link.filter(|link| Arc::ptr_eq(&link.target, &pool.target)) {
                table.rows.push(row(
                    &pool,
                    "active",
                    link.key.pid,
                    (view.since, view.since),
                    format!("C-{}", client.id),
                ));
            }
        }
    }
    table
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
    let config = &env.front.config;
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

/// The counters of `SHOW STATS`, in its order.
const STATS: [(&str, fn(&Stats) -> u64); 12] = [
    ("total_server_assignment_count", |stats| stats.server_assignments.value()),
    ("total_xact_count", |stats| stats.transactions.value()),
    ("total_query_count", |stats| stats.queries.value()),
    ("total_received", |stats| stats.received.value()),
    ("total_sent", |stats| stats.sent.value()),
    ("total_xact_time", |stats| stats.transaction_us.value()),
    ("total_query_time", |stats| stats.query_us.value()),
    ("total_wait_time", |stats| stats.wait_us.value()),
    ("total_client_parse_count", |_| 0),
    ("total_server_parse_count", |_| 0),
    ("total_bind_count", |_| 0),
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
    let pools = all_pools(env);
    let servers: usize = pools.iter().map(|pool| pool.counts()).map(|counts| counts.lent + counts.idle).sum();
    for (name, count) in [
        ("databases", env.front.databases.list().len()),
        ("users", env.front.config.users.len()),
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
    let pools = all_pools(env);
    let clients = env.front.clients.list();
    for name in env.front.config.users.keys() {
        let mode = env.front.config.user_overrides.get(name).and_then(|user| user.pool_mode);
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
    for (key, value, default, changeable) in env.front.config.show() {
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
