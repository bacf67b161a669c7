//! The vocabulary of a window: what can happen to it, what it asks for, how it can end.

use std::fmt;

use super::plan::Stragglers;
use crate::ids::Moment;

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Preflight found nothing against it.
    Passed,
    /// Preflight found a reason not to start.
    Refused(String),
    /// Preflight found that the change is applied already.
    Present(String),
    /// The record of the window is on the disk.
    Recorded,
    /// It could not be written, and why.
    NotRecorded(String),
    /// No transaction is open any more at the shut gate.
    Drained,
    /// Stragglers are left that nobody may cut.
    Unmoved,
    /// More clients are held than the window may hold.
    Overheld,
    /// The change has ended, one way or another.
    ApplyEnded(Verdict),
    /// The operator says that the work by hand is done, or `RESUME`.
    Close,
    /// The operator wants the old state back.
    Abort,
    /// The owner spoke.
    Renew,
    /// The owner's connection is gone.
    OwnerGone,
    /// The proxy is shutting down.
    Shutdown,
    /// What the change made stale is healed.
    Healed,
    /// Nobody is held any more.
    Released,
    /// The watchdog has opened the gate.
    GateLost,
    /// Time has passed.
    Tick,
}

/// How the change itself ended, decided from the database.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// It is committed.
    Applied,
    /// It ran to its end and was rolled back, as a rehearsal wants it.
    Rehearsed,
    /// It is rolled back; the old schema stands.
    Failed {
        /// Postgres' code, or ours.
        sqlstate: String,
        /// Postgres' text, or ours.
        message: String,
    },
    /// The connection was lost around COMMIT and the database could not be asked.
    Unknown(String),
}

/// Something to be done by the driver.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Check that it is safe to start; answers [`Event::Passed`] or [`Event::Refused`].
    Preflight,
    /// Write the record of the window to the disk, before it has any effect; answers [`Event::Recorded`] or
    /// [`Event::NotRecorded`].
    Record,
    /// Shut the gates, until `bound` at the latest; answers [`Event::Drained`] when nothing runs.
    Shut {
        /// When the watchdog opens them, whatever has died.
        bound: Option<Moment>,
    },
    /// The drain bound has passed: deal with those who are still inside.
    Straggle(Stragglers),
    /// Run the change, to be committed by `deadline`; answers [`Event::ApplyEnded`].
    StartApply {
        /// The latest moment for COMMIT.
        deadline: Moment,
    },
    /// Stop the change; it still answers [`Event::ApplyEnded`].
    StopApply,
    /// Make servers forget what the change made stale; answers [`Event::Healed`].
    Heal,
    /// Open the gates; answers [`Event::Released`] when nobody is held any more.
    Open,
}

/// Why a window was aborted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// Transactions were still open at the drain bound.
    DrainBound,
    /// The change was not committed by the apply bound.
    ApplyBound,
    /// Clients would have been held longer than the hold bound.
    HoldBound,
    /// The owner did not speak within the tenure.
    TenureOver,
    /// The owner's connection closed.
    OwnerGone,
    /// The operator said so.
    Operator,
    /// More clients were held than allowed.
    TooManyHeld,
    /// The change itself failed.
    ApplyFailed {
        /// Postgres' code.
        sqlstate: String,
        /// Postgres' text.
        message: String,
    },
    /// The proxy is shutting down.
    Shutdown,
    /// The watchdog had to open the gate: the driver was late.
    Watchdog,
    /// The window's driver ended before its window, by a fault of ours.
    DriverDied,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DrainBound => f.write_str("drain bound reached: transactions were still open"),
            Self::ApplyBound => f.write_str("apply bound reached: the change was not committed in time"),
            Self::HoldBound => f.write_str("hold bound reached: clients must not be held longer"),
            Self::TenureOver => f.write_str("tenure over: the owner did not renew it"),
            Self::OwnerGone => f.write_str("the owner's connection closed"),
            Self::Operator => f.write_str("aborted by the operator"),
            Self::TooManyHeld => f.write_str("more clients held than max_held"),
            Self::ApplyFailed { sqlstate, message } => {
                write!(f, "the change failed: {message} ({sqlstate})")
            }
            Self::Shutdown => f.write_str("pooler is shutting down"),
            Self::Watchdog => f.write_str("the watchdog opened the gate"),
            Self::DriverDied => f.write_str("the window's driver died"),
        }
    }
}

/// How a window ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The change is committed, or the operator said that the work by hand is done.
    Applied,
    /// A `PAUSE` ended by `RESUME`.
    Resumed,
    /// A rehearsal went to its end; the old schema stands.
    Rehearsed,
    /// The old schema stands; the clients run.
    Aborted(Reason),
    /// It never started: nobody was held.
    Refused(String),
    /// The change was there already: there was nothing to do, and nobody was held.
    Present(String),
    /// Whether the change is committed could not be found out in time; the clients run.
    Unknown(String),
}

impl Outcome {
    /// The word for it in console, metrics and receipt.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Resumed => "resumed",
            Self::Rehearsed => "rehearsed",
            Self::Aborted(_) => "aborted",
            Self::Refused(_) => "refused",
            Self::Present(_) => "already_applied",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Why, where there is something to say.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Applied | Self::Resumed | Self::Rehearsed => String::new(),
            Self::Aborted(reason) => reason.to_string(),
            Self::Refused(text) | Self::Present(text) | Self::Unknown(text) => text.clone(),
        }
    }
}
