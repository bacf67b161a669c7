//! One task for each window: performs the machine's effects, feeds it events, logs every edge.
//!
//! It decides nothing: `machine::step` does. After each event it looks at the gates itself, so a lost wake-up can only
//! make it late by one tick, never wrong; if it is stuck altogether, the watchdog opens the gates.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::apply::{Change, During, Script};
use super::event::{Effect, Event, Outcome, Reason, Verdict};
use super::facts::{Looked, Wanted, look};
use super::lookout::Lookout;
use super::machine::{Phase, step};
use super::people::{blockers, indistinct};
use super::plan::Form;
use super::receipt::shorten;
use super::record::Pledge;
use super::registry::{self, Channels, Registry, Status};
use super::samples::Samples;
use super::stragglers::straggle;
use crate::ids::{Epoch, millis};
use crate::pool::gate::Gate;
use crate::wire::reply::{Report, sqlstate};

/// How often the gates are looked at even if nothing is said to have happened.
const LOOK: Duration = Duration::from_millis(250);
/// The same while clients are held: the receipt says how many.
const LOOK_SHUT: Duration = Duration::from_millis(50);
/// At most this many of Postgres' notices are kept for the receipt.
const NOTICES_KEPT: usize = 50;

/// The driver of one window.
pub(super) struct Driver {
    pub(super) registry: Arc<Registry>,
    pub(super) handle: Arc<registry::Handle>,
    pub(super) status: watch::Sender<Status>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) received: mpsc::UnboundedReceiver<Event>,
    pub(super) script: Script,
    /// The shuttings that are ours, one for each database; `None` where the gate was shut already.
    pub(super) epochs: Vec<Option<Epoch>>,
    /// Filled by preflight; taken by the start of the change.
    pub(super) change: Arc<Mutex<Option<Change>>>,
    pub(super) stop: Arc<Notify>,
    /// The task of the change, once it was begun; the database is free for another window when it has ended.
    pub(super) applying: Option<JoinHandle<()>>,
    /// The change was begun and its verdict has not come.
    pub(super) verdict_due: bool,
    pub(super) samples: Samples,
    /// The first writing of the record, and what stands in it of a change.
    pub(super) recording: Option<JoinHandle<()>>,
    pub(super) pledge: Option<Pledge>,
    /// How it stands at its end, until that is kept and booked.
    pub(super) last: Option<Status>,
}

impl Driver {
    pub(super) fn new(
        registry: Arc<Registry>,
        handle: Arc<registry::Handle>,
        (status, events, received): Channels,
        script: Script,
    ) -> Self {
        Self {
            registry,
            handle,
            status,
            events,
            received,
            script,
            epochs: Vec::new(),
            change: Arc::default(),
            stop: Arc::default(),
            applying: None,
            verdict_due: false,
            samples: Samples::default(),
            recording: None,
            pledge: None,
            last: None,
        }
    }

    pub(super) fn handle(&self) -> Arc<registry::Handle> {
        Arc::clone(&self.handle)
    }

    /// Drives the window to its end.
    pub(super) async fn run(mut self, first: Effect) {
        self.handle.databases.iter().for_each(|database| database.metrics.windows_started());
        tracing::info!(window = %self.handle.id, owner = %self.handle.owner, form = self.handle.form.as_str(), scope = %self.handle.scope, "window begins");
        let mut effects = vec![first];
        loop {
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            if matches!(self.phase(), Phase::Closed { .. }) {
                break;
            }
            let event = match self.look() {
                Some(event) => event,
                None => self.next().await,
            };
            self.step(event, &mut effects);
            self.sample();
            if let Some(last) = self.last.take() {
                self.close(last).await;
            }
        }
        self.publish_phase();
    }

    /// How many are held now, for the receipt.
    fn sample(&mut self) {
        let times = self.status.borrow().window.times;
        if times.shut.is_some() {
            let held = self.handle.databases.iter().map(|database| database.pulse().2).sum();
            self.samples.take(millis(self.registry.clock.now().since(times.started)), held);
        }
    }

    fn phase(&self) -> Phase {
        self.status.borrow().window.phase.clone()
    }

    /// Waits for the next thing that can matter.
    async fn next(&mut self) -> Event {
        let deadline = self.status.borrow().window.next_deadline();
        let clock = self.registry.clock;
        let wake = clock.now().plus(if self.phase().gate_shut() { LOOK_SHUT } else { LOOK });
        let wake = deadline.map_or(wake, |deadline| deadline.min(wake));
        let news = select_all(self.handle.databases.iter().map(|database| Box::pin(database.news.notified())));
        tokio::select! {
            biased;
            Some(event) = self.received.recv() => event,
            _ = news => Event::Tick,
            () = tokio::time::sleep_until(clock.instant(wake)) => Event::Tick,
        }
    }

