//! A window without consequences: preflight and a prediction, from live figures and from windows that have been.

use std::sync::Arc;
use std::time::Duration;

use super::event::Outcome;
use super::facts::{Looked, Wanted, look};
use super::plan::Form;
use super::predict::{Live, Prediction, predict};
use super::preflight::{Line, Verdict};
use super::receipt::Took;
use super::registry::{Handle, Refusal, Registry, Request, fingerprint};
use crate::ids::millis;
use crate::pool::database::Database;

/// For how long traffic is watched for a prediction.
const WATCHED: Duration = Duration::from_millis(500);

/// What would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rehearsal {
    /// What preflight has found, and what is predicted.
    pub lines: Vec<Line>,
    /// Why a window would not start; `None` if it would.
    pub refusal: Option<String>,
    /// What is predicted.
    pub prediction: Prediction,
}

/// Looks and predicts; nobody is held. Takes half a second and more, each question of it bounded. Cancel-safe.
///
/// # Errors
/// [`Refusal::NoDatabase`].
pub async fn rehearse(registry: &Registry, request: &Request) -> Result<Rehearsal, Refusal> {
    let databases = registry.covered(&request.databases)?;
    let sql: Arc<str> = Arc::from(request.sql.clone().unwrap_or_default());
    let wanted = Wanted {
        form: if sql.is_empty() { Form::Drill } else { Form::Apply },
        sql: Arc::clone(&sql),
        force: request.force.clone(),
        stragglers: request.bounds.stragglers,
    };
    let (live, looked) = tokio::join!(live(registry, &databases, &sql), look(registry, &databases, &wanted));
    let Looked { mut lines, mut refusal, change } = looked;
    if let Some(change) = change {
        change.server.farewell();
    }
    let other = registry.live().into_iter().find(|other| databases.iter().any(|database| other.covers(&database.name)));
    let busy = other.map(|other| {
        let phase = other.status.borrow().window.phase.as_str();
        format!("window {} of {} covers it, {phase}", other.id, other.owner)
    });
    match busy {
        None => lines.push(Line::new("window", Verdict::Ok, "", "no other window covers it")),
        Some(why) => {
            refusal.get_or_insert_with(|| format!("window: {why}"));
            lines.push(Line::new("window", Verdict::Refuse, "", why));
        }
    }
    let prediction = predict(&live, !sql.is_empty());
    lines.extend(prediction.lines(&live, &request.bounds));
    Ok(Rehearsal { lines, refusal, prediction })
}

/// Watches the traffic of these databases for a moment. Cancel-safe.
pub(super) async fn live(registry: &Registry, databases: &[Arc<Database>], sql: &str) -> Live {
    let (before, began) = (totals(databases), registry.clock.now());
    tokio::time::sleep(WATCHED).await;
    let (after, now) = (totals(databases), registry.clock.now());
    let count = after.0.saturating_sub(before.0);
    let mean_us = after.1.saturating_sub(before.1).checked_div(count).unwrap_or(0);
    let elapsed = millis(now.since(began)).max(1);
    let covered = |name: &str| databases.iter().any(|database| database.name == name);
    let clients = registry.clients.list();
    let mine: Vec<_> = clients.iter().filter(|client| covered(&client.database)).collect();
    let open_ms = mine.iter().filter_map(|client| Some(millis(now.since(client.view().transaction?)))).collect();
    let past = past(registry, databases);
    let sha256 = fingerprint(sql);
    let same = past.iter().filter(|(handle, ..)| !sha256.is_empty() && handle.change_sha256 == sha256);
    let mut done = same.filter(|(_, outcome, _)| matches!(outcome, Outcome::Applied | Outcome::Rehearsed));
    Live {
        open_ms,
        mean_us,
        per_second: count.saturating_mul(1000) / elapsed,
        clients: u64::try_from(mine.len()).unwrap_or(u64::MAX),
        drains_ms: past.iter().filter(|(.., took)| took.hold_ms > 0).map(|(.., took)| took.drain_ms).collect(),
        apply_ms: done.next().map(|(.., took)| took.apply_ms.max(1)),
    }
}

/// Transactions of these databases so far, and the microseconds that they took.
fn totals(databases: &[Arc<Database>]) -> (u64, u64) {
    let pools = databases.iter().flat_map(|database| database.pools());
    pools.fold((0, 0), |(count, us), pool| {
        let stats = &pool.stats;
        (count + stats.transactions.value(), us + stats.transaction_us.value())
    })
}

/// The windows that these databases have had, the latest first.
fn past(registry: &Registry, databases: &[Arc<Database>]) -> Vec<(Arc<Handle>, Outcome, Took)> {
    let now = registry.clock.now();
    let all = registry.list().into_iter().rev();
    let ours = all.filter(|handle| databases.iter().any(|database| handle.covers(&database.name)));
    ours.filter_map(|handle| {
        let window = handle.status.borrow().window.clone();
        let outcome = window.phase.outcome()?.clone();
        let took = Took::of(&window, now);
        (handle.form != Form::Pause).then_some((handle, outcome, took))
    })
    .collect()
}
