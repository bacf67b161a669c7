//! The figures of one database's windows and holds. Resolved once per database.
//!
//! Every hold that begins is counted in [`Holds::begun`] and ends in exactly one of the ways there; the difference is the
//! number of held clients, at every moment.

use metrics::{Counter, Gauge};

use super::family::Family;
use super::timing::Timing;
use super::{Recorder, table};

/// All holds of one database since the start of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holds {
    /// Those that have begun.
    pub begun: u64,
    /// Those that go on.
    pub now: u64,
    /// Ended: the client was let go on.
    pub released: u64,
    /// Ended: it cancelled its request.
    pub cancelled: u64,
    /// Ended: it left.
    pub left: u64,
    /// Ended: it waited too long for a server after the gate had opened.
    pub expired: u64,
}

/// Handles of one database.
#[derive(Clone)]
pub struct DatabaseMetrics {
    /// How long each held request waited, from its arrival to its release.
    pub stall: Timing,
    /// How long a window's open transactions took to finish.
    pub drain: Timing,
    /// How long a window's gate was shut.
    pub hold: Timing,
    /// How long a window's change took, committed or rolled back.
    pub apply: Timing,
    windows_started: Counter,
    windows_ended: Family,
    held: Counter,
    held_ended: Family,
    cut: Family,
    held_clients: Gauge,
    phases: Vec<(&'static str, Gauge)>,
}

impl DatabaseMetrics {
    /// The handles of `database`.
    #[must_use]
    pub fn new(recorder: &Recorder, database: &str) -> Self {
        let labels = [database];
        let phases = table::WINDOW_PHASE.values;
        Self {
            stall: recorder.timing(&table::STALL, &labels),
            drain: recorder.timing(&table::DRAIN, &labels),
            hold: recorder.timing(&table::HOLD, &labels),
            apply: recorder.timing(&table::APPLY, &labels),
            windows_started: recorder.counter(&table::WINDOWS_STARTED, &labels),
            windows_ended: Family::new(recorder, &table::WINDOWS_ENDED, &labels),
            held: recorder.counter(&table::HELD, &labels),
            held_ended: Family::new(recorder, &table::HELD_ENDED, &labels),
            cut: Family::new(recorder, &table::CUT, &labels),
            held_clients: recorder.gauge(&table::HELD_CLIENTS, &labels),
            phases: phases.iter().map(|p| (*p, recorder.gauge(&table::WINDOW_PHASE, &[database, p]))).collect(),
        }
    }

    /// A window or pause was started.
    pub fn windows_started(&self) {
        self.windows_started.increment(1);
    }

    /// A window or pause ended: `applied`, `already_applied`, `aborted`, `refused`, `unknown` or `resumed`.
    pub fn windows_ended(&self, outcome: &'static str) {
        self.windows_ended.increment(outcome);
    }

    /// How many have been held, and what became of them. For scrape time.
    pub fn publish_holds(&self, holds: Holds) {
        self.held_clients.set(holds.now as f64);
        self.held.absolute(holds.begun);
        for (how, count) in [
            ("released", holds.released),
            ("cancelled", holds.cancelled),
            ("left", holds.left),
            ("expired", holds.expired),
        ] {
            self.held_ended.absolute(how, count);
        }
    }

    /// The straggler policy ended a client's transaction: `cancel` or `terminate`.
    pub fn cut(&self, policy: &'static str) {
        self.cut.increment(policy);
    }

    /// The phase of the window if there is one. For scrape time, or at each change of phase.
    pub fn publish_phase(&self, phase: Option<&str>) {
        for (name, gauge) in &self.phases {
            gauge.set(if phase == Some(*name) { 1.0 } else { 0.0 });
        }
    }
}

impl std::fmt::Debug for DatabaseMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseMetrics").finish_non_exhaustive()
    }
}
