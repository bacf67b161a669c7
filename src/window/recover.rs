//! What an earlier process of ours has left open is settled: whether a change is committed is asked of the database, and the
//! receipt is completed. Clients are served meanwhile; nothing is applied here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::change_table::{ChangeTable, Note};
use super::event::Outcome;
use super::receipt::{Edge, Receipt};
use super::record::{Pledge, Record};
use super::registry::Registry;
use super::witness::{Found, Trace, Witness, judge};
use crate::clock::rfc3339;

/// How long it waits between two looks: longer each time, up to the second.
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);
/// How many looks may find a witness missing before that is believed.
const LOOKS: u32 = 3;

/// A window of an earlier process whose end is not known yet.
#[derive(Debug)]
pub struct Unsettled {
    record: Record,
    given_up: Notify,
}

impl Unsettled {
    pub(super) fn new(mut record: Record) -> Self {
        record.receipt.phase = "recovering".into();
        record.receipt.outcome = "".into();
        Self { record, given_up: Notify::default() }
    }

    /// Its receipt as far as it is known.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.record.receipt
    }

    /// Whether it covers this database.
    #[must_use]
    pub fn covers(&self, database: &str) -> bool {
        self.record.receipt.databases.iter().any(|covered| covered == database)
    }

    /// An operator does not want to wait for the database: the outcome is unknown then.
    pub fn give_up(&self) {
        self.given_up.notify_one();
    }
}

/// Settles it.
pub(super) async fn recover(registry: Arc<Registry>, unsettled: Arc<Unsettled>) {
    let receipt = &unsettled.record.receipt;
    tracing::warn!(window = %receipt.id, form = %receipt.form, "an earlier process has left this window open");
    let (outcome, reason) = tokio::select! {
        settled = settle(&registry, &unsettled.record) => settled,
        () = unsettled.given_up.notified() => {
            ("unknown", "proxy restarted: an operator did not wait until the database could be asked".to_owned())
        }
    };
    let mut record = unsettled.record.clone();
    record.receipt.outcome = outcome.into();
    record.receipt.reason = reason;
    record.receipt.ended_at = rfc3339(SystemTime::now());
    record.receipt.phase = "closed".into();
    record.receipt.edges.push(Edge { at_ms: record.receipt.took.elapsed_ms, phase: "recovered".into() });
    if outcome != "unknown" {
        record.pledge = None;
    }
    for database in receipt.databases.iter().filter_map(|name| registry.databases.find(name)) {
        database.metrics.windows_ended(outcome);
        if outcome == Outcome::Applied.as_str() {
            database.schema.changed();
        }
    }
    tracing::warn!(window = %receipt.id, outcome, reason = %record.receipt.reason, "window recovered");
    if let Some(store) = &registry.store
        && let Err(error) = store.keep(record.clone()).await
    {
        tracing::error!(window = %receipt.id, %error, "its receipt is not kept; the next process will ask again");
    }
    registry.settled(&unsettled, record.receipt);
}

/// Finds out how it ended, as outcome and reason.
async fn settle(registry: &Registry, record: &Record) -> (&'static str, String) {
    let Some(pledge) = &record.pledge else {
        return ("aborted", "proxy restarted: the clients went on; what was done by hand stays".to_owned());
    };
    if pledge.change_table.is_none() && pledge.transaction.is_none() {
        // Where nothing else would tell, the transaction is recorded before anything is done in it.
        return ("aborted", "proxy restarted: the change had not begun".to_owned());
    }
    match ask(registry, &record.receipt, pledge).await {
        Ok(Found::Applied) => ("applied", "proxy restarted: the database says that the change is committed".to_owned()),
        Ok(Found::NotApplied) => {
            ("aborted", "proxy restarted: the database says that the change is not committed".to_owned())
        }
        Ok(Found::Half) => {
            let text = "proxy restarted: the change ended the window's transaction itself; part of it may be committed";
            ("unknown", text.to_owned())
        }
        Err(why) => ("unknown", format!("proxy restarted: {why}")),
    }
}

/// Asks until it is certain, or will never be. A database that does not answer is waited for.
async fn ask(registry: &Registry, receipt: &Receipt, pledge: &Pledge) -> Result<Found, String> {
    let note = Note {
        parts: Vec::new(),
        id: receipt.id.clone(),
        sha256: receipt.change_sha256.clone(),
        owner: receipt.owner.clone(),
        table: pledge.change_table.as_deref().and_then(ChangeTable::parse),
    };
    let trace = Trace { pid: pledge.pid, since: pledge.since, transaction: pledge.transaction };
    let (mut pause, mut missed, mut said) = (FIRST, 0, false);
    loop {
        // Each time anew: a reload may have brought another address or password.
        let name = receipt.databases.first().map_or("", String::as_str);
        let database = registry.databases.find(name);
        let database = database.ok_or_else(|| format!("database \"{name}\" is not in the configuration any more"))?;
        let target = Arc::new(registry.target(&database)?);
        let witness =
            Witness { target: &target, clock: registry.clock, note: &note, trace: &trace, place: &pledge.place };
        match witness.look().await.map(|seen| judge(&seen)) {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => {}
            Ok(Err(why)) if missed >= LOOKS => return Err(why.to_owned()),
            Ok(Err(_)) => missed += 1,
            Err(error) if !said => {
                said = true;
                tracing::warn!(window = %receipt.id, %error, "the database cannot be asked yet what became of a change");
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST);
    }
}
