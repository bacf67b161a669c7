//! A window without consequences: preflight and a prediction, from live figures and from windows that have been.

use std::sync::Arc;
use std::time::Duration;

use super::apply::Script;
use super::change_table::{Note, Part};
use super::event::Event;
use super::facts::{Looked, Wanted, look};
use super::people::indistinct;
use super::plan::Form;
use super::predict::{Live, Prediction, predict};
use super::preflight::{Line, Verdict};
use super::receipt::Receipt;
use super::registry::{Refusal, Registry, Request, fingerprint};
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
    /// The change is applied already: nothing would be done.
    pub present: bool,
    /// Of several changes those that are left to be applied.
    pub left: Vec<Part>,
}

/// Looks and predicts; nobody is held. Takes half a second and more, each question of it bounded. Cancel-safe.
///
/// # Errors
/// [`Refusal::NoDatabase`].
pub async fn rehearse(registry: &Registry, request: &Request) -> Result<Rehearsal, Refusal> {
    let databases = registry.covered(&request.databases)?;
    let sql: Arc<str> = Arc::from(request.sql.clone().unwrap_or_default());
    let note = Note {
        id: request.id.clone().unwrap_or_default(),
        sha256: fingerprint(&sql),
        owner: request.owner.clone(),
        table: request.change_table.clone().filter(|_| request.id.is_some() || !request.parts.is_empty()),
        parts: request.parts.clone(),
    };
    let verify = Arc::from(request.verify.clone().unwrap_or_default());
    let wanted = Wanted {
        form: if sql.is_empty() { Form::Drill } else { Form::Apply },
        script: Script { sql: Arc::clone(&sql), verify },
        note,
        looks_only: true,
        force: request.force.clone(),
        stragglers: request.bounds.stragglers,
    };
    let (live, looked) = tokio::join!(live(registry, &databases, &sql), Box::pin(look(registry, &databases, &wanted)));
    let Looked { mut lines, answer, change } = looked;
    lines.extend(indistinct(&databases, &request.scope));
    let present = matches!(answer, Event::Present(_));
    let mut refusal = match answer {
        Event::Refused(why) => Some(why),
        // The change is there: its window would end before anybody is held.
        _ => None,
    };
    let left = change.map(|change| {
        change.server.farewell();
        change.note.parts
    });
    let left = left.unwrap_or_default();
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
    Ok(Rehearsal { lines, refusal, prediction, present, left })
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
    let same = past.iter().filter(|receipt| !sha256.is_empty() && receipt.change_sha256 == sha256);
    let mut done = same.filter(|receipt| matches!(receipt.outcome.as_ref(), "applied" | "rehearsed"));
    Live {
        open_ms,
        mean_us,
        per_second: count.saturating_mul(1000) / elapsed,
        clients: u64::try_from(mine.len()).unwrap_or(u64::MAX),
        drains_ms: past
            .iter()
            .map(|receipt| &receipt.took)
            .filter(|took| took.hold_ms > 0)
            .map(|took| took.drain_ms)
            .collect(),
        apply_ms: done.next().map(|receipt| receipt.took.apply_ms.max(1)),
    }
}

/// Transactions of these databases so far, and the microseconds that they took.
fn totals(databases: &[Arc<Database>]) -> (u64, u64) {
    let pools = databases.iter().flat_map(|database| database.pools());
    pools.fold((0, 0), |(count, us), pool| {
        let stats = &pool.stats;
        (count + stats.transaction.count(), us + stats.transaction.sum_us())
    })
}

/// The windows that these databases have had, the latest first.
fn past(registry: &Registry, databases: &[Arc<Database>]) -> Vec<Receipt> {
    let covers = |receipt: &Receipt| databases.iter().any(|database| receipt.databases.contains(&database.name));
    let ended = |receipt: &Receipt| !receipt.outcome.is_empty() && receipt.form != Form::Pause.as_str();
    registry.list().into_iter().rev().filter(|receipt| covers(receipt) && ended(receipt)).collect()
}
