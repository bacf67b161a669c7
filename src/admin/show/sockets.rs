//! `SHOW POOLS`, `SHOW CLIENTS`, `SHOW SERVERS`: who is connected, and what they do.

use std::sync::Arc;

use crate::admin::console::{Env, Table};
use crate::clients::{Client, State};
use crate::clock::rfc3339;
use crate::ids::{Moment, millis};
use crate::pool::database::Pool;
use crate::server::cancel::Link;

pub(super) fn all_pools(env: &Env) -> Vec<Arc<Pool>> {
    env.front.databases.list().iter().flat_map(|database| database.pools()).collect()
}

/// Clients of each state in a pool: active, idle, waiting (those held included).
fn client_counts(pool: &Pool, clients: &[Arc<Client>]) -> (usize, usize) {
    let ours = clients.iter().filter(|client| client.database == pool.database.name && client.pool_user == pool.user);
    ours.fold((0, 0), |(working, idle), client| match client.view().state {
        State::Active | State::IdleInTransaction => (working + 1, idle),
        State::Idle => (working, idle + 1),
        State::Waiting => (working, idle),
    })
}

pub(super) fn pools(env: &Env) -> Table {
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
            pool.mode().as_str().to_owned(),
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

pub(super) fn clients(env: &Env) -> Table {
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
            client.tls.clone().unwrap_or_default(),
            client.application_name(),
            "0".to_owned(),
            client.id.to_string(),
            u8::from(held.contains(&client.id)).to_string(),
            view.transaction.map(|since| millis(now.since(since))).unwrap_or_default().to_string(),
        ]);
    }
    table
}

pub(super) fn servers(env: &Env) -> Table {
    let mut table = Table::new(&SOCKET_COLUMNS);
    let now = env.front.clock.now();
    let row = |pool: &Pool, state: &str, server: &Link, times: (Moment, Moment), link: String| {
        let (target, pid) = (&server.target, server.key.pid);
        vec![
            "S".to_owned(),
            target.user.clone(),
            pool.database.name.clone(),
            "none".to_owned(),
            state.to_owned(),
            target.host.clone(),
            target.port.to_string(),
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
            server.tls.clone().unwrap_or_default(),
            String::new(),
            "0".to_owned(),
            pid.to_string(),
        ]
    };
    let clients = env.front.clients.list();
    for pool in all_pools(env) {
        for (server, connected, used) in pool.idle_servers() {
            table.rows.push(row(&pool, "idle", &server, (connected, used), String::new()));
        }
        let ours = |client: &&Arc<Client>| client.database == pool.database.name && client.pool_user == pool.user;
        for client in clients.iter().filter(ours) {
            let view = client.view();
            if let Some(link) = view.link {
                table.rows.push(row(&pool, "active", &link, (view.since, view.since), format!("C-{}", client.id)));
            }
        }
    }
    table
}
