//! Small values that must not be mixed up: every id is a type of its own, and time is a plain number.
//!
//! The pure machines know nothing else of the world: a [`Moment`] is milliseconds since the process
//! started, on the monotonic clock, so that a test can write any value and print it back.

use std::fmt;
use std::time::Duration;

/// Makes a number into an id of its own type.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// One application connection, counted from the start of the process; shown as `id` in `SHOW CLIENTS`.
    SessionId
);
id!(
    /// One connection to Postgres, counted from the start of the process.
    ServerId
);
id!(
    /// One entry in the queue of a pool: a client that waits or is held.
    WaiterId
);
id!(
    /// The number of one shutting of a gate. Events that carry an older one are stale and have no effect.
    Epoch
);

/// Milliseconds since the process started, on the monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `after` later; saturates instead of wrapping.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(millis(after)))
    }

    /// How long after `earlier` this is; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A reading of the same clock in nanoseconds, for those who measure finer than a [`Moment`] and look at the clock once: numbers
/// are told apart at a fraction of what it takes with two [`Instant`](std::time::Instant)s. Full after 500 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// The moment that it falls into.
    #[must_use]
    pub const fn moment(self) -> Moment {
        Moment(self.0 / 1_000_000)
    }

    /// How long after `earlier` this is; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Whole milliseconds of a duration; saturates.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
