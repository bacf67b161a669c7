//! `SHOW POOLS`, `SHOW CLIENTS`, `SHOW SERVERS`, `SHOW SOCKETS`: who is connected, and what they do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::of;
use crate::admin::command::Show;
use crate::admin::console::Env;
use crate::admin::table::{Cell, Table, row};
use crate::clients::{Client, State, View};
use crate::clock::rfc3339;
use crate::ids::{Moment, SessionId, millis};
use crate::pool::database::Pool;
use crate::server::cancel::Link;
use crate::server::residue;
use crate::server::roster::Listed;

pub(super) fn all_pools(env: &Env) -> Vec<Arc<Pool>> {
    env.front.databases.list().iter().flat_map(|database| database.pools()).collect()
}

/// Everybody who is logged in to a database, all looked at once, and who has which server.
struct Census {
    now: Moment,
    clients: Vec<(Arc<Client>, View)>,
    /// By the address of the link, which is one server's alone while anybody has it.
    lent: HashMap<*const Link, usize>,
    held: HashSet<SessionId>,
    /// A server that was idle for longer is checked before it is used.
    check_delay: Duration,
}

/// What a server is doing, in PgBouncer's words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Active,
    Idle,
    /// Idle for so long that it is checked before it is lent.
    Used,
    /// Being checked, or made to forget its client.
    Tested,
    /// Logging in.
    New,
    /// Kept back for a cancel that is on its way to it.
    BeingCanceled,
}

/// A server as one look sees it.
struct Seen {
    listed: Arc<Listed>,
    doing: Doing,
    client: Option<usize>,
    used_at: Moment,
}

impl Census {
    fn take(env: &Env) -> Self {
        let view = |client: Arc<Client>| {
            let view = client.view();
            (client, view)
        };
        let clients: Vec<_> = env.front.clients.list().into_iter().map(view).collect();
        let link = |(at, (_, view)): (usize, &(Arc<Client>, View))| Some((Arc::as_ptr(view.link.as_ref()?), at));
        let held = env.front.databases.list();
        Self {
            now: env.front.clock.now(),
            lent: clients.iter().enumerate().filter_map(link).collect(),
            held: held.iter().flat_map(|database| database.held()).map(|(client, _)| client.id).collect(),
            clients,
            check_delay: env.front.config().server_check_delay,
        }
    }

    fn servers(&self, pool: &Pool) -> Vec<Seen> {
        let idle: HashMap<_, _> =
            pool.idle_servers().into_iter().map(|(link, _, used)| (Arc::as_ptr(&link), used)).collect();
        let see = |listed: Arc<Listed>| {
            let link = listed.account().map(|account| Arc::as_ptr(&account.link));
            let client = link.and_then(|link| self.lent.get(&link)).copied();
            let (doing, used_at) = match (listed.account(), link.and_then(|link| idle.get(&link)), client) {
                (None, _, _) => (Doing::New, listed.since),
                (_, Some(used), _) if self.now.since(*used) > self.check_delay => (Doing::Used, *used),
                (_, Some(used), _) => (Doing::Idle, *used),
                (_, _, Some(at)) => (Doing::Active, self.clients.get(at).map_or(listed.since, |(_, view)| view.since)),
                (Some(account), None, None) if account.link.guard.busy() => (Doing::BeingCanceled, listed.since),
                (Some(_), None, None) => (Doing::Tested, listed.since),
            };
            Seen { listed, doing, client, used_at }
        };
        pool.roster.list().into_iter().map(see).collect()
    }

    fn is_held(&self, client: &Client) -> bool {
        self.held.contains(&client.id)
    }
}

pub(super) fn pools(env: &Env) -> Table {
    let mut table = of(&Show::Pools);
    let census = Census::take(env);
    for pool in all_pools(env) {
        let counts = pool.counts();
        let servers = census.servers(&pool);
        let count = |doing: Doing| servers.iter().filter(|seen| seen.doing == doing).count();
        let cancels: usize =
            servers.iter().filter_map(|seen| seen.listed.account()).map(|a| a.link.guard.count()).sum();
        let ours = |client: &Client| client.database == pool.database.name && client.pool_user == pool.user;
        let working =
            census.clients.iter().filter(|(client, view)| ours(client) && view.state != State::Waiting).count();
        let longest = counts.oldest.map(|since| census.now.since(since)).unwrap_or_default();
        let load_balance_hosts: Option<String> = None;
        table.rows.push(row![
            pool.database.name.clone(),
            pool.user.clone(),
            working,
            counts.waiting + counts.held,
            cancels,
            0_u8,
            count(Doing::Active),
            cancels,
            count(Doing::BeingCanceled),
            count(Doing::Idle),
            count(Doing::Used),
            count(Doing::Tested),
            counts.connecting,
            longest.as_secs(),
            u64::from(longest.subsec_micros()),
            pool.mode().as_str(),
            load_balance_hosts,
            counts.held,
            pool.database.is_shut(),
        ]);
    }
    table
}

/// A moment of the process's clock as a wall-clock time.
fn wall(moment: Moment, now: Moment) -> String {
    let ago = now.since(moment);
    let at = std::time::SystemTime::now().checked_sub(ago).unwrap_or(std::time::UNIX_EPOCH);
    rfc3339(at).replace('T', " ").split('.').next().unwrap_or_default().to_owned() + " UTC"
}

