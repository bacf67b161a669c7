//! The gate's state, and the count of what a shut gate did to clients. Pure values; the ledger owns them.

use std::time::Duration;

use crate::ids::{Epoch, Moment, millis};

/// Whether a transaction may begin in a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// It may.
    Open,
    /// It may not; those who want to are held.
    Shut {
        /// The number of this shutting.
        epoch: Epoch,
        /// When it was shut.
        since: Moment,
        /// When the watchdog opens it, whatever has died. `None`: a `PAUSE` without an end.
        bound: Option<Moment>,
    },
}

impl Gate {
    /// Whether it is shut.
    #[must_use]
    pub const fn is_shut(self) -> bool {
        matches!(self, Self::Shut { .. })
    }
}

/// How a held client's waiting ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// It was let go on.
    Released,
    /// It cancelled its request.
    Cancelled,
    /// It left.
    Left,
    /// It waited too long for a server after the gate had opened.
    Expired,
}

/// What one shutting of the gate did to clients. `held = released + cancelled + left + expired + waiting`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tally {
    /// Clients that were held at any time.
    pub held: u64,
    /// Let go on.
    pub released: u64,
    /// Cancelled while held.
    pub cancelled: u64,
    /// Gone while held.
    pub left: u64,
    /// Expired after the release.
    pub expired: u64,
    /// The most that were held at once.
    pub peak: u64,
    /// Stalls of those released, in milliseconds, in the order of their release.
    pub stalls_ms: Vec<u64>,
}

/// Stalls are kept one by one up to this many; more would only cost memory.
const STALLS_KEPT: usize = 100_000;

impl Tally {
    /// Clients that are still held, or were and wait for a server now.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.held - self.released - self.cancelled - self.left - self.expired
    }

    pub(super) fn hold(&mut self) {
        self.held += 1;
        self.peak = self.peak.max(self.waiting());
    }

    pub(super) fn end(&mut self, why: Why, stall: Option<Duration>) {
        match why {
            Why::Released => self.released += 1,
            Why::Cancelled => self.cancelled += 1,
            Why::Left => self.left += 1,
            Why::Expired => self.expired += 1,
        }
        if let Some(stall) = stall
            && self.stalls_ms.len() < STALLS_KEPT
        {
            self.stalls_ms.push(millis(stall));
        }
    }
}
