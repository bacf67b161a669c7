//! `SHOW WINDOWS`, `SHOW WINDOW`, `SHOW HELD`, `SHOW BLOCKERS`: ours alone.

use super::{of, seen};
use crate::admin::command::Show;
use crate::admin::console::{Env, Problem};
use crate::admin::table::{Table, row};
use crate::ids::millis;
use crate::window::people;
use crate::window::receipt::Blocker;
use crate::window::registry::{Denied, Handle};
use crate::wire::reply::{Report, sqlstate};

pub(super) fn windows(env: &Env) -> Table {
    let mut table = of(&Show::Windows);
    for receipt in env.registry.list() {
        table.rows.push(row![
            receipt.id,
            receipt.databases.join(","),
            receipt.form,
            receipt.phase,
            receipt.outcome,
            receipt.reason,
            receipt.owner,
            receipt.started_at,
            receipt.took.elapsed_ms,
            receipt.took.drain_ms,
            receipt.took.hold_ms,
            receipt.took.apply_ms,
            receipt.held.held_now,
            receipt.held.held_peak,
            receipt.held.stall_max_ms,
        ]);
    }
    table
}

pub(super) fn window(id: &str, env: &Env) -> Result<Table, Problem> {
    let found = env.registry.show(id);
    let unknown =
        |denied: Denied| Report::new(sqlstate::UNDEFINED_OBJECT, denied.to_string()).hint("SHOW WINDOWS lists them.");
    let (receipt, handle) = found.map_err(unknown)?;
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let closed = receipt.phase == "closed";
    let handle = handle.filter(|_| !closed);
    let pulses = handle.iter().flat_map(|handle| handle.databases.iter().map(|database| database.pulse().1));
    let open: usize = pulses.sum();
    let tenure_left = handle.as_ref().map_or(0, |handle| handle.tenure_left_ms());
    let (took, held, limits) = (receipt.took, &receipt.held, receipt.limits);
    let mut table = of(&Show::Window(String::new()));
    for (key, value) in [
        ("id", receipt.id.clone()),
        ("database", receipt.databases.join(",")),
        ("form", receipt.form.to_string()),
        ("phase", receipt.phase.to_string()),
        ("outcome", receipt.outcome.to_string()),
        ("reason", receipt.reason.clone()),
        ("owner", receipt.owner.clone()),
        ("change_sha256", receipt.change_sha256.clone()),
        ("started_at", receipt.started_at.clone()),
        ("elapsed_ms", took.elapsed_ms.to_string()),
        ("drain_limit_ms", limits.drain_limit_ms.to_string()),
        ("apply_limit_ms", limits.apply_limit_ms.to_string()),
        ("hold_limit_ms", limits.hold_limit_ms.to_string()),
        ("tenure_limit_ms", limits.tenure_limit_ms.to_string()),
        ("tenure_left_ms", tenure_left.to_string()),
        ("open_transactions", open.to_string()),
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
        ("expired", held.expired.to_string()),
        ("cut", held.cut.to_string()),
        ("stall_p50_ms", held.stall_p50_ms.to_string()),
        ("stall_p99_ms", held.stall_p99_ms.to_string()),
        ("stall_max_ms", held.stall_max_ms.to_string()),
        ("preflight", json(serde_json::to_string(&receipt.preflight))),
        ("blockers", json(serde_json::to_string(&current_blockers(&receipt.blockers, handle.as_deref(), env)))),
        ("receipt", if closed { json(serde_json::to_string(&receipt)) } else { String::new() }),
    ] {
        table.rows.push(row![key, value]);
    }
    Ok(table)
}

/// While a window drains, its blockers are those of this moment; afterwards, those that it was aborted for.
fn current_blockers(kept: &[Blocker], handle: Option<&Handle>, env: &Env) -> Vec<Blocker> {
    let draining = |handle: &&Handle| handle.status.borrow().window.phase.as_str() == "draining";
    match handle.filter(draining) {
        Some(handle) => people::blockers(&env.registry, &handle.databases),
        None => kept.to_vec(),
    }
}

pub(super) fn held(database: Option<&str>, env: &Env) -> Result<Table, Problem> {
    let now = env.front.clock.now();
    let mut table = of(&Show::Held(None));
    let live = env.registry.live();
    for database in seen(database, env)? {
        let window = live.iter().find(|handle| handle.covers(&database.name)).map(|handle| handle.id.clone());
        for (client, since) in database.held() {
            table.rows.push(row![
                database.name.clone(),
                client.user.clone(),
                client.application_name(),
                client.peer.addr(),
                client.peer.port(),
                millis(now.since(since)),
                client.id.to_string(),
                window.clone().unwrap_or_default(),
            ]);
        }
    }
    Ok(table)
}

pub(super) fn blockers(database: Option<&str>, env: &Env) -> Result<Table, Problem> {
    let mut table = of(&Show::Blockers(None));
    for blocker in people::blockers(&env.registry, &seen(database, env)?) {
        table.rows.push(row![
            blocker.database,
            blocker.kind,
            blocker.user,
            blocker.application_name,
            blocker.addr,
            blocker.port,
            blocker.state,
            blocker.age_ms,
            blocker.statement,
            blocker.server_pid,
            blocker.id,
        ]);
    }
    Ok(table)
}