/// An address and a port of our own end; over a Unix socket the port is that in its name, as PgBouncer has it.
fn local(addr: Option<(std::net::IpAddr, u16)>, env: &Env) -> (String, u16) {
    match addr {
        Some((ip, port)) => (ip.to_string(), port),
        None => ("unix".to_owned(), env.front.config().listen_port),
    }
}

fn client_row(client: &Client, view: &View, census: &Census, (state, env): (&str, &Env)) -> Vec<Cell> {
    let now = census.now;
    let wait = if view.state == State::Waiting { now.since(view.since) } else { Duration::ZERO };
    let link = view.link.as_ref().map(|link| format!("S-{}", link.key.pid));
    let (local_addr, local_port) = local(client.local.addr, env);
    row![
        "C",
        client.user.clone(),
        client.database.clone(),
        "none",
        state,
        client.peer.addr(),
        if client.local.addr.is_some() { client.peer.port() } else { local_port },
        local_addr,
        local_port,
        wall(client.connected_at, now),
        wall(view.since, now),
        wait.as_secs(),
        u64::from(wait.subsec_micros()),
        0_u8,
        format!("C-{}", client.id),
        link.unwrap_or_default(),
        client.local.peer_pid.unwrap_or_default(),
        client.tls.clone().unwrap_or_default(),
        client.application_name(),
        client.statements.load(Ordering::Relaxed),
        client.id.0,
    ]
}

fn server_row(seen: &Seen, pool: &Pool, census: &Census, (state, env): (&str, &Env)) -> Vec<Cell> {
    let account = seen.listed.account();
    let client = seen.client.and_then(|at| census.clients.get(at)).map(|(client, _)| client);
    let remote = account.and_then(|account| account.remote);
    let target = account.map_or_else(|| pool.target(), |account| Arc::clone(&account.link.target));
    let pid = account.map(|account| account.link.key.pid).unwrap_or_default();
    let (local_addr, local_port) = match account {
        Some(account) if account.local.is_none() => ("unix".to_owned(), target.port),
        Some(account) => local(account.local, env),
        None => (String::new(), 0),
    };
    row![
        "S",
        target.user.clone(),
        pool.database.name.clone(),
        "none",
        state,
        remote.map_or_else(|| target.host.clone(), |addr| addr.ip().to_string()),
        target.port,
        local_addr,
        local_port,
        wall(seen.listed.since, census.now),
        wall(seen.used_at, census.now),
        0_u8,
        0_u8,
        pool.roster.is_outdated(&seen.listed),
        format!("S-{pid}"),
        client.map(|client| format!("C-{}", client.id)).unwrap_or_default(),
        pid,
        account.and_then(|account| account.link.tls.clone()).unwrap_or_default(),
        client.map(|client| client.application_name()).unwrap_or_default(),
        account.map(|account| account.link.prepared.load(Ordering::Relaxed)).unwrap_or_default(),
        seen.listed.id.0,
    ]
}

pub(super) fn clients(env: &Env) -> Table {
    let mut table = of(&Show::Clients);
    let census = Census::take(env);
    for (client, view) in &census.clients {
        let state = match view.state {
            State::Idle => "idle",
            State::Waiting => "waiting",
            State::Active | State::IdleInTransaction => "active",
        };
        let mut row = client_row(client, view, &census, (state, env));
        row.push(census.is_held(client).into());
        row.push(view.transaction.map(|since| millis(census.now.since(since))).unwrap_or_default().into());
        // Why it keeps its server between transactions; empty if it does not.
        row.push(residue::words(client.keeps()).into());
        table.rows.push(row);
    }
    for operator in env.front.clients.operators().list() {
        // Whoever looks is at work.
        let view = View { state: State::Active, ..operator.view() };
        let mut row = client_row(&operator, &view, &census, ("active", env));
        row.extend(row![0_u8, 0_u8, ""]);
        table.rows.push(row);
    }
    table
}

pub(super) fn servers(env: &Env) -> Table {
    let mut table = of(&Show::Servers);
    let census = Census::take(env);
    for pool in all_pools(env) {
        for seen in census.servers(&pool) {
            let state = match seen.doing {
                Doing::Active => "active",
                Doing::Idle => "idle",
                Doing::Used => "used",
                Doing::Tested => "tested",
                Doing::New => "new",
                Doing::BeingCanceled => "being_canceled",
            };
            table.rows.push(server_row(&seen, &pool, &census, (state, env)));
        }
    }
    table
}

/// Clients and servers, or those at work only. Buffers are a session's own, and an idle one has none: they are shown as empty.
pub(super) fn sockets(env: &Env, active: bool) -> Table {
    let mut table = of(&Show::Sockets);
    let census = Census::take(env);
    let mut push = |mut row: Vec<Cell>| {
        row.extend(row![0_u8, 0_u8, 0_u8, 0_u8, 0_u8, 0_u8, 0_u8]);
        table.rows.push(row);
    };
    for (client, view) in &census.clients {
        if active && view.state == State::Idle {
            continue;
        }
        let state = if view.state == State::Waiting { "cl_waiting" } else { "cl_active" };
        push(client_row(client, view, &census, (state, env)));
    }
    for pool in all_pools(env) {
        for seen in census.servers(&pool) {
            let state = match seen.doing {
                Doing::Idle | Doing::Used if active => continue,
                Doing::Active => "sv_active",
                Doing::Idle => "sv_idle",
                Doing::Used => "sv_used",
                Doing::Tested | Doing::BeingCanceled => "sv_tested",
                Doing::New => "sv_login",
            };
            push(server_row(&seen, &pool, &census, (state, env)));
        }
    }
    table
}
