//! Which state the schema of a database is in, as far as we know.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::Moment;

/// How long a stale statement says nothing new after another one, in milliseconds.
const STALE_AGAIN: u64 = 1000;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Schema {
    state: AtomicU64,
    /// When a stale statement was last taken for a change that was made beside us; zero: never.
    stale_at: AtomicU64,
}

impl Schema {
    /// The state: a server that has prepared its statements in another one has to prepare them anew.
    #[must_use]
    pub fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// A change was applied: what servers have prepared is of an older state.
    pub fn changed(&self) {
        self.state.fetch_add(1, Ordering::AcqRel);
    }

    /// Postgres has found a statement to be stale: the schema was changed beside us, and all that servers have is in doubt. Not
    /// again within a second: clients that use the same texts in several schemas find stale statements all the time.
    pub fn found_stale(&self, now: Moment) {
        let last = self.stale_at.load(Ordering::Relaxed);
        let due = last == 0 || now.0.saturating_sub(last) >= STALE_AGAIN;
        if due && self.stale_at.compare_exchange(last, now.0.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_statements_are_one_change_a_second() {
        let schema = Schema::default();
        for (now, state) in [(0, 1), (5, 1), (1000, 1), (1001, 2), (1900, 2)] {
            schema.found_stale(Moment(now));
            assert_eq!(schema.state(), state, "at {now}");
        }
        schema.changed();
        assert_eq!(schema.state(), 3);
    }
}
