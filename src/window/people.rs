//! The clients of a window's databases: who keeps a drain from finishing, and what the shut gates did to the others.

use std::sync::Arc;

use super::preflight::{Line, Verdict};
use super::receipt::{Blocker, Bucket, Held, buckets};
use super::registry::{Registry, Status};
use crate::clients::{Client, State};
use crate::ids::millis;
use crate::pool::database::{Database, Traffic};
use crate::pool::groups::Scope;

/// Clients with an open transaction in these databases that the gate waits for.
pub(super) fn in_transaction(registry: &Registry, databases: &[Arc<Database>]) -> Vec<Arc<Client>> {
    let here =
        |database: &Arc<Database>, client: &Client| database.name == client.database && database.waits_for(client);
    let covered = |client: &Client| databases.iter().any(|database| here(database, client));
    let all = registry.clients.list();
    all.into_iter().filter(|client| covered(client)).collect()
}

/// Where a window is for some only, and clients cannot be told apart.
pub(super) fn indistinct(databases: &[Arc<Database>], scope: &Scope) -> Vec<Line> {
    if *scope == Scope::default() {
        return Vec::new();
    }
    let crowded = databases.iter().filter(|database| database.is_beyond_names());
    let why = "too many users and applications are at work at once to tell all apart: some others will be held as well";
    crowded.map(|database| Line::new("transactions", Verdict::Warn, database.name.clone(), why)).collect()
}

/// Who keeps these databases from draining, the oldest transaction first.
#[must_use]
pub fn blockers(registry: &Registry, databases: &[Arc<Database>]) -> Vec<Blocker> {
    let now = registry.clock.now();
    let describe = |client: Arc<Client>| {
        let view = client.view();
        let since = view.transaction?;
        Some(Blocker {
            database: client.database.clone(),
            kind: "transaction".into(),
            user: client.user.clone(),
            application_name: client.application_name(),
            addr: client.peer.addr(),
            port: client.peer.port(),
            state: if view.state == State::IdleInTransaction { "idle in transaction" } else { "active" }.into(),
            age_ms: millis(now.since(since)),
            statement: view.statement.show(),
            server_pid: view.link.map_or(0, |link| link.key.pid),
            id: client.id.0,
        })
    };
    let mut blockers: Vec<_> = in_transaction(registry, databases).into_iter().filter_map(describe).collect();
    blockers.sort_by_key(|blocker| std::cmp::Reverse(blocker.age_ms));
    blockers
}

/// What the gates of these databases have done to clients since they were last shut.
pub(super) fn held(databases: &[Arc<Database>], status: &Status) -> (Held, Vec<Bucket>) {
    let mut sum = Held { cut: status.cut, ..Held::default() };
    if status.window.times.shut.is_none() {
        return (sum, Vec::new());
    }
    let mut stalls = Vec::new();
    for database in databases {
        let Traffic { tally, waiting_ms } = database.traffic();
        sum.held_now += tally.waiting();
        sum.held_peak += tally.peak;
        sum.held_total += tally.held;
        sum.released += tally.released;
        sum.cancelled += tally.cancelled;
        sum.left += tally.left;
        sum.expired += tally.expired;
        stalls.extend(tally.stalls_ms);
        // A window may close before the last of them is served: so long at least was its stall, and it may be the longest.
        stalls.extend(waiting_ms);
    }
    let buckets = buckets(&stalls);
    sum.stalls(stalls);
    (sum, buckets)
}