    /// What the gates say that the machine waits for.
    fn look(&self) -> Option<Event> {
        let phase = self.phase();
        let pulses: Vec<_> = self.handle.databases.iter().map(|database| database.pulse()).collect();
        if phase.gate_shut() && !matches!(phase, Phase::Aborting { .. }) {
            if !self.gates_are_ours() {
                return Some(Event::GateLost);
            }
            let held: u64 = pulses.iter().map(|(.., held)| held).sum();
            if matches!(phase, Phase::Draining { .. } | Phase::Holding | Phase::Applying { .. })
                && held > self.max_held()
            {
                return Some(Event::Overheld);
            }
        }
        match phase {
            Phase::Draining { .. } if pulses.iter().all(|(_, running, _)| *running == 0) => Some(Event::Drained),
            // A verdict that is still out may come in time for the receipt; nobody waits for it but the operator.
            Phase::Releasing { outcome: Outcome::Unknown(_), .. } if self.verdict_due => None,
            Phase::Releasing { .. } if pulses.iter().all(|(.., held)| *held == 0) => Some(Event::Released),
            _ => None,
        }
    }

    fn gates_are_ours(&self) -> bool {
        self.epochs.len() == self.handle.databases.len()
            && self.handle.databases.iter().zip(&self.epochs).all(|(database, epoch)| {
                matches!(database.pulse().0, Gate::Shut { epoch: current, .. } if Some(current) == *epoch)
            })
    }

    fn max_held(&self) -> u64 {
        self.status.borrow().window.bounds.max_held
    }

    fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let now = self.registry.clock.now();
        let before = self.status.borrow().window.clone();
        let quiet = event == Event::Tick;
        self.verdict_due &= !matches!(event, Event::ApplyEnded(_));
        let after = step(before.clone(), event.clone(), now, effects);
        if after == before && quiet {
            return;
        }
        let edge = after.phase.as_str() != before.phase.as_str();
        let blocked = edge
            && matches!(before.phase, Phase::Draining { .. })
            && !matches!(after.phase, Phase::Holding | Phase::Applying { .. });
        let straggling = effects.iter().any(|effect| matches!(effect, Effect::Straggle(_)));
        let blockers =
            if blocked || straggling { blockers(&self.registry, &self.handle.databases) } else { Vec::new() };
        if edge {
            tracing::info!(
                window = %self.handle.id, from = before.phase.as_str(), to = after.phase.as_str(), because = ?event,
                "window edge"
            );
        }
        let said = self.handle.said.get().cloned();
        self.advance(|status| {
            if edge {
                status.edges.push((now, after.phase.as_str()));
            }
            if !blockers.is_empty() {
                status.blockers = blockers;
            }
            if let Some(outcome) = after.phase.outcome() {
                status.reason = reason(outcome, status, said.as_ref());
            }
            status.window = after;
        });
        self.publish_phase();
    }

    pub(super) fn publish_phase(&self) {
        let phase = self.phase();
        let live = !matches!(phase, Phase::Closed { .. });
        for database in &self.handle.databases {
            database.metrics.publish_phase(live.then_some(phase.as_str()));
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Preflight => self.preflight(),
            Effect::Record => self.record(),
            Effect::Shut { bound } => {
                self.epochs =
                    self.handle.databases.iter().map(|database| database.shut(bound, &self.handle.scope)).collect();
                if self.epochs.contains(&None) {
                    // A gate that an earlier window has left to the watchdog: this one must not rely on it.
                    tracing::error!(window = %self.handle.id, "a gate was shut already");
                    let _ = self.events.send(Event::GateLost);
                }
            }
            Effect::Straggle(policy) if self.gates_are_ours() => {
                let cuts = straggle(&self.registry, &self.handle, policy);
                if cuts.is_none() {
                    let _ = self.events.send(Event::Unmoved);
                }
                self.status.send_modify(|status| cuts.into_iter().flatten().for_each(|cut| status.note_cut(cut)));
            }
            Effect::Straggle(_) => {}
            Effect::StartApply { deadline } => {
                // A driver that was late may have lost the gate to the watchdog by now: then clients run.
                let in_time = self.gates_are_ours() && self.registry.clock.now() < deadline;
                let change = self.change.lock().unwrap_or_else(PoisonError::into_inner).take();
                let taken = change.filter(|_| in_time);
                let (events, stop, status) = (self.events.clone(), Arc::clone(&self.stop), self.status.clone());
                let id = self.handle.id.clone();
                let ended = move |verdict| {
                    tracing::info!(window = %id, ?verdict, "the change has ended");
                    let _ = events.send(Event::ApplyEnded(verdict));
                };
                let lookout =
                    taken.as_ref().and_then(|change| Lookout::new(change, &self.registry, &self.handle, &self.status));
                self.verdict_due = true;
                self.applying = Some(tokio::spawn(async move {
                    let notice = move |during, report: Report| keep_notice(&status, during, &report);
                    match taken.zip(lookout) {
                        Some((change, lookout)) => lookout.beside(change.run(deadline, stop, notice), ended).await,
                        None => ended(Verdict::Failed {
                            sqlstate: sqlstate::INTERNAL_ERROR.to_owned(),
                            message: "the change could not be started in time".to_owned(),
                        }),
                    }
                }));
            }
            Effect::StopApply => self.stop.notify_one(),
            // What servers have prepared is of the older state now; each forgets it before its next use.
            Effect::Heal => {
                self.handle.databases.iter().for_each(|database| database.schema.changed());
                let (events, databases) = (self.events.clone(), self.handle.databases.clone());
                tokio::spawn(async move {
                    join_all(databases.iter().map(|database| database.heal())).await;
                    let _ = events.send(Event::Healed);
                });
            }
            Effect::Open => self.open(),
        }
    }

    fn open(&self) {
        for (database, epoch) in self.handle.databases.iter().zip(&self.epochs) {
            if let Some(epoch) = epoch {
                database.open(*epoch);
            }
        }
    }

    /// Checks that it is safe to start. Nobody is held meanwhile.
    fn preflight(&self) {
        let events = self.events.clone();
        if self.handle.form == Form::Pause {
            let _ = events.send(Event::Passed);
            return;
        }
        let (registry, handle) = (Arc::clone(&self.registry), Arc::clone(&self.handle));
        let (status, change) = (self.status.clone(), Arc::clone(&self.change));
        let (script, force) = (self.script.clone(), handle.force.clone());
        let stragglers = status.borrow().window.bounds.stragglers;
        tokio::spawn(async move {
            let note = handle.note.clone();
            let wanted = Wanted { form: handle.form, script, note, looks_only: false, force, stragglers };
            let Looked { mut lines, answer, change: ready } = look(&registry, &handle.databases, &wanted).await;
            lines.extend(indistinct(&handle.databases, &handle.scope));
            status.send_modify(|status| status.preflight = lines);
            *change.lock().unwrap_or_else(PoisonError::into_inner) = ready;
            let _ = events.send(answer);
        });
    }
}

