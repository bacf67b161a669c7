//! The durable side of a window's driver: the record before the first effect, the receipt in its place at the end, the books.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::apply::Change;
use super::driver::Driver;
use super::event::{Event, Outcome};
use super::lookout::SETTLE;
use super::machine::Phase;
use super::people::held;
use super::receipt::{Receipt, Took};
use super::record::Record;
use super::registry::Status;
use crate::clock::rfc3339;

/// How long the end of a window waits for its receipt to be on the disk.
const KEEP: Duration = Duration::from_secs(2);

impl Driver {
    /// Writes the record, before the window has any effect.
    pub(super) fn record(&mut self) {
        let events = self.events.clone();
        let Some(store) = self.registry.store.clone() else {
            let _ = events.send(Event::Recorded);
            return;
        };
        let mut change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        self.pledge = change.as_ref().map(Change::pledge);
        let record = Record { receipt: self.handle.receipt(), pledge: self.pledge.clone() };
        if let Some(change) = change.as_mut() {
            change.entrust(Arc::clone(&store), record.clone());
        }
        drop(change);
        self.recording = Some(tokio::spawn(async move {
            let event = match store.keep(record).await {
                Ok(()) => Event::Recorded,
                Err(why) => Event::NotRecorded(why),
            };
            let _ = events.send(event);
        }));
    }

    /// Publishes how the window stands. Its end is kept and booked first: whoever sees it closed may rely on its receipt and
    /// begin the next one.
    pub(super) fn advance(&mut self, change: impl FnOnce(&mut Status)) {
        let mut next = self.status.borrow().clone();
        change(&mut next);
        if matches!(next.window.phase, Phase::Closed { .. }) {
            let (held, stalls) = held(&self.handle.databases, &next);
            (next.held, next.stalls) = (Some(held), stalls);
            next.samples = self.samples.taken().to_vec();
            next.ended_at = rfc3339(SystemTime::now());
            self.last = Some(next);
        } else {
            self.publish(next);
        }
    }

    fn publish(&self, mut next: Status) {
        self.status.send_modify(|status| {
            // What others write may have come in the meantime.
            next.notices = std::mem::take(&mut status.notices);
            next.warned = status.warned.take();
            next.preflight = std::mem::take(&mut status.preflight);
            next.beside = std::mem::take(&mut status.beside);
            (next.cuts, next.cut) = (std::mem::take(&mut status.cuts), status.cut);
            *status = next;
        });
    }

    pub(super) async fn close(&mut self, mut last: Status) {
        // Nobody is held any more: the receipt can wait for a cut that is not answered yet.
        if let Some(applying) = self.applying.as_mut().filter(|_| !self.verdict_due) {
            let _ = tokio::time::timeout(SETTLE, applying).await;
            if let Some(held) = &mut last.held {
                held.cut = self.status.borrow().cut;
            }
        }
        if self.verdict_due && self.registry.databases.config().window.classes.may_cut() {
            let text = "the change had not ended when this was written: a session beside pglull that is cut for it later \
                        is not in here";
            self.status.send_modify(|status| status.notices.push(text.to_owned()));
        }
        if let Some(keeping) = self.keep(&last)
            && tokio::time::timeout(KEEP, keeping).await.is_err()
        {
            tracing::error!(window = %self.handle.id, "its receipt is not on the disk yet");
        }
        self.end(last);
    }

    pub(super) fn end(&mut self, last: Status) {
        self.book(&last);
        self.free(self.receipt(&last));
        self.publish(last);
    }

    fn receipt(&self, last: &Status) -> Receipt {
        let mut status = last.clone();
        {
            let now = self.status.borrow();
            status.notices.clone_from(&now.notices);
            status.preflight.clone_from(&now.preflight);
            status.beside.clone_from(&now.beside);
            (status.cuts, status.cut) = (now.cuts.clone(), now.cut);
        }
        self.handle.receipt_of(status)
    }

    /// Writes the receipt over the record, beside us and to its end.
    pub(super) fn keep(&mut self, last: &Status) -> Option<JoinHandle<()>> {
        let store = Arc::clone(self.registry.store.as_ref()?);
        let runtime = Handle::try_current().ok()?;
        // The next process will ask again what became of the change.
        let unknown = matches!(last.window.phase.outcome(), Some(Outcome::Unknown(_)));
        let pledge = self.pledge.take().filter(|pledge| unknown && pledge.change_table.is_some());
        let record = Record { receipt: self.receipt(last), pledge };
        let (before, id) = (self.recording.take(), self.handle.id.clone());
        Some(runtime.spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            if let Err(why) = store.keep(record).await {
                tracing::error!(window = %id, "{why}");
            }
        }))
    }

    /// Books the end.
    fn book(&self, status: &Status) {
        let held = status.held.clone().unwrap_or_default();
        let took = Took::of(&status.window, self.registry.clock.now());
        let outcome = status.window.phase.outcome().map_or("unknown", Outcome::as_str);
        for database in &self.handle.databases {
            let metrics = &database.metrics;
            metrics.windows_ended(outcome);
            if status.window.times.shut.is_some() {
                metrics.drain.record(Duration::from_millis(took.drain_ms));
                metrics.hold.record(Duration::from_millis(took.hold_ms));
            }
            if status.window.times.apply_began.is_some() {
                metrics.apply.record(Duration::from_millis(took.apply_ms));
            }
        }
        tracing::info!(
            window = %self.handle.id, outcome, reason = %status.reason, drain_ms = took.drain_ms, apply_ms = took.apply_ms,
            hold_ms = took.hold_ms, held = held.held_total, stall_max_ms = held.stall_max_ms, cut = held.cut, "window ends"
        );
    }

    /// The database is free for another window, as soon as nothing of this one's change can run any more.
    fn free(&mut self, receipt: Receipt) {
        let (registry, handle) = (Arc::clone(&self.registry), Arc::clone(&self.handle));
        match self.applying.take().filter(|task| !task.is_finished() && self.verdict_due) {
            None => registry.ended(&handle, receipt),
            Some(task) => {
                // Without a runtime there is nobody left who could begin another.
                let Ok(runtime) = Handle::try_current() else { return };
                runtime.spawn(async move {
                    let _ = task.await;
                    registry.ended(&handle, receipt);
                });
            }
        }
    }
}
