//! What pglull wants to reach, as ratios to its peers of the same rounds where that can be.

use crate::figures::{bulk, logins, memory, null, real, scaling, window};
use crate::samples::{Key, Samples};

/// The column of the build that is judged.
pub(crate) const OURS: &str = "pglull";
/// No proxy.
const DIRECT: &str = "direct";
/// The forwarder that knows nothing.
pub(crate) const FLOOR: &str = "floor";
/// Debian's PgBouncer.
pub(crate) const BOUNCER: &str = "pgbouncer";
/// What pglull is divided by.
pub(crate) const PEERS: [&str; 2] = [FLOOR, BOUNCER];

/// What the measured value is of.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    /// Of the same row of another target.
    Peer(&'static str),
    /// Of nothing: the median itself.
    Itself,
}

/// Which side of the bound is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    AtMost,
    AtLeast,
}

/// One goal.
#[derive(Clone)]
pub(crate) struct Goal {
    pub(crate) figure: &'static str,
    pub(crate) cell: String,
    pub(crate) metric: &'static str,
    of: Of,
    bound: Bound,
    value: f64,
}

impl Goal {
    /// The median to judge, if it was measured.
    pub(crate) fn measured(&self, samples: &Samples) -> Option<f64> {
        let key = Key { figure: self.figure, cell: self.cell.clone(), metric: self.metric };
        match self.of {
            Of::Peer(peer) => Some(samples.ratio(&key, OURS, peer)?.median),
            Of::Itself => Some(samples.find(&key, OURS)?.spread()?.median),
        }
    }

    pub(crate) fn holds(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtMost => value <= self.value,
            Bound::AtLeast => value >= self.value,
        }
    }

    pub(crate) fn words(&self) -> String {
        let bound = if self.bound == Bound::AtMost { "at most" } else { "at least" };
        match self.of {
            Of::Peer(peer) => format!("{bound} {} x {peer}", self.value),
            Of::Itself => format!("{bound} {}", self.value),
        }
    }
}

/// All goals, in the order of the report.
pub(crate) fn all() -> Vec<Goal> {
    let mut goals = null_goals();
    goals.extend(window_goals());
    goals.extend(own_goals());
    goals.extend(bulk_goals());
    goals.extend(real_goals());
    goals
}

fn goal(figure: &'static str, cell: &str, metric: &'static str, of: Of, value: f64) -> Goal {
    Goal { figure, cell: cell.to_owned(), metric, of, bound: Bound::AtMost, value }
}

fn window_goals() -> Vec<Goal> {
    let mut goals = vec![goal(window::NAME, "64 held", window::STALL, Of::Itself, 12.0)];
    for cell in ["64 held", "1000 held", "5000 held"] {
        goals.push(goal(window::NAME, cell, window::DRAIN, Of::Itself, 1.0));
        goals.push(goal(window::NAME, cell, window::TO_FLOOR, Of::Itself, 1.2));
        goals.push(goal(window::NAME, cell, window::OTHER, Of::Itself, 1.2));
    }
    goals
}

fn null_goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    for (mode, floor, bouncer) in [("simple", 1.12, 0.60), ("extended", 1.25, 0.48), ("prepared", 1.20, 0.59)] {
        for (peer, value) in [(FLOOR, floor), (BOUNCER, bouncer)] {
            goals.push(goal(null::NAME, &format!("{mode}, 64 clients"), null::CPU, Of::Peer(peer), value));
        }
    }
    goals
}

/// Those that are about pglull alone.
fn own_goals() -> Vec<Goal> {
    let mut goals = vec![
        goal(memory::NAME, "at rest", memory::WHOLE, Of::Itself, 12.0),
        goal(memory::NAME, "10000 idle", memory::EACH, Of::Itself, 2.0),
        goal(memory::NAME, "10000 idle after a query", memory::EACH, Of::Itself, 2.0),
        goal(memory::NAME, "TLS, 10000 idle", memory::EACH, Of::Itself, 16.0),
        goal(memory::NAME, "TLS, 10000 idle after a query", memory::EACH, Of::Itself, 16.0),
        goal(logins::NAME, "trust", logins::CPU, Of::Itself, 60.0),
        goal(logins::NAME, "SCRAM, stored secret", logins::CPU, Of::Itself, 130.0),
        goal(logins::NAME, "SCRAM, plain password", logins::CPU, Of::Itself, 130.0),
        goal(logins::NAME, "SCRAM, stored secret, TLS", logins::CPU, Of::Itself, 900.0),
    ];
    for mode in ["simple", "prepared"] {
        let cell = format!("{mode}, 64 clients, 2 workers");
        goals.push(goal(scaling::NAME, &cell, scaling::GROWTH, Of::Itself, 1.0));
        for clients in [16, 64] {
            let cell = format!("{mode}, {clients} clients");
            goals.push(goal(scaling::CALLS_NAME, &cell, scaling::CALLS, Of::Itself, 4.5));
        }
    }
    goals
}

fn bulk_goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    for (way, value) in [("select", 0.8), ("COPY OUT", 0.8), ("COPY IN", 0.9)] {
        goals.push(goal(bulk::NAME, way, bulk::CPU, Of::Itself, value));
    }
    goals.push(at_least(bulk::NAME, "select", bulk::SPEED, DIRECT, 0.8));
    goals
}

fn at_least(figure: &'static str, cell: &str, metric: &'static str, peer: &'static str, value: f64) -> Goal {
    Goal { bound: Bound::AtLeast, ..goal(figure, cell, metric, Of::Peer(peer), value) }
}

fn real_goals() -> Vec<Goal> {
    let mut goals = Vec::new();
    for mode in ["simple", "extended"] {
        let cell = |clients| format!("-S {mode}, {clients} clients");
        goals.push(goal(real::NAME, &cell(16), real::CPU, Of::Peer(BOUNCER), 0.95));
        goals.extend([16, 64].map(|clients| at_least(real::NAME, &cell(clients), real::TPS, BOUNCER, 1.0)));
    }
    goals.push(at_least(real::NAME, "-S prepared, 64 clients", real::TPS, DIRECT, 0.95));
    goals
}
