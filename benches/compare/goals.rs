//! What pglull wants to reach, as ratios to its peers of the same rounds where that can be.

use crate::figures::null;
use crate::samples::{Key, Samples};

/// The column of the build that is judged.
pub(crate) const OURS: &str = "pglull";
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
    let mut goals = Vec::new();
    for (mode, floor, bouncer) in [("simple", 1.12, 0.60), ("extended", 1.25, 0.48), ("prepared", 1.20, 0.59)] {
        for (peer, value) in [(FLOOR, floor), (BOUNCER, bouncer)] {
            goals.push(Goal {
                figure: null::NAME,
                cell: format!("{mode}, 64 clients"),
                metric: null::CPU,
                of: Of::Peer(peer),
                bound: Bound::AtMost,
                value,
            });
        }
    }
    goals
}