/// A driver that ends before its window has (it panicked, or its runtime ends): nobody stays held, the change is told to
/// stop, the window is closed and the database is free for another.
impl Drop for Driver {
    fn drop(&mut self) {
        if matches!(self.phase(), Phase::Closed { .. }) {
            return;
        }
        tracing::error!(window = %self.handle.id, phase = self.phase().as_str(), "the driver of a window has died");
        self.stop.notify_one();
        self.open();
        let now = self.registry.clock.now();
        let begun = self.verdict_due;
        let outcome = match self.phase().outcome() {
            Some(outcome) => outcome.clone(),
            None if begun => Outcome::Unknown("the window's driver died while the change ran".to_owned()),
            None => Outcome::Aborted(Reason::DriverDied),
        };
        self.advance(|status| {
            status.reason = reason(&outcome, status, None);
            status.window.times.closed = Some(now);
            status.window.phase = Phase::Closed { outcome };
            status.edges.push((now, status.window.phase.as_str()));
        });
        if let Some(last) = self.last.take() {
            drop(self.keep(&last));
            self.end(last);
        }
        self.publish_phase();
    }
}

/// Keeps what Postgres had to say. A warning at COMMIT is more than that: it may be all that tells that a standby was not
/// waited for, so it has a place of its own.
fn keep_notice(status: &watch::Sender<Status>, during: During, report: &Report) {
    let warning = during == During::Commit && !report.sqlstate.starts_with("00");
    let detail = report.detail.as_ref().filter(|_| warning).map(|detail| format!(": {detail}"));
    let text = shorten(&format!("{}{}", report.message, detail.unwrap_or_default()));
    status.send_if_modified(|status| {
        let first = warning && status.warned.is_none();
        if first {
            status.warned = Some(text.clone());
        }
        let kept = first || status.notices.len() < NOTICES_KEPT;
        if kept {
            status.notices.push(text);
        }
        kept
    });
}

/// The reason of an outcome, with what the operator said or the first of those who are it.
fn reason(outcome: &Outcome, status: &Status, said: Option<&String>) -> String {
    let blockers = match outcome {
        Outcome::Applied => {
            let warned = status.warned.as_ref();
            return warned
                .map_or_else(String::new, |warned| format!("committed, but Postgres warned at COMMIT: {warned}"));
        }
        Outcome::Aborted(Reason::Operator) => {
            return said.map_or_else(|| outcome.reason(), |said| format!("{}: {said}", outcome.reason()));
        }
        Outcome::Aborted(Reason::DrainBound | Reason::HoldBound) => &status.blockers,
        Outcome::Aborted(Reason::ApplyBound | Reason::ApplyFailed { .. }) | Outcome::Unknown(_) => &status.beside,
        _ => return outcome.reason(),
    };
    let Some(first) = blockers.first() else { return outcome.reason() };
    let more = blockers.len() - 1;
    let rest = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    format!("{}: {}{rest}", outcome.reason(), first.sentence())
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
